"""Repair: a message that Cloudflare calls invalid, without what it is known to refuse.

Known from Cloudflare's page on headers and from people who relay mail over send_raw:

- Fields that Cloudflare sets itself, and traces of other servers, go. A DKIM signature is one of them: it
  would be broken anyway, since Cloudflare replaces fields that are signed.
- Display names in From get quotes where they need them (`display_names`).

Cloudflare also calls Date, Message-ID, MIME-Version, Content-Type and Content-Transfer-Encoding its own. They
stay: it replaces the first two without complaint, and the others say how to read the body. Bcc stays too: it
is not known to be refused (SMTP2CF_DROP_HEADERS drops it).

Only whole fields of the message's own header change; nothing else, and nothing in the body. Knows no API.
"""

from collections.abc import Collection
from typing import NamedTuple

from smtp2cf.message.display_names import quote_display_names
from smtp2cf.message.header import Field, parse_header

FROM = "From"
KINDS = (
    "Received",
    "Return-Path",
    "Delivered-To",
    "DKIM-Signature",
    "ARC-*",
    "Authentication-Results",
    "Feedback-ID",
    "TLS-Required",
    "TLS-Report-*",
    "CFBL-*",
    "X-Google-*",
    "X-Gm-*",
    FROM,
)
"""What is repaired: fields that go, * standing for the rest of a name, and From."""
MAX_FIELDS = 10_000
"""Fields that are looked at."""
FROM_LIMIT = 64 * 1024
"""Octets of From that are looked at, in all fields of that name. To tell names apart takes a second for each
megabyte, while nobody else is served; Cloudflare takes 16 KB of custom header fields."""

_BY_NAME = {kind.lower(): kind for kind in KINDS if not kind.endswith("*")}
_BY_PREFIX = {kind[:-1].lower(): kind for kind in KINDS if kind.endswith("*")}


class Repaired(NamedTuple):
    """changed: what was repaired, of KINDS; if it is empty, message is the very same object."""

    message: bytes
    changed: tuple[str, ...]


def repair(message: bytes, kinds: Collection[str] = KINDS) -> Repaired:
    """The message with what is of these kinds repaired. message: UTF-8."""
    pieces: list[bytes] = []
    changed: set[str] = set()
    copied = looked_at = 0
    for field in parse_header(message, 0, len(message), most=MAX_FIELDS).fields:
        kind = _kind(field.name)
        if kind not in kinds:
            continue
        if kind == FROM and (looked_at := looked_at + field.end - field.start) > FROM_LIMIT:
            continue
        written = message[field.start : field.end]
        repaired = _with_quotes(message, field) if kind == FROM else b""
        if repaired != written:
            changed.add(kind)
            pieces += [message[copied : field.start], repaired]
            copied = field.end
    if not changed:
        return Repaired(message, ())
    return Repaired(b"".join([*pieces, message[copied:]]), tuple(kind for kind in KINDS if kind in changed))


def _kind(name: str) -> str:
    """The kind a field of this name is of, "" for none."""
    kind = _BY_NAME.get(name, "")
    return kind or next((kind for prefix, kind in _BY_PREFIX.items() if name.startswith(prefix)), "")


def _with_quotes(message: bytes, field: Field) -> bytes:
    value = message[field.value : field.end].decode()
    return message[field.start : field.value] + quote_display_names(value).encode()
