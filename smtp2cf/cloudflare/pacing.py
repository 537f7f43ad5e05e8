"""Pacer: one account, one limit. Decides when a call to the API may go out. No I/O.

There are never more calls at once than `concurrency`. They slow down as the window in `Ratelimit` runs out
(IETF draft-ietf-httpapi-ratelimit-headers), and stop after a 429 until `Retry-After`; then they restart with
one, doubling with each success. Exceeding Cloudflare's limit gets every call refused for five minutes, so one
call too few is better than one too many.
"""

import asyncio
import calendar
import re
import time
from collections import deque
from collections.abc import Callable
from email.utils import parsedate_tz
from typing import NamedTuple

from smtp2cf.reply import Reply, Scope, SendError

RESERVE = 0.2
"""The last share of a window's calls, which are spread over the rest of its time."""
RESERVE_UNKNOWN = 10
"""The same as a number of calls, if the size of the window is unknown."""
RETRY_AFTER_LIMITS = (1.0, 2.0**31)
"""Seconds of a Retry-After: the minimum, and the value used for larger ones (RFC 9111 §1.2.2)."""
WINDOW_LIMIT = 3600.0
"""The longest window of `Ratelimit` we believe, in seconds."""
BACKOFF = (5.0, 300.0)
"""Seconds to wait after a 429 without Retry-After: at first, doubling, up to the maximum."""
LATENESS = 0.05
"""Seconds we wait longer than asked, because clocks differ."""

_LEFT = re.compile(r"[;,\s]r\s*=\s*(\d{1,9})")
_RESET = re.compile(r"[;,\s]t\s*=\s*(\d{1,9})")
_QUOTA = re.compile(r"[;,\s]q\s*=\s*(\d{1,9})")
_SPAN = re.compile(r"[;,\s]w\s*=\s*(\d{1,9})")


class Turn(NamedTuple):
    """The right to make one call.

    era: the number of 429s until then. before: calls that had ended when this one began.
    """

    era: int
    before: int


class _End(NamedTuple):
    """When a window has certainly ended, by the clock, and how many of the finished calls were certainly made
    before that: the others may count in the next one."""

    at: float
    past: int


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
        self._waiting: deque[asyncio.Future[Turn]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Calls waiting to be admitted."""
        return len(self._waiting)

    @property
    def blocked_for(self) -> float:
        """Seconds until the next call may go out; 0 if it may now."""
        return max(0.0, self._opening() - self._clock())

    async def admit(self, deadline: float) -> Turn:
        """Wait until a call may go out, counting it as in flight.

        deadline: by the clock. Raises SendError (451 4.7.1) if it can't go out by then; at once if that is
        already clear.
        """
        now = self._clock()
        if not self._waiting and (admitted := self._admit_now(now)) is not None:
            return admitted
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

    def probe(self) -> Turn:
        """Count a call as in flight without regard to any limit: one that finds out about a block."""
        self.in_flight += 1
        self._of_era += 1
        return Turn(self._era, self._ended)

    def done(self, turn: Turn) -> None:
        """A call has ended, with any result."""
        self.in_flight -= 1
        self._ended += 1
        if turn.era == self._era:
            self._of_era -= 1
        if self._waiting:
            self._let_in()

    def observe(self, turn: Turn, ratelimit: str, policy: str) -> None:
        """Note an answer other than 429, with its `Ratelimit` and `Ratelimit-Policy` or ""."""
        if turn.era == self._era:
            self._backoff = BACKOFF[0]
            if self._ramp < self._concurrency:
                self._ramp = min(self._ramp * 2, self._concurrency)
        window = _tightest(ratelimit)
        if window is None or (self._left is not None and turn.before < self._end.past):
            return  # nothing new, or overtaken by a newer answer
        left, reset = window
        if policy != self._policy:
            self._policy = policy
            self._quota, self._span = _size_of(policy)
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
            retry_after = self._backoff
            self._backoff = min(self._backoff * 2, BACKOFF[1])
        if retry_after is not None:
            self._opens_at = max(self._opens_at, self._clock() + retry_after + LATENESS)
        if first_to_tell:
            self._era += 1
            self._of_era = 0
            self._ramp = 1
            self._left = None
            self._interval = 0.0

    def _opening(self) -> float:
        """When the next call may go out, by the clock."""
        if self._left == 0:
            return max(self._opens_at, self._end.at)
        return self._opens_at

    def _admit_now(self, now: float) -> Turn | None:
        """Count a call as in flight, if it may go out at once."""
        if self._left is not None and now >= self._end.at:
            self._begin_window(now)
        if (
            self._of_era >= self._ramp
            or self.in_flight >= self._concurrency
            or now < self._opens_at
            or self._left == 0
        ):
            return None
        if self._left is not None:
            self._left -= 1
        if self._interval:
            self._opens_at = max(self._opens_at, now + self._interval)
        self.in_flight += 1
        self._of_era += 1
        return Turn(self._era, self._ended)

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
        while self._waiting:
            if not self._waiting[0].done():  # else it was cancelled
                admitted = self._admit_now(now)
                if admitted is None:
                    break
                self._waiting[0].set_result(admitted)
            self._waiting.popleft()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self.in_flight < self._concurrency and self._of_era < self._ramp:
            wait = self._opening() - now
            if wait > 0:  # else the next to end will let them in
                self._timer = asyncio.get_running_loop().call_later(wait + 0.001, self._let_in)

    def _too_late(self) -> SendError:
        wait = max(1, round(self.blocked_for))
        cause = (
            "the rate limit of the Cloudflare account is reached"
            if self.blocked_for
            else "too many calls to Cloudflare are in flight (SMTP2CF_API_CONCURRENCY)"
        )
        return SendError(Reply(451, "4.7.1", f"{cause}, try again in {wait} s"), Scope.ACCOUNT, float(wait))


def _tightest(ratelimit: str) -> tuple[int, float] | None:
    """Calls left and seconds until the reset, of the window with the fewest left; None if there is none."""
    if not ratelimit:
        return None
    windows = []
    for item in ratelimit.split(","):
        left, reset = _LEFT.search(f";{item}"), _RESET.search(f";{item}")
        if left is not None and reset is not None:
            windows.append((int(left[1]), float(reset[1])))
    return min(windows, key=lambda window: (window[0], -window[1]), default=None)


def _size_of(policy: str) -> tuple[int | None, float]:
    """A window's calls and seconds: the fewest and the longest of several; None if there is none."""
    quotas = [int(found) for found in _QUOTA.findall(f";{policy}")]
    spans = [float(found) for found in _SPAN.findall(f";{policy}")]
    if not quotas or not spans:
        return None, 0.0
    return min(quotas), min(max(spans), WINDOW_LIMIT)


def retry_after_of(value: str, ratelimit: str = "", date: str = "") -> float | None:
    """Seconds of a Retry-After header, a number or a date (RFC 9110 §10.2.3); without one, those of
    `ratelimit` if it has no calls left, else None.

    date: the answer's Date header. A date is relative to that, because the server made it by its own clock.
    """
    value = value.strip()
    seconds: float | None = None
    if value.isascii() and value.isdigit():
        seconds = float(value)
    elif (until := _http_date(value)) is not None:
        since = _http_date(date)
        seconds = until - (time.time() if since is None else since)
    if seconds is None and (window := _tightest(ratelimit)) is not None and window[0] == 0:
        seconds = min(window[1], WINDOW_LIMIT)
    if seconds is None:
        return None
    least, most = RETRY_AFTER_LIMITS
    return min(max(least, seconds), most)


def _http_date(value: str) -> float | None:
    """Epoch seconds of a date in any of the three forms of RFC 9110 §5.6.7; None if it is invalid.

    All are in GMT, although asctime's doesn't say so.
    """
    parsed = parsedate_tz(value) if value else None
    if parsed is None or abs(offset := parsed[9] or 0) >= 86400:
        return None
    try:
        return float(calendar.timegm(parsed[:6]) - offset)
    except (ValueError, OverflowError):
        return None
