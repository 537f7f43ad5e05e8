"""Standing: who has used most of a quota, by the counts that are kept. For people; nothing is changed."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from smtp2cf.access.charge import SCARCE, name_of
from smtp2cf.access.limit import Named
from smtp2cf.access.quotas import OfUser, Ruling, family_of, ruling, until
from smtp2cf.access.usage import Usage


class Used(NamedTuple):
    """How much of a limit somebody has used. ends_in: seconds until there is room, 0 if there is."""

    who: str
    used: int
    named: Named
    ends_in: float

    def __str__(self) -> str:
        limit, setting = self.named
        full = f", full until {until(self.ends_in)}" if self.ends_in else ""
        return f"{self.who}: {self.used} of {limit} ({setting}){full}"


def nearly_used_up(
    counts: Mapping[str, str],
    now: float,
    rulings: Iterable[tuple[str, Ruling]],
    of_user: OfUser | None = None,
) -> list[Used]:
    """Who has used four fifths of a limit or more; those first that have used most of it.

    counts: their texts by name. rulings: all there are, with the kind of key. of_user: see Quotas.
    """
    general = {prefix: named for kind, ruling in rulings for prefix, named in _by_prefix(kind, ruling)}
    found = []
    for name, text in counts.items():
        prefix, who = _parts(name)
        own = of_user(who) if of_user is not None and name.startswith("user/") else None
        limits = general if own is None else dict(_by_prefix("user", ruling(*own)))
        if (named := limits.get(prefix)) is not None:
            used = _used(who, text, now, named)
            found += [used] if used.used >= named.limit.number * SCARCE else []
    return sorted(found, key=lambda used: used.used / used.named.limit.number, reverse=True)


def _by_prefix(kind: str, ruling: Ruling) -> Iterator[tuple[str, Named]]:
    """The limits, by how the names of their counts begin."""
    for named in ruling.limits:
        yield name_of(family_of(kind, ruling.scope, named.limit.what), named.limit.seconds, ""), named


def _parts(name: str) -> tuple[str, str]:
    """How the name of a count begins, and its key, which may be anything."""
    key = name.split("/", 4)[-1]
    return name.removesuffix(key), key


def _used(who: str, text: str, now: float, named: Named) -> Used:
    limit = named.limit
    usage = Usage.read(text, now, limit.seconds)
    usage.forget(now, limit.seconds)
    full = usage.sum >= limit.number
    return Used(who, usage.sum, named, usage.room_at(limit.number, limit.seconds) - now if full else 0.0)
