"""Retry: how long to wait before the next attempt. Knows nothing of mail."""

import random
from dataclasses import dataclass

MOST_DOUBLINGS = 32
"""Any maximum is reached long before; without it the number would grow for ever."""


def backoff(minimum: float, maximum: float, attempts: int) -> float:
    """Seconds until the next attempt after `attempts` (1 or more): `minimum`, doubling up to `maximum`."""
    return min(minimum * 2.0 ** min(attempts - 1, MOST_DOUBLINGS), maximum)


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
        jitter = random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        return max(backoff(self.minimum, self.maximum, attempts) * jitter, retry_after or 0.0)
