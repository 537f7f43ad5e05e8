"""8-bit conversion: a message that is not UTF-8, made UTF-8 for readers to see the same (RFC 6152).

JSON carries no other bytes. What needs no change stays byte for byte, so this walks over the MIME
structure and collects edits; nothing is parsed and written anew. What is done to bytes that are not
UTF-8:

- the body of a part: quoted-printable if it is text, base64 if it is not, or long and mostly 8-bit. The
  charset stays, the reader decodes the very same bytes. A body that is quoted-printable gets just those
  bytes quoted, one that is base64 loses them, as they mean nothing there.
- multipart, message/rfc822, message/global: must not be encoded (RFC 2045 §6.4); their parts are.
- other message types (delivery-status, partial…), uuencode, what is around the parts, what claims to be
  multipart and has no parts: an encoding would be wrong or unknown to readers, so `salvage` reads the
  bytes, and they become raw UTF-8.
- an unknown transfer encoding is taken for none, as readers do.
- a header field: see fields.py. The charset is the one its part declares, else the first that any part
  of the message does: that is how mail programs without MIME in their header wrote it.

A signature over changed parts breaks, as it would have with any relay that lacks 8BITMIME. Limits keep
the time linear: what is beyond them becomes raw UTF-8.
"""

import codecs
import re
from typing import NamedTuple

from smtp2cf.message import transfer
from smtp2cf.message.charset import decode, salvage, says_something
from smtp2cf.message.fields import convert_field
from smtp2cf.message.header import Field, Header, parse_header
from smtp2cf.message.mime import ContentType, parse_content_type, parse_transfer_encoding, split_multipart

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
    """Can the message go out as it is?"""
    return message.isascii() or _first_raw(message, 0) == len(message)


def to_utf8(message: bytes) -> bytes:
    """The message in valid UTF-8, the very same object if it is that already.

    message: with CRLF line ends. What comes out has a bare CR or LF only if it had one.
    """
    if is_utf8(message):
        return message
    conversion = _Conversion(message)
    conversion.entity(0, len(message), "text/plain", depth=0, is_message=True)
    return conversion.result()


class _Edit(NamedTuple):
    start: int
    end: int
    instead: bytes


class _Conversion:
    """The walk over one message: what has been decided so far, as edits in their order."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._edits: list[_Edit] = []
        # No byte from _scanned_from to _next_raw is outside UTF-8, the one at _next_raw is.
        self._scanned_from = 0
        self._next_raw = _first_raw(message, 0)
        self._parts_left = MAX_PARTS
        self._field_bytes_left = MAX_FIELD_BYTES
        self._likely_charset: str | None = None

    def result(self) -> bytes:
        """The message with all edits made."""
        pieces: list[bytes] = []
        done = 0
        for edit in self._edits:
            pieces += (self._message[done : edit.start], edit.instead)
            done = edit.end
        pieces.append(self._message[done:])
        return b"".join(pieces)

    def entity(self, start: int, end: int, default_type: str, *, depth: int, is_message: bool) -> bool:
        """Convert the message or body part between the two; has it or a part of it been encoded?"""
        header = parse_header(self._message, start, end, most=MAX_FIELDS + 1)
        if depth > MAX_DEPTH or len(header.fields) > MAX_FIELDS:
            self._salvage(start, end)
            return False
        fields = [field for field in header.fields if self._is_raw(field.start, field.end)]
        content_type = self._content_type(header, default_type)
        place = len(self._edits)
        encoding, encoded = "", False
        if self._is_raw(header.body, end):
            transfer_encoding = self._transfer_encoding(header)
            if content_type.media_type.startswith("multipart/") and content_type.boundary is not None:
                encoded = self._multipart(header.body, end, content_type, depth)
            elif content_type.media_type in _MESSAGES and transfer_encoding not in _ENCODED:
                encoded = self.entity(header.body, end, "text/plain", depth=depth + 1, is_message=True)
            else:
                encoding = self._leaf(header.body, end, content_type.media_type, transfer_encoding)
                encoded = encoding != ""
        edits = self._field_edits(fields, content_type)
        edits = _with_encoding(edits, header, encoding, needs_version=is_message and encoded)
        self._edits[place:place] = sorted(edits)
        return encoded

    def _multipart(self, start: int, end: int, content_type: ContentType, depth: int) -> bool:
        part_type = "message/rfc822" if content_type.media_type == "multipart/digest" else "text/plain"
        encoded = False
        for region in split_multipart(self._message, start, end, content_type.boundary or b""):
            self._parts_left -= region.part
            if self._parts_left < 0:
                self._salvage(region.start, end)
                break
            if self._is_raw(region.start, region.end):
                if region.part:
                    encoded |= self.entity(
                        region.start, region.end, part_type, depth=depth + 1, is_message=False
                    )
                else:
                    self._salvage(region.start, region.end)
        return encoded

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
        """The label of the first charset that is declared anywhere, "" for none."""
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
        """Is there a byte between the two that is not UTF-8?

        Asked from front to back, so that all the scanning together is one pass.
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
    """Where the first byte at or behind `start` is that is not UTF-8; the length if there is none."""
    view = memoryview(message)
    while start < len(message):
        stop = start + _SCANNED_AT_ONCE
        try:
            _, length = codecs.utf_8_decode(view[start:stop], "strict", stop >= len(message))
        except UnicodeDecodeError as error:
            return start + error.start
        start += length
    return len(message)
