"""Values for a DSN's fields and text: addresses, ids, dates and quoted text, in a form that fits a line.

None of them can break out of its line, break UTF-8 or make a line too long (RFC 5322 §2.1.1).
Knows nothing of envelopes and of what a DSN is about.
"""

import re
import textwrap
from collections.abc import Iterable
from datetime import UTC, datetime
from email.policy import compat32
from email.utils import format_datetime, quote

from smtp2cf.reply import printable

DIAGNOSTIC_LIMIT = 500
"""Characters of an answer that a DSN quotes."""
_VALUE_LIMIT = 900
"""Bytes of an address or id, so that its field fits in a line."""

_XTEXT = re.compile(r"\+([0-9A-Fa-f]{2})")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_ADDRESS_TYPE = re.compile(r"[0-9A-Za-z-]{1,40}")
_PLAIN_LOCAL = re.compile(r"""[^\s()<>\[\]:;@\\,"]+|"(?:[^"\\]|\\.)*\"""")
_NOT_IN_HOSTNAME = re.compile(r"[^!-~]|[<>@()]")
_NOT_IN_DOMAIN = re.compile(r"[^\w.:\[\]-]")

# The other policies parse a value, decode encoded words even in addresses, and may rewrite it; this one
# writes it unchanged. UTF-8 goes in as surrogates and comes out as the same bytes.
_VERBATIM = compat32.clone(linesep="\r\n", max_line_length=None)


def field_lines(fields: Iterable[tuple[str, str]]) -> bytes:
    """Header fields as lines."""
    return b"".join(
        _VERBATIM.fold_binary(
            name, value if value.isascii() else value.encode().decode("ascii", "surrogateescape")
        )
        for name, value in fields
    )


def decode_xtext(text: str) -> str:
    """Decode xtext (RFC 3461 §4); what would not be printable ASCII stays encoded."""
    return _XTEXT.sub(lambda found: _printable(found, below=0x7F), text)


def decode_orcpt(orcpt: str) -> str | None:
    """Original-Recipient from ORCPT (RFC 3464 §2.3.1, RFC 6533 §3); None if that is invalid."""
    kind, _, encoded = orcpt.partition(";")
    address = decode_xtext(encoded)
    if kind.lower() == "utf-8":
        address = _EMBEDDED.sub(lambda found: _printable(found, below=0x110000), address)
    address = inline(address).strip()
    return f"{kind}; {address}" if address and _ADDRESS_TYPE.fullmatch(kind) else None


def _printable(found: re.Match[str], below: int) -> str:
    """The character with this hexadecimal number, or the match itself if it isn't printable."""
    number = int(found[1], 16)
    return chr(number) if number < below and chr(number).isprintable() else found[0]


def mailbox(address: str) -> str:
    """An address for a header field, its local part quoted if necessary (RFC 5322 §3.4.1)."""
    address = inline(address)
    local, at, domain = address.rpartition("@") if "@" in address else (address, "", "")
    if not _PLAIN_LOCAL.fullmatch(local):
        local = f'"{quote(local)}"'
    return f"{local}{at}{_NOT_IN_DOMAIN.sub('?', domain)}"


def host_name(name: str) -> str:
    """The reporting host's name, as it fits in a field and a message id."""
    return _NOT_IN_HOSTNAME.sub("?", name) or "localhost"


def inline(text: str) -> str:
    """The text, made safe for one line: printable and not too long."""
    text = printable(text)
    octets = text.encode()
    return text if len(octets) <= _VALUE_LIMIT else octets[:_VALUE_LIMIT].decode(errors="ignore")


def quoted(text: str, limit: int = DIAGNOSTIC_LIMIT) -> str:
    """A quotation, on one line and shortened."""
    text = inline(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def wrapped(text: str, indent: str = "") -> str:
    return "\r\n".join(indent + line for line in lines(text, 72 - len(indent)))


def lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))
