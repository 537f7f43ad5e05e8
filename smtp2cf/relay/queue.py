"""Queue: sends the mail that waits in the spool, and settles what became of it.

Claims what is due, tries those recipients that have no final outcome yet, and then: done, tried
again later, given up with a DSN, or held for an operator where our own code fails. Knows no SMTP
session and no HTTP.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from smtp2cf import maillog
from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.relay.bounce import BouncePolicy, dsns_for
from smtp2cf.relay.deliver import Attempt
from smtp2cf.reply import Reply, SendError
from smtp2cf.spool import NewMail, Spool, SpoolItem

MAX_FAILURES = 3
"""Attempts that may end in an error of ours before the message is held."""
POLL = 60.0
"""Seconds after which the spool is asked again, even if nothing woke us."""
SPOOL_RETRY = 1.0
"""Seconds until a spool that failed is asked again."""

Attempting = Callable[[Envelope, Sequence[str], bytes, bool], Awaitable[Attempt]]
"""(envelope, recipients, message, is a DSN) → what one attempt came to."""

log = structlog.stdlib.get_logger("smtp2cf.queue")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When mail is tried again: after `minimum` seconds, doubling, up to `maximum`; until `expire_after`.

    parallel: messages sent at once.
    """

    minimum: float = 60.0
    maximum: float = 3600.0
    expire_after: float = 432_000.0
    parallel: int = 50

    def delay(self, attempts: int, retry_after: float | None = None) -> float:
        """Seconds until the next attempt after `attempts` of them, with 10 % jitter."""
        backoff = min(self.minimum * 2.0 ** min(attempts - 1, 32), self.maximum)
        return max(backoff * random.uniform(0.9, 1.1), retry_after or 0.0)  # noqa: S311 - no secret


class Queue:
    """Keeps mail in a spool and sends it when it is due."""

    def __init__(self, spool: Spool, attempt: Attempting, retry: RetryPolicy, bounce: BouncePolicy) -> None:
        self.spool = spool
        self.retry = retry
        self.bounce = bounce
        self._attempt = attempt
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    @property
    def active(self) -> int:
        """Messages being sent."""
        return len(self._tasks)

    def start(self) -> None:
        """Begin to send what is due."""
        self._runner = asyncio.get_running_loop().create_task(self._run())

    async def stop_claiming(self) -> None:
        """Send nothing more than what is under way."""
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Claim no more, let what is under way end for `timeout` seconds; the spool keeps the rest."""
        await self.stop_claiming()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # ---- keeping

    async def keep(
        self,
        envelope: Envelope,
        message: bytes,
        outcomes: Outcomes,
        *,
        attempts: int = 0,
        retry_after: float | None = None,
        dsns: Sequence[NewMail] = (),
    ) -> None:
        """Put new mail into the spool, fsynced on return; raises SendError when it can't be."""
        await self.spool.put(
            NewMail(
                envelope=envelope,
                message=message,
                outcomes=outcomes,
                attempts=attempts,
                delay=self.retry.delay(attempts, retry_after) if attempts else 0.0,
                expires=envelope.received_at + self.retry.expire_after,
            ),
            *dsns,
        )

    async def keep_in_flight(
        self, envelope: Envelope, message: bytes, attempt: asyncio.Task[Attempt]
    ) -> None:
        """Put mail into the spool whose first attempt is still under way; its late answer settles it.

        Raises SendError when it can't be kept.
        """
        await self.spool.put(
            NewMail(
                envelope=envelope,
                message=message,
                attempts=1,
                expires=envelope.received_at + self.retry.expire_after,
                claimed=True,
            )
        )
        self._go(self._settle_late(envelope, message, attempt))

    async def _settle_late(self, envelope: Envelope, message: bytes, attempt: asyncio.Task[Attempt]) -> None:
        await self._settle(envelope, message, {}, await attempt, attempts=1, is_dsn=False)

    # ---- sending

    async def _run(self) -> None:
        while True:
            try:
                room = self.retry.parallel - len(self._tasks)
                items = await self.spool.claim(room) if room > 0 else []
                for item in items:
                    self._go(self._send(item))
                if len(self._tasks) >= self.retry.parallel:
                    self._room.clear()
                    await self._room.wait()
                elif not items:
                    await self.spool.wait_due(POLL)
            except SendError as error:
                log.warning("queue.spool_unavailable", reply=str(error.reply))
                await asyncio.sleep(SPOOL_RETRY)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("queue.error", exc_info=error)

    async def _send(self, item: SpoolItem) -> None:
        """One attempt for one message, whatever happens."""
        try:
            await self._try(item)
        except SendError as error:
            log.warning("queue.spool_unavailable", queue_id=item.queue_id, reply=str(error.reply))
            with contextlib.suppress(SendError):
                await self.spool.give_back(item.queue_id)
        except Exception as error:
            log.exception("queue.error", queue_id=item.queue_id)
            await self._fail(item, error)

    async def _try(self, item: SpoolItem) -> None:
        message = await self.spool.read(item.queue_id)
        if message is None:
            return
        if item.expires <= time.time():
            await self._expire(item, message)
            return
        if item.unanswered:
            maillog.possible_duplicate(item.envelope, item.unresolved)
        if not await self.spool.begin(item.queue_id):
            return
        attempt = await self._attempt(item.envelope, item.unresolved, message, item.is_dsn)
        await self._settle(
            item.envelope, message, item.outcomes, attempt, attempts=item.attempts + 1, is_dsn=item.is_dsn
        )

    async def _settle(
        self,
        envelope: Envelope,
        message: bytes,
        earlier: Outcomes,
        attempt: Attempt,
        *,
        attempts: int,
        is_dsn: bool,
    ) -> None:
        """Write down what an attempt came to: gone, or when it is tried again, and who is told."""
        maillog.attempted(
            envelope, attempt.outcomes, attempt.message_ids, size=len(message), attempts=attempts
        )
        if attempt.unanswered:
            maillog.possible_duplicate(
                envelope, [who for who, reply in attempt.outcomes.items() if reply.transient]
            )
        outcomes = {**earlier, **attempt.outcomes}
        final = {who: reply for who, reply in attempt.outcomes.items() if not reply.transient}
        dsns = [] if is_dsn else dsns_for(envelope, message, final, self.bounce)
        waits = any(reply.transient for reply in outcomes.values())
        retry_in = self.retry.delay(attempts, attempt.retry_after) if waits else None
        if await self.spool.settle(envelope.queue_id, outcomes, retry_in=retry_in, dsns=dsns):
            maillog.reported(envelope, dsns_sent=len(dsns), undeliverable=is_dsn and _bounced(final))

    async def _expire(self, item: SpoolItem, message: bytes) -> None:
        """Give up: the sender is told, unless it is a DSN that can't be delivered."""
        waited = time.time() - item.envelope.received_at
        last = item.last_reply or Reply(451, "4.4.7", "it was never tried")
        reply = Reply(451, "4.4.7", f"given up after {_duration(waited)}; the last answer was: {last}")
        expired = dict.fromkeys(item.unresolved, reply)
        dsns = [] if item.is_dsn else dsns_for(item.envelope, message, expired, self.bounce, expired=True)
        if await self.spool.settle(item.queue_id, {**item.outcomes, **expired}, dsns=dsns):
            maillog.expired(item.envelope, expired, size=item.size, attempts=item.attempts)
            maillog.reported(item.envelope, dsns_sent=len(dsns), undeliverable=item.is_dsn)

    async def _fail(self, item: SpoolItem, error: Exception) -> None:
        """Our own code failed over this message: try it again, but not for ever."""
        failures = item.failures + 1
        reason = f"{type(error).__name__}: {error}"
        hold = reason if failures >= MAX_FAILURES else ""
        retry_in = None if hold else self.retry.delay(item.attempts + 1)
        try:
            await self.spool.settle(
                item.queue_id, item.outcomes, retry_in=retry_in, hold=hold, failures=failures
            )
        except SendError as unavailable:
            log.warning("queue.spool_unavailable", queue_id=item.queue_id, reply=str(unavailable.reply))


def _bounced(outcomes: Outcomes) -> bool:
    return any(reply.permanent for reply in outcomes.values())


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
