"""Pacer: one account, one limit. Decides when a call to the API may go out. No I/O.

Never more calls at once than `concurrency`; slower as the window that `Ratelimit` reports runs out
(IETF draft-ietf-httpapi-ratelimit-headers); none at all before `Retry-After` after a 429; one at
first, then twice as many with each success, when it starts again. Whoever exceeds Cloudflare's limit
has every call refused for five minutes, so a call too few is the better mistake.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from smtp2cf.reply import Reply, Scope, SendError

RESERVE = 0.2
"""Share of a window's calls that are spread over what is left of it."""
RESERVE_UNKNOWN = 10
"""The same in calls, where the size of the window is not known."""
RETRY_AFTER_LIMITS = (1.0, 3600.0)
"""Seconds we believe of a Retry-After or a window: at least, at most."""
BACKOFF = (5.0, 300.0)
"""Seconds to stay away after a 429 without Retry-After: at first, doubling, at most."""
LATENESS = 0.05
"""Seconds we wait beyond what we were told, for clocks that don't agree."""

_LEFT = re.compile(r"[;,\s]r\s*=\s*(\d{1,9})")
_RESET = re.compile(r"[;,\s]t\s*=\s*(\d{1,9})")
_QUOTA = re.compile(r"[;,\s]q\s*=\s*(\d{1,9})")


class Turn(NamedTuple):
    """The right to make one call.

    era: how many 429s the pacer knew of. before: calls that had ended when this one began.
    """

    era: int
    before: int


class Pacer:
    """Admits calls one by one, in the order they asked.

    concurrency: calls in flight at most. clock: seconds, time.monotonic but for tests. `admit` before
    a call, `done` after it, and between them `observe` or `block` with what the answer said.
    """

    def __init__(self, concurrency: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._concurrency = concurrency
        self._clock = clock
        self.in_flight = 0
        self._ended = 0
        # The era began with the last 429: its calls in flight, and how many of them may be.
        self._era = 0
        self._of_era = 0
        self._ramp = concurrency
        self._first_calls = 1
        # The window: calls left, None where nothing is known, when it ends, seconds between calls.
        self._left: int | None = None
        self._resets_at = 0.0
        self._interval = 0.0
        self._opens_at = 0.0
        self._backoff = BACKOFF[0]
        self._waiting: deque[asyncio.Future[Turn]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Calls that wait to be admitted."""
        return len(self._waiting)

    @property
    def blocked_for(self) -> float:
        """Seconds until the next call may go out, 0 when it may now."""
        return max(0.0, self._opening() - self._clock())

    async def admit(self, deadline: float) -> Turn:
        """Wait until a call may go out, counting it as in flight.

        deadline: the clock's seconds. Raises SendError (451 4.7.1) when it can't by then, at once
        where that is known already.
        """
        now = self._clock()
        if not self._waiting and self._may_go(now):
            return self._go(now)
        if self._opening() > deadline:
            raise self._too_late()
        turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._let_in()
        try:
            async with asyncio.timeout(deadline - now):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.done(turn.result())
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._too_late() from None
            raise

    def done(self, turn: Turn) -> None:
        """A call has ended, however it did."""
        self.in_flight -= 1
        self._ended += 1
        if turn.era == self._era:
            self._of_era -= 1
        if self._waiting:
            self._let_in()

    def observe(self, turn: Turn, ratelimit: str, policy: str) -> None:
        """Take in an answer that was no 429, with `Ratelimit` and `Ratelimit-Policy`, "" where absent."""
        if turn.era == self._era:
            self._backoff = BACKOFF[0]
            if self._ramp < self._concurrency:
                self._ramp = min(self._ramp * 2, self._concurrency)
        window = _tightest(ratelimit)
        if window is None:
            return
        left, reset = window
        now = self._clock()
        # The seconds are whole ones, and nobody says which way they were rounded.
        resets_at = now + min(reset, RETRY_AFTER_LIMITS[1]) + 1.0
        # The other calls in flight may or may not be in that number: they count as not.
        calls_left = left - (self.in_flight - 1)
        if self._left is not None and resets_at < self._resets_at + 1.0:
            # The same window, and answers may overtake one another: fewer is the newer number. But all
            # calls that had ended when this one began are in its number, whatever was thought before.
            overlapped = self._ended + self.in_flight - turn.before - 1
            calls_left = min(calls_left, max(self._left, left - overlapped))
            resets_at = min(resets_at, self._resets_at)
        self._left, self._resets_at = max(0, calls_left), resets_at
        quota = _QUOTA.search(policy)
        reserve = int(int(quota[1]) * RESERVE) if quota else RESERVE_UNKNOWN
        self._first_calls = max(1, reserve) if quota else 1
        slow = 0 < self._left < reserve
        self._interval = max(0.0, resets_at - now) / (self._left + 1) if slow else 0.0

    def block(self, turn: Turn, retry_after: float | None) -> None:
        """A call was refused with 429: nobody calls for `retry_after` seconds, or as long as seems wise."""
        first_to_tell = turn.era == self._era
        if retry_after is None and first_to_tell:
            retry_after = self._backoff
            self._backoff = min(self._backoff * 2, BACKOFF[1])
        if retry_after is not None:
            self._opens_at = max(self._opens_at, self._clock() + retry_after + LATENESS)
        if first_to_tell:
            self._era += 1
            self._of_era = 0
            self._ramp = 1
            self._forget_window()

    def _opening(self) -> float:
        """When the next call may go out, in the clock's seconds."""
        if self._left is not None and self._left <= 0:
            return max(self._opens_at, self._resets_at)
        return self._opens_at

    def _may_go(self, now: float) -> bool:
        return self._of_era < self._ramp and self.in_flight < self._concurrency and now >= self._opening()

    def _go(self, now: float) -> Turn:
        if self._left is not None:
            if self._left <= 0 or now >= self._resets_at:
                # A new window, of which nothing is known: a few calls at first, whose answers will tell.
                self._ramp = min(self._ramp, self._first_calls)
                self._forget_window()
            else:
                self._left -= 1
        if self._interval:
            self._opens_at = max(self._opens_at, now + self._interval)
        self.in_flight += 1
        self._of_era += 1
        return Turn(self._era, self._ended)

    def _forget_window(self) -> None:
        self._left = None
        self._interval = 0.0

    def _let_in(self) -> None:
        """Admit those who wait, as many as may go; come back when the next may."""
        now = self._clock()
        while self._waiting and self._may_go(now):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._go(now))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self.in_flight < self._concurrency and self._of_era < self._ramp:
            self._timer = asyncio.get_running_loop().call_later(self._opening() - now + 0.001, self._let_in)

    def _too_late(self) -> SendError:
        wait = max(1, round(self.blocked_for))
        cause = (
            "the rate limit of the Cloudflare account is reached"
            if self.blocked_for
            else "too many calls to Cloudflare are in flight (SMTP2CF_API_CONCURRENCY)"
        )
        return SendError(Reply(451, "4.7.1", f"{cause}, try again in {wait} s"), Scope.ACCOUNT, float(wait))


def _tightest(ratelimit: str) -> tuple[int, float] | None:
    """Calls left and seconds until the reset, of the window with the fewest left; None where none is."""
    if not ratelimit:
        return None
    windows = []
    for item in ratelimit.split(","):
        left, reset = _LEFT.search(f";{item}"), _RESET.search(f";{item}")
        if left is not None and reset is not None:
            windows.append((int(left[1]), float(reset[1])))
    return min(windows, key=lambda window: (window[0], -window[1]), default=None)


def retry_after_of(value: str, ratelimit: str = "") -> float | None:
    """Seconds of a Retry-After header, a number or a date (RFC 9110 §10.2.3); where there is none, of
    `ratelimit` when it says that no call is left, else None."""
    value = value.strip()
    seconds: float | None = None
    if value.isascii() and value.isdigit():
        seconds = float(value)
    elif value:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            seconds = None
    if seconds is None and (window := _tightest(ratelimit)) is not None and window[0] == 0:
        seconds = window[1]
    if seconds is None:
        return None
    least, most = RETRY_AFTER_LIMITS
    return min(max(least, seconds), most)
