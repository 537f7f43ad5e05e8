"""Pacer: one account, one limit. Decides when a call to the API may go out. No I/O.

There are never more calls at once than `concurrency`, nor more than the budget allows (SMTP2CF_API_RATE). New
mail goes first; mail that waited in the spool gets what is left, evenly spread. Calls slow down as the window
in `Ratelimit` runs out (IETF draft-ietf-httpapi-ratelimit-headers), and stop after a 429 until `Retry-After`;
then they restart with one, doubling with each success. Exceeding Cloudflare's limit gets every call refused
for five minutes, so one call too few is better than one too many.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from smtp2cf.cloudflare.budget import Budget
from smtp2cf.cloudflare.limit_fields import WINDOW_LIMIT, size_of, tightest
from smtp2cf.reply import Reply, Scope, SendError

RESERVE = 0.2
"""The last share of a window's calls, which are spread over the rest of its time."""
RESERVE_UNKNOWN = 10
"""The same as a number of calls, if the size of the window is unknown."""
BACKOFF = (5.0, 300.0)
"""Seconds to wait after a 429 without Retry-After: at first, doubling, up to the maximum."""
LATENESS = 0.05
"""Seconds we wait longer than asked, because clocks differ."""


class Turn(NamedTuple):
    """The right to make one call.

    era: the number of 429s until then. before: calls that had ended when this one began. number: what the
    budget knows it by.
    """

    era: int
    before: int
    number: int = 0


class Wait(NamedTuple):
    """How many seconds until a call may go out, 0 for at once, and why: "" or a clause for people."""

    seconds: float
    why: str


class _End(NamedTuple):
    """When a window has certainly ended, by the clock, and how many of the finished calls were certainly made
    before that: the others may count in the next one."""

    at: float
    past: int


class Pacer:
    """Admits calls one by one, those for new mail first, and else in the order they asked.

    concurrency: calls in flight at most. clock: seconds, time.monotonic but for tests. budget: how many calls
    may be made, None for any number. `admit` before a call, `done` after it, and between them `observe` or
    `block` with what the answer said.
    """

    def __init__(
        self,
        concurrency: int,
        clock: Callable[[], float] = time.monotonic,
        budget: Budget | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._clock = clock
        self._budget = budget
        if budget is not None:
            budget.on_change = self._let_in
            budget.on_block = self._block_too
        self.on_unexplained: Callable[[], None] = lambda: None
        """Called when a call was refused and nobody said for how long."""
        self._held_until, self._held_why = 0.0, ""
        self.in_flight = 0
        self._ended = 0
        # The era began with the last 429: its calls in flight, and how many of them may be.
        self._era = 0
        self._of_era = 0
        self._ramp = concurrency
        # The window: calls that are left for sure, None where nothing is known; its end; seconds between two.
        self._left: int | None = None
        self._end = _End(0.0, 0)
        self._interval = 0.0
        # What a window holds, and how long it lasts, where that is known.
        self._policy = ""
        self._quota: int | None = None
        self._span = 0.0
        self._opens_at = 0.0
        self._backoff = BACKOFF[0]
        self._new: deque[asyncio.Future[Turn]] = deque()
        self._waited: deque[asyncio.Future[Turn]] = deque()
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Calls waiting to be admitted."""
        return len(self._new) + len(self._waited)

    @property
    def line(self) -> int:
        """How many calls for mail from the spool may stand in line: one, or what is made in two seconds."""
        return 1 if self._budget is None else max(1, int(2 / self._budget.rate.distance))

    @property
    def blocked_for(self) -> float:
        """Seconds until the next call may go out; 0 if it may now."""
        return max(0.0, self._opening() - self._clock())

    def wait(self) -> Wait:
        """When a call may go out, as far as is known now."""
        opening = self._opening()
        seconds = opening - self._clock()
        if seconds <= 0:
            return Wait(0.0, "")
        if self._held_until >= opening:
            return Wait(seconds, self._held_why)
        if self._budget is not None and self._opening_of_api() < opening:
            return Wait(seconds, f"the rate limit is reached ({self._budget.setting}={self._budget.rate})")
        return Wait(seconds, "the rate limit of the Cloudflare account is reached")

    async def admit(self, deadline: float, *, waited: bool = False, known_wait: float = math.inf) -> Turn:
        """Wait until a call may go out, counting it as in flight.

        deadline: by the clock. waited: it is for mail from the spool. known_wait: seconds that are too long
        where it is known that nothing may go out. Raises SendError (451 4.7.1) if it can't go out by then; at
        once if that is already clear.
        """
        if (admitted := self.admit_now(waited=waited)) is not None:
            return admitted
        now = self._clock()
        if (waited and self._stopping) or self._opening() > min(deadline, now + known_wait):
            raise self._too_late()
        turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        line = self._waited if waited else self._new
        line.append(turn)
        self._let_in()
        try:
            async with asyncio.timeout(deadline - now):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.done(turn.result())
            elif turn in line:
                line.remove(turn)
                self._let_in()
            if isinstance(error, TimeoutError):
                raise self._too_late() from None
            raise

    def stop_waiting(self) -> None:
        """The process is to end: a call for mail from the spool goes out at once or not at all.

        What its other recipients came to is written down only when all its calls have ended.
        """
        self._stopping = True
        for turn in self._waited:
            if not turn.done():
                turn.set_exception(self._too_late())
        self._waited.clear()

    def probe(self) -> Turn:
        """Count a call as in flight without regard to any limit: one that finds out about a block."""
        self.in_flight += 1
        self._of_era += 1
        number = self._budget.count() if self._budget is not None else 0
        return Turn(self._era, self._ended, number)

    def done(self, turn: Turn) -> None:
        """A call has ended, with any result."""
        self.in_flight -= 1
        self._ended += 1
        if turn.era == self._era:
            self._of_era -= 1
        if self._budget is not None:
            self._budget.done(turn.number)
        if self._new or self._waited:
            self._let_in()

    def observe(self, turn: Turn, ratelimit: str, policy: str) -> None:
        """Note an answer other than 429, with its `Ratelimit` and `Ratelimit-Policy` or ""."""
        if turn.era == self._era:
            self._backoff = BACKOFF[0]
            if self._ramp < self._concurrency:
                self._ramp = min(self._ramp * 2, self._concurrency)
        window = tightest(ratelimit)
        if window is None or (self._left is not None and turn.before < self._end.past):
            return  # nothing new, or overtaken by a newer answer
        left, reset = window
        if policy != self._policy:
            self._policy = policy
            self._quota, self._span = size_of(policy)
        now = self._clock()
        # The seconds are whole ones, and nobody says which way they were rounded.
        self._end = _End(now + min(reset, WINDOW_LIMIT) + 1.0, turn.before)
        # The others in flight may not be in its number. Those that ended since this one began may not be
        # either, but they are in what was known before.
        left -= self.in_flight - 1
        self._left = max(0, min(left, self._left or 0), left - (self._ended - turn.before))
        slow = 0 < self._left < self._reserve()
        self._interval = (self._end.at - now) / (self._left + 1) if slow else 0.0

    def block(self, turn: Turn, retry_after: float | None) -> None:
        """A call was refused with 429: make no calls for `retry_after` seconds, or a backoff if None."""
        first_to_tell = turn.era == self._era
        if retry_after is None and first_to_tell:
            self.on_unexplained()
            retry_after = self._backoff
            self._backoff = min(self._backoff * 2, BACKOFF[1])
        if retry_after is not None:
            self._opens_at = max(self._opens_at, self._clock() + retry_after + LATENESS)
            if self._budget is not None:
                self._budget.block(retry_after + LATENESS)
        if first_to_tell:
            self._begin_era()

    def hold(self, seconds: float, why: str) -> None:
        """Make no calls for so long, whatever else allows them; 0 ends that. why: a clause for people."""
        self._held_until, self._held_why = self._clock() + seconds if seconds else 0.0, why
        self._let_in()

    def _block_too(self, seconds: float) -> None:
        """Another bridge was refused: make no calls either."""
        self._opens_at = max(self._opens_at, self._clock() + seconds)
        self._begin_era()

    def _begin_era(self) -> None:
        self._era += 1
        self._of_era = 0
        self._ramp = 1
        self._left = None
        self._interval = 0.0

    def _opening(self) -> float:
        """When the next call may go out, by the clock."""
        opening = self._opening_of_api()
        return opening if self._budget is None else max(opening, self._budget.opens_at)

    def _opening_of_api(self) -> float:
        """The same, as far as the API has said."""
        opening = max(self._opens_at, self._held_until)
        return max(opening, self._end.at) if self._left == 0 else opening

    def _room(self, now: float) -> int:
        """How many calls may go out at once, as far as the budget allows."""
        if now < max(self._opens_at, self._held_until) or self._left == 0:
            return 0
        return max(0, min(self._ramp - self._of_era, self._concurrency - self.in_flight))

    def admit_now(self, *, waited: bool = False, first: bool = False) -> Turn | None:
        """Count a call as in flight, if it may go out at once; None if `admit` has to wait for its turn.

        first: it is the first in line; otherwise nobody may stand in line before it.
        """
        if not first and (self._new or (waited and self._waited)):
            return None
        now = self._clock()
        if self._left is not None and now >= self._end.at:
            self._begin_window(now)
        if (
            self._of_era >= self._ramp
            or self.in_flight >= self._concurrency
            or now < self._opens_at
            or now < self._held_until
            or self._left == 0
        ):
            return None
        number = 0 if self._budget is None else self._budget.take(waited=waited)
        if number is None:
            return None
        if self._left is not None:
            self._left -= 1
        if self._interval:
            self._opens_at = max(self._opens_at, now + self._interval)
        self.in_flight += 1
        self._of_era += 1
        return Turn(self._era, self._ended, number)

    def _begin_window(self, now: float) -> None:
        """The window has ended: start the next one with a few calls, whose answers show whether anybody else
        uses the account."""
        first_calls = 1
        if self._quota is None:
            self._left = None
        else:
            first_calls = max(1, self._reserve())
            left = self._quota - (self._ended + self.in_flight - self._end.past)
            self._left = max(left, 0 if self.in_flight else 1)
            if self._left:  # else those in flight may fill it, and their answers will tell
                self._end = _End(now + self._span + 1.0, self._ended)
        self._ramp = min(self._ramp, self._of_era + first_calls)
        self._interval = 0.0

    def _reserve(self) -> int:
        return RESERVE_UNKNOWN if self._quota is None else int(self._quota * RESERVE)

    def _let_in(self) -> None:
        """Admit as many waiting calls as allowed, and schedule the next."""
        now = self._clock()
        self._admit_from(self._new, waited=False)
        if not self._new:
            self._admit_from(self._waited, waited=True)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        again_at = self._opening_of_api()
        if self._budget is not None:
            room = self._room(now)
            self._budget.want(min(len(self._new), room), min(len(self._waited), room))
            if room:
                again_at = max(again_at, self._budget.next_look())
        may_begin = self.in_flight < self._concurrency and self._of_era < self._ramp
        # Else the next to end, or the budget, will let them in.
        if (self._new or self._waited) and may_begin and now < again_at < math.inf:
            self._timer = asyncio.get_running_loop().call_later(again_at - now + 0.001, self._let_in)

    def _admit_from(self, line: deque[asyncio.Future[Turn]], *, waited: bool) -> None:
        """Admit the first of a line, as many as allowed."""
        while line:
            if not line[0].done():  # else it was cancelled
                admitted = self.admit_now(waited=waited, first=True)
                if admitted is None:
                    return
                line[0].set_result(admitted)
            line.popleft()

    def _too_late(self) -> SendError:
        wait, cause = self.wait()
        cause = cause or "too many calls to Cloudflare are in flight (SMTP2CF_API_CONCURRENCY)"
        seconds = max(1, round(wait))
        reply = Reply(451, "4.7.1", f"{cause}, try again in {seconds} s")
        return SendError(reply, Scope.ACCOUNT, float(seconds))
