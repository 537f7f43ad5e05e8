"""Queue: sends the mail that waits in the spool, and settles what became of it.

Claims what is due while the account's limits leave room for it, tries those recipients that have no
final outcome yet, and then: done, tried again later, given up with a DSN, or held for an operator
where our own code fails. What an attempt came to is written down however long the spool is away.
Knows no SMTP session and no HTTP.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.journal import maillog, tasks
from smtp2cf.relay import time_limit
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.bounces import BouncePolicy, dsns_for
from smtp2cf.relay.lease import Lease
from smtp2cf.reply import Reply, SendError
from smtp2cf.spool import Answer, NewMail, Spool, SpoolItem

T = TypeVar("T")

MAX_FAILURES = 3
"""Attempts that may end in an error of ours before the message is held."""
POLL = 60.0
"""Seconds after which the spool is asked again, even if nothing woke us."""
SPOOL_RETRY = 1.0
"""Seconds until a spool that failed is asked again."""
LOADED_BYTES = 32 * 2**20
"""Bytes of messages that are read from the spool at a time; one message may be more. Their calls
need about as much again."""
BLOCKED = 1.0
"""Seconds for which the account has to be blocked before nothing is claimed for it."""
RUSH = 4
"""Clients whose mail is being kept at the same time, from which on taking it in goes before sending."""
RUSH_PAUSE = 0.01
"""Seconds between two messages that are sent during a rush: far more than any account's limit allows."""
LOOK_AGAIN = 0.05
"""Seconds until a line of calls that was full is looked at again."""

Attempting = Callable[[Envelope, Sequence[str], bytes, bool, Lease], Awaitable[Attempt]]
"""(envelope, recipients, message, is a DSN, lease) → what one attempt came to."""

log = structlog.stdlib.get_logger("smtp2cf.queue")


class Pace(Protocol):
    """How much of the account may be used: cloudflare's Pacer."""

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""

    @property
    def blocked_for(self) -> float:
        """Seconds until the next call may go out."""


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
    """Keeps mail in a spool and sends it when it is due.

    pace: what the account's limits leave; None where there are none.
    """

    def __init__(
        self,
        spool: Spool,
        attempt: Attempting,
        retry: RetryPolicy,
        bounce: BouncePolicy,
        pace: Pace | None = None,
    ) -> None:
        self.spool = spool
        self.retry = retry
        self.bounce = bounce
        self._attempt = attempt
        self._pace = pace
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_less = asyncio.Event()
        self._keeping = 0
        self._loaded = 0
        self._unloaded = asyncio.Condition()
        self._runner: asyncio.Task[None] | None = None

    @property
    def active(self) -> int:
        """Messages being sent."""
        return len(self._tasks)

    def start(self) -> None:
        """Begin to send what is due."""
        self._runner = tasks.keep_running(self._run, "queue.run")

    async def stop_claiming(self) -> None:
        """Send nothing more than what is under way."""
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Claim no more, let what is under way end for `timeout` seconds; the spool keeps the rest."""
        await self.stop_claiming()
        late = await time_limit.wait(self._tasks, timeout)
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
        retry_in: float = 0.0,
        dsns: Sequence[NewMail] = (),
        answer: Answer | None = None,
    ) -> None:
        """Put new mail into the spool, fsynced on return; raises SendError when it can't be."""
        mail = NewMail(
            envelope=envelope,
            message=message,
            outcomes=outcomes,
            attempts=attempts,
            delay=retry_in,
            expires_in=self.retry.expire_after,
            answer=answer,
        )
        self._keeping += 1
        try:
            await self.spool.put(mail, *dsns)
        finally:
            self._keeping -= 1

    async def keep_in_flight(
        self,
        envelope: Envelope,
        message: bytes,
        attempt: asyncio.Task[Attempt],
        lease: Lease,
        answer: Answer | None,
    ) -> None:
        """Put mail into the spool whose first attempt is still under way; its late answer settles it.

        lease: the attempt's. Raises SendError when it can't be kept.
        """
        await lease.keep(self._claimed(envelope, message, {}, answer))
        self._go(envelope.queue_id, self._settle_late(envelope, message, attempt, lease))

    async def keep_held(
        self, envelope: Envelope, message: bytes, outcomes: Outcomes, error: Exception, answer: Answer | None
    ) -> None:
        """Put mail into the spool for a person to look at: our own code failed over it after its call.

        Raises SendError when it can't be kept.
        """
        may_be_kept = True
        try:
            await self.spool.put(self._claimed(envelope, message, outcomes, answer))
        except SendError as failure:
            may_be_kept = failure.unanswered
            raise
        finally:
            if may_be_kept:
                work = self._fail(envelope, error, outcomes, attempts=1, failures=MAX_FAILURES)
                self._go(envelope.queue_id, work)

    def settle_in_doubt(
        self, envelope: Envelope, message: bytes, attempt: Attempt | None, *, tell: bool
    ) -> None:
        """Mail that `keep_in_flight` failed to keep may be in the spool all the same: then end its claim.

        attempt: what became of it, None where nobody knows. tell: nobody else tells of who bounced.
        """
        self._go(envelope.queue_id, self._settle_in_doubt(envelope, message, attempt, tell=tell))

    def _claimed(
        self, envelope: Envelope, message: bytes, outcomes: Outcomes, answer: Answer | None
    ) -> NewMail:
        """Mail that this process is at work on, in its first attempt."""
        return NewMail(
            envelope=envelope,
            message=message,
            outcomes=outcomes,
            attempts=1,
            expires_in=self.retry.expire_after,
            claimed=True,
            answer=answer,
        )

    async def _settle_late(
        self, envelope: Envelope, message: bytes, attempt: asyncio.Task[Attempt], lease: Lease
    ) -> None:
        try:
            done = await attempt
        except Exception as error:
            log.exception("queue.error", queue_id=envelope.queue_id)
            await self._fail(envelope, error, {}, attempts=1, failures=1)
        else:
            await self._settle(envelope, message, {}, done, attempts=1, is_dsn=False, tried=lease.called)

    async def _settle_in_doubt(
        self, envelope: Envelope, message: bytes, attempt: Attempt | None, *, tell: bool
    ) -> None:
        if attempt is None:
            await self._surely(lambda: self.spool.give_back(envelope.queue_id))
            return
        outcomes = attempt.outcomes
        final = {who: reply for who, reply in outcomes.items() if not reply.transient}
        dsns = dsns_for(envelope, message, final, self.bounce) if tell else []
        retry_in = self.retry.delay(1, attempt.retry_after) if len(final) < len(outcomes) else None
        await self._surely(
            lambda: self.spool.settle(envelope.queue_id, outcomes, retry_in=retry_in, dsns=dsns)
        )

    # ---- sending

    async def _run(self) -> None:
        while True:
            try:
                await self._claim()
            except SendError as error:
                log.warning("queue.spool_unavailable", reply=str(error.reply))
                await asyncio.sleep(SPOOL_RETRY)
            except Exception:
                log.exception("queue.error")
                await asyncio.sleep(SPOOL_RETRY)

    async def _claim(self) -> None:
        """Take what is due and there is room for; where there is neither, wait."""
        if (blocked_for := self._blocked_for()) > BLOCKED:
            # Nothing can be sent, so nobody's attempt is wasted on finding that out.
            if not await self._claim_expired():
                await asyncio.sleep(min(blocked_for, POLL))
            return
        room = self._room()
        if self._keeping >= RUSH:
            room = min(room, 1)
            await asyncio.sleep(RUSH_PAUSE)
        if room <= 0:
            self._one_less.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN):
                    await self._one_less.wait()
            return
        items = await self.spool.claim(room)
        for item in items:
            self._go(item.queue_id, self._send(item))
        if not items:
            await self.spool.wait_due(POLL)

    async def _claim_expired(self) -> bool:
        """Take what is to be given up; False where there is nothing."""
        items = await self.spool.claim(self.retry.parallel, expired=True)
        await asyncio.gather(*(self._send(item) for item in items))
        return bool(items)

    def _blocked_for(self) -> float:
        return self._pace.blocked_for if self._pace is not None else 0.0

    def _room(self) -> int:
        """Messages to claim: not more than `parallel` at once, doubling, one while calls stand in line.

        Mail that was claimed would only wait in that line, in the way of new mail.
        """
        active = len(self._tasks)
        if self._pace is not None and (self._pace.waiting or self._pace.blocked_for):
            return 0 if active else 1
        return min(self.retry.parallel - active, active + 1)

    def _go(self, queue_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Work on mail that is claimed."""
        task = tasks.start(self._to_the_end(queue_id, work), "queue.send")
        self._tasks.add(task)
        task.add_done_callback(self._gone)
        task.add_done_callback(lambda _: work.close())  # it has not begun where its task was cancelled first

    async def _to_the_end(self, queue_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Whatever the work comes to, the claim ends with it: what nobody works on must not stay claimed."""
        try:
            await work
        except Exception:
            log.exception("queue.error", queue_id=queue_id)
            await self._surely(lambda: self.spool.give_back(queue_id))

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._one_less.set()

    async def _send(self, item: SpoolItem) -> None:
        """One attempt for one message, whatever happens."""
        try:
            async with self._loading(item.size):
                await self._try(item)
        except SendError as error:
            # The spool could not be read, or not take note of the attempt: there was none.
            log.warning("queue.spool_unavailable", queue_id=item.queue_id, reply=str(error.reply))
            await asyncio.sleep(SPOOL_RETRY)
            await self._surely(lambda: self.spool.give_back(item.queue_id))
        except Exception as error:
            log.exception("queue.error", queue_id=item.queue_id)
            await self._fail(
                item.envelope,
                error,
                item.outcomes,
                attempts=item.attempts + 1,
                failures=item.failures + 1,
            )

    @contextlib.asynccontextmanager
    async def _loading(self, size: int) -> AsyncIterator[None]:
        """Wait until there is room in memory for one message more."""
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
        message = await self.spool.read(item.queue_id)
        if message is None:
            await self.spool.give_back(item.queue_id)  # it is gone, and so is the claim
        elif item.unresolved and self._is_over(item):
            await self._expire(item, message)
        elif await self.spool.begin(item.queue_id):
            if item.unanswered:
                maillog.possible_duplicate(item.envelope, item.unresolved)
            attempt, lease = Attempt(), Lease(self.spool, item.queue_id, kept=True)
            if item.unresolved:
                attempt = await self._attempt(item.envelope, item.unresolved, message, item.is_dsn, lease)
            await self._settle(
                item.envelope,
                message,
                item.outcomes,
                attempt,
                attempts=item.attempts + 1,
                failures=item.failures,
                is_dsn=item.is_dsn,
                tried=lease.called,
                age=item.age if item.expired and (lease.called or item.attempts) else None,
            )

    def _is_over(self, item: SpoolItem) -> bool:
        """Nothing more is tried for it. While an attempt is due there is that one, be the mail as old as it
        may: it may be old because the bridge was off, or its host's clock wrong."""
        can_be_tried = not item.attempts or (item.due and self._blocked_for() <= BLOCKED)
        return item.expired and not can_be_tried

    async def _settle(
        self,
        envelope: Envelope,
        message: bytes,
        earlier: Outcomes,
        attempt: Attempt,
        *,
        attempts: int,
        is_dsn: bool,
        tried: bool,
        failures: int = 0,
        age: float | None = None,
    ) -> None:
        """Write down what an attempt came to: gone, or when it is tried again, and who is told.

        tried: a call was made. age: of mail that has expired, so that this was its last attempt.
        """
        outcomes = {**earlier, **attempt.outcomes}
        final = {who: reply for who, reply in attempt.outcomes.items() if not reply.transient}
        expired: Outcomes = {}
        if age is not None:
            expired = {who: _given_up(age, reply) for who, reply in outcomes.items() if reply.transient}
        try:
            maillog.attempted(
                envelope, attempt.outcomes, attempt.message_ids, size=len(message), attempts=attempts
            )
            if attempt.unanswered:
                maillog.possible_duplicate(envelope, attempt.unanswered)
            told = {**final, **expired}
            dsns = [] if is_dsn else dsns_for(envelope, message, told, self.bounce, expired=True)
        except Exception as error:
            # What was sent must not be sent again, and who bounced must not go unsaid: a person has to look.
            log.exception("queue.error", queue_id=envelope.queue_id)
            await self._fail(envelope, error, outcomes, attempts=attempts, failures=MAX_FAILURES)
            return
        waits = not expired and any(reply.transient for reply in outcomes.values())
        outcomes |= expired
        failures = failures + 1 if attempt.error is not None else 0
        hold = _reason(attempt.error) if attempt.error and waits and failures >= MAX_FAILURES else ""
        retry_in = self.retry.delay(attempts, attempt.retry_after) if waits and not hold else None
        settled = await self._surely(
            lambda: self.spool.settle(
                envelope.queue_id,
                outcomes,
                retry_in=retry_in,
                untried=not tried and not failures,
                hold=hold,
                failures=failures,
                dsns=dsns,
            )
        )
        if settled:
            if expired:
                maillog.expired(envelope, expired, size=len(message), attempts=attempts)
            undeliverable = is_dsn and (bool(expired) or _bounced(final))
            maillog.reported(envelope, dsns_sent=len(dsns), undeliverable=undeliverable)

    async def _surely(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have the spool do what may be done twice but not left out; wait for it while it is away.

        A claim that nobody ends would keep its mail for as long as this process lives, and an outcome that
        is not written down is an attempt that is made again.
        """
        pause = SPOOL_RETRY
        while True:
            try:
                return await work()
            except SendError as error:
                log.warning("queue.spool_unavailable", reply=str(error.reply))
            except Exception:
                log.exception("queue.error")
                pause = min(2 * pause, POLL)
            await asyncio.sleep(pause)

    async def _expire(self, item: SpoolItem, message: bytes) -> None:
        """Give up: the sender is told, unless it is a DSN that can't be delivered."""
        expired = {who: _given_up(item.age, item.outcomes.get(who)) for who in item.unresolved}
        dsns = [] if item.is_dsn else dsns_for(item.envelope, message, expired, self.bounce, expired=True)
        outcomes = {**item.outcomes, **expired}
        if await self._surely(lambda: self.spool.settle(item.queue_id, outcomes, dsns=dsns)):
            maillog.expired(item.envelope, expired, size=item.size, attempts=item.attempts)
            maillog.reported(item.envelope, dsns_sent=len(dsns), undeliverable=item.is_dsn)

    async def _fail(
        self, envelope: Envelope, error: Exception, outcomes: Outcomes, *, attempts: int, failures: int
    ) -> None:
        """Our own code failed over this message: try it again, but not for ever."""
        hold = _reason(error) if failures >= MAX_FAILURES else ""
        retry_in = None if hold else self.retry.delay(attempts)
        open_ = [who for who in envelope.forward_paths if who not in outcomes or outcomes[who].transient]
        if open_:  # it may have failed over the answer to a call
            maillog.possible_duplicate(envelope, open_)
        await self._surely(
            lambda: self.spool.settle(
                envelope.queue_id, outcomes, retry_in=retry_in, hold=hold, failures=failures
            )
        )


def _given_up(age: float, last: Reply | None) -> Reply:
    """What becomes of a recipient after so many seconds. last: the last answer there was for it."""
    why = f"the last answer was: {last}" if last is not None else "no attempt was answered"
    return Reply(451, "4.4.7", f"given up after {_duration(age)}; {why}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _bounced(outcomes: Outcomes) -> bool:
    return any(reply.permanent for reply in outcomes.values())


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
