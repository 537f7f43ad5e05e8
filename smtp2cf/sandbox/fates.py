"""Fates: what a recipient's address makes of mail to it, in the answer and afterwards.

A local part names a fate, alone or after a +: `bounce@…`, `anna+later-bounce@…`. What becomes known only
after the answer is published as events, in the shape that Cloudflare's documentation gives them.

Knows nothing of HTTP, of queues and of what was sent before.
"""

import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

SLOWEST = 3600.0
"""Seconds that a fate can delay an answer at most."""
DEFAULT_SECONDS = 1.0
"""Seconds of a timed fate that names none."""

_TIMED = re.compile(r"(?P<fate>slow|throttle)-(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s)")

LISTS = {
    "bounce": "permanent_bounces",
    "queued": "queued",
    "later-delivered": "queued",
    "later-bounce": "queued",
    "later-failed": "queued",
    "deferred-then-bounce": "queued",
    "dropped": "suppressed_recipients",
    "unlisted": None,
}
"""The list of the answer that a recipient of this fate is in; any other address is delivered."""


class Event(NamedTuple):
    """Something that becomes known of a recipient.

    type: the last word of Cloudflare's. after: how many delays after the answer. terminal: nothing else
    follows. details: what `payload` says beyond whom it is about.
    """

    type: str
    after: float
    terminal: bool
    details: dict[str, Any]


def _delivery(status: str, code: str, enhanced: str, text: str) -> dict[str, Any]:
    return {
        "status": status,
        "provider": "other",
        "deliveryTimeMs": 850,
        "smtpStatusCode": code,
        "smtpEnhancedStatusCode": enhanced,
        "smtpResponse": text,
    }


_BOUNCED = {
    "delivery": _delivery("bounced", "550", "5.1.1", "550 5.1.1 The email account does not exist"),
    "bounce": {"type": "hard", "classification": "invalid_recipient", "reason": "the account does not exist"},
}
_DEFERRED = {
    "delivery": _delivery("deferred", "451", "4.2.0", "451 4.2.0 Greylisted, try again later"),
    "bounce": {"type": "soft", "classification": "greylisted", "reason": "greylisted"},
}
_DELIVERED = {"delivery": _delivery("delivered", "250", "2.0.0", "250 2.0.0 OK")}

_EVENTS: dict[str, tuple[Event, ...]] = {
    "bounce": (Event("bounced", 1, True, _BOUNCED),),
    "later-bounce": (Event("bounced", 1, True, _BOUNCED),),
    "later-failed": (
        Event("failed", 1, True, {"delivery": {"status": "failed"}, "failure": {"reason": "no MX record"}}),
    ),
    "deferred-then-bounce": (Event("deferred", 1, False, _DEFERRED), Event("bounced", 2, True, _BOUNCED)),
    "complain": (
        Event("delivered", 1, True, _DELIVERED),
        Event("complained", 2, True, {"delivery": {"status": "complained"}, "complaint": {"type": "abuse"}}),
    ),
    "dropped": (
        Event(
            "rejected",
            1,
            True,
            {"delivery": {"status": "rejected"}, "rejection": {"reason": "suppressed", "party": "recipient"}},
        ),
    ),
}
_OF_ALL_OTHERS = (Event("delivered", 1, True, _DELIVERED),)


def fate_of(recipient: str) -> tuple[str, float]:
    """The fate that an address names, and its seconds."""
    word = recipient.rpartition("@")[0].lower().rpartition("+")[2]
    timed = _TIMED.fullmatch(word)
    if timed is None:
        return word, DEFAULT_SECONDS
    seconds = float(timed["number"]) / (1000 if timed["unit"] == "ms" else 1)
    return timed["fate"], min(seconds, SLOWEST)


def events_of(recipient: str, *, suppressed: bool) -> tuple[Event, ...]:
    """What becomes known of a recipient after the answer."""
    return _EVENTS.get("dropped" if suppressed else fate_of(recipient)[0], _OF_ALL_OTHERS)


class Sent(NamedTuple):
    """The message that events are about. at: when it was accepted, in seconds since the epoch."""

    at: float
    sender: str
    message_id: str
    subject: str


def bodies(
    sent: Sent, recipient: str, *, suppressed: bool, delay: float
) -> Iterator[tuple[float, dict[str, Any]]]:
    """The events about one recipient: in how many seconds each is published, and what it says.

    delay: seconds between the answer and the first event, and from one to the next.
    """
    domain = sent.sender.rpartition("@")[2].lower()
    for event in events_of(recipient, suppressed=suppressed):
        later = event.after * delay
        at = datetime.fromtimestamp(sent.at, UTC) + timedelta(seconds=later)
        subject = {} if event.type == "complained" else {"subject": sent.subject}
        yield (
            later,
            {
                "type": f"cf.email.sending.message.{event.type}",
                "source": {"type": "email.sending", "zoneId": domain.encode().hex(), "domain": domain},
                "payload": {
                    "eventId": secrets.token_hex(16),
                    "messageId": sent.message_id,
                    "sender": sent.sender,
                    "recipient": recipient,
                    **subject,
                    "terminal": event.terminal,
                    **event.details,
                },
                "metadata": {
                    "accountId": "sandbox",
                    "eventSubscriptionId": "sandbox",
                    "eventSchemaVersion": 1,
                    "eventTimestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                },
            },
        )
