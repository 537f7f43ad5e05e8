"""Who is followed, in a PostgreSQL spool. See following.py.

Knows nothing of events.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from smtp2cf.spool import codec, postgres_sql
from smtp2cf.spool.batcher import Batcher
from smtp2cf.spool.following import ENDED_FOR, FOLLOWED_FOR, Followed, recipient_key
from smtp2cf.spool.postgres_database import Connection, Database
from smtp2cf.spool.protocol import NewMail

_ADD = """
    INSERT INTO smtp2cf_followed (message_id, recipient, envelope, original_id, until)
    SELECT DISTINCT ON (message_id, recipient)
        message_id, recipient, envelope, original_id, smtp2cf_now() + $5
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
        AS new (message_id, recipient, envelope, original_id)
    ON CONFLICT (message_id, recipient) DO UPDATE SET envelope = excluded.envelope, until = excluded.until
"""
_FIND = """
    SELECT message_id, envelope, original_id FROM smtp2cf_followed
    WHERE message_id = $1 AND recipient = $2 AND until >= smtp2cf_now() AND envelope <> ''
"""
_END = "DELETE FROM smtp2cf_followed WHERE message_id = $1 AND recipient = $2 RETURNING message_id"

_KNOWS = "SELECT 1 FROM smtp2cf_followed WHERE message_id = $1 AND until >= smtp2cf_now() LIMIT 1"
_ENDED = """
    INSERT INTO smtp2cf_followed (message_id, recipient, envelope, original_id, until)
    VALUES ($1, '', '', '', smtp2cf_now() + $2)
    ON CONFLICT (message_id, recipient) DO UPDATE SET until = excluded.until
"""
"""Nobody is called that, so nobody is found by it."""

_FORGET_OLD = "DELETE FROM smtp2cf_followed WHERE until < smtp2cf_now()"


class PostgresFollowing:
    """See following.Following.

    put_values: the values of postgres_sql.PUT for mail. arrived: told of mail that was put in.
    """

    def __init__(
        self,
        database: Database,
        put_values: Callable[[Sequence[NewMail]], list[object]],
        arrived: Callable[[Sequence[NewMail]], None],
    ) -> None:
        self._database = database
        self._put_values = put_values
        self._arrived = arrived
        self._adding = Batcher(self._add_all)

    def add(self, *recipients: Followed) -> "asyncio.Future[None]":
        """See following.Following."""
        future = self._adding.ask(recipients)
        future.add_done_callback(_look_at)
        return future

    async def find(self, message_id: str, recipient: str) -> Followed | None:
        """See following.Following."""
        rows = await self._database.fetch(_FIND, message_id, recipient_key(recipient))
        return Followed(rows[0][0], codec.decode_envelope(rows[0][1]), rows[0][2]) if rows else None

    async def knows(self, message_id: str) -> bool:
        """See following.Following."""
        return bool(await self._database.fetch(_KNOWS, message_id))

    async def end(self, followed: Followed, *dsns: NewMail) -> bool:
        """See following.Following. False also when the database went away after it had done it."""
        values = self._put_values(dsns) if dsns else []
        ended = await self._database.run(partial(self._end, followed=followed, dsns=values))
        if ended and dsns:
            self._arrived(dsns)
        return ended

    async def forget_old(self) -> None:
        """Forget those of whom nothing was heard for FOLLOWED_FOR."""
        await self._database.execute(_FORGET_OLD)

    async def finish(self) -> None:
        """Wait until everything is written."""
        await self._adding.finish()

    async def _add_all(self, jobs: Sequence[Sequence[Followed]]) -> list[None]:
        rows = [
            (one.message_id, one.key, codec.encode_envelope(one.envelope), one.original_id)
            for together in jobs
            for one in together
        ]
        columns = [list(column) for column in zip(*rows, strict=True)]
        if columns:
            await self._database.execute(_ADD, *columns, FOLLOWED_FOR, fills=True)
        return [None] * len(jobs)

    @staticmethod
    async def _end(connection: Connection, followed: Followed, dsns: Sequence[object]) -> bool:
        async with connection.transaction():
            ended = bool(await connection.fetch(_END, followed.message_id, followed.key))
            if ended:
                await connection.execute(_ENDED, followed.message_id, ENDED_FOR)
            if ended and dsns:
                await connection.execute(postgres_sql.PUT, *dsns)
        return ended


def _look_at(future: "asyncio.Future[None]") -> None:
    """Keep asyncio from warning that nobody looked at an error."""
    if not future.cancelled():
        future.exception()
