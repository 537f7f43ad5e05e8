"""Why a file can't be opened: who owns it, and what to do."""

import contextlib
import grp
import os
import pwd
from pathlib import Path


def permissions(path: Path) -> str:
    """What to add to the system's message if this user may not use a file; "" if that isn't the cause.

    Names the first directory or file on the way to `path` that this user can't use.
    """
    for place in (*reversed(path.parents), path, *_beside(path)):
        try:
            found = place.lstat()
        except OSError:
            continue
        if place.is_dir() and place != path.parent:
            usable = os.access(place, os.X_OK)
        else:
            usable = os.access(place, os.R_OK | os.W_OK | (os.X_OK if place.is_dir() else 0))
        if not usable:
            user, owner = _user(os.geteuid()), _user(found.st_uid)
            if place in path.parents and place != path.parent:
                mend = f"chmod o+x {place}"
            else:
                files = f"{path.with_name(path.name.removesuffix('.lock').removesuffix('.notes'))}*"
                mend = (
                    f"chown {user} {path.parent} {files}" if place == path.parent else f"chown {user} {files}"
                )
            return (
                f": {place} belongs to {owner}:{_group(found.st_gid)} (mode {found.st_mode & 0o7777:04o}) and"
                f" this runs as {user}; run it as {owner}, or fix it as root: {mend}"
            )
    return ""


def _beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", ".lock", ".notes", ".reserve")]


def _user(number: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def _group(number: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)
