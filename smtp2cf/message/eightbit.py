"""8-bit conversion: makes a message valid UTF-8, so that readers see the same content (RFC 6152).

JSON can't carry other bytes. What needs no change stays byte for byte: this walks over the MIME structure
once, from front to back at any nesting, and collects edits; nothing is parsed and written again. What happens
to bytes that are not UTF-8:

- the body of a part: quoted-printable if it is text, base64 if it is not, or long and mostly 8-bit. The
  charset stays, so readers decode exactly the same bytes. In a quoted-printable body only those bytes are
  quoted; from a base64 body they are removed, as they mean nothing there.
- multipart, message/rfc822, message/global: must not be encoded (RFC 2045 §6.4); their parts are.
- other message types (delivery-status, partial…), uuencode, what is around the parts, what claims to be
  multipart and has no parts: an encoding would be wrong or unknown to readers, so `salvage` reads the
  bytes, and they become raw UTF-8.
- an unknown transfer encoding counts as none, as for readers.
- a header field: see fields.py. The charset is the one its part declares, else the first that any part
  of the message declares: that is how mail programs wrote headers without MIME.

Signatures over changed parts break, as they would with any relay that lacks 8BITMIME. Limits keep the time
linear: whatever exceeds them becomes raw UTF-8.
"""

import codecs
import re
from typing import NamedTuple

from smtp2cf.message import transfer
from smtp2cf.message.charset import decode, salvage, says_something
from smtp2cf.message.fields import convert_field
from smtp2cf.message.header import Field, Header, parse_header
from smtp2cf.message.mime import (
    ContentType,
    Delimiter,
    Delimiters,
    parse_content_type,
    parse_transfer_encoding,
)

MAX_DEPTH = 100
"""Parts within parts that are looked into."""

MAX_PARTS = 10_000
"""Parts of a message that are looked at."""

MAX_FIELDS = 10_000
"""Fields that a header may have for its part to be looked into."""

MAX_FIELD_BYTES = 256 * 1024
"""Bytes of header fields that are made encoded words and parameters."""

_SEARCHED_FOR_CHARSET = 64 * 1024
_CHARSET = re.compile(rb"charset\s*+=\s*+\"?([\w.:+-]++)", re.IGNORECASE)
_SCANNED_AT_ONCE = 64 * 1024
_UUENCODE = frozenset({"x-uuencode", "uuencode", "x-uue", "uue"})
_ENCODED = {"quoted-printable": transfer.quoted_printable_raw, "base64": transfer.base64_raw}
_MESSAGES = frozenset({"message/rfc822", "message/global"})


def is_utf8(message: bytes) -> bool:
    """Whether the message can go out as it is."""
    return message.isascii() or _first_raw(message, 0) == len(message)


def to_utf8(message: bytes) -> bytes:
    """The message in valid UTF-8; the same object if it is valid already.

    message: with CRLF line ends. The result has a bare CR or LF only if the message had one.
    """
    if is_utf8(message):
        return message
    return _Conversion(message).result()


class _Edit(NamedTuple):
    start: int
    end: int
    instead: bytes


class _Multipart(NamedTuple):
    """A multipart that is open: how deep it is, and what its parts are that do not say it."""

    depth: int
    part_type: str


class _Message(NamedTuple):
    """A message that is open and may need a MIME-Version: its header, and how many multiparts are around."""

    header: Header
    multiparts: int


class _Conversion:
    """The walk over one message from front to back, and the edits so far."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._edits: list[_Edit] = []
        self._delimiters = Delimiters(message)
        self._multiparts: list[_Multipart] = []
        self._messages: list[_Message] = []
        # No byte from _scanned_from to _next_raw is outside UTF-8, the one at _next_raw is.
        self._scanned_from = 0
        self._next_raw = _first_raw(message, 0)
        self._parts_left = MAX_PARTS
        self._field_bytes_left = MAX_FIELD_BYTES
        self._likely_charset: str | None = None

    def result(self) -> bytes:
        """The message with all edits applied."""
        self._walk()
        pieces: list[bytes] = []
        done = 0
        for edit in sorted(self._edits, key=lambda edit: edit[:2]):
            pieces += (self._message[done : edit.start], edit.instead)
            done = edit.end
        pieces.append(self._message[done:])
        return b"".join(pieces)

    def _walk(self) -> None:
        everything = len(self._message)
        delimiter = self._entity(0, "text/plain", depth=0, is_message=True)
        while delimiter is not None and self._is_raw(delimiter.end, everything):
            self._delimiters.leave(delimiter)
            del self._multiparts[self._delimiters.depth :]
            while self._messages and self._messages[-1].multiparts > delimiter.level:
                self._messages.pop()
            if delimiter.closes:
                delimiter = self._around(delimiter.end)
                continue
            self._parts_left -= 1
            if self._parts_left < 0:
                self._salvage(delimiter.end, everything)
                return
            depth, part_type = self._multiparts[-1]
            delimiter = self._entity(delimiter.end, part_type, depth=depth + 1, is_message=False)

    def _entity(self, start: int, default_type: str, *, depth: int, is_message: bool) -> Delimiter | None:
        """Convert the message or part that begins here, and the messages in it that begin before a
        delimiter; returns the delimiter behind."""
        while True:
            header, delimiter = self._header(start)
            if depth > MAX_DEPTH or len(header.fields) > MAX_FIELDS:
                return self._around(start)
            raw = [field for field in header.fields if self._is_raw(field.start, field.end)]
            content_type = self._content_type(header, default_type)
            transfer_encoding = self._transfer_encoding(header)
            edits = self._field_edits(raw, content_type)
            is_multipart = content_type.media_type.startswith("multipart/")
            has_message = content_type.media_type in _MESSAGES and transfer_encoding not in _ENCODED
            if delimiter is not None or not (
                has_message or (is_multipart and content_type.boundary is not None)
            ):
                return self._leaf_entity(
                    header, delimiter, edits, content_type, transfer_encoding, is_message
                )
            self._edits += edits
            if is_message:
                self._messages.append(_Message(header, self._delimiters.depth))
            if is_multipart:
                is_digest = content_type.media_type == "multipart/digest"
                self._multiparts.append(_Multipart(depth, "message/rfc822" if is_digest else "text/plain"))
                self._delimiters.open(content_type.boundary or b"")
                return self._around(header.body)
            start, default_type, depth, is_message = header.body, "text/plain", depth + 1, True

    def _header(self, start: int) -> tuple[Header, Delimiter | None]:
        """The header that begins here; and the delimiter, where one comes before any body."""
        header = parse_header(self._message, start, len(self._message), most=MAX_FIELDS + 1)
        first_line_end = self._message.find(b"\n", header.body) + 1 or len(self._message)
        delimiter = self._delimiters.find(start, first_line_end)
        if delimiter is not None:
            header = parse_header(self._message, start, self._end(start, delimiter), most=MAX_FIELDS + 1)
        return header, delimiter

    def _leaf_entity(
        self,
        header: Header,
        delimiter: Delimiter | None,
        edits: list[_Edit],
        content_type: ContentType,
        transfer_encoding: str,
        is_message: bool,
    ) -> Delimiter | None:
        """Convert a body without parts, with the edits of its header; returns the delimiter behind."""
        delimiter = delimiter or self._delimiters.find(header.body)
        end = self._end(header.body, delimiter)
        encoding = ""
        if self._is_raw(header.body, end):
            encoding = self._leaf(header.body, end, content_type.media_type, transfer_encoding)
        self._edits += _with_encoding(edits, header, encoding, needs_version=is_message and encoding != "")
        if encoding:
            for message in self._messages:
                self._edits += _with_encoding([], message.header, "", needs_version=True)
            self._messages.clear()
        if delimiter is not None:
            self._salvage(end, delimiter.end)
        return delimiter

    def _around(self, start: int) -> Delimiter | None:
        """Convert what is around parts, from here to the next delimiter, which is returned."""
        delimiter = self._delimiters.find(start)
        self._salvage(start, delimiter.end if delimiter else len(self._message))
        return delimiter

    def _end(self, start: int, delimiter: Delimiter | None) -> int:
        """Where a part ends that begins here: the line end before a delimiter belongs to that."""
        if delimiter is None:
            return len(self._message)
        line_end = 2 if self._message.endswith(b"\r\n", start, delimiter.start) else 1
        return max(delimiter.start - line_end, start)

    def _leaf(self, start: int, end: int, media_type: str, transfer_encoding: str) -> str:
        """Convert a body without parts; returns the transfer encoding it now has, "" for the old one."""
        body = self._message[start:end]
        if transfer_encoding in _ENCODED:
            self._edits.append(_Edit(start, end, _ENCODED[transfer_encoding](body)))
            return ""
        if transfer_encoding in _UUENCODE or media_type.startswith(("message/", "multipart/")):
            self._salvage(start, end)
            return ""
        is_text = media_type.startswith("text/")
        encoding = "quoted-printable" if is_text and transfer.suits_quoted_printable(body) else "base64"
        encode = transfer.quoted_printable if encoding == "quoted-printable" else transfer.base64
        self._edits.append(_Edit(start, end, encode(body)))
        return encoding

    def _salvage(self, start: int, end: int) -> None:
        if self._is_raw(start, end):
            self._edits.append(_Edit(start, end, salvage(self._message[start:end]).encode()))

    def _field_edits(self, fields: list[Field], content_type: ContentType) -> list[_Edit]:
        charset = content_type.charset
        if fields and not says_something(charset):
            charset = self._message_charset()
        # A boundary has to be the same text here and, being around the parts, in the body.
        as_around_parts = {""} if (content_type.boundary or b"").isascii() else {"", "content-type"}
        edits = []
        for field in fields:
            value = self._message[field.value : field.end].rstrip(b"\r\n")
            end = field.value + len(value)
            self._field_bytes_left -= end - field.start
            if field.name in as_around_parts:
                converted = salvage(value).encode()
            elif self._field_bytes_left < 0:
                converted = decode(value, charset).encode()
            else:
                converted = convert_field(field.name, value, charset)
            edits.append(_Edit(field.value, end, converted))
        return edits

    def _message_charset(self) -> str:
        """The label of the first charset declared anywhere; "" if there is none."""
        if self._likely_charset is None:
            found = _CHARSET.finditer(self._message, 0, _SEARCHED_FOR_CHARSET)
            labels = (label[1].decode("latin-1") for label in found)
            self._likely_charset = next(filter(says_something, labels), "")
        return self._likely_charset

    def _content_type(self, header: Header, default_type: str) -> ContentType:
        for field in header.fields:
            if field.name == "content-type":
                return parse_content_type(self._message[field.value : field.end])
        return ContentType(default_type, "", None)

    def _transfer_encoding(self, header: Header) -> str:
        for field in header.fields:
            if field.name == "content-transfer-encoding":
                return parse_transfer_encoding(self._message[field.value : field.end])
        return ""

    def _is_raw(self, start: int, end: int) -> bool:
        """Whether a byte between the two is not UTF-8.

        Call it from front to back, so that all the scanning is one pass.
        """
        if not self._scanned_from <= start <= self._next_raw:
            self._scanned_from, self._next_raw = start, _first_raw(self._message, start)
        return self._next_raw < end


def _with_encoding(edits: list[_Edit], header: Header, encoding: str, *, needs_version: bool) -> list[_Edit]:
    """The edits of a header, and those that make it say `encoding` ("" leaves it as it is) and, where a
    reader might not look for MIME otherwise, MIME-Version."""
    lines = b""
    if needs_version and all(field.name != "mime-version" for field in header.fields):
        lines += b"MIME-Version: 1.0\r\n"
    if encoding:
        line = f"Content-Transfer-Encoding: {encoding}\r\n".encode()
        old = [field for field in header.fields if field.name == "content-transfer-encoding"]
        replaced = {field.value for field in old}
        edits = [edit for edit in edits if edit.start not in replaced]
        edits += [_Edit(field.start, field.end, b"") for field in old[1:]]
        if old:
            edits.append(_Edit(old[0].start, old[0].end, line))
        else:
            lines += line
    if lines:
        edits.append(_Edit(header.end, header.end, lines if header.body > header.end else lines + b"\r\n"))
    return edits


def _first_raw(message: bytes, start: int) -> int:
    """The position of the first byte from `start` on that is not UTF-8; the length if there is none."""
    view = memoryview(message)
    while start < len(message):
        stop = start + _SCANNED_AT_ONCE
        try:
            _, length = codecs.utf_8_decode(view[start:stop], "strict", stop >= len(message))
        except UnicodeDecodeError as error:
            return start + error.start
        start += length
    return len(message)
