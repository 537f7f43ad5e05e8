"""Budget: which calls this bridge may make now under SMTP2CF_API_RATE, which all bridges share.

It has a few calls granted in the tally before they are needed, so that a call waits for the store only when
nothing is left, and reports what became of them. While the store is away, a bridge goes on with its share of
what was left when it last heard.

The pacer asks for each call; what becomes of it there and on the way is none of our business.
"""

import asyncio
import contextlib
import math
import os
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import structlog

from smtp2cf.cloudflare import tally
from smtp2cf.cloudflare.tally import Ask, Rate, Standing
from smtp2cf.journal import news, tasks
from smtp2cf.reply import SendError

PER_SECOND = 190
"""Calls in a second from one host: Cloudflare takes 200 from one IP address."""
STEP = 0.05
"""Seconds between two questions to the store, at the least."""
STORE_PATIENCE = 1.0
"""Seconds that a bridge waits for the store before it goes on alone, and until it asks again."""
FEW_BRIDGES = 4
"""How many bridges there may be, where that isn't known."""
ALONE = 0.75
"""The part of what was left that is used without the store, since not all heard of it at the same time."""
BACK = 2.5
"""Seconds without calls after the store is back, so that all have reported theirs before any are granted."""
CLOSING = 2.0
"""Seconds for the last report."""

T = TypeVar("T")

log = structlog.stdlib.get_logger("smtp2cf.cloudflare")


class Notes(Protocol):
    """Where the tally is kept: a spool."""

    async def amend(self, name: str, change: Callable[[str, float], tuple[str, T]]) -> T:
        """Change a note: (its text or "", the store's time in seconds) → (the new text, the result).

        Raises SendError.
        """


class MemoryNotes:
    """Notes that end with the process. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._notes: dict[str, str] = {}

    async def amend(self, name: str, change: Callable[[str, float], tuple[str, T]]) -> T:
        """See Notes."""
        self._notes[name], result = change(self._notes.get(name, ""), self._clock())
        return result


class _Grant(NamedTuple):
    """One call that may be made, not before `at` and only until `until`, by our clock. slot: the tally's."""

    at: float
    until: float
    slot: float


class Budget:
    """One bridge's part of what an account may do.

    rate: of the account. name: the account's. notes: where all bridges keep the tally, None for memory.
    shared: other bridges may use it too. setting: where the rate stands. clock: seconds, as the event loop's.
    on_change: called when more calls may be made. on_block: called with seconds when another bridge was told
    to make no calls.
    """

    def __init__(
        self,
        rate: Rate,
        name: str = "",
        notes: Notes | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        shared: bool = True,
        setting: str = "SMTP2CF_API_RATE",
    ) -> None:
        self.rate = rate
        self.setting = setting
        self.on_change: Callable[[], None] = lambda: None
        self.on_block: Callable[[float], None] = lambda _: None
        self.alone = False
        """The store does not answer."""
        self._name = f"calls {name}"
        self._notes = MemoryNotes(clock) if notes is None else notes
        self._clock = clock
        self._shared = shared and notes is not None
        self._bridge = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}" if self._shared else ""
        # What may be done: calls for any mail, and turns of waiting mail.
        self._spare: deque[_Grant] = deque()
        self._turns: deque[_Grant] = deque()
        self._target = 1
        self._latest: deque[float] = deque(maxlen=PER_SECOND)
        # What was done: calls in flight by when they began, and what the tally isn't told yet.
        self._number = 0
        self._in_flight: dict[int, tuple[float, float]] = {}
        self._settled: Counter[float] = Counter()
        self._made: Counter[float] = Counter()
        # What is wanted, and what was heard.
        self._new = self._waiting = 0
        self._blocked_until = self._quiet_until = -math.inf
        few = FEW_BRIDGES if self._shared else 1
        self._standing = Standing(0, 0.0, (), rate.usable, 0.0, scarce=True, blocked_for=0.0, bridges=few)
        self._heard_at = -math.inf
        self._heard_once = asyncio.Event()
        self._run: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._closed = False

    @property
    def opens_at(self) -> float:
        """When a call for new mail may go out at the earliest, by the clock, as far as is known."""
        now = self._clock()
        if self.alone:
            return now if self._share(now) > 0 else now + self.rate.ahead
        if self._spare and self._spare[-1].until > now:
            return now
        return max(now, self._heard_at + self._standing.next_in, self._quiet_until)

    @property
    def left(self) -> int:
        """Calls that may be made at once, as far as was heard: nobody else's, or this bridge's."""
        if self._clock() - self._heard_at >= self.rate.seconds:
            return self.rate.usable
        return self._standing.left + len(self._spare)

    # ---- calls

    def take(self, *, waited: bool) -> int | None:
        """A call that may go out now: its number; None for none. waited: it is for mail from the spool."""
        now = self._clock()
        if len(self._latest) == PER_SECOND and now - self._latest[0] < 1.0:
            return None
        grants = self._turns if waited or not self._spare else self._spare
        while grants and grants[0].until <= now:
            self._settled[grants.popleft().slot] += 1
        if grants and grants[0].at <= now:
            slot = grants.popleft().slot
        elif self.alone and self._share(now) > 0 and not (waited and self._too_close(now)):
            slot = 0.0
        else:
            return None
        if 2 * len(self._spare) < self._target:
            self._ask_soon()
        return self._begin(now, slot)

    def count(self) -> int:
        """Count a call that goes out whether it may or not."""
        if (number := self.take(waited=False)) is not None:
            return number
        self._ask_soon()
        return self._begin(self._clock(), 0.0)

    async def ready(self) -> None:
        """Wait until it is known what is left of the window, or that nobody can tell."""
        self._ask_soon()
        await self._heard_once.wait()

    def _begin(self, now: float, slot: float) -> int:
        self._number += 1
        self._latest.append(now)
        self._in_flight[self._number] = now, slot
        return self._number

    def done(self, number: int) -> None:
        """A call has ended."""
        if (call := self._in_flight.pop(number, None)) is not None:
            self._note_made(self._clock(), call[1])

    def want(self, new: int, waiting: int) -> None:
        """How many calls would go out now, if they might."""
        more_new, begin_to_wait = new > self._new, waiting > 0 and not self._waiting
        self._new, self._waiting = new, waiting
        if begin_to_wait or (more_new and self.opens_at <= self._clock()):
            self._ask_soon()
        elif more_new:
            self._go_on_asking()

    def next_look(self) -> float:
        """When to look again although nothing has changed, by the clock."""
        now = self._clock()
        if len(self._latest) == PER_SECOND and now - self._latest[0] < 1.0:
            return self._latest[0] + 1.0
        if self.alone:
            return now + self.rate.ahead
        return max(self._turns[0].at, now) if self._turns else math.inf

    def block(self, seconds: float) -> None:
        """The API said to make no calls: have the other bridges stop, too."""
        self._blocked_until = max(self._blocked_until, self._clock() + seconds)
        self._ask_soon()

    async def aclose(self) -> None:
        """Report everything, and give back what is left."""
        self._closed = True
        if self._run is not None:
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)
        self._new = self._waiting = self._target = 0
        self._give_back(self._spare)
        self._give_back(self._turns)
        if self._number:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await self._exchange()

    def _note_made(self, at: float, slot: float) -> None:
        self._made[at] += 1
        if slot:
            self._settled[slot] += 1

    def _give_back(self, grants: "deque[_Grant]") -> None:
        self._settled.update(grant.slot for grant in grants)
        grants.clear()

    def _share(self, now: float) -> int:
        """Calls left for this bridge alone: its part of what was left, less what it has made since."""
        since_heard = now - self._heard_at
        left = self._standing.left if since_heard < self.rate.seconds else self.rate.usable
        since = now - self.rate.seconds
        made = sum(calls for at, calls in self._made.items() if at > since)
        return int(left * ALONE / self._standing.bridges) - made - len(self._in_flight)

    def _too_close(self, now: float) -> bool:
        """Waiting mail is spread evenly."""
        return bool(self._latest) and now - self._latest[-1] < self.rate.distance * self._standing.bridges

    # ---- the tally

    def _ask_soon(self) -> None:
        self._hurry.set()
        self._go_on_asking()

    def _go_on_asking(self) -> None:
        if not self._closed and (self._run is None or self._run.done()):
            self._run = tasks.keep_running(self._keep_asking, "cloudflare.budget")

    async def _keep_asking(self) -> None:
        """Report, and have calls granted, for as long as there is anything to report or to wait for."""
        number = self._number - 1
        pause: float | None = 0.0
        while pause is not None:
            self._hurry.clear()
            self._want_spare(self._number - number)
            number = self._number
            await self._exchange()
            self.on_change()
            pause = self._pause()
            if pause is not None:
                least = min(STEP, self.rate.ahead)
                await asyncio.sleep(least)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, pause - least)):
                        await self._hurry.wait()

    def _pause(self) -> float | None:
        """Seconds until it is worthwhile to ask again, None for never."""
        if self.alone:
            return STORE_PATIENCE
        if self._quiet_until > self._clock():
            return self._quiet_until - self._clock()
        if self._new > len(self._spare):
            return min(self._standing.next_in, self.rate.ahead)
        if self._waiting or self._in_flight or self._made or self._settled:
            return self.rate.ahead
        grants = [*self._spare, *self._turns]
        if self._shared and grants:
            return self.rate.ahead  # others may need them, and may be blocked
        return max(grant.until for grant in grants) - self._clock() if grants else None

    def _want_spare(self, latest: int) -> None:
        """How many calls to have at hand. latest: calls made since the last question."""
        few, many = max(1, self.rate.usable // 100), max(1, self.rate.usable // 10)
        self._target = min(max(few, 4 * latest), many) if latest else 0
        if self._standing.scarce and self._heard_at > -math.inf:
            self._target = 0
            self._give_back(self._spare)
        if not self._waiting:
            self._give_back(self._turns)

    async def _exchange(self) -> None:
        """One report, and what comes of it."""
        now = self._clock()
        ask, made = self._ask(now)
        losing = asyncio.get_running_loop().call_later(STORE_PATIENCE, self._go_alone, "it does not answer")
        try:
            standing = await self._notes.amend(
                self._name, lambda text, at: tally.exchange(text, at, self.rate, ask)
            )
        except SendError as error:
            # Perhaps it was written: what is reported twice counts twice, and nothing is taken back twice.
            self._go_alone(error.reply.text)
            return
        except Exception:
            self._go_alone("internal error")
            raise
        finally:
            losing.cancel()
        self._made -= made
        self._heard(now, standing)

    def _ask(self, now: float) -> tuple[Ask, "Counter[float]"]:
        """What to report and to want, and the calls made that it reports; the grants that it settles are
        forgotten at once."""
        for number, (began, slot) in list(self._in_flight.items()):
            if began + self.rate.arrival > now:
                break  # they are in the order of their beginning
            del self._in_flight[number]
            self._note_made(began + self.rate.arrival, slot)
        for grants in (self._spare, self._turns):
            while grants and grants[0].until <= now:
                self._settled[grants.popleft().slot] += 1
        since = now - self.rate.seconds - self.rate.slot
        self._made = Counter({at: calls for at, calls in self._made.items() if at > since})
        may = now >= self._quiet_until and not (self.alone and self._shared)
        ask = Ask(
            bridge=self._bridge,
            settled=tuple(self._settled.items()),
            made=tuple((now - at, calls) for at, calls in self._made.items()),
            new=max(0, self._new - len(self._spare)) if may else 0,
            waiting=max(0, self._waiting - len(self._turns)) if may else 0,
            spare=max(0, self._target - len(self._spare)) if may else 0,
            blocked_for=max(0.0, self._blocked_until - now),
        )
        self._settled = Counter()
        return ask, self._made.copy()

    def _heard(self, asked_at: float, standing: Standing) -> None:
        """asked_at: before the store was asked, so that we never believe in anything for too long."""
        now = self._clock()
        self._standing, self._heard_at = standing, asked_at
        self._heard_once.set()
        until = asked_at + tally.VALIDITY
        self._spare.extend([_Grant(now, until, standing.slot)] * standing.new)
        self._turns.extend(_Grant(now + wait, until + wait, slot) for wait, slot in standing.turns)
        if self.alone:
            log.info("api.rate_shared_again")
            news.tell("api.rate_shared_again", "the bridges on one spool count their calls together again")
            self.alone = False
            if self._shared:
                self._quiet_until = now + BACK
                self._give_back(self._spare)
                self._give_back(self._turns)
        blocked_until = asked_at + standing.blocked_for
        if standing.blocked_for and blocked_until > self._blocked_until + self.rate.slot:
            self._blocked_until = blocked_until
            self.on_block(blocked_until - now)

    def _go_alone(self, why: str) -> None:
        if self.alone or self._closed:
            return
        self.alone = True
        self._heard_once.set()
        note = "the spool's database is away; each bridge goes on with its share of SMTP2CF_API_RATE"
        log.warning("api.rate_not_shared", reason=why, note=note)
        news.tell("api.rate_not_shared", note, reason=why)
        self.on_change()
