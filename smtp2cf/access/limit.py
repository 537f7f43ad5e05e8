"""Limits: how much one client, user or sender may send in how long, as people write it.

`30 messages/1m, 5000 recipients/1d` is two of them. Knows not who is counted, nor how.
"""

import re
from typing import Literal, NamedTuple, get_args

What = Literal["messages", "recipients"]

MOST = 1_000_000_000
"""The largest number that can be set."""
LONGEST = 366 * 86400
"""The longest time, in seconds."""
SEVERAL = 10
"""How many limits one quota may have."""
FORM = "it must be limits such as 30 messages/1m, 5000 recipients/1d (up to 366d), or none"
FORM_OF_REPORTS = "it must be a number and a time such as 100/1h (up to 366d), or none"

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_ONE = re.compile(r"([0-9]{1,10})\s*(message|recipient)s?\s*/\s*([0-9]{1,10})\s*([dhms]?)", re.IGNORECASE)
_OF_REPORTS = re.compile(r"([0-9])\s*(?=/)")


class Limit(NamedTuple):
    """At most so many in any so many seconds."""

    number: int
    what: What
    seconds: int

    def __str__(self) -> str:
        what = self.what.removesuffix("s") if self.number == 1 else self.what
        return f"{self.number} {what}/{as_time(self.seconds)}"


class OfReports(Limit):
    """A limit of the reports to one address, which are all messages: 100/1h."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.number}/{as_time(self.seconds)}"


class Named(NamedTuple):
    """A limit, and what an operator looks for to change it."""

    limit: Limit
    setting: str


def parse(text: str) -> tuple[Limit, ...]:
    """The limits of a quota, () for none. Raises ValueError with what it must be."""
    if text.strip().lower() in ("", "none"):
        return ()
    limits = tuple(_parse_one(part) for part in text.split(","))
    if len(limits) > SEVERAL:
        raise ValueError(f"it has more than {SEVERAL} limits")
    return limits


def parse_reports(text: str) -> tuple[OfReports, ...]:
    """The same of reports, such as 100/1h."""
    try:
        found = parse(_OF_REPORTS.sub(r"\1 messages", text))
    except ValueError:
        raise ValueError(FORM_OF_REPORTS) from None
    if any(one.what != "messages" for one in found):
        raise ValueError(FORM_OF_REPORTS)
    return tuple(OfReports(*one) for one in found)


def _parse_one(text: str) -> Limit:
    found = _ONE.fullmatch(text.strip())
    if found is None:
        raise ValueError(FORM)
    number, seconds = int(found[1]), int(found[3]) * _SECONDS[found[4].lower() or "s"]
    if not (1 <= number <= MOST and 1 <= seconds <= LONGEST):
        raise ValueError(FORM)
    what: dict[str, What] = {name.removesuffix("s"): name for name in get_args(What)}
    return Limit(number, what[found[2].lower()], seconds)


def written(limits: tuple[Limit, ...]) -> str:
    """As `parse` reads them."""
    return ", ".join(map(str, limits)) or "none"


def as_time(seconds: int) -> str:
    """Seconds in the largest unit that makes a whole number of them."""
    unit = next(unit for unit, length in _SECONDS.items() if seconds % length == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def strictest(limits: tuple[Named, ...]) -> tuple[Named, ...]:
    """One limit for each thing and time: the lowest of those that are set."""
    lowest: dict[tuple[What, int], Named] = {}
    for named in limits:
        key = named.limit.what, named.limit.seconds
        if key not in lowest or named.limit.number < lowest[key].limit.number:
            lowest[key] = named
    return tuple(lowest.values())
