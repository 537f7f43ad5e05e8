"""The spool in PostgreSQL (asyncpg): any number of processes share it.

Mail is claimed with FOR UPDATE SKIP LOCKED, leases go by the database's clock, LISTEN/NOTIFY wakes
who waits. What several ask for at a time is one statement, one round trip.

Knows nothing of sockets, of Cloudflare or of the relay.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog

from smtp2cf.envelope import Outcomes
from smtp2cf.reply import Reply, SendError, printable
from smtp2cf.spool import codec, postgres_counts, postgres_notes, postgres_reserve, postgres_sql
from smtp2cf.spool.batcher import Batcher
from smtp2cf.spool.claims import Claims, DueAlarm, Moment
from smtp2cf.spool.postgres_answers import PostgresAnswers
from smtp2cf.spool.postgres_database import Connection, Database, QueueIdTaken
from smtp2cf.spool.postgres_following import PostgresFollowing
from smtp2cf.spool.postgres_postings import PostgresPostings
from smtp2cf.spool.postgres_put import put_values
from smtp2cf.spool.protocol import (
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
from smtp2cf.spool.turns import Turns

_log = structlog.get_logger(__name__)

T = TypeVar("T")

POLL = 10.0
"""Seconds after which to ask for the next due time again, in case a notification was lost."""
NAMED = 10
"""Queue ids that a log line names."""


class PostgresSpool:
    """See protocol.Spool. Made by `open`."""

    def __init__(self, database: Database, lease: float) -> None:
        self._database = database
        self._lease = lease
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._turns = Turns()
        self._claims = Claims(lease, self._renew)
        self._alarm = DueAlarm(self._until_due, POLL)
        self._puts = Batcher(self._put_all)
        self._begins = Batcher(self._begin_all)
        self._confirms = Batcher(self._confirm_all)
        self._finishes = Batcher(self._finish_all)
        self._answers = PostgresAnswers(database)
        self.following = PostgresFollowing(database, self._put_values, self._arrived)
        self.postings = PostgresPostings(database)
        self._closed = False
        self._full: SpoolFull | None = None
        self._claiming = asyncio.Lock()
        self._claim_lost = False  # true from when a claim goes out until its answer is here
        database.listen(self._alarm.ring)

    @classmethod
    async def open(cls, url: str, *, patient: bool = False, lease: float = LEASE) -> "PostgresSpool":
        """Open the spool in the database at `url`; create it if it is missing. lease: seconds.

        patient: if the database can't be reached now, open it as soon as it can. Raises SpoolError.
        """
        return cls(await Database.open(url, patient=patient), lease)

    async def put(self, *mail: NewMail) -> Reply | None:
        """See protocol.Spool."""
        claimed = [letter.envelope.queue_id for letter in mail if letter.claimed]
        self._claims.add(claimed)  # from here on: it may be written long before we hear of it
        try:
            await self._answers.until_written(
                letter.answer.digest for letter in mail if letter.answer is not None
            )
            noted: Reply | None = await self._puts.ask(mail)
        except BaseException as error:
            if not (isinstance(error, SendError) and error.unanswered):
                self._claims.drop(claimed)
            if isinstance(error, SpoolFull):
                self._full = error
            raise
        self._arrived(mail)
        return noted

    async def claim(self, limit: int, *, expired: bool = False) -> list[SpoolItem]:
        """See protocol.Spool."""
        statement: tuple[object, ...]
        if expired:
            statement = (postgres_sql.CLAIM_EXPIRED, limit, self._owner, self._lease)
        else:
            share = self._turns.tried_share(limit)
            statement = (postgres_sql.CLAIM, limit, share, self._owner, self._lease)
        async with self._claiming:
            asked_at = Moment.now()
            rows = await self._database.run(partial(self._claim, statement=statement))
            rows.sort(key=lambda row: (row[0], row[1]))
            claimed = [codec.decode_item(columns, now) for _, _, now, *columns in rows]
            fresh = self._claims.take(claimed, asked_at)
            self._claim_lost = False
        if fresh:
            self._alarm.found()
        return fresh

    async def begin(self, queue_id: str) -> bool:
        """See protocol.Spool."""
        return await self._claims.ask(queue_id, self._begins.ask(queue_id))

    def holds(self, queue_id: str) -> bool:
        """See protocol.Spool."""
        return self._claims.holds(queue_id)

    async def confirm(self, queue_id: str) -> bool:
        """See protocol.Spool."""
        if self._claims.is_fresh(queue_id):
            return True
        return await self._claims.ask(queue_id, self._confirms.ask(queue_id))

    async def read(self, queue_id: str) -> bytes | None:
        """See protocol.Spool."""
        rows = await self._database.fetch(postgres_sql.READ, queue_id)
        return rows[0][0] if rows else None

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
        """See protocol.Spool. False also when the database went away after it had done it."""
        known = codec.encode_outcomes(outcomes)
        change: tuple[object, ...]
        if hold:
            change = (postgres_sql.HOLD, queue_id, self._owner, known, failures, printable(hold))
        elif retry_in is not None:
            put_off = (known, failures, float(retry_in), int(untried))
            change = (postgres_sql.DEFER, queue_id, self._owner, *put_off)
        else:
            change = (postgres_sql.FINISH, [queue_id], self._owner)
        if change[0] == postgres_sql.FINISH and not dsns:
            settled = await self._finishes.ask(queue_id)
        else:
            values = self._put_values(dsns) if dsns else ()
            settled = await self._database.run(partial(self._settle, change=change, dsns=values))
        self._claims.drop((queue_id,))
        if settled:
            self._arrived(dsns)
            if retry_in is not None:
                self._alarm.ring()
        return settled

    async def give_back(self, *queue_ids: str) -> None:
        """See protocol.Spool."""
        await self._database.execute(postgres_sql.GIVE_BACK, self._owner, list(queue_ids))
        self._claims.drop(queue_ids)
        self._database.announce()

    async def wait_due(self, at_most: float) -> None:
        """See protocol.Spool."""
        await self._alarm.wait(at_most)

    async def items(self, which: Filter = EVERYTHING) -> AsyncIterator[SpoolItem]:
        """See protocol.Spool."""
        after = ""
        while True:
            statement, values = postgres_sql.items_page(which, after)
            rows = await self._database.fetch(statement, *values)
            page = [codec.decode_item(columns, now) for now, *columns in rows]
            for item in page:
                yield item
            if len(page) < PAGE:
                return
            after = page[-1].queue_id

    async def count(self, which: Filter = EVERYTHING) -> int:
        """See protocol.Spool."""
        values: list[object] = []
        where = postgres_sql.conditions(which, values)
        rows = await self._database.fetch(f"SELECT count(*) FROM smtp2cf_mail WHERE {where}", *values)  # noqa: S608 - constants
        count: int = rows[0][0]
        return count

    async def apply(
        self, action: Action, which: Filter, reason: str = "", *, within: Period = NOW
    ) -> AsyncIterator[list[str]]:
        """See protocol.Spool."""
        after = ""
        reason = reason or "held by the operator"
        while True:
            statement, values = postgres_sql.apply_page(action, which, reason, after, within)
            page = sorted(row[0] for row in await self._database.fetch(statement, *values))
            if not page:
                return
            if action in (Action.RETRY, Action.RELEASE):
                self._database.announce()
            yield page
            after = page[-1]

    async def totals(self) -> dict[Status, Total]:
        """See protocol.Spool."""
        self._require_usable()
        rows = await self._database.fetch(postgres_sql.TOTALS)
        now = time.time()
        return {Status(status): Total(messages, size, now - age) for status, messages, size, age in rows}

    async def check(self) -> None:
        """See protocol.Spool."""
        self._require_usable()
        await self._database.execute(postgres_sql.CHECK)
        # That writes over what is there, even on a full disk; mail needs more.
        try:
            await self._database.run(postgres_reserve.keep, fills=True)
            if self._full is not None:
                await self._database.run(postgres_reserve.try_for_room, fills=True)
        except SpoolFull as error:
            self._full = error
            raise
        self._full = None

    def use_url(self, url: str) -> None:
        """See protocol.Spool. Open connections keep the login they have."""
        self._database.use_url(url)

    def refusal(self) -> SendError | None:
        """See protocol.Spool. The server alone knows its disk: from when it was full until there is room."""
        return self._full

    async def recall(self, digest: bytes, *, begin: bool = True) -> Memory | None:
        """See protocol.Spool. Shared, so a client that comes back to another replica is known there."""
        return await self._answers.recall(digest, begin=begin)

    def remember(self, digest: bytes, reply: Reply | None) -> None:
        """See protocol.Spool."""
        self._answers.note(digest, reply)

    def forget(self, digest: bytes) -> None:
        """See protocol.Spool."""
        self._answers.forget(digest)

    async def amend(self, name: str, change: Change[T]) -> T:
        """See protocol.Spool. Nobody holds a lock while he thinks, so one who is frozen stops nobody."""
        return await self._database.run(partial(postgres_notes.amend, name=name, change=change), fills=True)

    async def recount(self, names: Sequence[str], change: Recount[T]) -> T:
        """See protocol.Spool."""
        work = partial(postgres_counts.recount, names=names, change=change)
        return await self._database.run(work, fills=True)

    async def counts(self) -> tuple[dict[str, str], float]:
        """See protocol.Spool."""
        rows = await self._database.fetch(postgres_counts.ALL)
        return {name: text for _, name, text in rows if name is not None}, rows[0][0]

    async def close(self) -> None:
        """See protocol.Spool."""
        if self._closed:
            return
        self._closed = True
        await self._claims.close()
        for batcher in (self._puts, self._begins, self._confirms, self._finishes):
            await batcher.finish()
        await self._answers.finish()
        await self.following.finish()
        try:
            await self._database.execute(postgres_sql.GIVE_BACK, self._owner, None)
            self._database.announce()
        except SendError as error:
            # Another takes it when the leases are over.
            _log.warning("spool.not_given_back", reply=str(error.reply))
        finally:
            await self._database.close()

    def _require_usable(self) -> None:
        if self._database.unusable is not None:
            raise self._database.unusable

    def _arrived(self, mail: Sequence[NewMail]) -> None:
        if any(not letter.claimed for letter in mail):
            self._alarm.ring()
            self._database.announce()

    async def _put_all(self, jobs: Sequence[Sequence[NewMail]]) -> Sequence[Reply | SendError | None]:
        try:
            return await self._put_together(jobs)
        except QueueIdTaken:
            return [await self._put_alone(job) for job in jobs]

    async def _put_together(self, jobs: Sequence[Sequence[NewMail]]) -> Sequence[Reply | None]:
        """Put the mail of all jobs; returns for each the answer because of which some of it was not kept."""
        # By queue id, since one who was told of a failure may ask again while the first is on its way.
        letters = {mail.envelope.queue_id: mail for together in jobs for mail in together}
        noted: dict[str, Reply | None] = {}
        if letters:
            values = self._put_values(list(letters.values()))
            rows = await self._database.fetch(postgres_sql.PUT, *values, fills=True)
            noted = {queue_id: codec.decode_reply(reply) for queue_id, reply in rows}
        queue_ids = ([mail.envelope.queue_id for mail in job] for job in jobs)
        return [next((noted[one] for one in job if one in noted), None) for job in queue_ids]

    def _put_values(self, letters: Sequence[NewMail]) -> list[object]:
        return put_values(letters, self._owner, self._lease)

    async def _put_alone(self, job: Sequence[NewMail]) -> Reply | SendError | None:
        """Put the mail of one job; returns the error if that fails."""
        try:
            return (await self._put_together((job,)))[0]
        except QueueIdTaken as error:
            queue_ids = [mail.envelope.queue_id for mail in job]
            _log.error("spool.queue_id_taken", queue_ids=queue_ids, reason=str(error))
            return SpoolUnavailable(f"queue id {' or '.join(queue_ids)} belongs to other mail")
        except SendError as error:
            return error

    async def _claim(self, connection: Connection, statement: Sequence[object]) -> list[Any]:
        """Claim, after giving back what an earlier try claimed whose answer was lost."""
        if self._claim_lost:
            await self._give_back_strays(connection)
        self._claim_lost = True
        rows: list[Any] = await connection.fetch(*statement)
        return rows

    async def _give_back_strays(self, connection: Connection) -> None:
        strays = await connection.fetch(
            postgres_sql.GIVE_BACK_STRAYS, self._owner, list(self._claims), self._lease
        )
        if strays:
            _log.warning("spool.strays", queue_ids=[row[0] for row in strays][:NAMED], count=len(strays))
            self._database.announce()

    async def _begin_all(self, queue_ids: Sequence[str]) -> list[bool]:
        rows = await self._database.fetch(postgres_sql.BEGIN, queue_ids, self._owner, self._lease)
        begun = {row[0] for row in rows}
        return [queue_id in begun for queue_id in queue_ids]

    async def _confirm_all(self, queue_ids: Sequence[str]) -> list[bool]:
        ours = await self._renew_leases(queue_ids)
        return [queue_id in ours for queue_id in queue_ids]

    async def _finish_all(self, queue_ids: Sequence[str]) -> list[bool]:
        finished = {row[0] for row in await self._database.fetch(postgres_sql.FINISH, queue_ids, self._owner)}
        return [queue_id in finished for queue_id in queue_ids]

    async def _settle(self, connection: Connection, change: Sequence[object], dsns: Sequence[object]) -> bool:
        """dsns: the values of postgres_sql.PUT, where there are any to put in."""
        async with connection.transaction():
            settled = bool(await connection.fetch(*change))
            if settled and dsns:
                await connection.execute(postgres_sql.PUT, *dsns)
        return settled

    async def _renew(self, queue_ids: Sequence[str]) -> Collection[str]:
        renewed = await self._renew_leases(queue_ids) if queue_ids else ()
        # A statement may be carried out long after its connection was lost: what came of it shows here.
        if not self._claim_lost:
            await self._database.run(self._give_back_strays)
        await self._database.execute(postgres_sql.FORGET_OLD)
        await self.following.forget_old()
        await self.postings.forget_old()
        await self._database.execute(postgres_counts.FORGET)
        return renewed

    async def _renew_leases(self, queue_ids: Sequence[str]) -> set[str]:
        """Those that are ours."""
        rows = await self._database.fetch(postgres_sql.RENEW, queue_ids, self._owner, self._lease)
        return {row[0] for row in rows}

    async def _until_due(self) -> float | None:
        rows = await self._database.fetch(postgres_sql.UNTIL_DUE)
        until_due: float | None = rows[0][0]
        return until_due
