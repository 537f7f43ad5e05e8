"""An SQLite spool's reserve: lets its mail go out even when the disk has not one byte left.

Even to remove mail, SQLite first writes to its log. The reserve is a file of the log's full size that is
linked as the log when there is none; since it keeps its own name too, its room stays ours when SQLite removes
the log. Inside the database, a row of zeros keeps pages free for rows that grow. And no transaction is
committed before the file has room for all its pages, since the log has to be written there at some point.

Nothing here helps a file system that never overwrites in place (btrfs, ZFS).
Knows nothing of what is written.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
from pathlib import Path

PAGE_SIZE = 4096
LOG_FRAMES = 4060
"""Pages of the log that have room; for more, SQLite's index of the log would have to grow too."""
LOG_SIZE = 32 + LOG_FRAMES * (24 + PAGE_SIZE)
INDEX_ROOM = 128 * 2**10
"""Bytes given back to the disk for the log's index, which SQLite recreates."""
FULL_SIZE = LOG_SIZE + 8 * INDEX_ROOM
INSIDE = 2**20
"""Bytes of pages that are kept free inside the database."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def reserve_of(path: Path) -> Path:
    """The reserve of the database at `path`."""
    return path.with_name(path.name + ".reserve")


def log_of(path: Path) -> Path:
    """SQLite's write-ahead log of the database at `path`."""
    return path.with_name(path.name + "-wal")


def set_aside(path: Path) -> None:
    """Create the reserve in full size; leave it as it is while the log is in use or there is no room.

    Raises OSError for anything but a full disk.
    """
    descriptor = os.open(reserve_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        found = os.fstat(descriptor)
        if found.st_nlink == 1 and found.st_size < FULL_SIZE:
            allocate(descriptor, found.st_size, FULL_SIZE)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
    finally:
        os.close(descriptor)


def lend(path: Path) -> None:
    """Make the reserve the log of the database at `path`, where it has none. Raises OSError."""
    reserve, log = reserve_of(path), log_of(path)
    try:
        descriptor = os.open(reserve, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # whoever comes second finds the log
        found = os.fstat(descriptor)
        if found.st_nlink != 1 or log.exists():
            return
        if any(os.pread(descriptor, 32, 0)):
            # It was a log: never again may SQLite take its pages for new ones.
            os.pwrite(descriptor, bytes(32), 0)
            os.fsync(descriptor)
        if _free(path.parent) < INDEX_ROOM:
            os.ftruncate(descriptor, max(0, found.st_size - INDEX_ROOM))
        with contextlib.suppress(FileExistsError):
            os.link(reserve, log)
    finally:
        os.close(descriptor)


def adopt(path: Path) -> None:
    """Make the log in use the reserve, if there is none."""
    with contextlib.suppress(OSError):
        os.link(log_of(path), reserve_of(path))


def allocate(descriptor: int, start: int, end: int) -> None:
    """Allocate room for a file's bytes from `start` to `end`. Raises OSError if there is none."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(descriptor, start, end - start)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def set_aside_inside(connection: sqlite3.Connection) -> None:
    """Reserve pages of the database; call it in a transaction. Raises sqlite3.Error.

    Older versions needn't know this table, so it is not part of the schema.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS reserve (zeros BLOB NOT NULL)")
    if not is_set_aside_inside(connection):
        connection.execute("INSERT INTO reserve (zeros) VALUES (zeroblob(?))", (INSIDE,))


def is_set_aside_inside(connection: sqlite3.Connection) -> bool:
    """Whether the pages are reserved. Raises sqlite3.Error."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'reserve'").fetchone()
    return bool(known and connection.execute("SELECT 1 FROM reserve").fetchone())


def spend(connection: sqlite3.Connection) -> bool:
    """Release the reserved pages, for rows that grow; False if none were reserved.

    In a transaction. Raises sqlite3.Error.
    """
    return is_set_aside_inside(connection) and bool(connection.execute("DELETE FROM reserve").rowcount)


def _free(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
