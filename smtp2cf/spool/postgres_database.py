"""A PostgreSQL database as the spool needs it: a pool that outlives a restart, the schema, the wake-ups.

What fails because the connection broke is tried again for a moment, so that a restart of the
database is a pause and not an error. Sessions are ours alone: a pooler in transaction mode in
between would break LISTEN.

Knows nothing of mail.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
import structlog

from smtp2cf.spool.postgres_sql import MIGRATIONS
from smtp2cf.spool.protocol import SpoolError, SpoolFull, SpoolUnavailable

_log = structlog.get_logger(__name__)

T = TypeVar("T")
Connection = Any
"""asyncpg's, which is not generic in a way mypy can use."""

CHANNEL = "smtp2cf_spool"
"""Where a notification says that some mail may be due."""

NOTIFY_EVERY = 0.05
"""Seconds between notifications: the commit of one waits for all others, so they are few."""

CONNECTIONS = 8

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 30.0
PATIENCE = 5.0
RECONNECT_EVERY = 0.5
"""Seconds: for one connection, for one statement, for all attempts at it, between two."""

GONE = (
    OSError,  # TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,  # shutting down, starting up
    asyncpg.TransactionRollbackError,  # a deadlock or the like: the other one is done now
)
"""Errors that pass: the database is away or busy."""

FULL = (asyncpg.DiskFullError, asyncpg.OutOfMemoryError, asyncpg.ConfigurationLimitExceededError)

_MIGRATION_LOCK = 0x53324346


class Database:
    """Made by `open`."""

    def __init__(self, pool: Any, url: str) -> None:
        self._pool = pool
        self._url = url
        self._closed = False
        self._announcement: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str) -> "Database":
        """Connect, and bring the schema up to date. Raises SpoolError."""
        shown = re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:***@", url)
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=CONNECTIONS,
                timeout=CONNECT_TIMEOUT,
                command_timeout=COMMAND_TIMEOUT,
                # Whatever the server's default is: 250 means kept.
                server_settings={"application_name": "smtp2cf", "synchronous_commit": "on"},
            )
        except (*GONE, asyncpg.PostgresError, ValueError) as error:
            raise SpoolError(f"cannot open the spool {shown}: {_one_line(error)}") from error
        try:
            async with pool.acquire() as connection, connection.transaction():
                await _migrate(connection, shown)
        except (*GONE, asyncpg.PostgresError) as error:
            pool.terminate()
            raise SpoolError(f"cannot open the spool {shown}: {_one_line(error)}") from error
        except SpoolError:
            pool.terminate()
            raise
        return cls(pool, url)

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Have something done that may be done twice; raises SendError."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + PATIENCE
        while True:
            if self._closed:
                raise SpoolUnavailable("it is closed")
            try:
                async with self._pool.acquire(timeout=PATIENCE) as connection:
                    return await work(connection)
            except asyncpg.DataError:
                raise  # a value that no column takes: an error of ours
            except GONE as error:
                if clock() >= give_up:
                    raise SpoolUnavailable(_one_line(error)) from error
            except FULL as error:
                raise SpoolFull(_one_line(error)) from error
            except asyncpg.PostgresError as error:
                raise SpoolUnavailable(_one_line(error)) from error
            await asyncio.sleep(RECONNECT_EVERY)

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        """The rows a statement gives; raises SendError."""
        return await self.run(lambda connection: connection.fetch(statement, *values))

    async def execute(self, statement: str, *values: object) -> None:
        """Run a statement; raises SendError."""
        await self.run(lambda connection: connection.execute(statement, *values))

    def listen(self, on_wake: Callable[[], None]) -> None:
        """From now on, call `on_wake` whenever a process announces, and after every reconnection."""
        self._listener = asyncio.create_task(self._listen(on_wake))

    def announce(self) -> None:
        """Tell all who listen that mail may be due; soon, not at once."""
        if self._announcement is None or self._announcement.done():
            self._announcement = asyncio.create_task(self._announce())

    async def close(self) -> None:
        """Let every connection go."""
        self._closed = True
        tasks = [task for task in (self._listener, self._announcement) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._pool.close()
        except (*GONE, asyncpg.PostgresError) as error:
            _log.warning("spool.not_closed", error=_one_line(error))
            self._pool.terminate()

    async def _announce(self) -> None:
        await asyncio.sleep(NOTIFY_EVERY)
        try:
            await self._notify()
        except (*GONE, asyncpg.PostgresError) as error:
            # Whoever waits looks for himself when he is connected again.
            _log.debug("spool.not_announced", error=_one_line(error))

    async def _notify(self) -> None:
        async with self._pool.acquire(timeout=PATIENCE) as connection:
            await connection.execute("SELECT pg_notify($1, '')", CHANNEL)

    async def _listen(self, on_wake: Callable[[], None]) -> None:
        while True:
            try:
                await self._listen_until_lost(on_wake)
            except (*GONE, asyncpg.PostgresError) as error:
                _log.debug("spool.not_listening", error=_one_line(error))
            await asyncio.sleep(RECONNECT_EVERY)

    async def _listen_until_lost(self, on_wake: Callable[[], None]) -> None:
        connection = await asyncpg.connect(
            self._url, timeout=CONNECT_TIMEOUT, server_settings={"application_name": "smtp2cf listener"}
        )
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, lambda *_: on_wake())
            on_wake()  # for what was said before we listened
            await lost.wait()
        finally:
            connection.terminate()


async def _migrate(connection: Connection, shown: str) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
    version = 0
    if await connection.fetchval("SELECT to_regclass('smtp2cf_spool') IS NOT NULL"):
        version = await connection.fetchval("SELECT version FROM smtp2cf_spool")
    else:
        await connection.execute(
            "CREATE TABLE smtp2cf_spool (version integer NOT NULL, checked_at timestamptz NOT NULL)"
        )
        await connection.execute("INSERT INTO smtp2cf_spool VALUES (0, now())")
    if version > len(MIGRATIONS):
        raise SpoolError(
            f"the spool {shown} was written by a newer smtp2cf (schema {version}, this one knows "
            f"{len(MIGRATIONS)}): upgrade smtp2cf, or set another SMTP2CF_SPOOL_URL"
        )
    for migration in MIGRATIONS[version:]:
        await connection.execute(migration)
    await connection.execute("UPDATE smtp2cf_spool SET version = $1", len(MIGRATIONS))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
