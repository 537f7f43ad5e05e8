"""The messages the sandbox accepted: in memory, newest last, limited in number and size.

Knows nothing of HTTP and of how the outcomes were decided.
"""

import hashlib
import re
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from functools import cached_property

from smtp2cf.reply import UNPRINTABLE

_HEADER_LIMIT = 256 * 1024
"""Octets at the start of a message in which its header is looked for."""

_SUBJECT_LIMIT = 998
"""Characters of the Subject that are decoded, Cloudflare's own limit: some codecs are quadratic."""

_END_OF_HEADER = re.compile(rb"(?:\A|\n)\r?\n")
_SUBJECT = re.compile(rb"^subject[ \t]*:(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
_FOLD = re.compile(r"\r?\n(?=[ \t])")


@dataclass(frozen=True, eq=False)
class AcceptedMessage:
    """One message that send_raw accepted, and what became of each recipient.

    received_at: seconds since the epoch. mime_message: the bytes of the JSON string, in UTF-8.
    message_id: what the answer gave, with its angle brackets. A recipient that is in none of the
    four lists was in none of the answer's.
    """

    id: str
    received_at: float
    from_: str
    recipients: tuple[str, ...]
    mime_message: bytes = field(repr=False)
    message_id: str
    delivered: tuple[str, ...]
    queued: tuple[str, ...]
    permanent_bounces: tuple[str, ...]
    suppressed_recipients: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """The hash of mime_message, in hexadecimal."""
        return hashlib.sha256(self.mime_message).hexdigest()

    @cached_property
    def subject(self) -> str:
        """The first Subject, decoded (RFC 2047) for a person to read, "" where there is none."""
        match = _SUBJECT.search(header_of(self.mime_message))
        return _readable(match[1].decode("utf-8", "replace")) if match else ""

    def outcome(self) -> dict[str, object]:
        """The `result` of send_raw's answer."""
        return {
            "delivered": self.delivered,
            "permanent_bounces": self.permanent_bounces,
            "queued": self.queued,
            "message_id": self.message_id,
            "suppressed_recipients": self.suppressed_recipients,
        }

    def summary(self) -> dict[str, object]:
        """The message's entry in the list people look at."""
        return {
            "id": self.id,
            "received_at": datetime.fromtimestamp(self.received_at, UTC).isoformat(),
            "from": self.from_,
            "recipients": self.recipients,
            "size": len(self.mime_message),
            "sha256": self.sha256,
            "subject": self.subject,
            **self.outcome(),
        }


class Mailbox:
    """The newest messages: at most `keep`, and at most `keep_bytes` bytes.

    messages: oldest first. count: how many were accepted since the start, whatever was forgotten.
    """

    def __init__(self, keep: int, keep_bytes: int) -> None:
        self.messages: deque[AcceptedMessage] = deque()
        self.count = 0
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._bytes = 0

    def add(self, message: AcceptedMessage) -> None:
        """Keep a message; drop the oldest to make room."""
        if not self.messages:  # a test may have cleared the deque itself
            self._bytes = 0
        self.count += 1
        self.messages.append(message)
        self._bytes += len(message.mime_message)
        while self.messages and (len(self.messages) > self._keep or self._bytes > self._keep_bytes):
            self._bytes -= len(self.messages.popleft().mime_message)

    def get(self, message_id: str) -> AcceptedMessage | None:
        """The message with this id; None if there is none or it was dropped."""
        return next((message for message in reversed(self.messages) if message.id == message_id), None)


def header_of(message: bytes) -> bytes:
    """The header section: everything before the first empty line, 256 KiB at most."""
    head = message[:_HEADER_LIMIT]
    end = _END_OF_HEADER.search(head)
    return head[: end.start()] if end else head


def _readable(value: str) -> str:
    raw = _FOLD.sub("", value).strip()[:_SUBJECT_LIMIT]
    try:
        text = str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, ValueError):
        text = raw  # an encoded word that is none: people see it as it came
    return UNPRINTABLE.sub(" ", text)
