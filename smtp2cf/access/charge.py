"""Charges: one more of something, whether there is room for it, and whether that is worth a warning. No I/O.

What is refused is not counted: nobody is kept out for trying again.
"""

from collections.abc import Sequence
from typing import NamedTuple

from smtp2cf.access.limit import Named
from smtp2cf.access.usage import SLOTS, Usage
from smtp2cf.journal import quotas as journal

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


def lasts(seconds: int) -> float:
    """Seconds after which a count of such a window counts no more, whoever's clock is a little ahead."""
    return seconds * (SLOTS + 1) / SLOTS + 1.0


def refusal(usage: Usage | None, charge: Charge, now: float) -> Refused | None:
    """The refusal of one more, None if there is room."""
    limit = charge.named.limit
    if usage is None or usage.sum < limit.number:
        return None
    usage.forget(now, limit.seconds)
    if usage.sum < limit.number:
        return None
    return Refused(charge, usage.room_at(limit.number, limit.seconds), now)


def longest(refused: Sequence[Refused]) -> Refused | None:
    """The one to tell: a client need not come back for the next."""
    return max(refused, key=lambda one: one.until, default=None)


def count(usage: Usage, charge: Charge, now: float) -> bool:
    """Count one. True: there is a warning to give, once a window."""
    limit = charge.named.limit
    usage.forget(now, limit.seconds)
    usage.add(now, limit.seconds)
    if usage.sum < limit.number * SCARCE or usage.warned_until > now:
        return False
    usage.warned_until = now + limit.seconds
    return limit.number >= WORTH_A_WARNING


def say_scarce(charge: Charge, used: int) -> None:
    """Somebody nears a limit."""
    limit, setting = charge.named
    journal.scarce(setting=setting, limit=str(limit), seconds=limit.seconds, who=charge.who, used=used)
