"""The header of a submission (RFC 5322): reading its fields, and adding domains, dates and names."""

from __future__ import annotations

import time

from .addresses import parse_addresses
from .exit_codes import BAD_MESSAGE, Failure
from .message import LONGEST_FIELD_NAME
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HEADER = 1 << 24
"""Octets."""
QUALIFIED_FIELDS = ("from", "sender", "reply-to", "to", "cc", "bcc")
RECIPIENT_FIELDS = ("to", "cc", "bcc")
RESENT_RECIPIENT_FIELDS = ("resent-to", "resent-cc", "resent-bcc")
HIDDEN_FIELDS = ("bcc", "resent-bcc")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Input:
    """The input: the header line by line, then the rest in blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._text = bytearray()
        self._start = 0
        self._searched = 0

    def line(self) -> bytes:
        """The next line with its LF, b"" at the end. If it is too long for a field, its first 998 octets."""
        while True:
            newline = self._text.find(b"\n", self._searched)
            if newline >= 0:
                return bytes(self._text[self._start : newline + 1])
            self._searched = len(self._text)
            beginning = bytes(self._text[self._start : self._start + LONGEST_FIELD_NAME])
            if (
                len(beginning) == LONGEST_FIELD_NAME
                and beginning[0] not in b" \t"
                and not is_field(beginning)
            ):
                return beginning
            if len(self._text) > MAX_HEADER:
                raise Failure(BAD_MESSAGE, f"the header is longer than {MAX_HEADER >> 20} MiB")
            block = next(self._blocks, b"")
            if not block and not beginning:
                return b""
            self._text += block or b"\n"

    def skip(self, line: bytes) -> None:
        self._start += len(line)
        self._searched = max(self._start, self._searched)

    def rest(self) -> Iterator[bytes]:
        rest = bytes(self._text[self._start :])
        self._text.clear()
        if rest:
            yield rest
        yield from self._blocks


def read_header(text: Input) -> list[bytes]:
    """The fields of the header with their LFs. A bare CR becomes a space, so that it can't start a field.

    The first line that is neither a field nor a continuation ends the header; an empty one is not part
    of the body. One leading `From ` line, a mailbox's, is dropped.
    """
    fields: list[list[bytes]] = []
    if text.line().startswith((b"From ", b">From ")):
        text.skip(text.line())
    while True:
        line = text.line().replace(b"\r", b" ")
        if fields and line[:1] in (b" ", b"\t"):
            fields[-1].append(line)
        elif is_field(line):
            fields.append([line])
        else:
            break
        text.skip(line)
    if line == b"\n":
        text.skip(line)
    return [b"".join(lines) for lines in fields]


def is_field(line: bytes) -> bool:
    name, colon, _ = line.partition(b":")
    name = name.rstrip(b" \t")
    return bool(colon and name) and all(33 <= octet <= 126 for octet in name)


def named_field(line: bytes) -> tuple[str, str]:
    """The name in lower case, and the whole field."""
    text = line.decode("utf-8", "surrogateescape")
    return text.partition(":")[0].rstrip().lower(), text


def qualify(name: str, field: str, settings: Settings) -> str:
    """The field with our domain added to each address that has none, and nothing else changed."""
    if name not in QUALIFIED_FIELDS:
        return field
    colon = field.index(":") + 1
    pieces, copied = [], 0
    for mailbox in parse_addresses(field[colon:], blanks_part=name in RECIPIENT_FIELDS):
        if mailbox.insert_at is not None:
            pieces += [field[copied : colon + mailbox.insert_at], "@", settings.domain]
            copied = colon + mailbox.insert_at
    return "".join([*pieces, field[copied:]])


def phrase(text: str) -> str:
    """A display name, quoted or as encoded words if need be (RFC 5322 §3.2.5, RFC 2047)."""
    if not text.isascii():
        import binascii

        pieces = [text[place : place + 10].encode() for place in range(0, len(text), 10)]
        words = [binascii.b2a_base64(piece, newline=False).decode() for piece in pieces]
        return "\n ".join(f"=?utf-8?B?{word}?=" for word in words)
    if all(c.isalnum() or c in " !#$%&'*+-/=?^_`{|}~" for c in text) and "=?" not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def rfc5322_date(seconds: float) -> str:
    """A date (RFC 5322 §3.3) in the local time zone, in English in every locale."""
    local = time.localtime(seconds)
    minutes = local.tm_gmtoff // 60
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
    date = f"{DAYS[local.tm_wday]}, {local.tm_mday} {MONTHS[local.tm_mon - 1]} {local.tm_year}"
    return f"{date} {local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02} {zone}"


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
