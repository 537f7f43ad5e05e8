"""The one thread that writes to an SQLite file: whatever waits becomes one transaction, one fsync.

The event loop hands in jobs through a queue and awaits their futures. A job that fails takes nobody
with it: the transaction is undone and the jobs are tried one by one. A connection that broke is
opened again with the next job.

Knows nothing of what the jobs write.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from smtp2cf.spool.protocol import SpoolFull, SpoolUnavailable
from smtp2cf.spool.sqlite_file import identity

_log = structlog.get_logger(__name__)

MAX_BATCH = 500
"""Jobs in one transaction."""

MAX_BATCH_BYTES = 32 * 2**20
"""Message bytes after which a transaction is closed; it may overshoot by one job."""

Work = Callable[[sqlite3.Connection, list[Any]], list[Any]]


class Kind(NamedTuple):
    """A kind of job: all of a kind in a transaction are done in one go, lower ranks first.

    work: takes the connection and the jobs' arguments, gives their results in the same order.
    durable: the result is given out only after an fsync.
    """

    rank: int
    work: Work
    durable: bool = True


class Job(NamedTuple):
    """One thing to write. future: None where nobody waits. size: bytes it carries."""

    kind: Kind
    argument: Any
    future: "asyncio.Future[Any] | None"
    size: int


class Writer:
    """Runs jobs until it is closed.

    path: the file, watched so that mail is not written to one that was removed. connect: opens it;
    raises sqlite3.Error or OSError.
    """

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection]) -> None:
        self._path = path
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._synchronous = True
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._closed = False
        self._thread.start()

    async def do(self, kind: Kind, argument: Any, size: int = 0) -> Any:
        """Have a job done; raises SendError."""
        if self._closed:
            raise SpoolUnavailable("it is closed")
        future = self._loop.create_future()
        self._jobs.put(Job(kind, argument, future, size))
        return await future

    def post(self, kind: Kind, argument: Any) -> None:
        """Have a job done some time that is no loss if it fails."""
        if not self._closed:
            self._jobs.put(Job(kind, argument, None, 0))

    async def close(self) -> None:
        """Do what was handed in, then end."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        going = True
        while going:
            batch, going = self._next_batch()
            if batch:
                done = self._do(batch)
                self._loop.call_soon_threadsafe(_resolve, done)
        if self._connection is not None:
            self._connection.close()

    def _next_batch(self) -> tuple[list[Job], bool]:
        """What waits, at least one job, and whether there may be more."""
        batch: list[Job] = []
        size = 0
        try:
            job = self._jobs.get()
            while job is not None:
                batch.append(job)
                size += job.size
                if len(batch) >= MAX_BATCH or size >= MAX_BATCH_BYTES:
                    return batch, True
                job = self._jobs.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    def _do(self, batch: list[Job]) -> list[tuple[Job, Any]]:
        """Each job with its result or its error."""
        try:
            return self._transaction(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait get it
            self._roll_back()
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if isinstance(error, OSError) or code in _BROKEN:
                self._disconnect()
            if len(batch) == 1 or isinstance(error, OSError) or code in _BROKEN or code in _BUSY:
                return [(job, send_error(error)) for job in batch]
        return [result for job in batch for result in self._do([job])]

    def _transaction(self, batch: list[Job]) -> list[tuple[Job, Any]]:
        connection = self._connected()
        self._set_synchronous(connection, any(job.kind.durable for job in batch))
        done: list[tuple[Job, Any]] = []
        connection.execute("BEGIN IMMEDIATE")
        # The sort is stable, and ranks are unique: jobs of a kind keep the order they came in.
        for kind, of_kind in groupby(sorted(batch, key=lambda job: job.kind.rank), key=lambda job: job.kind):
            jobs = list(of_kind)
            done += zip(jobs, kind.work(connection, [job.argument for job in jobs]), strict=True)
        connection.execute("COMMIT")
        return done

    def _connected(self) -> sqlite3.Connection:
        """The connection; raises OSError when the file is not the one it was opened on."""
        if self._connection is not None and self._file != identity(self._path):
            self._disconnect()
        if self._connection is None:
            self._connection = self._connect()
            self._file = identity(self._path)
            self._synchronous = True
        return self._connection

    def _set_synchronous(self, connection: sqlite3.Connection, wanted: bool) -> None:
        if wanted is not self._synchronous:
            connection.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._synchronous = wanted

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._disconnect()  # which undoes it just as well

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def send_error(error: Exception) -> Exception:
    """An error of SQLite or the system as the one that crosses rooms; any other as it is."""
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.InterfaceError)):
        return error  # a value that no column takes: an error of ours
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None) or 0
        # Quotas and file size limits show as failed writes.
        full = code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_WRITE
        return SpoolFull(error) if full else SpoolUnavailable(error)
    if isinstance(error, OSError):
        return SpoolUnavailable(f"{error.filename}: {error.strerror}")
    return error


_BROKEN = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PROTOCOL,
}
"""Errors after which the connection is not to be trusted."""

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
"""Errors that every job of the batch would meet."""


def _resolve(done: Iterable[tuple[Job, Any]]) -> None:
    for job, result in done:
        if job.future is None:
            if isinstance(result, Exception):
                _log.debug("spool.not_written", error=str(result))
        elif job.future.done():
            continue
        elif isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
