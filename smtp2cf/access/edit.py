"""Changing the users file: adds, replaces or removes one line; comments and order stay.

A concurrent reader sees the whole old or the whole new file. Two changes at once wait for each other. Knows
no terminal and no settings.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace as replace_fields
from pathlib import Path

from smtp2cf.access.limit import Limit
from smtp2cf.access.senders import Senders
from smtp2cf.access.users import FILE_LIMIT, User, UsersFileError, parse_line, parse_users
from smtp2cf.listen import files

NEW_MODE = 0o600
"""The mode of a new file."""


class NoSuchUserError(Exception):
    """The file has no user of this name."""


class UserExistsError(Exception):
    """The file has a user of this name already."""


def put_user(
    path: Path,
    name: str,
    hashed: str,
    senders: Sequence[str] | None,
    quota: tuple[Limit, ...] | None = None,
    *,
    replace: bool,
) -> bool:
    """Write a user's line, with a new password's hash; creates the file if there is none.

    senders: patterns, () for any sender, None to keep the user's. quota: None to keep it. Returns whether
    the user existed; raises UserExistsError if so, unless `replace`. Raises UsersFileError.
    """
    existed = False

    def change(content: bytes) -> bytes:
        nonlocal existed
        user = parse_users(content).get(name)
        existed = user is not None
        if existed and not replace:
            raise UserExistsError
        changed = replace_fields(user or User(name, hashed), hash=hashed)
        if senders is not None:
            changed = replace_fields(changed, senders=Senders.parse(senders))
        if quota is not None:
            changed = replace_fields(changed, quota=quota)
        line = changed.line
        lines = content.split(b"\n")
        if existed:
            end = b"\r" if lines[place := _place(lines, name)].endswith(b"\r") else b""
            lines[place] = line.encode() + end
            return b"\n".join(lines)
        return content + (b"\n" if content and not content.endswith(b"\n") else b"") + line.encode() + b"\n"

    _change(path, change)
    return existed


def delete_user(path: Path, name: str) -> None:
    """Remove a user's line. Raises NoSuchUserError, UsersFileError."""

    def change(content: bytes) -> bytes:
        if name not in parse_users(content):
            raise NoSuchUserError
        lines = content.split(b"\n")
        del lines[_place(lines, name)]
        return b"\n".join(lines)

    _change(path, change)


def _place(lines: Sequence[bytes], name: str) -> int:
    """The number of a user's line. A byte order mark is part of the first line."""
    for number, line in enumerate(lines):
        user = parse_line(line.removeprefix(b"\xef\xbb\xbf"))
        if user is not None and user.name == name:
            return number
    raise NoSuchUserError


def _change(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace the file with what `change` makes of it: written beside it, fsynced, renamed."""
    path = Path(os.path.realpath(path))  # a link stays one
    try:
        with _locked(path.parent):
            try:
                found: os.stat_result | None = path.stat()
                content = files.read(path, FILE_LIMIT)
            except FileNotFoundError:
                found, content = None, b""
            try:
                changed = change(content)
            except ValueError as error:
                raise UsersFileError(f"{path}, {error}") from None
            _replace(path, changed, found)
    except files.FileError as error:
        raise UsersFileError(str(error)) from None
    except OSError as error:
        hints = {
            errno.EBUSY: ": mount its directory, not the file",
            errno.ENOENT: f": make {path.parent} first",
            errno.EACCES: f": uid {os.geteuid()} may not write in {path.parent}",
        }
        hint = hints.get(error.errno or 0, "")
        raise UsersFileError(f"{path} can't be changed: {error.strerror or error}{hint}") from None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep others from changing a users file in this directory. The file can't be locked: it is replaced."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes, found: os.stat_result | None) -> None:
    """Replace the file, keeping its owner and mode."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if found is not None:
                made = os.fstat(descriptor)
                if (found.st_uid, found.st_gid) != (made.st_uid, made.st_gid):
                    os.fchown(descriptor, found.st_uid, found.st_gid)
                os.fchmod(descriptor, found.st_mode & 0o7777)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
