"""Missing fields: the Date, From and Message-ID that a message should have (RFC 5322 §3.6), and lacks.

They go in front of the header, and nothing else changes. Cloudflare writes a Date and a Message-ID of its
own; those added here are what the log and a DSN can name.
"""

import re
from datetime import UTC, datetime
from email.utils import format_datetime, make_msgid

from smtp2cf.envelope import sent_form
from smtp2cf.message.header import fields_end, fields_named
from smtp2cf.reply import RefusedError

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+")


def add_missing(message: bytes, *, sender: str, received_at: float, hostname: str) -> bytes:
    """The message with the fields it lacks; the same object if it lacks none.

    message: with CRLF line ends. sender: who From names, "" for nobody, and then none is added. received_at:
    seconds since the epoch. hostname: where a Message-ID is from whose sender has no domain.
    """
    there = {field.name for field in fields_named(message, ("date", "from", "message-id"))}
    if len(there) == 3:
        return message
    added = []
    if "date" not in there:
        added.append(f"Date: {format_datetime(datetime.fromtimestamp(received_at, UTC))}")
    if "from" not in there and (address := _sendable(sender) or _name(sender)):
        added.append(f"From: {address}")
    if "message-id" not in there:
        added.append(f"Message-ID: {make_msgid(domain=_sendable(sender).rpartition('@')[2] or hostname)}")
    if not added:
        return message
    # What begins with text has no header: it is all body.
    end = "" if fields_end(message) or message.startswith(b"\r\n") else "\r\n"
    return "".join([*(f"{field}\r\n" for field in added), end]).encode() + message


def _name(sender: str) -> str:
    """A sender without a domain, which becomes another before it goes out, From and all."""
    return sender if _NAME.fullmatch(sender) else ""


def _sendable(address: str) -> str:
    try:
        return sent_form(address) if "@" in address else ""
    except RefusedError:
        return ""
