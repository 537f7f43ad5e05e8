"""What waits to be posted, in an SQLite spool. See postings.py."""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from smtp2cf.spool import postings
from smtp2cf.spool.clock import Clock
from smtp2cf.spool.postings import Backlog, Posting
from smtp2cf.spool.writer import Kind, Writer

_ADD = "INSERT OR IGNORE INTO posting (id, body, added, due) VALUES (?, ?, ?, ?)"
_DROP = """
    DELETE FROM posting WHERE number IN (
        SELECT number FROM posting ORDER BY number LIMIT max(0, (SELECT count(*) FROM posting) - ?)
    )
"""
_DUE = "SELECT number, id, body, attempts FROM posting WHERE due <= ? ORDER BY due, number LIMIT ?"
_CLAIM = "UPDATE posting SET due = ? WHERE number = ?"
_DONE = "DELETE FROM posting WHERE id = ?"
_LATER = "UPDATE posting SET due = ?, attempts = attempts + 1 WHERE id = ?"
_BACKLOG = "SELECT count(*), min(due) FROM posting"
_FORGET = "DELETE FROM posting WHERE added < ?"

FetchOne = Callable[[str, tuple[object, ...]], Awaitable[tuple[Any, ...] | None]]


class _Settled(NamedTuple):
    """The argument of the job that ends claims."""

    done: Sequence[str]
    later: Mapping[str, float]


class SqlitePostings:
    """See postings.Postings. fetch_one: reads a row."""

    def __init__(self, writer: Writer, clock: Clock, fetch_one: FetchOne) -> None:
        self._writer = writer
        self._clock = clock
        self._fetch_one = fetch_one
        # What waits here may be lost with the host's power, so nothing of it waits for the disk.
        self._add = Kind(20, self._add_all, durable=False, fills=True)
        self._settle = Kind(21, self._settle_all, durable=False, drains=True)
        self._claim = Kind(22, self._claim_all, durable=False, drains=True)
        self._expire = Kind(23, self._expire_all, durable=False, drains=True)

    async def add(self, new: Sequence[Posting]) -> int:
        """See postings.Postings."""
        dropped: int = await self._writer.do(self._add, new, sum(len(one.body) for one in new))
        return dropped

    async def claim(self, limit: int) -> list[Posting]:
        """See postings.Postings."""
        claimed: list[Posting] = await self._writer.do(self._claim, limit)
        return claimed

    async def settle(self, done: Sequence[str], later: Mapping[str, float]) -> None:
        """See postings.Postings."""
        await self._writer.do(self._settle, _Settled(done, later))

    async def expire(self, age: float) -> int:
        """See postings.Postings."""
        dropped: int = await self._writer.do(self._expire, age)
        return dropped

    async def backlog(self) -> Backlog:
        """See postings.Postings."""
        count, due = await self._fetch_one(_BACKLOG, ()) or (0, None)
        return Backlog(count, max(0.0, due - self._clock.now()) if due is not None else None)

    def _add_all(self, connection: sqlite3.Connection, jobs: list[Sequence[Posting]]) -> list[int]:
        return [self._add_some(connection, new) for new in jobs]

    def _add_some(self, connection: sqlite3.Connection, new: Sequence[Posting]) -> int:
        now = self._clock.now()
        connection.executemany(_ADD, [(one.id, one.body, now, now) for one in new])
        return connection.execute(_DROP, (postings.MOST_POSTINGS,)).rowcount

    def _claim_all(self, connection: sqlite3.Connection, jobs: list[int]) -> list[list[Posting]]:
        return [self._claim_some(connection, limit) for limit in jobs]

    def _claim_some(self, connection: sqlite3.Connection, limit: int) -> list[Posting]:
        now = self._clock.now()
        rows = connection.execute(_DUE, (now, limit)).fetchall()
        connection.executemany(_CLAIM, [(now + postings.LEASE, row[0]) for row in rows])
        return [Posting(*row[1:]) for row in rows]

    def _settle_all(self, connection: sqlite3.Connection, jobs: list[_Settled]) -> list[None]:
        now = self._clock.now()
        for job in jobs:
            connection.executemany(_DONE, [(id_,) for id_ in job.done])
            connection.executemany(_LATER, [(now + seconds, id_) for id_, seconds in job.later.items()])
        return [None] * len(jobs)

    def _expire_all(self, connection: sqlite3.Connection, jobs: list[float]) -> list[int]:
        return [forget(connection, self._clock.now(), age) for age in jobs]


def forget(connection: sqlite3.Connection, now: float, age: float) -> int:
    """Drop those that were added more than `age` seconds ago; returns how many."""
    return connection.execute(_FORGET, (now - age,)).rowcount
