"""The quota: how many recipients an account may send to in a day, and what `/limits` says about it.

Nothing says that the quota is used up but a 429 that looks like any other, and `/limits`.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

DAY = 86400


class Quota:
    """Counts recipients from one midnight (UTC) to the next.

    value: how many; None for an account that has none yet, which sends all the same. sent: so far.
    resets_at: seconds since the epoch. All three may be changed at any time.
    """

    def __init__(self, value: int | None, clock: Callable[[], float] = time.time) -> None:
        self.value = value
        self.sent = 0
        self._clock = clock
        self.resets_at = _midnight_after(clock())

    @property
    def used_up(self) -> bool:
        """Nothing more is sent until it resets."""
        if self._clock() >= self.resets_at:
            self.sent, self.resets_at = 0, _midnight_after(self._clock())
        return self.value is not None and self.sent >= self.value

    def count(self, recipients: int) -> None:
        """These recipients were sent to."""
        self.sent += recipients

    def answer(self) -> dict[str, object]:
        """The `result` of /limits."""
        over, value = self.used_up, self.value
        if value is None:
            return {"quota": None, "usage": None}
        resets_at = datetime.fromtimestamp(self.resets_at, UTC).isoformat().replace("+00:00", "Z")
        return {
            "quota": {"unit": "day", "value": value},
            "usage": {"sent": self.sent, "over_quota": over, "resets_at": resets_at},
        }


def _midnight_after(now: float) -> float:
    return now - now % DAY + DAY
