"""Permissions: why a file can't be opened, in words that say who owns it and what to do."""

import contextlib
import grp
import os
import pwd
from pathlib import Path


def permissions(path: Path) -> str:
    """What follows the system's own words where this user may not use a file; "" where that isn't it.

    The file that is named is the first one on the way to `path` that stands in it.
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
                files = f"{path.with_name(path.name.removesuffix('.lock'))}*"
                mend = (
                    f"chown {user} {path.parent} {files}" if place == path.parent else f"chown {user} {files}"
                )
            return (
                f": {place} belongs to {owner}:{_group(found.st_gid)} (mode {found.st_mode & 0o7777:04o}) and"
                f" this runs as {user}; run it as {owner}, or fix it as root: {mend}"
            )
    return ""


def _beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", ".lock", ".reserve")]


def _user(number: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def _group(number: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)
