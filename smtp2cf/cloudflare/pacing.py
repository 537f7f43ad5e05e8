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
from email.utils import parsedate_to_datetime

from smtp2cf.reply import Reply, Scope, SendError

RESERVE = 0.2
"""Share of a window's calls that are spread over what is left of it."""
RESERVE_UNKNOWN = 10
"""The same in calls, where the size of the window is not known."""
RETRY_AFTER_LIMIT = 3600.0
"""Seconds we believe of a Retry-After or a window."""
BACKOFF = (5.0, 300.0)
"""Seconds to stay away after a 429 without Retry-After: at first, doubling, at most."""

_RATELIMIT = re.compile(r"""(?:^|[;,\s])r\s*=\s*(\d{1,9})""")
_RESET = re.compile(r"""(?:^|[;,\s])t\s*=\s*(\d{1,9})""")
_QUOTA = re.compile(r"""(?:^|[;,\s])q\s*=\s*(\d{1,9})""")


class Pacer:
    """Admits calls one by one, in the order they asked.

    concurrency: calls in flight at most. `admit` before a call, `done` after it, and between them
    `observe` or `block` with what the answer said.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._ramp = concurrency
        self.in_flight = 0
        self._left: int | None = None
        self._resets_at = 0.0
        self._interval = 0.0
        self._opens_at = 0.0
        self._backoff = BACKOFF[0]
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Calls that wait to be admitted."""
        return len(self._waiting)

    @property
    def blocked_for(self) -> float:
        """Seconds until the next call may go out, 0 when it may now."""
        return max(0.0, self._opening() - time.monotonic())

    async def admit(self, deadline: float) -> None:
        """Wait until a call may go out, counting it as in flight.

        deadline: time.monotonic() seconds. Raises SendError (451 4.7.1) when it can't by then, at
        once where that is known already.
        """
        now = time.monotonic()
        if not self._waiting and self._may_go(now):
            self._go(now)
            return
        if self._opening() > deadline:
            raise self._too_late()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._let_in()
        try:
            async with asyncio.timeout(deadline - now):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.done()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._too_late() from None
            raise

    def done(self) -> None:
        """A call has ended, however it did."""
        self.in_flight -= 1
        if self._waiting:
            self._let_in()

    def observe(self, ratelimit: str, policy: str) -> None:
        """Take in the headers of an answer: `Ratelimit` and `Ratelimit-Policy`, "" where absent.

        The calls now in flight may or may not be in the number of calls left: they count as not.
        """
        self._backoff = BACKOFF[0]
        if self._ramp < self._concurrency:
            self._ramp = min(self._ramp * 2, self._concurrency)
        if not ratelimit:
            return
        left, reset = _RATELIMIT.search(ratelimit), _RESET.search(ratelimit)
        if left is None or reset is None:
            return
        now = time.monotonic()
        # The seconds are whole ones, and nobody says which way they were rounded.
        resets_at = now + min(float(reset[1]), RETRY_AFTER_LIMIT) + 1.0
        calls_left = max(0, int(left[1]) - (self.in_flight - 1))
        if self._left is not None and resets_at < self._resets_at + 1.0:
            # The same window: answers may overtake one another, the smaller number is the newer one.
            calls_left = min(calls_left, self._left)
            resets_at = min(resets_at, self._resets_at)
        self._left, self._resets_at = calls_left, resets_at
        quota = _QUOTA.search(policy)
        reserve = int(quota[1]) * RESERVE if quota else RESERVE_UNKNOWN
        slow = 0 < calls_left < reserve
        self._interval = max(0.0, resets_at - now) / (calls_left + 1) if slow else 0.0

    def block(self, retry_after: float | None) -> None:
        """A call was refused with 429: nobody calls for `retry_after` seconds, or as long as seems wise."""
        if retry_after is None:
            retry_after = self._backoff
            self._backoff = min(self._backoff * 2, BACKOFF[1])
        self._opens_at = max(self._opens_at, time.monotonic() + retry_after + 0.05)
        self._start_gently()

    def _opening(self) -> float:
        """When the next call may go out, in time.monotonic() seconds."""
        if self._left is not None and self._left <= 0:
            return max(self._opens_at, self._resets_at)
        return self._opens_at

    def _may_go(self, now: float) -> bool:
        return self.in_flight < self._ramp and now >= self._opening()

    def _go(self, now: float) -> None:
        if self._left is not None:
            if self._left <= 0 or now >= self._resets_at:
                self._start_gently()
            else:
                self._left -= 1
        if self._interval:
            self._opens_at = max(self._opens_at, now + self._interval)
        self.in_flight += 1

    def _start_gently(self) -> None:
        """Nothing is known of the window now: one call at first, whose answer will tell."""
        self._left = None
        self._interval = 0.0
        self._ramp = 1

    def _let_in(self) -> None:
        """Admit those who wait, as many as may go; come back when the next may."""
        now = time.monotonic()
        while self._waiting and self._may_go(now):
            turn = self._waiting.popleft()
            if not turn.done():
                self._go(now)
                turn.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self.in_flight < self._ramp:
            self._timer = asyncio.get_running_loop().call_later(self._opening() - now + 0.001, self._let_in)

    def _too_late(self) -> SendError:
        wait = max(1, round(self.blocked_for))
        return SendError(
            Reply(
                451, "4.7.1", f"the rate limit of the Cloudflare account is reached, try again in {wait} s"
            ),
            Scope.ACCOUNT,
            float(wait),
        )


def retry_after_of(value: str) -> float | None:
    """Seconds of a Retry-After header, a number or a date (RFC 9110 §10.2.3); None where there is none."""
    value = value.strip()
    if value.isdigit():
        return min(float(value[:9]), RETRY_AFTER_LIMIT)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), RETRY_AFTER_LIMIT)
