"""What waits to be posted, in a PostgreSQL spool. See postings.py."""

from collections.abc import Mapping, Sequence
from functools import partial

from smtp2cf.spool import postings
from smtp2cf.spool.postgres_database import Connection, Database
from smtp2cf.spool.postings import Backlog, Posting

_ADD = """
    INSERT INTO smtp2cf_posting (id, body, added, due)
    SELECT id, body, smtp2cf_now(), smtp2cf_now() FROM unnest($1::text[], $2::text[]) AS new (id, body)
    ON CONFLICT (id) DO NOTHING
"""
_DROP = """
    DELETE FROM smtp2cf_posting WHERE number IN (
        SELECT number FROM smtp2cf_posting ORDER BY number
        LIMIT greatest(0, (SELECT count(*) FROM smtp2cf_posting) - $1) FOR UPDATE SKIP LOCKED
    ) RETURNING 1
"""
_CLAIM = """
    WITH due AS MATERIALIZED (
        SELECT number, due FROM smtp2cf_posting WHERE due <= smtp2cf_now()
        ORDER BY due, number LIMIT $1 FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE smtp2cf_posting AS posting SET due = smtp2cf_now() + $2
        FROM due WHERE posting.number = due.number
        RETURNING id, body, attempts, due.due AS was_due, posting.number
    )
    SELECT id, body, attempts FROM claimed ORDER BY was_due, number
"""
_DONE = "DELETE FROM smtp2cf_posting WHERE id = ANY($1::text[])"
_LATER = """
    UPDATE smtp2cf_posting AS posting SET due = smtp2cf_now() + later.seconds, attempts = attempts + 1
    FROM unnest($1::text[], $2::float8[]) AS later (id, seconds) WHERE posting.id = later.id
"""
_BACKLOG = "SELECT count(*), greatest(0, min(due) - smtp2cf_now()) FROM smtp2cf_posting"
_EXPIRE = "DELETE FROM smtp2cf_posting WHERE added < smtp2cf_now() - $1 RETURNING 1"


class PostgresPostings:
    """See postings.Postings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: Sequence[Posting]) -> int:
        """See postings.Postings."""
        work = partial(self._add, ids=[one.id for one in new], bodies=[one.body for one in new])
        return await self._database.run(work, fills=True)

    async def claim(self, limit: int) -> list[Posting]:
        """See postings.Postings. What a lost connection has claimed is due again after the lease."""
        rows = await self._database.fetch(_CLAIM, limit, postings.LEASE)
        return [Posting(*row) for row in rows]

    async def settle(self, done: Sequence[str], later: Mapping[str, float]) -> None:
        """See postings.Postings. An attempt may count twice when a connection is lost, which does no harm."""
        if done:
            await self._database.execute(_DONE, list(done))
        if later:
            await self._database.execute(_LATER, list(later), list(later.values()))

    async def expire(self, age: float) -> int:
        """See postings.Postings."""
        return len(await self._database.fetch(_EXPIRE, age))

    async def backlog(self) -> Backlog:
        """See postings.Postings."""
        ((count, due_in),) = await self._database.fetch(_BACKLOG)
        return Backlog(count, due_in if count else None)

    async def forget_old(self) -> None:
        """Drop what nobody posts any more."""
        await self.expire(postings.KEPT_FOR)

    @staticmethod
    async def _add(connection: Connection, ids: Sequence[str], bodies: Sequence[str]) -> int:
        async with connection.transaction():
            await connection.execute(_ADD, ids, bodies)
            return len(await connection.fetch(_DROP, postings.MOST_POSTINGS))
