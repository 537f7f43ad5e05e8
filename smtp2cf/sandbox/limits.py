"""Rate limits as Cloudflare announces and enforces them: a fixed window, and a block for whoever
exceeds it.

The headers are those of Cloudflare's answers, draft-ietf-httpapi-ratelimit-headers: `Ratelimit`
(r calls left, t seconds until the window resets) and `Ratelimit-Policy` (q calls in w seconds).

Knows nothing of HTTP but the headers' text.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple


class RateLimit(NamedTuple):
    """At most `calls` in `window` seconds; one more, and every call is refused for `block` seconds.

    The defaults are those Cloudflare publishes for a token.
    """

    calls: int = 1200
    window: float = 300.0
    block: float = 300.0


class Limiter:
    """Counts calls against one RateLimit. The window starts with the first call in it."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._left = limit.calls
        self._window_ends = -math.inf
        self._blocked_until = -math.inf

    def admit(self) -> int:
        """Count one call. 0 when it may go ahead, else the whole seconds after which calls are taken
        again."""
        now = self._clock()
        if now < self._blocked_until:
            return _whole(self._blocked_until - now)
        if now >= self._window_ends:
            self._left = self.limit.calls
            self._window_ends = now + self.limit.window
        if self._left:
            self._left -= 1
            return 0
        self._blocked_until = max(now + self.limit.block, self._window_ends)
        return _whole(self._blocked_until - now)

    def headers(self) -> dict[str, str]:
        """`Ratelimit` and `Ratelimit-Policy` as of now."""
        now = self._clock()
        if now < self._blocked_until:
            left, resets_in = 0, self._blocked_until - now
        elif now < self._window_ends:
            left, resets_in = self._left, self._window_ends - now
        else:
            left, resets_in = self.limit.calls, self.limit.window
        return {
            "Ratelimit": f'"default";r={left};t={_whole(resets_in)}',
            "Ratelimit-Policy": f'"default";q={self.limit.calls};w={_whole(self.limit.window)}',
        }


def _whole(seconds: float) -> int:
    """Whole seconds, rounded up, ignoring floating-point error."""
    return math.ceil(round(seconds, 6))
