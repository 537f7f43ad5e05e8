"""A PostgreSQL database for the spool: a pool that survives a restart of the server, and wake-ups.

Operations that fail because the connection broke are retried for a moment, so that a restart of the database
is a pause and not an error. If it can't be reached at the start, it is waited for. The sessions have to be
ours alone: a pooler in transaction mode would break LISTEN.

Knows nothing of mail.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg  # type: ignore[import-untyped]
import structlog

from smtp2cf.journal import tasks
from smtp2cf.spool import postgres_reserve, postgres_schema
from smtp2cf.spool.postgres_errors import Meaning, is_permanent, leaves_connection, meaning, one_line
from smtp2cf.spool.protocol import ANOTHER_SPOOL, SpoolError, SpoolFull, SpoolUnavailable
from smtp2cf.spool.url import without_password

_log = structlog.get_logger(__name__)

T = TypeVar("T")
Connection = Any
"""asyncpg's, which is not generic in a way mypy can use."""

CHANNEL = "smtp2cf_spool"
"""The channel of notifications that mail may be due."""

NOTIFY_EVERY = 0.05
"""Seconds between notifications: their commits wait for one another, so they are few."""

CONNECTIONS = 8

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 30.0
PATIENCE = 5.0
RECONNECT_EVERY = 0.5
"""Seconds: for one connection, for one statement, for all attempts at it, between two."""
SPEND_EVERY = 0.2
"""Seconds between two attempts to make room on a full disk."""
CROWDED = 10.0
"""Seconds until another connection is tried after the server had none left."""
OPEN_EVERY = 1.0
"""Seconds between two attempts to open a spool that could not be reached at the start."""

_SESSION = {
    # Whatever the server's default is: 250 means kept.
    "synchronous_commit": "on",
    # What a process that was frozen in the middle has locked is free again after this (milliseconds).
    "idle_in_transaction_session_timeout": "30000",
}


_LOGIN = ("user", "password", "passfile", "sslcert", "sslkey", "sslpassword")
"""Parameters of a URL that say who connects, and with which proof."""
_CONNECTING: dict[str, Any] = {
    "timeout": CONNECT_TIMEOUT,
    "command_timeout": COMMAND_TIMEOUT,
    "server_settings": {"application_name": "smtp2cf", **_SESSION},
}


class QueueIdTaken(SpoolUnavailable):
    """Other mail has this queue id."""


class Database:
    """Made by `open`.

    unusable: why this spool can never be used, if that shows after a start without the database.
    """

    def __init__(self, pool: Any, url: str) -> None:
        self._pool = pool
        self._url = url
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._withheld = 0
        self._spending = asyncio.Lock()
        self._spent_at = float("-inf")
        self._why_not_open = ""
        self._closed = False
        self._announcement: asyncio.Task[None] | None = None
        self._kept: list[asyncio.Task[None]] = []
        self.unusable: SpoolError | None = None

    @classmethod
    async def open(cls, url: str, *, patient: bool) -> "Database":
        """Connect and update the schema. Raises SpoolError.

        patient: if the database can't be reached, open it as soon as possible; `run` raises why.
        """
        try:
            return cls(await _open_pool(url), url)
        except SpoolError:
            raise
        except Exception as error:
            if not patient:
                raise SpoolError(
                    f"cannot open the spool {without_password(url)}: {one_line(error)}"
                ) from error
            database = cls(None, url)
            database._note_not_open(error)
            database._kept.append(tasks.keep_running(database._keep_opening, "postgres.open"))
            return database

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, fills: bool = False) -> T:
        """Retry an idempotent operation until it succeeds or PATIENCE runs out; raises SendError.

        fills: it adds data, so it may not use the reserve for a full disk. The error is `unanswered` if a
        connection broke, in which case the work may have been done.
        """
        clock = asyncio.get_running_loop().time
        give_up = clock() + PATIENCE
        unanswered = False
        while True:
            if self._closed:
                raise SpoolUnavailable("it is closed", unanswered=unanswered)
            connected = False
            try:
                async with self._connected() as connection:
                    connected = True
                    return await work(connection)
            except (Exception, asyncio.CancelledError) as error:
                means = meaning(error)
                if tasks.is_cancelled(error) or means is Meaning.OURS:
                    raise
                unanswered = unanswered or (connected and means is Meaning.LOST)
                if means is Meaning.FULL:
                    if not fills and await self._spend_reserve():
                        fills = True  # once is enough
                        continue
                    raise SpoolFull(one_line(error), unanswered=unanswered) from error
                if means is Meaning.TAKEN:
                    raise QueueIdTaken(one_line(error), unanswered=unanswered) from error
                if means is Meaning.REFUSED or self.unusable or clock() >= give_up:
                    raise SpoolUnavailable(one_line(error), unanswered=unanswered) from error
            await asyncio.sleep(RECONNECT_EVERY)

    async def fetch(self, statement: str, *values: object, fills: bool = False) -> list[Any]:
        """The rows a statement returns; raises SendError. fills: as for `run`."""
        return await self.run(lambda connection: connection.fetch(statement, *values), fills=fills)

    async def execute(self, statement: str, *values: object, fills: bool = False) -> None:
        """Run a statement; raises SendError. fills: as for `run`."""
        await self.run(lambda connection: connection.execute(statement, *values), fills=fills)

    def use_url(self, url: str) -> None:
        """Connect by this URL from now on. Raises ValueError if it names another database."""
        if _without_login(url) != _without_login(self._url):
            raise ValueError(ANOTHER_SPOOL)
        self._url = url
        if self._pool is not None:
            self._pool.set_connect_args(url, **_CONNECTING)

    def listen(self, on_wake: Callable[[], None]) -> None:
        """From now on, call `on_wake` at every announcement by any process, and after every reconnection."""
        self._kept.append(tasks.keep_running(lambda: self._listen(on_wake), "postgres.listen"))

    def announce(self) -> None:
        """Notify all listeners, soon, that mail may be due."""
        if self._announcement is None or self._announcement.done():
            self._announcement = tasks.start(self._announce(), "postgres.announce")

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        running = [*self._kept, *([self._announcement] if self._announcement is not None else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._pool.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the server drops what we let go of
            _log.warning("spool.not_closed", error=one_line(error))
            self._pool.terminate()

    async def _spend_reserve(self) -> bool:
        """Make room so that waiting mail can go out, once for all who ask together; False if that fails."""
        clock = asyncio.get_running_loop().time
        async with self._spending:
            if clock() < self._spent_at + SPEND_EVERY:
                return True
            try:
                async with self._connected() as connection:
                    await postgres_reserve.spend(connection)
            except Exception as error:  # noqa: BLE001 - whatever it is, the disk is still full
                _log.debug("spool.reserve_not_spent", error=one_line(error))
                return False
            self._spent_at = clock()
            return True

    # ---- connections

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """A connection of the pool. If returning it fails, the work done with it still counts."""
        if self._pool is None:
            raise ConnectionError(self._why_not_open)
        # Python 3.11's wait_for loses a cancellation as it succeeds, and close would wait for ever.
        async with asyncio.timeout(PATIENCE):
            await self._turns.acquire()
        try:
            connection = await self._pool.acquire(timeout=PATIENCE)
        except asyncpg.TooManyConnectionsError:
            self._make_do_with_less()
            raise
        except BaseException:
            self._turns.release()
            raise
        try:
            yield connection
        except BaseException as error:
            if not leaves_connection(error):
                connection.terminate()  # what comes next on it could be the answer to this
            raise
        finally:
            try:
                await self._pool.release(connection, timeout=PATIENCE)
            except Exception as error:  # noqa: BLE001 - the pool has dropped it, and there will be another
                _log.debug("spool.connection_lost", error=one_line(error))
            self._turns.release()

    def _make_do_with_less(self) -> None:
        """The server has no connection left for us: for a while, share those that we have."""
        if self._withheld >= CONNECTIONS - 1:
            self._turns.release()
            return
        self._withheld += 1
        asyncio.get_running_loop().call_later(CROWDED, self._try_for_more)

    def _try_for_more(self) -> None:
        self._withheld -= 1
        self._turns.release()

    async def _keep_opening(self) -> None:
        """Open the spool as soon as possible, or find out that it can never be opened."""
        while self._pool is None:
            await asyncio.sleep(OPEN_EVERY)
            try:
                url = self._url
                self._pool = await _open_pool(url)
                if url != self._url:  # there is another login now
                    self._pool.set_connect_args(self._url, **_CONNECTING)
            except SpoolError as error:
                self.unusable = error
                self._why_not_open = str(error)
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told and tried again
                self._note_not_open(error)
        _log.info("spool.opened", spool=without_password(self._url))

    def _note_not_open(self, error: Exception) -> None:
        reason = one_line(error)
        if reason != self._why_not_open:
            _log.warning("spool.not_open_yet", spool=without_password(self._url), reason=reason)
        self._why_not_open = reason

    # ---- wake-ups

    async def _announce(self) -> None:
        await asyncio.sleep(NOTIFY_EVERY)
        try:
            async with self._connected() as connection:
                await connection.execute("SELECT pg_notify($1, '')", CHANNEL)
        except Exception as error:  # noqa: BLE001 - whoever waits looks for himself when he is connected again
            _log.debug("spool.not_announced", error=one_line(error))

    async def _listen(self, on_wake: Callable[[], None]) -> None:
        while True:
            if self._pool is not None:
                try:
                    await self._listen_until_lost(on_wake)
                except Exception as error:  # noqa: BLE001 - whatever it is, the next connection may do
                    _log.debug("spool.not_listening", error=one_line(error))
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


async def _open_pool(url: str) -> Any:
    """A pool of connections to a spool, after updating its schema.

    Raises SpoolError where somebody has to act; anything else where it may be otherwise in a moment.
    """
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=0,  # a floor would be restored behind our back, each failure a traceback in the log
            max_size=CONNECTIONS,
            **_CONNECTING,
        )
        try:
            async with pool.acquire(timeout=PATIENCE) as connection:
                await _require_utf8(connection, url)
                async with connection.transaction():
                    await postgres_schema.migrate(connection, without_password(url))
        except BaseException:
            pool.terminate()
            raise
    except SpoolError:
        raise
    except Exception as error:
        if is_permanent(error):
            raise SpoolError(f"cannot open the spool {without_password(url)}: {one_line(error)}") from error
        raise
    return pool


async def _require_utf8(connection: Connection, url: str) -> None:
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise SpoolError(
            f"the database of the spool {without_password(url)} has the encoding {encoding}, which can't hold"
            " every name and address: make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and"
            " name it in SMTP2CF_SPOOL_URL"
        )


def _without_login(url: str) -> tuple[str, str, str]:
    """What an URL says of the database itself: where it is and its name, but not who connects to it."""
    parts = urlsplit(url)
    others = sorted(item for item in parse_qsl(parts.query) if item[0] not in _LOGIN)
    return parts.netloc.rpartition("@")[2], parts.path, urlencode(others)
