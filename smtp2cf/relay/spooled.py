"""Spooled mail: what this process writes into the spool, and its work on mail that it has claimed there.

Shared by new mail and the queue. What an attempt came to is written down however long the spool is away, and
every claim ends with the work on it. Knows no SMTP session, and makes no attempts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.journal import mail_counts, maillog, tasks
from smtp2cf.relay import time_limit
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.attempt_log import log_attempt
from smtp2cf.relay.bounces import BouncePolicy, reports_for
from smtp2cf.relay.followed import followed_by
from smtp2cf.relay.lease import Lease
from smtp2cf.relay.lost_answers import LostAnswers
from smtp2cf.relay.retry import RetryPolicy, backoff
from smtp2cf.relay.senders import as_sent
from smtp2cf.relay.settle import Plan, Situation, settle
from smtp2cf.relay.waits_for_events import Sender, log_events, shown, wait_for, wait_for_killed
from smtp2cf.reply import Reply, SendError
from smtp2cf.spool import Answer, Following, NewMail, Spool, SpoolItem

T = TypeVar("T")

MAX_FAILURES = 3
"""Attempts in a row that may end in an error of ours before the message is held."""
SPOOL_RETRY = 1.0
LONGEST_SPOOL_RETRY = 60.0
"""Seconds until a spool that failed is asked again; after errors of our own they double."""

log = structlog.stdlib.get_logger("smtp2cf.queue")


class SpooledMail:
    """The spool as the relay uses it.

    following: who is followed until events tell more, None if no events are heard. lost: calls whose answers
    events may still show, None if nobody waits for that. arriving: clients whose mail is being put into the
    spool now.
    """

    def __init__(
        self,
        spool: Spool,
        retry: RetryPolicy,
        bounce: BouncePolicy,
        following: Following | None = None,
        lost: LostAnswers | None = None,
    ) -> None:
        self.spool = spool
        self._following = following
        self.lost = lost
        self.retry = retry
        self.bounce = bounce
        self.arriving = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_less = asyncio.Event()

    @property
    def under_way(self) -> int:
        """Messages that are worked on."""
        return len(self._tasks)

    async def one_less(self, at_most: float) -> None:
        """Wait until the work on some message has ended, `at_most` seconds."""
        self._one_less.clear()
        try:
            async with asyncio.timeout(at_most):
                await self._one_less.wait()
        except TimeoutError:
            return

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Let what is under way end within `timeout` seconds; the spool keeps the rest."""
        late = await time_limit.wait(self._tasks, timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def retry_in(self, attempt: Attempt, attempts: int, *, called: bool) -> float:
        """Seconds until the next attempt. attempts: made so far. called: this one came to a call.

        Without a call the mail only waits for the account: the queue knows when that is open again.
        """
        return self.retry.delay(attempts, attempt.retry_after) if called else 0.0

    async def follow(self, envelope: Envelope, attempt: Attempt, message: bytes) -> None:
        """Remember for whom an attempt's calls were accepted, until events say what became of them."""
        taken = followed_by(envelope, attempt, message) if self._following is not None else ()
        if self._following is not None and taken:
            following = self._following
            await self.surely(lambda: following.add(*taken))

    def follow_soon(self, envelope: Envelope, attempt: Attempt, message: bytes) -> None:
        """The same, in the background: written with the note of the answer, which its client waits for."""
        if self._following is not None and (taken := followed_by(envelope, attempt, message)):
            self._following.add(*taken)

    # ---- new mail

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
    ) -> Reply | None:
        """Put new mail into the spool, fsynced on return; raises SendError if it can't be.

        Returns the answer that another transaction has noted, if it was not kept because of that.
        """
        mail = NewMail(
            envelope=envelope,
            message=message,
            outcomes=outcomes,
            attempts=attempts,
            delay=retry_in,
            expires_in=self.retry.expire_after,
            answer=answer,
        )
        self.arriving += 1
        try:
            return await self.spool.put(mail, *dsns)
        finally:
            self.arriving -= 1

    async def keep_in_flight(
        self,
        envelope: Envelope,
        message: bytes,
        attempt: asyncio.Task[Attempt],
        lease: Lease,
        answer: Answer | None,
    ) -> None:
        """Put mail into the spool whose first attempt is still under way, and settle it when that ends.

        lease: the attempt's. Raises SendError if the mail can't be kept.
        """
        await lease.keep(self._claimed(envelope, message, {}, answer))
        self.work(envelope.queue_id, self._settle_late(envelope, message, attempt, lease))

    async def keep_held(
        self, envelope: Envelope, message: bytes, outcomes: Outcomes, error: Exception, answer: Answer | None
    ) -> None:
        """Put mail into the spool for a person to look at: our own code failed after the mail's calls.

        Raises SendError if it can't be kept.
        """
        may_be_kept = True
        try:
            await self.spool.put(self._claimed(envelope, message, outcomes, answer))
        except SendError as failure:
            may_be_kept = failure.unanswered
            raise
        finally:
            if may_be_kept:
                work = self.fail(envelope, error, outcomes, attempts=1, failures=MAX_FAILURES)
                self.work(envelope.queue_id, work)

    def end_doubtful(
        self, envelope: Envelope, message: bytes, attempt: Attempt | None, *, tell: bool
    ) -> None:
        """End the claim of mail that `keep_in_flight` may have put into the spool although it raised.

        attempt: what became of it, None if nobody knows. tell: nobody else tells the sender who bounced.
        """
        self.work(envelope.queue_id, self._end_doubtful(envelope, message, attempt, tell=tell))

    def _claimed(
        self, envelope: Envelope, message: bytes, outcomes: Outcomes, answer: Answer | None
    ) -> NewMail:
        """New mail in its first attempt, claimed by this process."""
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
            await self.fail(envelope, error, {}, attempts=1, failures=1)
        else:
            await self.settle(envelope, message, {}, done, AFTER_THE_ANSWER, attempts=1, called=lease.called)

    async def _end_doubtful(
        self, envelope: Envelope, message: bytes, attempt: Attempt | None, *, tell: bool
    ) -> None:
        # It may never have been put in: nothing is logged, and nothing reported unless its claim is ours.
        if attempt is None:
            await self.give_back(envelope.queue_id)
            return
        plan = settle(envelope, {}, attempt, AFTER_THE_ANSWER)
        about = as_sent(envelope, attempt.sent_as)
        dsns = await reports_for(about, message, plan.told, self.bounce) if tell else []
        retry_in = self.retry_in(attempt, 1, called=True) if plan.deferred else None
        await self.surely(
            lambda: self.spool.settle(envelope.queue_id, plan.outcomes, retry_in=retry_in, dsns=dsns)
        )

    # ---- claimed mail

    def work(self, queue_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something with claimed mail while the caller goes on."""
        task = tasks.start(self._to_the_end(queue_id, work), "queue.send")
        self._tasks.add(task)
        task.add_done_callback(self._gone)
        # If the task is cancelled before its first step, the work has not begun and would never be awaited.
        task.add_done_callback(lambda _: work.close())

    async def settle(
        self,
        envelope: Envelope,
        message: bytes,
        earlier: Outcomes,
        attempt: Attempt,
        situation: Situation,
        *,
        attempts: int,
        called: bool,
        failures: int = 0,
    ) -> None:
        """Write down what an attempt came to: all done, or when it is tried again; and who is told.

        earlier: outcomes from before it. attempts: this one included. called: a call was made. failures:
        attempts in a row before this one that ended in an error of ours.
        """
        try:
            plan = settle(envelope, earlier, attempt, situation)
            log_attempt(envelope, attempt, message, attempts=attempts, settled=False, all_of_it=False)
            about = as_sent(envelope, attempt.sent_as)
            dsns = await reports_for(about, message, plan.told, self.bounce)
        except Exception as error:
            # What was sent must not be sent again, and a bounce must not go unreported: a person has to look.
            log.exception("queue.error", queue_id=envelope.queue_id)
            outcomes = {**earlier, **attempt.outcomes}
            await self.fail(envelope, error, outcomes, attempts=attempts, failures=MAX_FAILURES)
            return
        await self.follow(envelope, attempt, message)
        wait = await wait_for(self.lost, envelope, attempt, message)
        failures = failures + 1 if attempt.error is not None else 0
        hold = _reason(attempt.error) if attempt.error and plan.deferred and failures >= MAX_FAILURES else ""
        tried = called or failures > 0
        again_in = max(wait, self.retry_in(attempt, attempts, called=tried))
        settled = await self.surely(
            lambda: self.spool.settle(
                envelope.queue_id,
                plan.outcomes,
                retry_in=again_in if plan.deferred and not hold else None,
                untried=not tried,
                hold=hold,
                failures=failures,
                dsns=dsns,
            )
        )
        if settled:  # if not, another bridge has the mail now, or an operator deleted it
            mail_counts.ended(attempt.outcomes, attempt.account)
            _tell(envelope, plan, attempt.account, dsns, size=len(message), attempts=attempts)
            if hold:
                maillog.held(envelope, hold)

    async def waits_for_events(self, item: SpoolItem, message: bytes, sender: Sender) -> bool:
        """Whether events may show, or have shown, what calls for claimed mail came to: then its claim ends.

        sender: of calls that a process made which was killed. Raises SendError.
        """
        if self.lost is None:
            return False
        if item.unanswered:
            await wait_for_killed(self.lost, item, sender, message)
        look = await self.lost.look(item.queue_id)
        found = shown(item, look.proven, sender.account)
        if found is not None:
            await self.settle(
                item.envelope,
                message,
                item.outcomes,
                found.attempt,
                Situation(spool=True, client_waits=False, is_dsn=item.is_dsn),
                attempts=item.attempts,
                called=True,
            )
            log_events(item, found, message)
        elif look.remaining:
            await self.surely(
                lambda: self.spool.settle(item.queue_id, item.outcomes, retry_in=look.remaining)
            )
        elif look.given_up:
            maillog.possible_duplicate(item.envelope, look.given_up)
        return found is not None or bool(look.remaining)

    async def fail(
        self, envelope: Envelope, error: Exception, outcomes: Outcomes, *, attempts: int, failures: int
    ) -> None:
        """Our own code failed on this message: try again later, but not for ever."""
        hold = _reason(error) if failures >= MAX_FAILURES else ""
        retry_in = None if hold else self.retry.delay(attempts)
        open_ = [who for who in envelope.forward_paths if who not in outcomes or outcomes[who].transient]
        if open_:  # it may have failed after a call was made
            maillog.possible_duplicate(envelope, open_)
        await self.surely(
            lambda: self.spool.settle(
                envelope.queue_id, outcomes, retry_in=retry_in, hold=hold, failures=failures
            )
        )
        if hold:
            maillog.held(envelope, hold)

    async def give_back(self, *queue_ids: str) -> None:
        """End claims without an outcome."""
        await self.surely(lambda: self.spool.give_back(*queue_ids))

    async def surely(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Retry an idempotent spool operation until it succeeds.

        A claim that nobody ends would keep its mail for as long as this process lives, and an attempt whose
        outcome is not written down would be made again.
        """
        errors = 0
        while True:
            try:
                return await operation()
            except SendError as error:
                log.warning("queue.spool_unavailable", reply=str(error.reply))
            except Exception:
                log.exception("queue.error")
                errors += 1
            await asyncio.sleep(backoff(SPOOL_RETRY, LONGEST_SPOOL_RETRY, errors + 1))

    async def _to_the_end(self, queue_id: str, work: Coroutine[Any, Any, None]) -> None:
        """End the claim with the work, however that ends: mail that nobody works on must not stay claimed."""
        try:
            await work
        except Exception:
            log.exception("queue.error", queue_id=queue_id)
            await self.give_back(queue_id)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._one_less.set()


AFTER_THE_ANSWER = Situation(spool=True, client_waits=False)
"""Of mail whose client has its 250."""


def _tell(
    envelope: Envelope, plan: Plan, account: str, dsns: Sequence[NewMail], *, size: int, attempts: int
) -> None:
    """Log who was given up, and who is told."""
    if plan.expired:
        maillog.expired(envelope, plan.expired, size=size, attempts=attempts, account=account)
    maillog.reported(envelope, dsns=dsns, undeliverable=plan.undeliverable)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
