"""The one thread that writes to an SQLite file: all waiting jobs become one transaction and one fsync.

The event loop passes jobs through a queue and awaits their futures. A job that fails doesn't affect the
others: the transaction is undone and the jobs are tried one by one. A broken connection is opened again for
the next job. On a full disk, the jobs that send mail and remove it continue with the reserve (reserve.py).

Knows nothing of what the jobs write.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, NamedTuple

import structlog

from smtp2cf.reply import SendError
from smtp2cf.spool import reserve
from smtp2cf.spool.disk_space import Space
from smtp2cf.spool.protocol import SpoolFull, SpoolUnavailable
from smtp2cf.spool.sqlite_errors import BROKEN, BUSY, code_of, send_error
from smtp2cf.spool.sqlite_guard import FileGuard

_log = structlog.get_logger(__name__)

MAX_BATCH = 500
"""Jobs in one transaction."""

MAX_BATCH_BYTES = 32 * 2**20
"""Message bytes after which a transaction ends; it may exceed this by one job."""

Work = Callable[[sqlite3.Connection, list[Any]], list[Any]]


class Kind(NamedTuple):
    """A kind of job: all of a kind in a transaction are done together, lower ranks first.

    work: takes the connection and the jobs' arguments; returns their results in the same order.
    durable: the result is returned only after an fsync. drains: it helps to send mail, so it may use the
    reserve for a full disk. fills: it brings mail in, and may not use that.
    """

    rank: int
    work: Work
    durable: bool = True
    drains: bool = False
    fills: bool = False


class Job(NamedTuple):
    """One thing to write. future: None if nobody waits. size: its bytes."""

    kind: Kind
    argument: Any
    future: "asyncio.Future[Any] | None"
    size: int


class Writer:
    """Runs jobs until it is closed.

    guard: checked, so that nothing is written to other files. space: told when the reserve is used. connect:
    opens the database; raises sqlite3.Error or OSError.
    """

    def __init__(self, guard: FileGuard, space: Space, connect: Callable[[], sqlite3.Connection]) -> None:
        self._guard = guard
        self._space = space
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._secured = False
        self._synchronous = True
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._closed = False
        self._thread.start()

    async def do(self, kind: Kind, argument: Any, size: int = 0) -> Any:
        """Do a job; raises SendError."""
        return await self.ask(kind, argument, size)

    def ask(self, kind: Kind, argument: Any, size: int = 0) -> "asyncio.Future[Any]":
        """Do a job, before all that are passed in later; who awaits the future gets its SendError."""
        future = self._loop.create_future()
        future.add_done_callback(_look_at)
        if self._closed:
            future.set_exception(SpoolUnavailable("it is closed"))
        else:
            self._jobs.put(Job(kind, argument, future, size))
        return future

    def post(self, kind: Kind, argument: Any) -> None:
        """Do a job later; nobody waits for it, and it may fail."""
        if not self._closed:
            self._jobs.put(Job(kind, argument, None, 0))

    async def close(self) -> None:
        """Do the jobs that were passed in, then end."""
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
                self._loop.call_soon_threadsafe(resolve, done)
        if self._connection is not None:
            self._connection.close()

    def _next_batch(self) -> tuple[list[Job], bool]:
        """The waiting jobs, at least one, and whether there may be more."""
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
            self._undo(error)
            if isinstance(send_error(error), SpoolFull):
                return self._do_without_room(batch)
            if len(batch) == 1 or self._everybody_meets(error):
                return [(job, send_error(error)) for job in batch]
        return [result for job in batch for result in self._do([job])]

    def _do_without_room(self, batch: list[Job]) -> list[tuple[Job, Any]]:
        """Restart the log, which needs no room; if that is not enough, do each job by itself."""
        self._restart_log()
        if len(batch) > 1:
            try:
                return self._transaction(batch)
            except Exception as error:  # noqa: BLE001 - as above
                self._undo(error)
        return [(job, self._do_cramped(job)) for job in batch]

    def _do_cramped(self, job: Job) -> Any:
        """A job's result, with the room there is and the reserve if it may use it; or its error."""
        result: Any = SpoolFull("the disk is full")
        if job.kind.fills and self._space.exhausted:
            return result
        for spend in (False, True) if job.kind.drains else (False,):
            try:
                return self._transaction([job], spend=spend)[0][1]
            except Exception as error:  # noqa: BLE001 - as above
                self._undo(error)
                result = send_error(error)
            if not isinstance(result, SpoolFull):
                break
            self._restart_log()
        return result

    def _undo(self, error: Exception) -> None:
        self._roll_back()
        if isinstance(error, OSError) or code_of(error) in BROKEN:
            self._disconnect()

    @staticmethod
    def _everybody_meets(error: Exception) -> bool:
        return isinstance(error, (OSError, SendError)) or code_of(error) in BROKEN | BUSY

    def _restart_log(self) -> None:
        """Have the log written from its beginning again, as far as other readers allow."""
        try:
            self._connected().execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except (sqlite3.Error, OSError, SendError) as error:
            _log.debug("spool.log_not_restarted", error=str(error))

    def _transaction(self, batch: list[Job], *, spend: bool = False) -> list[tuple[Job, Any]]:
        connection = self._connected()
        self._set_synchronous(connection, any(job.kind.durable for job in batch))
        done: list[tuple[Job, Any]] = []
        connection.execute("BEGIN IMMEDIATE")
        self._guard.begun(connection)
        if spend and reserve.spend(connection):
            self._space.exhausted = True
        # The sort is stable, and ranks are unique: jobs of a kind keep the order they came in.
        for kind, of_kind in groupby(sorted(batch, key=lambda job: job.kind.rank), key=lambda job: job.kind):
            jobs = list(of_kind)
            done += zip(jobs, kind.work(connection, [job.argument for job in jobs]), strict=True)
        self._guard.make_room(connection)
        connection.execute("COMMIT")
        self._guard.committed()
        return done

    def _connected(self) -> sqlite3.Connection:
        """The connection; raises SendError while the files are not the ones that were opened."""
        try:
            self._guard.check()
            if self._connection is None:
                self._connection = self._connect()
                self._synchronous = True
            self._guard.verify(self._connection)
        except SendError:
            if self._connection is not None and not self._secured:
                self._secured = True
                self._guard.secure(self._connection)
            raise
        self._secured = False
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


def _look_at(future: "asyncio.Future[Any]") -> None:
    """Keep asyncio from warning that nobody looked at an error."""
    if not future.cancelled():
        future.exception()


def resolve(done: Iterable[tuple[Job, Any]]) -> None:
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
