"""News: what happens that somebody may want to be told of at once, by a mail to OPERATOR or by a webhook.

Whoever notices it tells it here, beside the log line; who is told is decided once, in serve. A listener only
notes what it hears: it does no I/O and never fails. Knows no mail, no HTTP and no database.
"""

import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeAlias

KINDS: tuple[str, ...] = (
    *("mail.bounced", "mail.expired", "mail.complained", "mail.held", "mail.delivered"),
    *("mail.dsn_undeliverable", "dsn.over_quota"),
    *("api.unreachable", "api.throttled", "api.token_refused", "api.recovered"),
    *("api.quota_low", "api.quota_used_up", "api.quota_available"),
    *("api.rate_not_shared", "api.rate_shared_again"),
    *("sender.not_configured", "sender.failing"),
    "quota.scarce",
    *("spool.nearly_full", "spool.broken", "spool.recovered"),
    *("tls.expires_soon", "tls.expired", "tls.reload_failed"),
    "drop.set_aside",
)
"""All that is told."""


class News(NamedTuple):
    """Something that happened.

    kind: its name in the log, such as mail.bounced or api.token_refused. at: seconds since the epoch. text: a
    sentence for people. facts: what the log line says, ready for JSON; no message's content, and no secret.
    """

    kind: str
    at: float
    text: str
    facts: dict[str, Any]


Listener: TypeAlias = Callable[[News], None]

_listeners: tuple[Listener, ...] = ()
_kinds: Collection[str] | None = None


def told_to(*listeners: Listener, kinds: Collection[str] | None = None) -> None:
    """Tell these from now on, and nobody else. kinds: what they heed, None for everything."""
    global _listeners, _kinds
    _listeners, _kinds = listeners, kinds


def is_wanted(*kinds: str) -> bool:
    """Whether anybody heeds one of these: ask before facts are gathered that cost something."""
    return bool(_listeners) and (_kinds is None or any(kind in _kinds for kind in kinds))


def tell(kind: str, text: str, **facts: object) -> None:
    """Tell whoever listens."""
    if not is_wanted(kind):
        return
    news = News(kind, time.time(), text, facts)
    for listener in _listeners:
        listener(news)
