"""The webhook: what happens is told to a receiver over HTTP, from the spool, until the receiver has it.

What is heard is only noted. One task writes it into the spool, another posts what is due there: replicas on
one spool share that. An event has the same id whenever it is posted, so that a receiver recognises one that
it gets again, after an answer that was lost or a bridge that was killed.

Nothing here is in the way of mail: what is noted and what waits are bounded, and the oldest is dropped and
counted; so are calls at once and the time of each. While calls fail, one at a time is made, ever more rarely.
"""

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Protocol

import structlog

from smtp2cf.journal.metrics import Counters
from smtp2cf.journal.news import News
from smtp2cf.relay import webhook_body
from smtp2cf.relay.webhook_call import Result
from smtp2cf.reply import SendError
from smtp2cf.spool import Posting, Postings

MOST_NOTED = 10_000
"""What is heard and not yet in the spool."""
GATHER = 0.5
"""Seconds for which more of what happens is waited for, so that it is one write."""
BATCH = 200
"""What is written in one go."""
WIDTH = 8
"""Calls at once."""
AGAIN = 5.0
"""Seconds until the spool is asked again, if it is away."""
LOOK_EVERY = 60.0
"""Seconds until it is asked although nothing was due: another bridge on it may have ended."""
PAUSES = (2.0, 300.0)
"""Seconds between two calls while they fail, doubling from the first to the longest."""
LONGEST_RETRY_AFTER = 86_400.0
"""Seconds of a Retry-After that are believed."""
DROPS_LOGGED_EVERY = 60.0
"""Seconds between two lines about events that were dropped."""

_MINUTE, _HOUR = 60.0, 3600.0
SCHEDULE = (
    *(5.0, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR, 5 * _HOUR),
    *(10 * _HOUR, 14 * _HOUR, 20 * _HOUR, 24 * _HOUR),
)
"""Seconds until the next attempt after each that failed, as the specification suggests: 10 in three days."""
EXPIRE_AFTER = 4 * 86_400.0
"""Seconds until an event is given up, however many attempts there were."""

POSTINGS = Counters(
    "smtp2cf_webhook_events_total",
    "Events for the webhook: sent; attempts that failed; given up; dropped because too many wait",
    "result",
    ("sent", "failed", "given_up", "dropped"),
)

log = structlog.stdlib.get_logger("smtp2cf.webhook")


class Call(Protocol):
    """How the receiver is told: see webhook_call.WebhookCall."""

    host: str

    async def post(self, posting: Posting) -> Result:
        """Tell the receiver."""


class Webhook:
    """One bridge's. kinds: what is told. hostname: this bridge's."""

    def __init__(self, postings: Postings, call: Call, kinds: Collection[str], hostname: str) -> None:
        self._postings = postings
        self._call = call
        self._kinds = frozenset(kinds)
        self._hostname = hostname
        self._noted: deque[News] = deque()
        self._unwritten: list[Posting] = []
        self._heard = asyncio.Event()
        self._added = asyncio.Event()
        self._failed = 0
        self._dropped_at, self._dropped = -math.inf, 0
        self.waiting: float = math.nan
        """Events in the spool, when that was last asked."""

    # ---- what happens

    def hear(self, news: News) -> None:
        """Something has happened: a news.Listener."""
        if news.kind not in self._kinds:
            return
        if len(self._noted) >= MOST_NOTED:
            self._noted.popleft()
            self._drop(1)
        self._noted.append(news)
        self._heard.set()

    async def keep(self) -> None:
        """Write what is heard into the spool, until cancelled."""
        while True:
            await self._heard.wait()
            await asyncio.sleep(GATHER)
            try:
                await self.write()
            except SendError:
                await asyncio.sleep(AGAIN)

    async def write(self) -> None:
        """Write what was heard. Raises SendError, after which it is still to be written."""
        while self._noted or self._unwritten:
            while self._noted and len(self._unwritten) < BATCH:
                self._unwritten += webhook_body.postings(self._noted.popleft(), self._hostname)
            dropped = await self._postings.add(self._unwritten)
            self.waiting += len(self._unwritten) - dropped
            self._unwritten = []
            self._drop(dropped)
            self._added.set()
        self._heard.clear()

    def _drop(self, count: int) -> None:
        POSTINGS.counted["dropped"] += count
        self._dropped += count
        now = time.monotonic()
        if self._dropped and now - self._dropped_at >= DROPS_LOGGED_EVERY:
            note = "more wait for the webhook than there is room for: the oldest are dropped"
            log.warning("webhook.dropped", count=self._dropped, note=note)
            self._dropped_at, self._dropped = now, 0

    # ---- telling the receiver

    async def deliver(self) -> None:
        """Post what is due, until cancelled or the receiver wants no more."""
        while True:
            self._added.clear()
            results: Sequence[Result] = ()
            try:
                claimed = await self._postings.claim(1 if self._failed else WIDTH)
                results = await asyncio.gather(*map(self._call.post, claimed))
                await self._settle(claimed, results)
                wait = await self._until_next(bool(claimed), results)
            except SendError:
                wait = AGAIN
            if any(result.gone for result in results):
                self._end()
                return
            await self._rest(wait)

    async def _rest(self, seconds: float) -> None:
        """While calls fail, nothing that is added makes the next one come earlier."""
        if self._failed:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._added.wait()

    async def _settle(self, claimed: Sequence[Posting], results: Sequence[Result]) -> None:
        """Note what came of some calls. What can't be noted comes again."""
        done: list[str] = []
        later: dict[str, float] = {}
        for posting, result in zip(claimed, results, strict=True):
            POSTINGS.counted["failed" if result.reason else "sent"] += 1
            if not result.reason:
                done.append(posting.id)
            elif result.gone:
                later[posting.id] = SCHEDULE[-1]
            elif posting.attempts >= len(SCHEDULE):
                done.append(posting.id)
                self._give_up(posting, result)
            else:
                wait = SCHEDULE[posting.attempts] * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
                later[posting.id] = max(wait, min(result.retry_after, LONGEST_RETRY_AFTER))
        self._note_health(results)
        if claimed:
            await self._postings.settle(done, later)
            self.waiting -= len(done)

    async def _until_next(self, any_claimed: bool, results: Sequence[Result]) -> float:
        """Seconds until the next calls."""
        if not self._failed and any_claimed:
            return 0.0
        self._expired(await self._postings.expire(EXPIRE_AFTER))
        self.waiting, due_in = await self._postings.backlog()
        if self._failed:
            first, longest = PAUSES
            asked = min(max((result.retry_after for result in results), default=0.0), LONGEST_RETRY_AFTER)
            return max(asked, min(first * 2.0 ** min(self._failed - 1, 30), longest))
        return min(due_in if due_in is not None else LOOK_EVERY, LOOK_EVERY)

    def _note_health(self, results: Sequence[Result]) -> None:
        """Whether calls get through. One that gets any event there proves it."""
        failed = [result for result in results if result.reason and not result.about_event]
        if not results:
            return
        if len(failed) < len(results):
            if self._failed:
                log.info("webhook.recovered", host=self._call.host)
            self._failed = 0
            return
        if not self._failed and not failed[0].gone:
            log.warning(
                "webhook.failing",
                host=self._call.host,
                reason=failed[0].reason,
                note="events wait, and are sent once calls get through again",
            )
        self._failed += 1

    def _give_up(self, posting: Posting, result: Result) -> None:
        POSTINGS.counted["given_up"] += 1
        log.error(
            "webhook.given_up",
            webhook_id=posting.id,
            kind=webhook_body.kind_of(posting),
            attempts=posting.attempts + 1,
            reason=result.reason,
        )

    def _expired(self, count: int) -> None:
        if count:
            POSTINGS.counted["given_up"] += count
            log.error("webhook.expired", count=count, note="the receiver did not take them for four days")

    def _end(self) -> None:
        log.error(
            "webhook.gone",
            host=self._call.host,
            note="the receiver answers 410, so it is not called any more: remove SMTP2CF_WEBHOOK_URL, or"
            " restart the bridge. Until then events wait in the spool, for five days at most",
        )
