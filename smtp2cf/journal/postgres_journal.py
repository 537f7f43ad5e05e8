"""The journal in the PostgreSQL database of the spool, which several bridges share.

A connection of its own for writing and one for reading, made when they are needed: no mail waits for either.

Knows nothing of the spool.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]

from smtp2cf.journal import postgres_forget, postgres_record, postgres_search, postgres_tables
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

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 30.0
"""Seconds."""
MANY_TEXTS = 20_000
"""Texts whose numbers are remembered."""
_SETTINGS = {
    "application_name": "smtp2cf journal",
    # Compiling a search takes longer than the search.
    "jit": "off",
    # The last half second may be lost: nothing depends on it.
    "synchronous_commit": "off",
    "idle_in_transaction_session_timeout": "30000",
}


class PostgresJournal:
    """See record.Journal.

    url: of the database. place: its name for people. create: make the tables where there are none, as the
    process does that serves.
    """

    def __init__(self, url: str, place: str, *, create: bool = True) -> None:
        self._place = place
        self._create = create
        self._writer = _Line(url)
        self._reader = _Line(url, isolation="repeatable_read", readonly=True)
        self._made = False
        self._texts: dict[str, int] = {}
        self._texts_of = 0

    def use_url(self, url: str) -> None:
        """See record.Journal."""
        self._writer.url = self._reader.url = url

    async def record(self, entries: Sequence[Entry], actions: Sequence[Action] = ()) -> None:
        """See record.Journal."""

        async def write(connection: Any) -> None:
            used = await postgres_record.record(connection, entries, actions, self._texts)
            written.update(used)

        day = int(time.time()) // postgres_record.DAY
        if day != self._texts_of or len(self._texts) > MANY_TEXTS:
            self._texts, self._texts_of = {}, day
        written: dict[str, int] = {}
        try:
            await self._write(write)
        except BaseException:
            self._texts = {}
            raise
        self._texts |= written

    async def search(self, which: Search) -> list[Row]:
        """See record.Journal."""
        return await self._read(lambda connection: postgres_search.search(connection, which))

    async def follow(self, after: Cursor, limit: int = 500) -> News:
        """See record.Journal."""

        async def read(connection: Any) -> News:
            end = await _end(connection)
            begin = after.step if after.journal == end.journal else 0
            rows, reached = await postgres_search.follow(connection, begin, limit)
            return News(rows, end if reached is None else end._replace(step=reached))

        return await self._read(read)

    async def begin(self, which: Search) -> News:
        """See record.Journal."""

        async def read(connection: Any) -> News:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return News(await postgres_search.search(connection, which), await _end(connection))

        return await self._read(read)

    async def story(self, queue_id: str) -> Story | None:
        """See record.Journal."""
        return await self._read(lambda connection: postgres_search.story(connection, queue_id))

    async def actions(self, since: float, limit: int = PAGE) -> list[Action]:
        """See record.Journal."""
        return await self._read(lambda connection: postgres_search.actions(connection, since, limit))

    async def tallies(self, since: float, until: float) -> list[Tally]:
        """See record.Journal."""
        rows = await self._read(
            lambda connection: connection.fetch(
                "SELECT minute, status, recipients FROM smtp2cf_journal_tally"
                " WHERE minute >= $1 AND minute <= $2 ORDER BY minute, status",
                milliseconds(since) // 60_000,
                milliseconds(until) // 60_000,
            )
        )
        return [Tally(minute * 60.0, status_of(status), count) for minute, status, count in rows]

    async def forget(self, address: str) -> Forgotten:
        """See record.Journal."""
        self._texts = {}
        return await self._write(lambda connection: postgres_forget.forget(connection, address))

    async def prune(self, before: float, actions_before: float) -> bool:
        """See record.Journal."""
        return await self._write(lambda connection: postgres_record.prune(connection, before, actions_before))

    async def size(self) -> int:
        """See record.Journal."""
        octets: int = await self._read(
            lambda connection: connection.fetchval(
                "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
                " WHERE relkind = 'r' AND relname LIKE 'smtp2cf\\_journal%'"
                " AND relnamespace = current_schema()::regnamespace"
            )
        )
        return octets

    async def close(self) -> None:
        """See record.Journal."""
        await self._writer.close()
        await self._reader.close()

    async def _write(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async def write(connection: Any) -> T:
            if not self._made:
                await self._make(connection)
            return await work(connection)

        return await self._use(self._writer, write)

    async def _read(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async def read(connection: Any) -> T:
            if not self._made and not await postgres_tables.is_made(connection):
                raise no_journal(self._place)
            return await work(connection)

        return await self._use(self._reader, read)

    async def _make(self, connection: Any) -> None:
        if self._create:
            await postgres_tables.migrate(connection, self._place)
        elif not await postgres_tables.is_made(connection):
            raise no_journal(self._place)
        self._made = True

    async def _use(self, line: "_Line", work: Callable[[Any], Awaitable[T]]) -> T:
        try:
            return await line.use(work)
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 - the driver raises more than it documents
            self._made = False  # the tables may have been dropped
            reason = " ".join(str(error).split()) or type(error).__name__
            raise JournalError(f"cannot use the journal in {self._place}: {reason}") from None


class _Line:
    """One connection, used by one at a time, and made again when it was lost. kind: of its transactions."""

    def __init__(self, url: str, **kind: Any) -> None:
        self.url = url
        self._kind = kind
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def use(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do something in a transaction; nothing of it is done if it fails."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self.url,
                    timeout=CONNECT_TIMEOUT,
                    command_timeout=COMMAND_TIMEOUT,
                    server_settings=_SETTINGS,
                )
            try:
                async with self._connection.transaction(**self._kind):
                    return await work(self._connection)
            except (asyncpg.PostgresError, JournalError):
                raise
            except BaseException:
                self._connection.terminate()  # nobody knows what comes next on it
                raise

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()


async def _end(connection: Any) -> Cursor:
    name, step = await connection.fetchrow("SELECT name, step FROM smtp2cf_journal")
    return Cursor(name, step - 1)
