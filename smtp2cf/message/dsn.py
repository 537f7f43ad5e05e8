"""Delivery status notifications (DSNs): tell a sender what became of a message.

Decides who gets one (RFC 3461 §4.1, §6.2), and builds it: a multipart/report (RFC 6522) with a text for
people, a delivery-status (RFC 3464; RFC 6533 if an address is not ASCII), and the original message or its
header. It is marked as automatic (RFC 3834). `email` writes and folds the fields; the original's bytes are
inserted unchanged, which `email` can't do.

Loops are impossible: a DSN is sent from the null reverse path, which never gets one.
Knows nothing of the spool and of how a DSN is sent.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from email.utils import make_msgid
from enum import Enum
from typing import NamedTuple

from smtp2cf.envelope import Envelope
from smtp2cf.message.causes import LATER, cause_of
from smtp2cf.message.charset import decode
from smtp2cf.message.dsn_fields import (
    date,
    decode_orcpt,
    decode_xtext,
    field_lines,
    host_name,
    inline,
    lines,
    mailbox,
    quoted,
    wrapped,
)
from smtp2cf.message.eightbit import is_utf8
from smtp2cf.message.encoded_words_decode import decode_words, mend_words
from smtp2cf.message.header import drop_headers, split_header
from smtp2cf.message.newlines import normalize_newlines
from smtp2cf.message.transfer import quoted_printable
from smtp2cf.reply import Reply, few_in_words, rough_duration

FULL_LIMIT = 64 * 1024
"""Bytes of the largest original that is returned in full, and of the most that is shown of a header."""

GIVEN_LIMIT = 3
"""Recipients that the text names for whom mail went to another address."""
NAMED_LIMIT = 100
"""Recipients that the text names; the delivery-status has them all."""

OPERATOR_SETTING = "SMTP2CF_OPERATOR_GETS_BOUNCES"
EXPIRED_STATUS = "4.4.7"
"""Delivery time expired (RFC 3463 §3.5). Of class 4, as §2 has it for a report of a failure after which
sending again may succeed."""

_SUBJECT_LIMIT = 200
_LINE_LIMIT = 998


class Event(Enum):
    """What a recipient's part of a DSN is about: the Action (RFC 3464 §2.3.3), and why."""

    FAILED = "failed"
    """Refused, or given up because mail can't wait without a spool."""
    EXPIRED = "expired"
    """Deferred until it expired; the Action is failed."""
    DELAYED = "delayed"
    """Not yet delivered; still being tried."""
    DELIVERED = "delivered"
    """The recipient's server took it."""
    RELAYED = "relayed"
    """Passed on to a system that does not report deliveries."""


class Report(NamedTuple):
    """What became of one recipient.

    reply: the last answer. last_attempt: seconds since the epoch, None for the time of the DSN.
    retry_until: seconds since the epoch, if it is DELAYED.
    """

    recipient: str
    event: Event
    reply: Reply
    last_attempt: float | None = None
    retry_until: float | None = None


class _Part(NamedTuple):
    content_type: str
    description: str
    body: bytes
    encoding: str = ""


class _Kind(NamedTuple):
    """What belongs to an event: the NOTIFY that asks for it, the Action, the Subject, the text."""

    notify: str
    action: str
    subject: str
    told: str


_UNDELIVERED = "Undelivered Mail Returned to Sender"
_SUCCESS = "Successful Mail Delivery Report"
_KINDS = {
    Event.FAILED: _Kind("FAILURE", "failed", _UNDELIVERED, "could not be delivered to"),
    Event.EXPIRED: _Kind(
        "FAILURE", "failed", _UNDELIVERED, "was tried for {age} and has now been given up. It did not reach"
    ),
    Event.DELAYED: _Kind(
        "DELAY", "delayed", "Delayed Mail (still being retried)", "could not be delivered yet to"
    ),
    Event.DELIVERED: _Kind("SUCCESS", "delivered", _SUCCESS, "was delivered to"),
    Event.RELAYED: _Kind(
        "SUCCESS", "relayed", _SUCCESS, "was passed on to a mail system that sends no delivery reports, for"
    ),
}
"""The most important first: the first that occurs sets the DSN's subject."""

_FAILURES = (Event.FAILED, Event.EXPIRED)

_STATUS = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_SUBJECT = re.compile(rb"^subject[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)", re.IGNORECASE | re.MULTILINE)
_MESSAGE_ID = re.compile(
    rb"^message-id[ \t]*+:(?:\r\n)?[ \t]*+(<[!-;=?A-~]{1,200}@[!-;=?A-~]{1,200}>)[ \t]*+\r$",
    re.IGNORECASE | re.MULTILINE,
)
_NOT_7BIT = re.compile(rb"[^\t\r\n -~]|^[^\r\n]{%d}" % (_LINE_LIMIT + 1), re.MULTILINE)


def wanted(envelope: Envelope, recipient: str, event: Event) -> bool:
    """Whether the sender wants to be told (RFC 3461 §4.1, §6.2).

    Never for the null reverse path, which DSNs come from, and never against NOTIFY. Without NOTIFY, only of
    failures.
    """
    if not envelope.reverse_path:
        return False
    asked = envelope.notify.get(recipient, "FAILURE").upper().split(",")
    return _KINDS[event].notify in asked


def build(
    envelope: Envelope,
    message: bytes,
    reports: Sequence[Report],
    *,
    hostname: str,
    sender: str,
    now: float,
    to: str = "",
    copy: bool = False,
) -> bytes:
    """The DSN about `message`: bytes with CRLF line ends, in UTF-8.

    reports: at least one. hostname: the reporting host. sender: the address in From. now: seconds since the
    epoch. to: who is told, "" for the message's sender. copy: it is the operator's. The original is
    attached as RET asks: in full if something failed and it is UTF-8 and at most FULL_LIMIT bytes, else its
    header; bare newlines in it become CRLF. Raises ValueError for the null reverse path and for no reports.
    """
    if not envelope.reverse_path or not reports:
        raise ValueError("a DSN needs a sender to go to and a recipient to report on")
    hostname = host_name(hostname)
    to = to or envelope.sender_as_given
    message = normalize_newlines(message)
    header = _shown_header(message)
    original, note = _original(envelope, message, header, reports, whose="The" if copy else "Your")
    text = _text(envelope, reports, hostname, now, _subject(header), note, copy=copy)
    parts = [
        _Part("text/plain; charset=utf-8", "Notification", text),
        _status(envelope, reports, hostname, now),
    ]
    parts += [original] if original else []
    boundary, body = _multipart(parts)
    report_type = parts[1].content_type.partition("/")[2]
    fields = [
        _from(sender),
        ("To", mailbox(to)),
        ("Subject", next(kind.subject for event, kind in _KINDS.items() if _has(reports, event))),
        ("Date", date(now)),
        ("Message-ID", make_msgid(domain=hostname)),
        *_references(header),
        ("Auto-Submitted", "auto-replied"),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/report; report-type={report_type};\r\n boundary="{boundary}"'),
    ]
    if not body.isascii():
        fields.append(("Content-Transfer-Encoding", "8bit"))
    return field_lines(fields) + b"\r\n" + body


def from_sender(content: bytes, sender: str) -> bytes:
    """A DSN that `build` made, with another address in From."""
    return field_lines([_from(sender)]) + drop_headers(content, frozenset({"from"}))


def _from(sender: str) -> tuple[str, str]:
    return "From", f"Mail Delivery System <{mailbox(sender)}>"


def _text(
    envelope: Envelope,
    reports: Sequence[Report],
    hostname: str,
    now: float,
    subject: str,
    note: str,
    *,
    copy: bool,
) -> bytes:
    """The part for people: what happened and what they can do; then the answers, for the postmaster.

    Recipients with the same outcome are named together.
    """
    groups: dict[tuple[Event, Reply, float | None], list[str]] = {}
    importance = list(_KINDS)
    for report in sorted(reports, key=lambda report: importance.index(report.event))[:NAMED_LIMIT]:
        alike = groups.setdefault((report.event, report.reply, report.retry_until), [])
        alike.append(_recipient(envelope, report.recipient))
    about = f'"{subject}"' if subject else "no subject"
    age = rough_duration(now - envelope.received_at)
    given = envelope.sender_as_given if copy else envelope.given_reverse_path
    whose = "Your message" if given is None else f"The message from <{inline(given)}>"
    who = f"{whose} ({about}, received {date(envelope.received_at)})"
    paragraphs = [f"This is the mail relay {hostname}."]
    paragraphs += [f"This is the operator's copy ({OPERATOR_SETTING})."] if copy else []
    for (event, reply, retry_until), recipients in groups.items():
        paragraphs.append(wrapped(f"{who} {_KINDS[event].told.format(age=age)}"))
        paragraphs.append("\r\n".join(f"    {recipient}" for recipient in recipients))
        if event not in (Event.DELIVERED, Event.RELAYED):
            paragraphs.append(wrapped(_why(event, reply, retry_until)))
        who = "It"
    if len(reports) > NAMED_LIMIT:
        paragraphs.append(f"{len(reports) - NAMED_LIMIT} more recipients are in the delivery report.")
    paragraphs += [wrapped(note), f"For the postmaster: the queue id is {inline(envelope.queue_id)}."]
    paragraphs += [wrapped(_sent_as(envelope))] if envelope.given_reverse_path is not None else []
    paragraphs += [
        f"{_answer_for(recipients) if len(groups) > 1 else 'The answer was:'}\r\n"
        + wrapped(quoted(str(reply)), indent="    ")
        for (_, reply, _), recipients in groups.items()
    ]
    return ("\r\n\r\n".join(paragraphs) + "\r\n").encode()


def _answer_for(recipients: Sequence[str]) -> str:
    return f"The answer for {few_in_words(recipients, 1)} was:"


def _recipient(envelope: Envelope, recipient: str) -> str:
    """A recipient, and whom the client named instead."""
    given = envelope.given_forward_paths.get(recipient, ())
    named = few_in_words([f"<{inline(who)}>" for who in given], GIVEN_LIMIT)
    return f"<{inline(recipient)}>" + (f" (for {named})" if given else "")


def _sent_as(envelope: Envelope) -> str:
    given, sent = inline(envelope.sender_as_given), inline(envelope.reverse_path)
    return f"The message was sent as <{sent}> instead of <{given}>."


def _why(event: Event, reply: Reply, retry_until: float | None) -> str:
    """Why it happened and what to do about it."""
    why, advice = cause_of(reply)
    if event is Event.DELAYED:
        until = f" until {date(retry_until)}" if retry_until is not None else ""
        advice = f"It will be tried again{until}. There is no need to send it again."
    elif event is Event.EXPIRED:
        advice = LATER
    return f"{why} {advice}"


def _status(envelope: Envelope, reports: Sequence[Report], hostname: str, now: float) -> _Part:
    """The part for programs (RFC 3464 §2.1), in its international form if an address needs that."""
    about_message = [("Reporting-MTA", f"dns; {hostname}")]
    if envelope.envid and (envid := inline(decode_xtext(envelope.envid)).strip()):
        about_message.append(("Original-Envelope-Id", envid))
    about_message.append(("X-Smtp2cf-Queue-ID", inline(envelope.queue_id)))
    if envelope.given_reverse_path is not None:
        about_message.append(("X-Smtp2cf-Sender", f"rfc822; {inline(envelope.given_reverse_path)}"))
    about_message.append(("Arrival-Date", date(envelope.received_at)))
    blocks = [about_message]
    blocks += [_recipient_fields(report, envelope.orcpt.get(report.recipient), now) for report in reports]
    body = b"\r\n".join(field_lines(block) for block in blocks)
    subtype = "delivery-status" if body.isascii() else "global-delivery-status"
    return _Part(f"message/{subtype}", "Delivery report", body)


def _recipient_fields(report: Report, orcpt: str | None, now: float) -> list[tuple[str, str]]:
    """The fields of one recipient (RFC 3464 §2.3)."""
    event, reply = report.event, report.reply
    fields = []
    if orcpt and (original := decode_orcpt(orcpt)):
        fields.append(("Original-Recipient", original))
    address = inline(report.recipient)
    fields.append(("Final-Recipient", f"{'rfc822' if address.isascii() else 'utf-8'}; {address}"))
    fields.append(("Action", _KINDS[event].action))
    status = reply.status if _STATUS.fullmatch(reply.status) else f"{str(reply.code)[0]}.0.0"
    fields.append(("Status", EXPIRED_STATUS if event is Event.EXPIRED else status))
    # As a client without SMTPUTF8 would have got it.
    answer = str(reply).encode("ascii", "backslashreplace").decode("ascii")
    fields.append(("Diagnostic-Code", "\r\n ".join(lines(f"smtp; {quoted(answer)}", 60))))
    fields.append(("Last-Attempt-Date", date(now if report.last_attempt is None else report.last_attempt)))
    if event is Event.DELAYED and report.retry_until is not None:
        fields.append(("Will-Retry-Until", date(report.retry_until)))
    return fields


def _original(
    envelope: Envelope, message: bytes, header: bytes, reports: Sequence[Report], *, whose: str
) -> tuple[_Part | None, str]:
    """The third part, None if there is nothing to attach, and the sentence about it."""
    full = envelope.ret == "FULL" and any(_has(reports, event) for event in _FAILURES)
    too_large = len(message) > FULL_LIMIT
    if full and not too_large and is_utf8(message):
        subtype = "rfc822" if header.isascii() else "global"
        part = _Part(f"message/{subtype}", "Undelivered Message", message)
        return part, f"{whose} message is attached."
    reason = ""
    if full:
        reason = f" {whose} message is not: it {'is too large' if too_large else 'is in no known charset'}."
    if not header:
        return None, "There is no header to attach." + reason
    note = f"The header of {whose.lower()} message is attached." + reason
    if is_utf8(header) and not header.isascii():
        return _Part("message/global-headers", "Message Headers", header), note
    if _NOT_7BIT.search(header):
        encoded = quoted_printable(header)
        return _Part("text/rfc822-headers", "Message Headers", encoded, "quoted-printable"), note
    return _Part("text/rfc822-headers", "Message Headers", header), note


def _shown_header(message: bytes) -> bytes:
    """The header, cut before the first field that exceeds FULL_LIMIT bytes."""
    header, _ = split_header(message)
    if len(header) <= FULL_LIMIT:
        return header
    end = header.rfind(b"\r\n", 0, FULL_LIMIT) + 2
    while end > 1 and header[end : end + 1] in (b" ", b"\t"):
        end = header.rfind(b"\r\n", 0, end - 2) + 2
    return header[:end] if end > 1 else b""


def _subject(header: bytes) -> str:
    """The original's subject, decoded, on one line and shortened."""
    found = _SUBJECT.search(header)
    text = decode(mend_words(found[1][: 12 * _SUBJECT_LIMIT]), "") if found else ""
    return quoted(decode_words(text), _SUBJECT_LIMIT)


def _references(header: bytes) -> Iterator[tuple[str, str]]:
    """Fields that link the DSN to the original in a mail reader (RFC 3834 §3.1.5), if its id is valid."""
    if found := _MESSAGE_ID.search(header):
        yield "In-Reply-To", found[1].decode("ascii")
        yield "References", found[1].decode("ascii")


def _multipart(parts: Iterable[_Part]) -> tuple[str, bytes]:
    """A new boundary, and the parts with it in between."""
    # 128 random bits, drawn after the parts were written: none of them can contain it.
    boundary = f"=_{secrets.token_hex(16)}"
    delimiter = b"--" + boundary.encode("ascii")
    lines = [b"This is a message in MIME format.\r\n"]
    for part in parts:
        fields = [("Content-Type", part.content_type), ("Content-Description", part.description)]
        if encoding := part.encoding or ("" if part.body.isascii() else "8bit"):
            fields.append(("Content-Transfer-Encoding", encoding))
        lines += [delimiter, field_lines(fields), part.body]
    lines += [delimiter + b"--", b""]
    return boundary, b"\r\n".join(lines)


def _has(reports: Iterable[Report], event: Event) -> bool:
    return any(report.event is event for report in reports)
