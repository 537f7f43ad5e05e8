"""Counts: what all keys have sent, in memory, and whether one may send more.

What is refused is not counted: nobody is kept out for trying again. Keys that have been idle for a whole
window are forgotten as new ones come, and past MAX_KEYS the one that was heard longest ago.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from smtp2cf.access.limit import Named
from smtp2cf.access.usage import Usage
from smtp2cf.journal import quotas as journal

MAX_KEYS = 100_000
"""Keys that are counted at once, over all quotas."""
SCARCE = 0.8
"""The share of a limit at which a warning is due."""
WORTH_A_WARNING = 5
"""The lowest limit whose last part is worth a warning."""


class Charge(NamedTuple):
    """One more that has to fit: of what is counted as `name`, by `who`, within a limit."""

    name: str
    who: str
    named: Named


class Refused(NamedTuple):
    """No room for a charge. until: when there is some, by the clock of the counts; now: what that says."""

    charge: Charge
    until: float
    now: float


def name_of(family: str, seconds: int, key: str) -> str:
    """What a count is kept as. family: of what, for whom."""
    return f"{family}/{seconds}/{key}"


def seconds_of(name: str) -> int:
    """The window of a count, 0 if it can't be one."""
    seconds = name.split("/", 4)[3:4]
    return int(seconds[0]) if seconds and seconds[0].isdecimal() else 0


def say_scarce(charge: Charge, used: int) -> None:
    """Somebody nears a limit."""
    limit, setting = charge.named
    journal.scarce(setting=setting, limit=str(limit), who=charge.who, used=used)


class Counts:
    """All counts of one process. clock: seconds. on_scarce: told once a window of who nears a limit."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        on_scarce: Callable[[Charge, int], None] = say_scarce,
    ) -> None:
        self._clock = clock
        self._on_scarce = on_scarce
        # The names are in the order in which they were last counted.
        self._usages: dict[str, Usage] = {}

    def take(self, charges: Sequence[Charge]) -> Refused | None:
        """Count one of each, or none: then the refusal that lasts longest."""
        now = self._clock()
        refused = [found for charge in charges if (found := self._refusal(charge, now)) is not None]
        if refused:
            return max(refused, key=lambda one: one.until)
        for charge in charges:
            self._count(charge, now)
        return None

    def _refusal(self, charge: Charge, now: float) -> Refused | None:
        usage, limit = self._usages.get(charge.name), charge.named.limit
        if usage is None or usage.sum < limit.number:
            return None
        usage.forget(now, limit.seconds)
        if usage.sum < limit.number:
            return None
        return Refused(charge, usage.room_at(limit.number, limit.seconds), now)

    def _count(self, charge: Charge, now: float) -> None:
        limit = charge.named.limit
        usage = self._usages.pop(charge.name, None)
        if usage is None:
            self._forget_idle(now)
            usage = Usage()
        else:
            usage.forget(now, limit.seconds)
        self._usages[charge.name] = usage
        usage.add(now, limit.seconds)
        if usage.sum >= limit.number * SCARCE and usage.warned_until <= now:
            usage.warned_until = now + limit.seconds
            if limit.number >= WORTH_A_WARNING:
                self._on_scarce(charge, usage.sum)

    def _forget_idle(self, now: float) -> None:
        """Drop up to two names for the one that comes: so many at a time that no call takes long."""
        for _ in range(2):
            oldest = next(iter(self._usages), None)
            if oldest is None:
                return
            usage = self._usages[oldest]
            usage.forget(now, seconds_of(oldest))
            if usage.sum == 0 or len(self._usages) >= MAX_KEYS:
                del self._usages[oldest]
            else:
                return
