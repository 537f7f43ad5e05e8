"""Missing fields: the Date, From and Message-ID that a message should have (RFC 5322 §3.6), and lacks.

They go in front of the header, and nothing else changes. Cloudflare writes a Date and a Message-ID of its
own; those added here are what the log and a DSN can name.
"""

from datetime import UTC, datetime
from email.utils import format_datetime, make_msgid

from smtp2cf.envelope import sent_form
from smtp2cf.message.header import parse_header
from smtp2cf.reply import RefusedError

MAX_FIELDS = 10_000
"""Fields that are looked at."""


def add_missing(message: bytes, *, sender: str, received_at: float, hostname: str) -> bytes:
    """The message with the fields it lacks; the same object if it lacks none.

    message: with CRLF line ends. sender: who From names, "" for nobody, and then none is added. received_at:
    seconds since the epoch. hostname: where a Message-ID is from whose sender has no domain.
    """
    fields = parse_header(message, 0, len(message), most=MAX_FIELDS).fields
    there = {field.name for field in fields}
    added = []
    if "date" not in there:
        added.append(f"Date: {format_datetime(datetime.fromtimestamp(received_at, UTC))}")
    if "from" not in there and (address := _sendable(sender)):
        added.append(f"From: {address}")
    if "message-id" not in there:
        added.append(f"Message-ID: {make_msgid(domain=_sendable(sender).rpartition('@')[2] or hostname)}")
    if not added:
        return message
    # What begins with text has no header: it is all body.
    end = "" if fields or message.startswith(b"\r\n") else "\r\n"
    return "".join([*(f"{field}\r\n" for field in added), end]).encode() + message


def _sendable(address: str) -> str:
    try:
        return sent_form(address) if "@" in address else ""
    except RefusedError:
        return ""
