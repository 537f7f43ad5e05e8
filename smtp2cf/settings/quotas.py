"""Quotas: how much may be sent at each way in, by all settings that say so."""

from collections.abc import Iterator

from smtp2cf.access.counts import Counts
from smtp2cf.access.limit import Limit, Named, What
from smtp2cf.access.quotas import Allowance, DsnQuota, OfUser, Quotas, Ruling, ruling
from smtp2cf.access.shared_counts import SharedCounts
from smtp2cf.relay.bounces import OverQuota
from smtp2cf.settings.fields import PREFIX, Settings
from smtp2cf.settings.listening import Way, ways_of
from smtp2cf.smtpd import SessionLimits
from smtp2cf.spool import Spool
from smtp2cf.spool.clock import passed

KINDS = ("client", "user", "sender")
"""Who is counted."""
MINUTE = 60
_WHAT: tuple[What, ...] = ("messages", "recipients")
OF_LISTENER = tuple(f"{kind}_quota" for kind in KINDS)
"""The keys of a [[listener]] that are quotas."""
SETTINGS = (
    *OF_LISTENER,
    *(f"{kind}_{what}_per_minute" for kind in ("client", "user") for what in _WHAT),
)
"""The settings that are."""


def counts_in(store: Spool | None, settings: Settings) -> Counts | SharedCounts:
    """Where it is counted what was sent: in memory, kept in the spool, or in the spool that bridges share."""
    if store is not None and settings.spool_url.get_secret_value().startswith("postgres"):
        return SharedCounts(store)
    return Counts(store, clock=passed)


def session_limits(settings: Settings) -> SessionLimits:
    """How many sessions one client address and one user may have."""
    return SessionLimits(settings.client_max_sessions, settings.user_max_sessions)


def quotas_at(
    settings: Settings, way: Way, counts: Counts | SharedCounts, of_user: OfUser | None = None
) -> Quotas | None:
    """How much may be sent at one way in; None for any amount. of_user: a user's own quota."""
    allowance = Allowance(**{kind: _ruling(settings, way, kind) for kind in KINDS})
    limited = of_user is not None or any(one.limits for one in allowance)
    return Quotas(allowance, counts, of_user) if limited else None


def general_quotas(settings: Settings, counts: Counts | SharedCounts) -> Quotas | None:
    """How much may be sent by mail that comes in by none of the ways; None for any amount."""
    allowance = Allowance(**{kind: ruling(*_general(settings, kind)) for kind in KINDS})
    return Quotas(allowance, counts) if any(one.limits for one in allowance) else None


def dsn_quota(settings: Settings, counts: Counts | SharedCounts) -> OverQuota | None:
    """Asked before each DSN whether it is one too many for its address; None for any number."""
    return DsnQuota(limits, counts).over if (limits := [*_dsns(settings)]) else None


def _dsns(settings: Settings) -> Iterator[Named]:
    return (Named(limit, f"{PREFIX}DSN_QUOTA") for limit in settings.dsn_quota)


def _ruling(settings: Settings, way: Way, kind: str) -> Ruling:
    """A listener's own quota takes the place of the general one, and is counted by itself."""
    own: tuple[Limit, ...] | None = getattr(way.described, f"{kind}_quota") if way.tabled else None
    if own is None:
        return ruling(*_general(settings, kind))
    return ruling(*(Named(limit, f"{kind}_quota of {way.setting}") for limit in own), scope=way.name)


def _general(settings: Settings, kind: str) -> Iterator[Named]:
    """The limits of all ways in, by whatever name they are set."""
    for limit in getattr(settings, f"{kind}_quota"):
        yield Named(limit, f"{PREFIX}{kind.upper()}_QUOTA")
    for what in _WHAT:
        name = f"{kind}_{what}_per_minute"
        if count := getattr(settings, name, 0):
            yield Named(Limit(count, what, MINUTE), f"{PREFIX}{name.upper()}")


def all_rulings(settings: Settings) -> Iterator[tuple[str, Ruling]]:
    """All that is limited anywhere, with the kind of key."""
    for way in ways_of(settings):
        for kind in KINDS:
            if (found := _ruling(settings, way, kind)).limits:
                yield kind, found
    yield "dsn", ruling(*_dsns(settings))


def set_twice(settings: Settings) -> Iterator[str]:
    """A line for each limit that two settings name, of which only the lower one counts."""
    for kind in KINDS:
        general = list(_general(settings, kind))
        counts = set(ruling(*general).limits)
        for named in general:
            if named not in counts:
                lower = next(
                    other
                    for other in counts
                    if (other.limit.what, other.limit.seconds) == (named.limit.what, named.limit.seconds)
                )
                yield (
                    f"{named.setting}: {named.limit} has no effect, because {lower.setting} allows only"
                    f" {lower.limit}: remove one of them"
                )
