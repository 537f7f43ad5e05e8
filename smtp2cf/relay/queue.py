"""Queue: sends the mail that waits in the spool.

Claims what is due while the account's limits leave room for it, and tries those recipients that have no final
outcome yet. What follows from that is settled as for new mail (`settle`), and written down by `spooled`.
Knows no SMTP session and no HTTP.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import structlog

from smtp2cf.journal import maillog, tasks
from smtp2cf.relay import spooled
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.lease import Lease
from smtp2cf.relay.settle import Situation
from smtp2cf.relay.spooled import SpooledMail
from smtp2cf.reply import SendError
from smtp2cf.spool import Action, Filter, SpoolItem, Status

PATIENCE = 60.0
"""Seconds that mail waits for its turn under the account's limits before it is put back."""
POLL = 60.0
"""Seconds until the spool is asked again if nothing wakes us."""
LOADED_BYTES = 32 * 2**20
"""Bytes of messages held in memory at a time (one message may be larger). Their calls need as much again."""
BLOCKED = 1.0
"""While the account is blocked for longer than this many seconds, nothing is claimed."""
RUSH = 4
"""While this many clients wait for their mail to be kept, taking it in goes before sending."""
RUSH_PAUSE = 0.01
"""Seconds between two messages sent during a rush: still far more than any account's limit allows."""
LOOK_AGAIN = 0.05
"""Seconds until we look again whether calls still stand in line."""

Attempting = Callable[..., Awaitable[Attempt]]
"""`Attempts.make`."""

log = structlog.stdlib.get_logger("smtp2cf.queue")


class Pace(Protocol):
    """How much of the account may be used: cloudflare's Account."""

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""

    @property
    def in_flight(self) -> int:
        """Calls under way."""

    @property
    def line(self) -> int:
        """How many calls for mail from the spool may stand in line."""

    @property
    def blocked_for(self) -> float:
        """Seconds until the next call may go out; infinity if nobody knows."""


class Unlimited:
    """The pace of an account without limits."""

    waiting = 0
    in_flight = 0
    line = 1
    blocked_for = 0.0


class Queue:
    """Sends mail when it is due. pace: what the account's limits leave."""

    def __init__(self, mail: SpooledMail, attempt: Attempting, pace: Pace | None = None) -> None:
        self._mail = mail
        self._spool = mail.spool
        self._attempt = attempt
        self._pace: Pace = pace or Unlimited()
        self._loaded = 0
        self._unloaded = asyncio.Condition()
        self._runner: asyncio.Task[None] | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    def start(self) -> None:
        """Begin to send what is due."""
        self._runner = tasks.keep_running(self._run, "queue.run")

    def wake(self) -> None:
        """More may go out than before."""
        self._woken.set()

    def retry_all(self) -> None:
        """Make all mail due that waits for another attempt."""
        self._retrying = tasks.start(self._mail.surely(self._make_due), "queue.retry_all")

    async def stop_claiming(self) -> None:
        """Send nothing more than what is under way."""
        for task in (self._runner, self._retrying):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Claim no more, and let what is under way end within `timeout` seconds; the spool keeps the rest."""
        await self.stop_claiming()
        await self._mail.drain(timeout)

    # ---- claiming

    async def _run(self) -> None:
        while True:
            try:
                await self._claim()
            except SendError as error:
                log.warning("queue.spool_unavailable", reply=str(error.reply))
                await asyncio.sleep(spooled.SPOOL_RETRY)
            except Exception:
                log.exception("queue.error")
                await asyncio.sleep(spooled.SPOOL_RETRY)

    async def _claim(self) -> None:
        """Take what is due and there is room for; if there is neither, wait."""
        self._woken.clear()
        if (blocked_for := self._pace.blocked_for) > BLOCKED:
            # Nothing can be sent, so don't waste an attempt on finding that out.
            if not await self._claim_expired():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(blocked_for, POLL)):
                        await self._woken.wait()
            return
        room = self._room()
        if self._mail.arriving >= RUSH:
            room = min(room, 1)
            await asyncio.sleep(RUSH_PAUSE)
        if room <= 0:
            await self._mail.one_less(LOOK_AGAIN)
            return
        items = await self._spool.claim(room)
        for item in items:
            self._mail.work(item.queue_id, self._send(item))
        if not items:
            await self._spool.wait_due(POLL)

    async def _claim_expired(self) -> bool:
        """Take what is to be given up; False if there is nothing."""
        items = await self._spool.claim(self._mail.retry.parallel, expired=True)
        await asyncio.gather(*(self._send(item) for item in items))
        return bool(items)

    async def _make_due(self) -> None:
        # Mail whose attempt ended before its call was made is queued, not deferred, and waits as well.
        async for _ in self._spool.apply(Action.RETRY, Filter(statuses=(Status.QUEUED, Status.DEFERRED))):
            pass

    def _room(self) -> int:
        """How many messages to claim: at most `parallel` in all, doubling; while calls stand in line, as many
        as will go out soon, for another bridge may be able to send the rest.
        """
        active = self._mail.under_way
        room = active + 1
        if self._pace.waiting or self._pace.blocked_for:
            room = self._pace.line - max(0, active - self._pace.in_flight)
        return min(self._mail.retry.parallel - active, room)

    # ---- sending

    async def _send(self, item: SpoolItem) -> None:
        """One attempt for one message, whatever happens."""
        try:
            async with self._loading(item.size):
                await self._try(item)
        except SendError as error:
            # The spool could not be read, or could not note the attempt: so none was made.
            log.warning("queue.spool_unavailable", queue_id=item.queue_id, reply=str(error.reply))
            await asyncio.sleep(spooled.SPOOL_RETRY)
            await self._mail.give_back(item.queue_id)
        except Exception as error:
            log.exception("queue.error", queue_id=item.queue_id)
            await self._mail.fail(
                item.envelope,
                error,
                item.outcomes,
                attempts=item.attempts + 1,
                failures=item.failures + 1,
            )

    @contextlib.asynccontextmanager
    async def _loading(self, size: int) -> AsyncIterator[None]:
        """Hold the message's share of memory; wait until there is room for it."""
        async with self._unloaded:
            await self._unloaded.wait_for(lambda: not self._loaded or self._loaded + size <= LOADED_BYTES)
            self._loaded += size
        try:
            yield
        finally:
            self._loaded -= size
            async with self._unloaded:
                self._unloaded.notify_all()

    async def _try(self, item: SpoolItem) -> None:
        message = await self._spool.read(item.queue_id)
        if message is None:
            await self._spool.give_back(item.queue_id)  # it is gone, and so is the claim
        elif item.unresolved and self._is_over(item):
            await self._settle(item, message, Attempt(), attempts=item.attempts, called=False, expired=True)
        elif await self._spool.begin(item.queue_id):
            if item.unanswered:
                maillog.possible_duplicate(item.envelope, item.unresolved)
            attempt, lease = Attempt(), Lease(self._spool, item.queue_id, kept=True)
            if item.unresolved:
                attempt = await self._attempt(
                    item.envelope,
                    item.unresolved,
                    message,
                    patience=PATIENCE,
                    taken=any(reply.success for reply in item.outcomes.values()),
                    is_dsn=item.is_dsn,
                    lease=lease,
                )
            # Mail that has expired had its last attempt, unless it was never tried and no call was made now.
            expired = item.expired and (lease.called or item.attempts > 0)
            await self._settle(
                item,
                message,
                attempt,
                attempts=item.attempts + 1,
                called=lease.called,
                expired=expired,
            )

    async def _settle(
        self,
        item: SpoolItem,
        message: bytes,
        attempt: Attempt,
        *,
        attempts: int,
        called: bool,
        expired: bool,
    ) -> None:
        situation = Situation(
            spool=True,
            client_waits=False,
            is_dsn=item.is_dsn,
            expired_after=item.age if expired else None,
        )
        await self._mail.settle(
            item.envelope,
            message,
            item.outcomes,
            attempt,
            situation,
            attempts=attempts,
            called=called,
            failures=item.failures,
        )

    def _is_over(self, item: SpoolItem) -> bool:
        """It has expired and gets no further attempt.

        Every message gets one, and another while it is due, however old it is: it may only look old because
        the bridge was off, or the host's clock wrong.
        """
        can_be_tried = not item.attempts or (item.due and self._pace.blocked_for <= BLOCKED)
        return item.expired and not can_be_tried
