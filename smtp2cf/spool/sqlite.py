"""The spool in one SQLite file (WAL, synchronous=FULL): the embedded default.

One process serves, under the lock beside the file; others may list and change. One thread writes,
many jobs to an fsync; two read, each page a short transaction, so that nobody waits for them.

Knows nothing of sockets, of Cloudflare or of the relay.
"""

import asyncio
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from smtp2cf.envelope import Outcomes
from smtp2cf.journal.metrics import Latest
from smtp2cf.reply import Reply, SendError
from smtp2cf.spool import codec, sqlite_file, sqlite_salvage
from smtp2cf.spool.claims import Claims, DueAlarm, Moment
from smtp2cf.spool.disk_space import Space
from smtp2cf.spool.protocol import (
    ANOTHER_SPOOL,
    EVERYTHING,
    LEASE,
    NOW,
    PAGE,
    Action,
    Change,
    Filter,
    Memory,
    NewMail,
    Period,
    Recount,
    SpoolFull,
    SpoolItem,
    SpoolUnavailable,
    Status,
    Total,
)
from smtp2cf.spool.sqlite_answers import SqliteAnswers
from smtp2cf.spool.sqlite_counts import ALL as ALL_COUNTS
from smtp2cf.spool.sqlite_errors import SpoolDamaged, send_error
from smtp2cf.spool.sqlite_following import SqliteFollowing
from smtp2cf.spool.sqlite_guard import FileGuard
from smtp2cf.spool.sqlite_opening import Opened, notes_of, open_files
from smtp2cf.spool.sqlite_postings import SqlitePostings
from smtp2cf.spool.sqlite_sql import conditions
from smtp2cf.spool.sqlite_store import Inside, Page, Settlement, Store, Wanted
from smtp2cf.spool.writer import Writer

_log = structlog.get_logger(__name__)

T = TypeVar("T")

FREE = Latest("smtp2cf_spool_free_bytes", "Room for the spool: free on its disk, and inside its own file")

POLL = 1.0
"""Seconds after which mail that `queue retry` or `release` made due, in another process, is seen."""

READERS = 2


class SqliteSpool:
    """See protocol.Spool. Made by `open`."""

    def __init__(self, opened: Opened, *, lease: float, min_free: int) -> None:
        path = opened.guard.path
        self._lock = opened.lock
        self._guard = opened.guard
        self._space = Space(path.parent, min_free)
        self._clock = opened.left.clock
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._store = Store(owner, lease, self._clock)
        self._writer = Writer(
            self._guard, self._space, lambda: sqlite_file.connect_writer(path, serve=self._lock is not None)
        )
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="spool-reader")
        self._connections = _Connections(self._guard)
        self._claims = Claims(lease, self._renew)
        self._alarm = DueAlarm(self._until_due, POLL)
        self.following = SqliteFollowing(
            self._writer, self._store, self._clock, self._one, arrived=self._arrived
        )
        self.postings = SqlitePostings(self._writer, self._clock, self._one)
        self._answers = None
        if self._lock is not None:
            self._answers = SqliteAnswers(
                self._writer, self._store.memorize, self._clock, notes_of(path), opened.left
            )

    @classmethod
    async def open(
        cls, path: Path, *, serve: bool = True, lease: float = LEASE, min_free: int = 0
    ) -> "SqliteSpool":
        """Open the file at `path`; create it if it is missing. lease: seconds. min_free: bytes.

        Raises SpoolError.
        """
        opened = await asyncio.to_thread(open_files, path, serve)
        return cls(opened, lease=lease, min_free=min_free)

    async def put(self, *mail: NewMail) -> Reply | None:
        """See protocol.Spool. `recall` misses no note: what a killed process wrote ends with it."""
        if self._space.exhausted:
            raise self.refusal() or SpoolFull("its reserve is used up")
        claimed = [letter.envelope.queue_id for letter in mail if letter.claimed]
        self._claims.add(claimed)
        try:
            await self._writer.do(self._store.put, mail, sum(len(letter.message) for letter in mail))
        except Exception:
            self._claims.drop(claimed)
            raise
        self._arrived(mail)
        return None

    async def claim(self, limit: int, *, expired: bool = False) -> list[SpoolItem]:
        """See protocol.Spool."""
        asked_at = Moment.now()
        claimed: list[SpoolItem] = await self._writer.do(self._store.claim, Wanted(limit, expired))
        fresh = self._claims.take(claimed, asked_at)
        if fresh:
            self._alarm.found()
        return fresh

    async def begin(self, queue_id: str) -> bool:
        """See protocol.Spool."""
        return await self._claims.ask(queue_id, self._writer.do(self._store.begin, queue_id))

    def holds(self, queue_id: str) -> bool:
        """See protocol.Spool."""
        return self._claims.holds(queue_id)

    async def confirm(self, queue_id: str) -> bool:
        """See protocol.Spool. Nobody else claims, but an operator may delete."""
        if self._claims.is_fresh(queue_id):
            return True
        return await self._claims.ask(queue_id, self._renew_one(queue_id))

    async def read(self, queue_id: str) -> bytes | None:
        """See protocol.Spool."""
        statement = "SELECT bytes FROM message WHERE id = (SELECT id FROM mail WHERE queue_id = ?)"
        try:
            row = await self._one(statement, (queue_id,))
        except SpoolDamaged:
            return await self._read(partial(sqlite_salvage.message, queue_id=queue_id))
        return None if row is None else row[0]

    async def settle(
        self,
        queue_id: str,
        outcomes: Outcomes,
        *,
        retry_in: float | None = None,
        untried: bool = False,
        hold: str = "",
        failures: int = 0,
        dsns: Sequence[NewMail] = (),
    ) -> bool:
        """See protocol.Spool."""
        job = Settlement(queue_id, codec.encode_outcomes(outcomes), retry_in, untried, hold, failures, dsns)
        settled: bool = await self._writer.do(self._store.settle, job, sum(len(dsn.message) for dsn in dsns))
        self._claims.drop((queue_id,))
        if settled:
            self._arrived(dsns)
            if retry_in is not None:
                self._alarm.ring()
        return settled

    async def give_back(self, *queue_ids: str) -> None:
        """See protocol.Spool."""
        await self._writer.do(self._store.give_back, queue_ids)
        self._claims.drop(queue_ids)
        self._alarm.ring()

    async def wait_due(self, at_most: float) -> None:
        """See protocol.Spool."""
        await self._alarm.wait(at_most)

    async def items(self, which: Filter = EVERYTHING) -> AsyncIterator[SpoolItem]:
        """See protocol.Spool. Of a damaged file what can be read, and then its error."""
        where, values = conditions(which, self._clock.now())
        where = f"queue_id > :after AND {where}"
        statement = f"SELECT {codec.ITEM_COLUMNS} FROM mail WHERE {where} ORDER BY queue_id LIMIT {PAGE}"  # noqa: S608 - constants
        after = ""
        while True:
            values["after"] = after
            known: dict[str, Any] = {"values": dict(values), "now": self._clock.now()}
            try:
                page: list[SpoolItem] = await self._read(partial(_fetch, statement=statement, **known))
            except SpoolDamaged:
                for item in await self._read(partial(sqlite_salvage.items, where=where, **known)):
                    yield item
                raise
            for item in page:
                yield item
            if len(page) < PAGE:
                return
            after = page[-1].queue_id

    async def count(self, which: Filter = EVERYTHING) -> int:
        """See protocol.Spool."""
        where, values = conditions(which, self._clock.now())
        row = await self._one(f"SELECT count(*) FROM mail WHERE {where}", values)  # noqa: S608 - constants
        return 0 if row is None else row[0]

    async def apply(
        self, action: Action, which: Filter, reason: str = "", *, within: Period = NOW
    ) -> AsyncIterator[list[str]]:
        """See protocol.Spool."""
        after = ""
        reason = reason or "held by the operator"
        while page := await self._writer.do(self._store.apply, Page(action, which, reason, after, within)):
            if action in (Action.RETRY, Action.RELEASE):
                self._alarm.ring()
            yield page
            after = page[-1]

    async def totals(self) -> dict[Status, Total]:
        """See protocol.Spool."""
        rows = await self._read(
            lambda reader: reader.execute(
                "SELECT status, count(*), sum(size), min(received_at) FROM mail GROUP BY status"
            ).fetchall()
        )
        ahead = time.time() - self._clock.now()
        return {
            Status(status): Total(messages, size, oldest + ahead) for status, messages, size, oldest in rows
        }

    async def check(self) -> None:
        """See protocol.Spool."""
        found: Inside = await self._writer.do(self._store.check, None)
        self._space.inside = found.free
        self._space.exhausted = not found.reserve
        if self._space.exhausted and self._space.has_enough():
            await self._writer.do(self._store.set_aside, None)
            self._space.exhausted = False
        self._space.look_again()
        refusal = self.refusal()
        FREE.last[""] = self._space.free
        self._space.warn_if_scarce()
        if refusal is not None:
            raise refusal

    def use_url(self, _url: str) -> None:
        """See protocol.Spool. There is no login, so another URL names another file."""
        raise ValueError(ANOTHER_SPOOL)

    def refusal(self) -> SendError | None:
        """See protocol.Spool."""
        return self._guard.trouble or self._space.refusal()

    async def recall(self, digest: bytes, *, begin: bool = True) -> Memory | None:
        """See protocol.Spool."""
        if begin and self._guard.trouble is not None:
            raise self._guard.trouble
        return None if self._answers is None else self._answers.recall(digest, begin=begin)

    def remember(self, digest: bytes, reply: Reply | None) -> None:
        """See protocol.Spool."""
        if self._answers is not None:
            self._answers.remember(digest, reply)

    def forget(self, digest: bytes) -> None:
        """See protocol.Spool."""
        if self._answers is not None:
            self._answers.forget(digest)

    async def amend(self, name: str, change: Change[T]) -> T:
        """See protocol.Spool. As durable as the process."""
        amended: T = await self._writer.do(self._store.amend, (name, change))
        return amended

    async def recount(self, names: Sequence[str], change: Recount[T]) -> T:
        """See protocol.Spool. As durable as the process."""
        recounted: T = await self._writer.do(self._store.recount, (names, change))
        return recounted

    async def counts(self) -> tuple[dict[str, str], float]:
        """See protocol.Spool."""
        now = self._clock.now()
        return dict(await self._read(lambda reader: reader.execute(ALL_COUNTS, (now,)).fetchall())), now

    async def close(self) -> None:
        """See protocol.Spool."""
        await self._claims.close()
        try:
            if self._answers is not None:  # nobody else claims
                await self._writer.do(self._store.give_back, None)
                await self._answers.move()
        except SendError as error:
            # Whoever serves the spool next takes all of it over.
            _log.warning("spool.not_given_back", reply=str(error.reply))
        finally:
            if self._answers is not None:
                self._answers.close()
            await self._writer.close()
            await asyncio.to_thread(self._readers.shutdown)
            self._connections.close()
            self._guard.close()
            if self._lock is not None:
                self._lock.release()

    def _arrived(self, mail: Sequence[NewMail]) -> None:
        for letter in mail:
            if letter.answer is not None and self._answers is not None:
                self._answers.put(letter.answer)
        if any(not letter.claimed for letter in mail):
            self._alarm.ring()

    async def _renew_one(self, queue_id: str) -> bool:
        renewed: Collection[str] = await self._writer.do(self._store.renew, (queue_id,))
        return queue_id in renewed

    async def _renew(self, queue_ids: Sequence[str]) -> Collection[str]:
        if self._answers is not None:
            self._answers.look_after()
        renewed: Collection[str] = await self._writer.do(self._store.renew, queue_ids) if queue_ids else ()
        while await self._writer.do(self._store.tidy, None):
            pass
        return renewed

    async def _until_due(self) -> float | None:
        row = await self._one(
            "SELECT min(due) FROM (SELECT min(due) AS due FROM mail WHERE attempts = 0 AND due IS NOT NULL"
            " UNION ALL SELECT min(due) FROM mail WHERE attempts > 0 AND due IS NOT NULL)",
            (),
        )
        due: float | None = None if row is None else row[0]
        return None if due is None else due - self._clock.now()

    async def _one(self, statement: str, values: Any) -> tuple[Any, ...] | None:
        return await self._read(lambda reader: reader.execute(statement, values).fetchone())

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a reader's thread; raises SendError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._readers, self._connections.use, work
            )
        except (sqlite3.Error, OSError) as error:
            raise send_error(error) from error
        except RuntimeError as error:
            # What the executor says once it is shut down.
            raise SpoolUnavailable("it is closed") from error


class _Connections:
    """One connection per reading thread, reopened after an error."""

    def __init__(self, guard: FileGuard) -> None:
        self._guard = guard
        self._of_thread = threading.local()
        self._all: set[sqlite3.Connection] = set()

    def use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._guard.check()
        connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = sqlite_file.connect_reader(self._guard.path)
            self._all.add(connection)
        try:
            return work(connection)
        except sqlite3.Error:
            self._drop(connection)
            raise

    def close(self) -> None:
        """Close them all; no thread reads any more."""
        for connection in self._all:
            connection.close()

    def _drop(self, connection: sqlite3.Connection) -> None:
        self._of_thread.connection = None
        self._all.discard(connection)
        connection.close()


def _fetch(
    reader: sqlite3.Connection, statement: str, values: dict[str, object], now: float
) -> list[SpoolItem]:
    return [codec.decode_item(row, now) for row in reader.execute(statement, values)]
