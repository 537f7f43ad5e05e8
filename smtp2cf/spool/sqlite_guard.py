"""FileGuard: notices when an open SQLite spool's files are moved, replaced or overwritten.

SQLite never looks at a name twice. It keeps writing to a database that was moved away, while a file put in
its place picks up the old log and the log's index, which are found by name: mail would be acknowledged that
nobody finds again, and both files would be damaged. So before every transaction the names are compared with
what was opened, and the contents with what SQLite must have left. If anything is wrong, nothing is written.

Formats: https://sqlite.org/fileformat2.html, https://sqlite.org/walformat.html.
Knows nothing of what is written.
"""

import contextlib
import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from smtp2cf.spool import reserve
from smtp2cf.spool.protocol import SpoolUnavailable

MAGIC = b"SQLite format 3\0"
LOG_FORMATS = (0x377F0682, 0x377F0683)
SHARED_LOCK = (0x40000002, 510)
"""The bytes of its file that SQLite locks while it reads: first and length."""
LOOKS = 3
PAUSE = 0.01
"""Looks before something counts as wrong, and seconds between them: a process may be halfway through."""

_log = structlog.get_logger(__name__)


class _Header(NamedTuple):
    """The numbers in the database's first page. Changes and schema only grow."""

    changes: int
    pages: int
    free_pages: int
    schema: int

    @property
    def state(self) -> tuple[int, int]:
        """The part that nearly every transaction changes."""
        return self.pages, self.free_pages


class FileGuard:
    """The files of the database at `path`, which the connection `anchor` keeps open.

    While `anchor` is open, SQLite doesn't remove the log when another connection is closed. descriptor: our
    own for the database, opened before and closed after all connections, because closing it releases SQLite's
    locks; None to compare only the names, and make no room.
    """

    def __init__(self, path: Path, anchor: sqlite3.Connection, descriptor: int | None = None) -> None:
        self.path = path
        self.trouble: SpoolUnavailable | None = None
        """What was wrong at the last check."""
        self._anchor = anchor
        self._descriptor = descriptor
        self._lasting = ""
        # SQLite follows a link to the database, and keeps the other two beside the target.
        real = Path(os.path.realpath(path))
        self._log, self._index = reserve.log_of(real), real.with_name(real.name + "-shm")
        self._main_identity = identity(path)
        self._log_identity, self._index_identity = identity(self._log), identity(self._index)
        self._log_descriptor = self._index_descriptor = -1
        self._header = _Header(0, 0, 0, 0)
        self._written_at = -1
        self._state = self._left = (0, 0)
        self._states = {self._state}
        self._salt = b""
        self._main_changed = False
        self._index_size = 0
        (self._page_size,) = anchor.execute("PRAGMA page_size").fetchone()
        if descriptor is not None:
            self._log_descriptor = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
            self._index_descriptor = os.open(self._index, os.O_RDONLY | os.O_CLOEXEC)
            self._salt = os.pread(self._index_descriptor, 8, 32)

    def check(self) -> None:
        """Raise SpoolUnavailable while other files have these names, or after `verify` found damage."""
        wrong = self._lasting or self._moved()
        if not wrong and self._descriptor is not None and self._index_is_short():
            # Connections map it into memory: reading behind its end would kill the process.
            wrong = self._lasting = (
                f"{self._index} was cut short while the bridge has it open, so no mail is taken: restart the"
                " bridge; nothing is lost"
            )
        if not wrong:
            self.trouble = None
            return
        self.trouble = SpoolUnavailable(wrong)
        raise self.trouble

    def verify(self, connection: sqlite3.Connection) -> None:
        """Raise SpoolUnavailable if something other than SQLite has written to the files.

        When SQLite writes the log into the file, in whatever process, the file is as some transaction left it
        since the log was restarted. Anything else is foreign. Only for the thread that writes.
        """
        if self._descriptor is None:
            return
        self._lasting = self._changed()
        written_at = os.fstat(self._descriptor).st_mtime_ns
        if self._written_at < 0:
            self._states = {self._state_of_file(), _state(connection)}
        elif written_at != self._written_at and not _at_last(lambda: self._is_known(connection)):
            self._lasting = self._lasting or self._overwritten()
        self._written_at = written_at
        if self._lasting:
            self.check()

    def begun(self, connection: sqlite3.Connection) -> None:
        """A transaction has begun: note what it found, which may be another process's work."""
        if self._descriptor is not None:
            self._state = _state(connection)
            if self._log_was_restarted():
                self._states = {self._state_of_file()}
            self._states.add(self._state)

    def make_room(self, connection: sqlite3.Connection) -> None:
        """A transaction is about to be committed: allocate room in the file for all its pages.

        Raises OSError if there is none.
        """
        if self._descriptor is None:
            return
        self._left = _state(connection)
        needed = self._left[0] * self._page_size
        if needed > (size := os.fstat(self._descriptor).st_size):
            reserve.allocate(self._descriptor, size, needed)

    def committed(self) -> None:
        """Note what a transaction left."""
        if self._descriptor is not None:
            if self._log_was_restarted():
                # Everything before it is in the file now, and nothing else can get there.
                self._states = {self._state}
            self._states.add(self._left)

    def secure(self, connection: sqlite3.Connection) -> None:
        """Something is wrong: make sure that nothing is lost, and that no other file inherits our log.

        The log is written into the file it belongs to, wherever that is now, and emptied. If that file was
        itself changed, or the log is no longer ours, the log is put aside instead; at the next start SQLite
        reads the intact part of ours.
        """
        if self._lasting:
            if not self._log_is_ours() and _identity_or_none(self._log) == self._log_identity:
                aside = self._log.with_name(f"{self._log.name}.replaced")
                with contextlib.suppress(OSError):
                    self._log.rename(aside)
                    _log.warning("spool.log_put_aside", file=str(aside))
        elif _identity_or_none(self._index) in (self._index_identity, None):
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        """Close the last connection, and the log with it, unless that must not be touched."""
        if self.trouble is not None:
            self._keep_sqlite_off()
        self._anchor.close()
        for descriptor in (self._log_descriptor, self._index_descriptor, self._descriptor):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)

    def _moved(self) -> str:
        """What is wrong with the names; "" for nothing."""
        files = (
            (self.path, self._main_identity),
            (self._log, self._log_identity),
            (self._index, self._index_identity),
        )
        for path, ours in files:
            try:
                found = identity(path)
            except FileNotFoundError:
                return (
                    f"{path} was moved away or deleted while the bridge has it open, so no mail is taken:"
                    " move it back, or restart the bridge to do without it"
                )
            except OSError as error:
                return f"{path}: {error.strerror}"
            if found != ours:
                return (
                    f"another file has replaced {path} while the bridge has it open, so no mail is taken"
                    " and nothing written: move the old one back, or restart the bridge to use the new one"
                )
        return ""

    def _changed(self) -> str:
        """What is wrong with what is in the files; "" for nothing."""
        if not _at_last(self._header_goes_on):
            return self._overwritten()
        if not _at_last(self._log_fits):
            return (
                f"{self._log} was overwritten or cut short while the bridge has it open, so no mail is taken:"
                " restart the bridge; what was in the part that is gone is lost"
            )
        return ""

    def _index_is_short(self) -> bool:
        """Whether it has shrunk, which it never does while it is open."""
        size = os.fstat(self._index_descriptor).st_size
        short = size < self._index_size
        self._index_size = max(size, self._index_size)
        return short

    def _log_is_ours(self) -> bool:
        """Whether the log, or what is left of it, belongs to the database as it is."""
        log = os.pread(self._log_descriptor, 32, 0)
        return not self._main_changed and len(log) == 32 and log[16:24] == self._salt

    def _header_goes_on(self) -> bool:
        """Whether the first page is valid, and no older than before."""
        found, before = self._read_header(), self._header
        if found is None or found.changes < before.changes or found.schema < before.schema:
            return False
        self._header = found
        return True

    def _is_known(self, connection: sqlite3.Connection) -> bool:
        """Whether the database's file is as a transaction left it."""
        return self._state_of_file() in self._states | {_state(connection)}

    def _state_of_file(self) -> tuple[int, int]:
        found = self._read_header()
        return found.state if found is not None else (-1, -1)

    def _log_was_restarted(self) -> bool:
        """Whether it was restarted since the last call: then its salt differs."""
        earlier, self._salt = self._salt, os.pread(self._index_descriptor, 8, 32)
        return self._salt != earlier

    def _overwritten(self) -> str:
        self._main_changed = True
        return (
            f"{self.path} was overwritten or cut short while the bridge has it open, so no mail is taken:"
            " stop the bridge, put the file there that you want, and start it"
        )

    def _read_header(self) -> _Header | None:
        """The database's first page; None if it isn't one, or pages are missing."""
        if self._descriptor is None:
            return None
        octets = os.pread(self._descriptor, 100, 0)
        if len(octets) < 100 or not octets.startswith(MAGIC):
            return None
        (page_size,) = struct.unpack_from(">H", octets, 16)
        changes, pages = struct.unpack_from(">II", octets, 24)
        free_pages, schema = struct.unpack_from(">II", octets, 36)
        if os.fstat(self._descriptor).st_size < pages * (65536 if page_size == 1 else page_size):
            return None
        return _Header(changes, pages, free_pages, schema)

    def _log_fits(self) -> bool:
        """Whether the log is as its index says."""
        index = os.pread(self._index_descriptor, 96, 0)
        if len(index) < 96:
            return False
        if index[:48] != index[48:] or not index[12]:
            return True  # it is being written, or will be rebuilt
        frames: int
        (frames,) = struct.unpack_from("=I", index, 16)
        if not frames:
            return True
        octets = os.pread(self._log_descriptor, 32, 0)
        if len(octets) < 32 or struct.unpack_from(">I", octets)[0] not in LOG_FORMATS:
            return False
        size = 32 + frames * (24 + struct.unpack_from(">I", octets, 8)[0])
        return index[32:40] == octets[16:24] and os.fstat(self._log_descriptor).st_size >= size

    def _keep_sqlite_off(self) -> None:
        """Make SQLite believe that another process is reading, so that it leaves the log as it is.

        Closing the last connection would write the log into the database, and remove the log and the index by
        their names, which may be another database's.
        """
        if self._descriptor is not None and hasattr(fcntl, "F_OFD_SETLK"):
            lock = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, *SHARED_LOCK, 0)
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, lock)


def _at_last(is_right: Callable[[], bool]) -> bool:
    for _ in range(LOOKS - 1):
        if is_right():
            return True
        time.sleep(PAUSE)
    return is_right()


def _state(connection: sqlite3.Connection) -> tuple[int, int]:
    """As `_Header.state`, with what is in the log. Raises sqlite3.Error."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
    return pages, free_pages


def identity(path: Path) -> tuple[int, int]:
    """What identifies a file: device and inode. Raises OSError."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _identity_or_none(path: Path) -> tuple[int, int] | None:
    try:
        return identity(path)
    except OSError:
        return None
