"""Events: what becomes of mail after Cloudflare's answer, for those who are followed.

A recipient who turns out not to get the mail is reported to the sender as if the answer had said so: the
DSN and the end of following are one transaction, and only then is the event acknowledged. So one that comes
twice, or to two bridges, is told once. Knows no HTTP.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import structlog

from smtp2cf.cloudflare.events import COMPLAINED, FAILURES, Event, Pulled
from smtp2cf.journal import event_log, maillog
from smtp2cf.relay.bounces import BouncePolicy, reports_for
from smtp2cf.relay.lost_answers import LostAnswers
from smtp2cf.relay.retry import backoff
from smtp2cf.reply import SendError
from smtp2cf.spool import Followed, Following

PULL_EVERY = 15.0
"""Seconds between two pulls, unless many events wait."""
MANY, SOON = 25, 1.0
"""After a pull of so many events there may be more: the next is so many seconds later. Pulls count against
the same limit of calls as mail."""
WAITING = 2.0
"""Seconds between two pulls while an event may show what became of a call without an answer."""
LONGEST_PAUSE = 300.0
"""The same while pulling fails, doubling."""
BACK_AFTER = 60.0
"""Seconds until an event that matches nothing is pulled again: what it is about may not be written yet."""
LAST_TRY = 3
"""How often an event that matches nothing is pulled before it is acknowledged."""
FOREIGN_LIMIT, FOREIGN_PERIOD = 20, 3600.0
"""So many events that match nothing are worth a warning, once in so many seconds."""
FOREIGN = (
    "the queue holds events about mail that this bridge's spool did not send: a queue belongs to one spool"
    " (SMTP2CF_EVENTS_QUEUE_ID)"
)

log = structlog.stdlib.get_logger("smtp2cf.events")


class Source(Protocol):
    """Where events come from: cloudflare's EventQueue. Every method raises SendError."""

    async def pull(self) -> Sequence[Pulled]:
        """Lease what is there."""

    async def settle(self, done: Iterable[str], later: Mapping[str, float]) -> None:
        """Acknowledge leases, and hand others back for some seconds."""


class LaterOutcomes:
    """Pulls one queue's events and does what each calls for.

    lost: calls whose answers events may show, None if nobody waits for that. account: what the account is
    called, "" for the only one. back_after: seconds until an event that matches nothing is pulled again; a
    call has its answer by then, or is lost.
    """

    def __init__(
        self,
        source: Source,
        following: Following,
        bounce: BouncePolicy,
        lost: LostAnswers | None = None,
        *,
        account: str = "",
        back_after: float = BACK_AFTER,
    ) -> None:
        self._source = source
        self._following = following
        self._bounce = bounce
        self._lost = lost
        self._account = account
        self._back_after = back_after
        self._failures = 0
        self._foreign = 0
        self._warned_at = -FOREIGN_PERIOD

    async def run(self) -> None:
        """Pull until cancelled."""
        if self._lost is not None:
            # If the spool is away, the first pulls are further apart.
            with contextlib.suppress(SendError):
                await self._lost.resume()
        while True:
            try:
                pulled = await self.step()
            except SendError as error:
                if not self._failures:
                    log.warning("events.unavailable", reply=str(error.reply))
                self._failures += 1
                await asyncio.sleep(backoff(PULL_EVERY, LONGEST_PAUSE, self._failures))
                continue
            if self._failures:
                log.info("events.available")
                self._failures = 0
            await self._pause(SOON if pulled >= MANY else PULL_EVERY)

    async def _pause(self, seconds: float) -> None:
        """Let some time pass before the next pull, less while somebody waits for what it may show."""
        if self._lost is None:
            await asyncio.sleep(seconds)
            return
        self._lost.added.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, WAITING) if self._lost.is_waiting else seconds):
                await self._lost.added.wait()
                await asyncio.sleep(WAITING)

    async def step(self) -> int:
        """Pull once, and deal with what came; how much that was. Raises SendError."""
        pulled = await self._source.pull()
        # Together, since the spool writes what many ask for at once.
        settled = await asyncio.gather(*(self._is_done(each) for each in pulled))
        done = [each.lease for each, is_done in zip(pulled, settled, strict=True) if is_done]
        later = [each.lease for each, is_done in zip(pulled, settled, strict=True) if is_done is False]
        await self._source.settle(done, dict.fromkeys(later, self._back_after))
        return len(pulled)

    async def _is_done(self, pulled: Pulled) -> bool | None:
        """Whether an event is done with; None if it is to be pulled again when its lease is over."""
        try:
            return await self._tell(pulled)
        except SendError as error:
            log.warning("events.spool_unavailable", reply=str(error.reply))
            return None
        except Exception:
            # An error of ours must not keep the others from being told, nor come back for ever.
            log.exception("events.error", message_id=pulled.event.message_id if pulled.event else "")
            return pulled.attempts >= LAST_TRY

    async def _tell(self, pulled: Pulled) -> bool:
        """Do what an event calls for; whether it is done with. Raises SendError for the spool."""
        event = pulled.event
        if event is None:
            event_log.odd()
            return True
        followed = await self._following.find(event.message_id, event.recipient)
        if followed is not None:
            await self._tell_of(followed, event)
            return True
        if event.kind == COMPLAINED:  # it comes after the end
            self._log(event)
            return True
        if self._lost is not None and await self._shows_a_lost_call(self._lost, pulled.attempts, event):
            return True
        if pulled.attempts < LAST_TRY:
            return False
        self._count_foreign()
        return True

    async def _shows_a_lost_call(self, lost: LostAnswers, attempts: int, event: Event) -> bool:
        """Whether an event shows that a call without an answer went through. Raises SendError."""
        if attempts <= 1:
            return False  # a call with the same sender, recipient and subject may be under way
        proof = await lost.prove(event, self._account)
        if proof is None:
            if attempts >= LAST_TRY:
                await lost.disregard(event)
            return False
        if proof.late:
            maillog.sent_twice(proof.queue_id, proof.to, event.message_id)
        else:
            await lost.go_on(proof)
        return True

    async def _tell_of(self, followed: Followed, event: Event) -> None:
        if not event.terminal:
            self._log(event, followed)
            return
        dsns = []
        if event.kind in FAILURES:
            header = _known_header(followed, event)
            outcomes = {followed.recipient: event.reply}
            dsns = await reports_for(followed.envelope, header, outcomes, self._bounce)
        if await self._following.end(followed, *dsns):
            self._log(event, followed)
            nobody_told = event.kind in FAILURES and not followed.envelope.reverse_path
            maillog.reported(followed.envelope, dsns=dsns, undeliverable=nobody_told)

    def _log(self, event: Event, followed: Followed | None = None) -> None:
        event_log.told(
            event.kind,
            # As the mail names it: Cloudflare may spell it differently, and the journal would not know it.
            followed.recipient if followed is not None else event.recipient,
            event.reply,
            event.message_id,
            envelope=followed.envelope if followed is not None else None,
            original_id=followed.original_id if followed is not None else "",
            account=self._account,
        )

    def _count_foreign(self) -> None:
        event_log.unmatched()
        self._foreign += 1
        now = time.monotonic()
        if self._foreign >= FOREIGN_LIMIT and now >= self._warned_at + FOREIGN_PERIOD:
            log.warning("events.foreign", count=self._foreign, note=FOREIGN)
            self._foreign, self._warned_at = 0, now


def _known_header(followed: Followed, event: Event) -> bytes:
    """What is known of the message's header: the message itself is gone."""
    fields = [("Message-ID", followed.original_id), ("Subject", event.subject or "")]
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in fields if value) + b"\r\n"
