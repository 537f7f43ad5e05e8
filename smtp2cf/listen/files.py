"""Files: reading what an operator names. Only regular files, of a bounded size.

A FIFO in the place of a certificate or a token would block whoever opens it, and with it every session. What
is read while the bridge runs is also read in a thread, since a disk or a network may be slow.
"""

import os
import stat
from pathlib import Path

LIMIT = 1 << 20
"""Octets; settings, certificates and tokens are smaller."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileError(ValueError):
    """A file that can't be used; the text names it, on one line."""


def read(path: Path, limit: int = LIMIT) -> bytes:
    """What is in a file. Raises FileError."""
    return read_with_status(path, limit)[0]


def read_text(path: Path, limit: int = LIMIT) -> str:
    """What is in a file of UTF-8, without a byte order mark. Raises FileError, which names a wrong line."""
    content = read(path, limit)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}, line {number}: not UTF-8") from None


def read_with_status(path: Path, limit: int = LIMIT) -> tuple[bytes, os.stat_result]:
    """What is in a file, and what it looked like. Raises FileError."""
    try:
        # A FIFO that nobody writes to is opened all the same, and then refused.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(f"{path}: {_why(error)}") from None
    try:
        found = os.fstat(descriptor)
        kind = stat.S_IFMT(found.st_mode)
        if kind != stat.S_IFREG:
            raise FileError(f"{path} is {_KINDS.get(kind, 'something else')}, not a regular file")
        content = _read_all(descriptor, limit + 1)
    except OSError as error:
        raise FileError(f"{path}: {_why(error)}") from None
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise FileError(f"{path} is larger than {limit >> 20} MiB")
    return content, found


def _read_all(descriptor: int, most: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(most)


def _why(error: OSError | ValueError) -> str:
    """The system's words, and who asked if permission was denied."""
    if isinstance(error, PermissionError):
        return f"uid {os.geteuid()} may not read it"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
