"""Events: what became of mail after the answer, pulled from a Cloudflare Queue.

A subscription publishes each recipient's fate there, about a minute later, at least once. What is pulled is
leased: it comes again unless it is acknowledged in time. Bodies come in base64, and from older queues as they
are; nothing in them is trusted.

https://developers.cloudflare.com/email-service/ and …/queues/configuration/pull-consumers/. Knows no mail,
no spool and no settings.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from smtp2cf.cloudflare.api import Api
from smtp2cf.cloudflare.errors import permission
from smtp2cf.reply import Reply, one_line

BATCH = 100
"""Messages of one pull, the most that Cloudflare hands out."""
LEASE = 120.0
"""Seconds in which a batch is dealt with; after that it is handed out again."""
PERMISSION = "Queues: Edit, with Queues: Read"
"""What a token needs to pull and to acknowledge."""
PREFIX = "cf.email.sending.message."
"""What the type of an event begins with."""
TEXT_LIMIT = 500
"""Characters of any text in an event."""
ADDRESS_LIMIT = 320
SUBJECT_LIMIT = 998

EXPIRED = "5.4.7"
"""Delivery time expired (RFC 3463 §3.5): what a soft bounce ends with."""
UNROUTABLE = "5.4.4"

_ENHANCED = re.compile(r"5\.[0-9]{1,3}\.[0-9]{1,3}")
_CODE = re.compile(r"5[0-9][0-9]")
_LEADING_CODES = re.compile(r"[0-9]{3}[ -](?:[0-9]\.[0-9]{1,3}\.[0-9]{1,3} )?")

DELIVERED = "delivered"
DEFERRED = "deferred"
COMPLAINED = "complained"
BOUNCED = "bounced"
FAILED = "failed"
REJECTED = "rejected"
FAILURES = frozenset({BOUNCED, FAILED, REJECTED})
"""Kinds after which the recipient will never get the mail."""
KINDS = FAILURES | {DELIVERED, DEFERRED, COMPLAINED}


class Event(NamedTuple):
    """What became known of one recipient of one call.

    id: the event's own. kind: one of KINDS, or another word that is not known here. message_id: Cloudflare's,
    without its angle brackets. subject: None where it isn't said. at: seconds since the epoch, 0 for unknown.
    terminal: nothing else is to come. reply: the outcome in the words of SMTP; permanent for FAILURES.
    """

    id: str
    kind: str
    message_id: str
    sender: str
    recipient: str
    subject: str | None
    at: float
    terminal: bool
    reply: Reply


class Pulled(NamedTuple):
    """One message of the queue. event: None if it is none of ours. attempts: how often it was handed out."""

    lease: str
    attempts: int
    event: Event | None


class EventQueue:
    """One account's queue. Every method raises SendError."""

    def __init__(self, api: Api, queue_id: str) -> None:
        self._api = api
        self._path = f"{api.account}/queues/{queue_id}/messages"

    async def pull(self) -> list[Pulled]:
        """Lease what is there, up to BATCH messages."""
        body = {"batch_size": BATCH, "visibility_timeout_ms": int(LEASE * 1000)}
        with permission(PERMISSION):
            answer = await self._api.call("POST", f"{self._path}/pull", json=body)
        messages = answer.result.get("messages") if isinstance(answer.result, dict) else None
        return [read for each in messages or () if (read := read_message(each)) is not None]

    async def settle(self, done: Iterable[str], later: Mapping[str, float]) -> None:
        """Acknowledge leases, and hand others back to be pulled again after that many seconds."""
        acks = [{"lease_id": lease} for lease in done]
        retries = [{"lease_id": lease, "delay_seconds": int(delay)} for lease, delay in later.items()]
        if acks or retries:
            with permission(PERMISSION):
                await self._api.call("POST", f"{self._path}/ack", json={"acks": acks, "retries": retries})


def read_message(message: Any) -> Pulled | None:
    """One message of a pull; None if it can't even be acknowledged."""
    lease = message.get("lease_id") if isinstance(message, dict) else None
    if not isinstance(lease, str) or not lease:
        return None
    attempts = message.get("attempts")
    return Pulled(lease, attempts if isinstance(attempts, int) else 1, read_event(message.get("body")))


def read_event(body: object) -> Event | None:
    """The event in a body, None if there is none that says whom it is about."""
    document = _document(body)
    payload, metadata = _object(document.get("payload")), _object(document.get("metadata"))
    name = _text(document.get("type"), TEXT_LIMIT)
    message_id = _text(payload.get("messageId"), SUBJECT_LIMIT).removeprefix("<").removesuffix(">")
    recipient = _text(payload.get("recipient"), ADDRESS_LIMIT)
    if not name.startswith(PREFIX) or not message_id or not recipient:
        return None
    kind = name.removeprefix(PREFIX)
    subject = payload.get("subject")
    return Event(
        id=_text(payload.get("eventId"), TEXT_LIMIT),
        kind=kind,
        message_id=message_id,
        sender=_text(payload.get("sender"), ADDRESS_LIMIT),
        recipient=recipient,
        subject=one_line(subject, SUBJECT_LIMIT) if isinstance(subject, str) else None,
        at=_moment(metadata.get("eventTimestamp")),
        terminal=payload.get("terminal") is True or kind in FAILURES,
        reply=_reply(kind, payload),
    )


def _document(body: object) -> dict[str, Any]:
    """The JSON object in a body: given as it is, as text, or as text in base64."""
    if isinstance(body, dict):
        return body
    if not isinstance(body, str):
        return {}
    text = body.encode()
    if not text.lstrip().startswith(b"{"):
        try:
            text = base64.b64decode(text, validate=True)
        except ValueError:
            return {}
    try:
        return _object(orjson.loads(text))
    except orjson.JSONDecodeError:
        return {}


def _reply(kind: str, payload: Mapping[str, Any]) -> Reply:
    delivery, bounce = _object(payload.get("delivery")), _object(payload.get("bounce"))
    said = _LEADING_CODES.sub("", _text(delivery.get("smtpResponse"), TEXT_LIMIT))
    reason = said or _text(bounce.get("reason"), TEXT_LIMIT)
    if kind == DELIVERED:
        return Reply(250, "2.0.0", f"delivered: {said}" if said else "delivered")
    if kind == DEFERRED:
        return Reply(
            451, "4.4.0", f"Cloudflare tries again: {reason}" if reason else "Cloudflare tries again"
        )
    if kind == COMPLAINED:
        return Reply(250, "2.0.0", "the recipient reported it as spam")
    if kind == REJECTED:
        return _rejected(_object(payload.get("rejection")))
    if kind == FAILED:
        why = _text(_object(payload.get("failure")).get("reason"), TEXT_LIMIT) or "no reason given"
        return Reply(550, UNROUTABLE, f"Cloudflare could not deliver it: {why}")
    if kind != BOUNCED:
        return Reply(250, "2.0.0", f"event {kind[:TEXT_LIMIT]}")
    return _bounced(delivery, reason or "no reason given")


def _rejected(rejection: Mapping[str, Any]) -> Reply:
    why = _text(rejection.get("reason"), TEXT_LIMIT) or "no reason given"
    detail = _text(rejection.get("detail"), TEXT_LIMIT)
    return Reply(550, "5.7.1", f"Cloudflare refused to deliver it: {why}{f': {detail}' if detail else ''}")


def _bounced(delivery: Mapping[str, Any], reason: str) -> Reply:
    """A bounce is final. One whose last answer was temporary ended because Cloudflare's time was over."""
    code = str(delivery.get("smtpStatusCode") or "")
    enhanced = _text(delivery.get("smtpEnhancedStatusCode"), TEXT_LIMIT)
    if not _CODE.fullmatch(code) and not _ENHANCED.fullmatch(enhanced):
        return Reply(550, EXPIRED, f"Cloudflare gave up: {reason}")
    number = int(code) if _CODE.fullmatch(code) else 550
    status = enhanced if _ENHANCED.fullmatch(enhanced) else "5.1.1" if number == 550 else "5.0.0"
    return Reply(number, status, f"the recipient's server said: {reason}")


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object, limit: int) -> str:
    return one_line(value, limit) if isinstance(value, str) else ""


def _moment(value: object) -> float:
    """Seconds since the epoch, 0.0 where that can't be read."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None:
            return 0.0
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
