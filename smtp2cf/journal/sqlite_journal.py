"""The journal in an SQLite file beside the spool's (WAL, mode 0600).

One thread writes, each batch a transaction; a killed process loses none that was written. Whoever reads opens
the file for that, so a new file is found by its name. A file that was moved away or deleted is made again,
and one that can't be read any more is set aside for a new one.

Knows nothing of the spool.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from smtp2cf.journal import sqlite_forget, sqlite_record, sqlite_search, sqlite_tables
from smtp2cf.journal.record import (
    PAGE,
    Action,
    Cursor,
    Entry,
    Forgotten,
    JournalError,
    News,
    Row,
    Search,
    Story,
    Tally,
    no_journal,
)
from smtp2cf.journal.rows import milliseconds
from smtp2cf.journal.steps import status_of

T = TypeVar("T")

BUSY_TIMEOUT = 2.0
"""Seconds to wait for another process that is writing."""
MANY_TEXTS = 20_000
"""Texts whose numbers are remembered."""
VACUUM_PAGES = 200
"""Pages that are given back at a time, after something was deleted."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_log = structlog.get_logger(__name__)


class SqliteJournal:
    """See record.Journal.

    path: the file. create: make it where there is none, as the process does that serves. min_free: octets
    that have to be free on its disk for anything to be recorded, so that the rest is for mail.
    """

    def __init__(self, path: Path, *, create: bool = True, min_free: int = 0) -> None:
        self._path = path
        self._create = create
        self._min_free = min_free
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal-writer")
        self._connection: sqlite3.Connection | None = None
        self._opened = (0, 0)
        self._texts: dict[str, int] = {}
        self._texts_of = 0, 0
        self._damage: tuple[JournalError, tuple[int, int]] | None = None

    async def record(self, entries: Sequence[Entry], actions: Sequence[Action] = ()) -> None:
        """See record.Journal."""
        await self._write(lambda: self._record(entries, actions))

    async def search(self, which: Search) -> list[Row]:
        """See record.Journal."""
        return await self._read(lambda reader: sqlite_search.search(reader, which))

    async def follow(self, after: Cursor, limit: int = 500) -> News:
        """See record.Journal."""

        def read(reader: sqlite3.Connection) -> News:
            name, last = _end(reader)
            begin = after.step if after.journal == name else 0
            rows, end = sqlite_search.follow(reader, begin, limit)
            return News(rows, Cursor(name, last if end is None else end))

        return await self._read(read)

    async def begin(self, which: Search) -> News:
        """See record.Journal."""
        return await self._read(
            lambda reader: News(sqlite_search.search(reader, which), Cursor(*_end(reader)))
        )

    async def story(self, queue_id: str) -> Story | None:
        """See record.Journal."""
        return await self._read(lambda reader: sqlite_search.story(reader, queue_id))

    async def actions(self, since: float, limit: int = PAGE) -> list[Action]:
        """See record.Journal."""
        return await self._read(lambda reader: sqlite_search.actions(reader, since, limit))

    async def tallies(self, since: float, until: float) -> list[Tally]:
        """See record.Journal."""
        statement = "SELECT minute, status, recipients FROM tally WHERE minute >= ? AND minute <= ?"
        bounds = (milliseconds(since) // 60_000, milliseconds(until) // 60_000)
        rows = await self._read(lambda reader: reader.execute(statement, bounds).fetchall())
        return [Tally(minute * 60.0, status_of(status), count) for minute, status, count in rows]

    async def forget(self, address: str) -> Forgotten:
        """See record.Journal. What is deleted is overwritten, in the log as well."""
        return await self._write(lambda: self._forget(address))

    async def prune(self, before: float, actions_before: float) -> bool:
        """See record.Journal."""
        return await self._write(lambda: self._prune(before, actions_before))

    async def size(self) -> int:
        """See record.Journal."""
        files = (self._path.with_name(self._path.name + suffix) for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def use_url(self, url: str) -> None:
        """See record.Journal. A file has no login."""

    async def close(self) -> None:
        """See record.Journal."""
        await self._write(self._disconnect)
        await asyncio.to_thread(self._writer.shutdown)

    # ---- in the thread that writes

    async def _write(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._surely, work)

    def _surely(self, work: Callable[[], T]) -> T:
        """Do it; if the file turns out to be damaged, do it with a new one."""
        for last in (False, True):
            try:
                return work()
            except (sqlite3.Error, OSError, JournalError) as error:
                self._disconnect()
                failure = _failure(self._path, error)
                if last or not failure.damaged or not self._create:
                    raise failure from None
                self._set_aside(failure)
        raise AssertionError("the loop has ended")  # pragma: no cover

    def _record(self, entries: Sequence[Entry], actions: Sequence[Action]) -> None:
        self._require_room()
        connection = self._connected()
        day = int(time.time()) // sqlite_record.DAY
        with _transaction(connection):
            # A command that forgets somebody changes texts.
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if (day, version) != self._texts_of or len(self._texts) > MANY_TEXTS:
                self._texts, self._texts_of = {}, (day, version)
            used = sqlite_record.record(connection, entries, actions, self._texts)
        self._texts |= used

    def _prune(self, before: float, actions_before: float) -> bool:
        connection = self._connected()
        with _transaction(connection):
            more = sqlite_record.prune(connection, before, actions_before)
        # One step of the pragma gives one page back, so it has to be read to its end.
        connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
        return more

    def _forget(self, address: str) -> Forgotten:
        connection = self._connected()
        connection.execute("PRAGMA secure_delete = ON").fetchone()
        try:
            forgotten = Forgotten(0, 0)
            for work in sqlite_forget.pages(address):
                with _transaction(connection):
                    done = work(connection)
                forgotten = Forgotten(*map(sum, zip(forgotten, done, strict=True)))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.execute("PRAGMA secure_delete = OFF").fetchone()
        self._texts = {}
        return forgotten

    def _require_room(self) -> None:
        if self._min_free:
            found = os.statvfs(self._path.parent)
            if found.f_bavail * found.f_frsize < self._min_free:
                raise JournalError(
                    f"less than {self._min_free >> 20} MiB are free on its disk, which are for mail"
                )

    def _connected(self) -> sqlite3.Connection:
        found, self._damage = self._damage, None
        if found is not None and found[1] == _identity(self._path):
            raise found[0]
        if self._connection is not None and _identity(self._path) != self._opened:
            self._disconnect()
        if self._connection is None:
            self._connection = self._connect()
            self._opened = _identity(self._path)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if not self._create and not self._path.exists():
            raise no_journal(self._path)
        if self._create:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = _open(self._path)
        try:
            if self._create:
                sqlite_tables.migrate(connection, self._path)
            else:
                sqlite_tables.require_made(connection, self._path)
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        self._texts = {}
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _set_aside(self, failure: JournalError) -> None:
        """Rename the file, and what belongs to it, so that a new one can be made."""
        aside = self._path.with_name(f"{self._path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.rename(aside.with_name(aside.name + suffix))
        note = "a new journal is begun"
        _log.error("journal.set_aside", reason=str(failure), moved_to=str(aside), note=note)

    # ---- in a reader's

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._read_once, work)

    def _read_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        file = _identity(self._path)
        try:
            if not self._path.exists():
                raise no_journal(self._path)
            reader = _open(self._path, "PRAGMA query_only = ON")
            try:
                sqlite_tables.require_made(reader, self._path)
                reader.execute("BEGIN")  # all of it from one moment
                return work(reader)
            finally:
                reader.close()
        except (sqlite3.Error, OSError, JournalError) as error:
            failure = _failure(self._path, error)
            if failure.damaged:
                # Whoever writes has the pages in memory, and would not see it.
                self._damage = failure, file
            raise failure from None


class _transaction:  # noqa: N801 - reads as what it is
    """In which something is written, or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def _open(path: Path, *pragmas: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
    )
    for pragma in pragmas:
        connection.execute(pragma)
    return connection


def _end(connection: sqlite3.Connection) -> tuple[str, int]:
    """A journal's name, and the number of its last step."""
    name, step = connection.execute("SELECT name, step FROM journal").fetchone()
    return name, step - 1


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def _failure(path: Path, error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return JournalError(f"cannot use the journal {path}: {reason}", damaged=code in _DAMAGE)
