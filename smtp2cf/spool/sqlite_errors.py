"""Errors of SQLite and the system, as the errors that cross rooms.

Knows nothing of the jobs.
"""

import sqlite3

from smtp2cf.reply import SendError
from smtp2cf.spool.protocol import SpoolFull, SpoolUnavailable
from smtp2cf.spool.reserve import NO_ROOM

DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

WHEN_DAMAGED = (
    "Stop the bridge; save what can be read with 'smtp2cf queue list --json' and 'smtp2cf queue show QUEUE-ID"
    " --message'; move the file away with its -wal, -shm and .reserve; put a backup in its place, if any;"
    " start the bridge"
)

BROKEN = DAMAGE | {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PROTOCOL,
}
"""Errors after which the connection can't be trusted."""

BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
"""Errors that every job of a transaction would get."""

_FULL = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
"""What quotas, file size limits and an index that can't grow result in."""


class SpoolDamaged(SpoolUnavailable):
    """The file's contents can't be read, or only in part."""

    def __init__(self, error: sqlite3.Error) -> None:
        super().__init__(f"{error}. {WHEN_DAMAGED}")


def code_of(error: Exception) -> int:
    """SQLite's primary result code; 0 if there is none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def send_error(error: Exception) -> Exception:
    """An error of SQLite or the system as a SendError; any other error unchanged."""
    if isinstance(error, (SendError, sqlite3.ProgrammingError, sqlite3.InterfaceError)):
        return error  # a value that no column accepts is our mistake
    if isinstance(error, sqlite3.Error):
        code = code_of(error)
        if code == sqlite3.SQLITE_FULL or getattr(error, "sqlite_errorcode", None) in _FULL:
            return SpoolFull(error)
        return SpoolDamaged(error) if code in DAMAGE else SpoolUnavailable(error)
    if isinstance(error, OSError):
        if error.errno in NO_ROOM:
            return SpoolFull("the disk is full")
        return SpoolUnavailable(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return error
