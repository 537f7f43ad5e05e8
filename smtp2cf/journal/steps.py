"""Steps: what can happen to a message or a recipient, and what a recipient then is.

The numbers are what a journal stores: a kind or a status keeps its own for good, and new ones are added at
the end. Knows nothing of a database.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple


class Status(enum.StrEnum):
    """What a recipient is, in the words of the log."""

    KEPT = "kept"
    """In the spool, not tried since it was put there or released."""
    SENT = "sent"
    QUEUED = "queued"
    """By Cloudflare."""
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    SUPPRESSED = "suppressed"
    EXPIRED = "expired"
    HELD = "held"
    DELETED = "deleted"
    DELIVERED = "delivered"
    COMPLAINED = "complained"
    REPEATED = "repeated"
    """It came twice, and was sent once."""


class Kind(enum.StrEnum):
    """What happened."""

    KEPT = "kept"
    SENT = "sent"
    QUEUED = "queued"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    SUPPRESSED = "suppressed"
    EXPIRED = "expired"
    HELD = "held"
    RELEASED = "released"
    DELETED = "deleted"
    RETRIED = "retried"
    REPAIRED = "repaired"
    REWRITTEN = "rewritten"
    REPORTED = "reported"
    """DSNs were queued about it."""
    UNREPORTED = "unreported"
    """Nobody is told what became of it: it is a DSN, or has no sender, or that would be too many DSNs."""
    REPEATED = "repeated"
    """Its client sent it again, and was given the same answer."""
    UNANSWERED = "unanswered"
    """A call got no answer, so it may have been sent."""
    EVENT_DELIVERED = "event.delivered"
    EVENT_DEFERRED = "event.deferred"
    EVENT_BOUNCED = "event.bounced"
    EVENT_COMPLAINED = "event.complained"


class Meaning(NamedTuple):
    """number: what is stored. whole: it happens to the whole message, not to some of its recipients. status:
    what a recipient then is, None for what it was; for a whole message, what those still open are."""

    number: int
    whole: bool
    status: Status | None


MEANING: Mapping[Kind, Meaning] = {
    Kind.KEPT: Meaning(0, True, Status.KEPT),
    Kind.SENT: Meaning(1, False, Status.SENT),
    Kind.QUEUED: Meaning(2, False, Status.QUEUED),
    Kind.DEFERRED: Meaning(3, False, Status.DEFERRED),
    Kind.BOUNCED: Meaning(4, False, Status.BOUNCED),
    Kind.SUPPRESSED: Meaning(5, False, Status.SUPPRESSED),
    Kind.EXPIRED: Meaning(6, False, Status.EXPIRED),
    Kind.HELD: Meaning(7, True, Status.HELD),
    Kind.RELEASED: Meaning(8, True, Status.KEPT),
    Kind.DELETED: Meaning(9, True, Status.DELETED),
    Kind.RETRIED: Meaning(10, True, None),
    Kind.REPAIRED: Meaning(11, True, None),
    Kind.REWRITTEN: Meaning(12, True, None),
    Kind.REPORTED: Meaning(13, True, None),
    Kind.UNREPORTED: Meaning(14, True, None),
    Kind.REPEATED: Meaning(15, True, Status.REPEATED),
    Kind.UNANSWERED: Meaning(16, True, None),
    Kind.EVENT_DELIVERED: Meaning(17, False, Status.DELIVERED),
    Kind.EVENT_DEFERRED: Meaning(18, False, Status.DEFERRED),
    Kind.EVENT_BOUNCED: Meaning(19, False, Status.BOUNCED),
    Kind.EVENT_COMPLAINED: Meaning(20, False, Status.COMPLAINED),
}

STATUS_NUMBERS: Mapping[Status, int] = {
    Status.KEPT: 0,
    Status.SENT: 1,
    Status.QUEUED: 2,
    Status.DEFERRED: 3,
    Status.BOUNCED: 4,
    Status.SUPPRESSED: 5,
    Status.EXPIRED: 6,
    Status.HELD: 7,
    Status.DELETED: 8,
    Status.DELIVERED: 9,
    Status.COMPLAINED: 10,
    Status.REPEATED: 11,
}

OPEN = frozenset({Status.KEPT, Status.DEFERRED, Status.HELD})
"""What a recipient is while its mail waits."""


def kind_of(number: int) -> str:
    """The kind that a journal stores as `number`, which a newer bridge may have written."""
    return _KINDS.get(number, f"kind {number}")


def is_whole(number: int) -> bool:
    """Whether that kind happens to a whole message."""
    return number in _WHOLE


def status_of(number: int) -> str:
    """The status that a journal stores as `number`."""
    return _STATUSES.get(number, f"status {number}")


_KINDS = {meaning.number: str(kind) for kind, meaning in MEANING.items()}
_WHOLE = frozenset(meaning.number for meaning in MEANING.values() if meaning.whole)
_STATUSES = {number: str(status) for status, number in STATUS_NUMBERS.items()}
