"""What becomes known of mail after Cloudflare's answer: the log lines and the counters.

Knows nothing of queues and of Cloudflare's own words beyond the kinds of events.
"""

import structlog
from prometheus_client import Counter

from smtp2cf.envelope import Envelope
from smtp2cf.journal import mail_news, maillog
from smtp2cf.journal.metrics import Counters
from smtp2cf.journal.steps import Kind
from smtp2cf.reply import Reply

KINDS = ("delivered", "deferred", "bounced", "failed", "rejected", "complained")
"""Kinds of events that have a label; any other is `other`."""

_STEPS = {
    "delivered": Kind.EVENT_DELIVERED,
    "deferred": Kind.EVENT_DEFERRED,
    "bounced": Kind.EVENT_BOUNCED,
    "failed": Kind.EVENT_BOUNCED,
    "rejected": Kind.EVENT_BOUNCED,
    "complained": Kind.EVENT_COMPLAINED,
}

EVENTS = Counters(
    "smtp2cf_events_total",
    "Events of recipients whose mail this bridge sent, by kind",
    "kind",
    (*KINDS, "other"),
)
UNMATCHED_EVENTS = Counter(
    "smtp2cf_events_unmatched_total", "Events that match no mail which this bridge's spool sent"
)
ODD_EVENTS = Counter("smtp2cf_events_odd_total", "Messages in the queue of events that are no events of mail")

log = structlog.stdlib.get_logger("smtp2cf.events")


def told(
    kind: str,
    recipient: str,
    reply: Reply,
    message_id: str,
    *,
    envelope: Envelope | None = None,
    original_id: str = "",
    account: str = "",
) -> None:
    """Something became known of a recipient. envelope: of its mail, where that is known."""
    EVENTS.of(account)[kind if kind in KINDS else "other"] += 1
    fields: dict[str, object] = {}
    if envelope is not None:
        fields |= maillog.named(envelope)
    fields |= {"to": [recipient], "status": kind, "reply": str(reply), "message_id": message_id}
    if original_id:
        fields["original_message_id"] = original_id
    if account:
        fields["account"] = account
    if envelope is not None and (step := _STEPS.get(kind)):
        maillog.record(envelope, step, [recipient], reply=str(reply))
    level = log.info if reply.success and kind != "complained" else log.warning
    level("mail.event", **fields)
    mail_news.event(kind, reply, [recipient], fields)


def unmatched() -> None:
    """An event matches nothing that is followed, however often it was looked at."""
    UNMATCHED_EVENTS.inc()


def odd() -> None:
    """Something in the queue is no event of mail."""
    ODD_EVENTS.inc()
