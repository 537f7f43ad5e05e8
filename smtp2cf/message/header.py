"""The header of a message as bytes: where it ends, and its fields, verbatim (RFC 5322 §2.1, §2.2).

Lines end with CRLF; a bare LF that comes this far ends a line too. Nothing is decoded, unfolded or
interpreted here.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from smtp2cf.reply import one_line

ID_LIMIT = 998
"""Characters of a message id: it has to fit on a line (RFC 5322 §2.1.1)."""

# A field name may be empty, and white space may stand before the colon (RFC 5322 §4.5.8); "From " is what
# mailbox files put first.
_FIELD_START = re.compile(rb"(?P<name>[!-9;-~]*+)[ \t]*+:|>?From ")
_FIELD = re.compile(rb"(?:(?P<name>[!-9;-~]*+)[ \t]*+:|[ \t]|>?From )[^\n]*+(?:\n[ \t][^\n]*+)*+(?:\n|\Z)")
_FIELDS = re.compile(rb"(?:(?:[!-9;-~]*+[ \t]*+:|[ \t]|>?From )[^\n]*+(?:\n[ \t][^\n]*+)*+(?:\n|\Z))*+")
_LINES = re.compile(rb"[^\n]*+\n(?:[ \t][^\n]*+(?:\n|\Z))*+|[^\n]++\Z")
_MESSAGE_ID = b"message-id"
_LF = 0x0A
_EMPTY_LINE = re.compile(rb"\r?\n")


class Field(NamedTuple):
    """A field's place in a message: its name begins at `start`, the text behind its colon at `value`,
    the next field at `end`, so the folds and the line end are within. `name` is in lower case, and
    "" for a line that a header may have but that is no field."""

    name: str
    start: int
    value: int
    end: int


class Header(NamedTuple):
    """A header's place in a message: its fields up to `end`, and `body`, where the body begins.
    Between the two is the empty line, or nothing where it is missing."""

    fields: list[Field]
    end: int
    body: int


def split_header(message: bytes) -> tuple[bytes, bytes]:
    """The header with the line end of its last field, and the rest: the empty line and the body.

    Together they are the message. The header ends at the first empty line, or with the message. A
    message whose first line is no field has no header.
    """
    end = _header_end(message)
    return message[:end], message[end:]


def received_count(message: bytes) -> int:
    """How many Received fields the header has (RFC 5321 §6.3 counts them to find loops)."""
    return (b"\n" + message[: _header_end(message)]).lower().count(b"\nreceived:")


def message_id(message: bytes) -> str:
    """What the first Message-ID field says, on one line, for people; "" if there is none."""
    end = _header_end(message)
    lowered = message[:end].lower()  # to look for one spelling costs less than to look for any
    start = lowered.find(_MESSAGE_ID)
    while start >= 0:
        field = _FIELD.match(message, start, end) if not start or message[start - 1] == _LF else None
        if field is not None and _name(field) == "message-id":
            value = message.index(b":", start) + 1
            few = message[value : min(field.end(), value + 8 * ID_LIMIT)]
            return one_line(few.decode(errors="replace"), ID_LIMIT)
        start = lowered.find(_MESSAGE_ID, start + 1)
    return ""


def drop_headers(message: bytes, names: frozenset[str]) -> bytes:
    """The message without the header fields of these names (in lower case), folds and all.

    The same object if it has none of them. Continues after a line that is not a field, where some readers see
    the body begin: a Bcc that others would show must not stay.
    """
    end = _header_end(message)
    kept = []
    for lines in _LINES.finditer(message, 0, end):
        start = _FIELD_START.match(message, lines.start(), lines.end())
        if start is None or _name(start) not in names:
            kept.append(lines[0])
    header = b"".join(kept)
    return message if len(header) == end else header + message[end:]


def parse_header(message: bytes, start: int, end: int, *, most: int) -> Header:
    """The header that begins at `start` of a message or body part that ends at `end`; its first `most`
    fields if it has more.

    As readers take it (Postfix, Python's `email`), it also ends before the first line that is
    neither a field nor the continuation of one.
    """
    fields = list(islice(fields_from(message, start, end), most))
    header_end = fields[-1].end if fields else start
    empty_line = _EMPTY_LINE.match(message, header_end, end)
    return Header(fields, header_end, empty_line.end() if empty_line else header_end)


def fields_end(message: bytes) -> int:
    """Where the last field of the header ends, as `parse_header` finds it."""
    found = _FIELDS.match(message)
    return found.end() if found is not None else 0


def fields_named(message: bytes, names: Iterable[str]) -> list[Field]:
    """The fields of the header that have one of these names, in lower case: the same as by `parse_header`, at
    less cost, since the others are not looked at one by one."""
    end = fields_end(message)
    lowered = b"\n" + message[:end].lower()
    found = []
    for name in names:
        line = b"\n" + name.encode()
        start = lowered.find(line)
        while start >= 0:
            field = next(fields_from(message, start, end), None)
            if field is not None and field.name == name:
                found.append(field)
            start = lowered.find(line, start + 1)
    return sorted(found, key=lambda field: field.start)


def fields_from(message: bytes, start: int, end: int) -> Iterator[Field]:
    while (field := _FIELD.match(message, start, end)) is not None:
        name = _name(field)
        yield Field(name, start, message.index(b":", start) + 1 if name else start, field.end())
        start = field.end()


def _header_end(message: bytes) -> int:
    """Where the header ends, the line end of its last field included (RFC 5322 §2.1)."""
    if _FIELD_START.match(message) is None and not message.startswith((b" ", b"\t")):
        return 0
    end = message.find(b"\n\r\n")
    bare = message.find(b"\n\n", 0, end if end >= 0 else len(message))
    return (bare if bare >= 0 else end if end >= 0 else len(message) - 1) + 1


def _name(field: re.Match[bytes]) -> str:
    return (field["name"] or b"").decode("ascii").lower()
