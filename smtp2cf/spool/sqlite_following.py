"""Who is followed, in an SQLite spool. See following.py.

Knows nothing of events.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from smtp2cf.spool import codec
from smtp2cf.spool.clock import Clock
from smtp2cf.spool.following import ENDED_FOR, FOLLOWED_FOR, Followed, recipient_key
from smtp2cf.spool.protocol import NewMail
from smtp2cf.spool.sqlite_store import Store
from smtp2cf.spool.writer import Kind, Writer

_ADD = (
    "INSERT OR REPLACE INTO followed (message_id, recipient, envelope, original_id, until) "
    "VALUES (?, ?, ?, ?, ?)"
)
_FIND = (
    "SELECT message_id, envelope, original_id FROM followed "
    "WHERE message_id = ? AND recipient = ? AND until >= ? AND envelope <> ''"
)
_END = "DELETE FROM followed WHERE message_id = ? AND recipient = ?"
_KNOWS = "SELECT 1 FROM followed WHERE message_id = ? AND until >= ? LIMIT 1"
_ENDED = (
    "INSERT OR REPLACE INTO followed (message_id, recipient, envelope, original_id, until) "
    "VALUES (?, '', '', '', ?)"
)
"""Nobody is called that, so nobody is found by it."""

FetchOne = Callable[[str, tuple[object, ...]], Awaitable[tuple[Any, ...] | None]]


class _Ending(NamedTuple):
    """The argument of the job that ends following."""

    message_id: str
    key: str
    dsns: Sequence[NewMail]


class SqliteFollowing:
    """See following.Following. fetch_one: reads a row. arrived: told of mail that was put in."""

    def __init__(
        self,
        writer: Writer,
        store: Store,
        clock: Clock,
        fetch_one: FetchOne,
        arrived: Callable[[Sequence[NewMail]], None],
    ) -> None:
        self._writer = writer
        self._store = store
        self._clock = clock
        self._fetch_one = fetch_one
        self._arrived = arrived
        self._add = Kind(13, self._add_all, durable=False, drains=True)
        self._end = Kind(14, self._end_all, drains=True)

    def add(self, *recipients: Followed) -> "asyncio.Future[None]":
        """See following.Following."""
        return self._writer.ask(self._add, recipients)

    async def find(self, message_id: str, recipient: str) -> Followed | None:
        """See following.Following."""
        row = await self._fetch_one(_FIND, (message_id, recipient_key(recipient), self._clock.now()))
        return Followed(row[0], codec.decode_envelope(row[1]), row[2]) if row is not None else None

    async def knows(self, message_id: str) -> bool:
        """See following.Following."""
        return await self._fetch_one(_KNOWS, (message_id, self._clock.now())) is not None

    async def end(self, followed: Followed, *dsns: NewMail) -> bool:
        """See following.Following."""
        job = _Ending(followed.message_id, followed.key, dsns)
        ended: bool = await self._writer.do(self._end, job, sum(len(dsn.message) for dsn in dsns))
        if ended:
            self._arrived(dsns)
        return ended

    def _add_all(self, connection: sqlite3.Connection, jobs: list[Sequence[Followed]]) -> list[None]:
        until = self._clock.now() + FOLLOWED_FOR
        rows = [
            (one.message_id, one.key, codec.encode_envelope(one.envelope), one.original_id, until)
            for together in jobs
            for one in together
        ]
        connection.executemany(_ADD, rows)
        return [None] * len(jobs)

    def _end_all(self, connection: sqlite3.Connection, jobs: list[_Ending]) -> list[bool]:
        return [self._end_one(connection, job) for job in jobs]

    def _end_one(self, connection: sqlite3.Connection, job: _Ending) -> bool:
        ended = connection.execute(_END, (job.message_id, job.key)).rowcount > 0
        if ended:
            connection.execute(_ENDED, (job.message_id, self._clock.now() + ENDED_FOR))
        if ended and job.dsns:
            self._store.insert(connection, job.dsns)
        return ended
