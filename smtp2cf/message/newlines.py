"""Normalizing bare newlines: CR or LF outside a CRLF (RFC 5321 §2.3.8, RFC 5322 §2.3).

Readers treat them differently, so whoever can put one into a subject or a file name could forge a field, a
part or the end of a header that some readers see. The result has CRLF only, and no reader sees a field, a
part or an end of a header in it that was not in what the client sent:

- A CR alone does not end a line. CR LF does, with any number of CRs (Windows programs write CR CR LF).
- In a header, a bare CR becomes a space: in the message's own, in that of every part and every message
within, at any depth, and in all of a delivery status.
- In a header, a bare LF becomes a space too, unless that header's lines end with LF: see
  `_Cleaning._ends_with_lf`.
- In a body, bare CR and bare LF each become CRLF. A delimiter on a line that ends with LF is one, as for all
  readers. A bare CR becomes a space if CRLF would turn a line into a delimiter.

A message with only CRLF is returned as the same object, after one fast pass over the bytes.
"""

import io
import re

from smtp2cf.message.mime import Delimiter, Delimiters, parse_content_type

MAX_HEADERS = 10_000
"""Headers that are told apart from bodies; everything after them is treated as a header."""

_FIELD_START = re.compile(rb"[!-9;-~]*+[ \t]*+:|>?From |[ \t\r]")
# A line between CRLFs that no CRLF client has in its header, whatever CR and LF are within.
_NO_FIELD = re.compile(
    rb"\r\n(?![ \t\r\n]|>?From |(?:[!-9;-~]|\r(?!\n)|(?<!\r)\n)*+(?:[ \t]|\r(?!\n)|(?<!\r)\n)*+:)"
)
_FIELD = re.compile(rb"^[ \t\r]*+[!-9;-~]++[ \t]*+:", re.MULTILINE)
_CRS_LF = re.compile(rb"(?<!\r)\r++\n")
_BARE_CR = re.compile(rb"\r(?!\n)")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_WHITE_LINE = re.compile(rb"^[ \t]++\r\n", re.MULTILINE)
_EMPTY = {True: re.compile(rb"\n\r*+\n"), False: re.compile(rb"\r\n\r++\n")}
_EMPTY_FIRST = {True: re.compile(rb"\r*+\n"), False: re.compile(rb"\r++\n")}
_CONTENT_TYPE = re.compile(
    rb"^content-type[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)", re.IGNORECASE | re.MULTILINE
)
_FROM = re.compile(rb"^from[ \t]*+:", re.IGNORECASE | re.MULTILINE)
# What would be a line of its own if every bare CR were a line end, and the CRs and blanks behind it.
_DASHES = re.compile(rb"([\r\n])--([^\r\n]*+)(?=([ \t\r]*+))")
_BEFORE_FIELD = re.compile(rb"(?:(?<!\r)\n|\r)(?=[!-9;-~]*+[ \t]*+:)")
_CR_BEFORE_FIELD = re.compile(rb"\r(?=[!-9;-~]*+[ \t]*+:)")

_HEADERS_ONLY = frozenset({"text/rfc822-headers"})
_FIELDS_ONLY = frozenset(
    f"message/{name}"
    for name in (
        *("delivery-status", "global-delivery-status", "disposition-notification"),
        *("global-disposition-notification", "feedback-report"),
    )
)
"""Media types of blocks of fields (RFC 3464, 6533, 8098, 5965)."""


def has_bare_newlines(message: bytes) -> bool:
    """Whether there is a CR without LF after it, or an LF without CR before it."""
    # The standard library's bookkeeping for universal newlines tells CR, LF and CRLF apart in one pass,
    # a third of the time that counting the three takes. Latin-1 because it decodes by copying.
    seen = io.IncrementalNewlineDecoder(None, translate=False)
    seen.decode(message.decode("latin-1"), final=True)
    return seen.newlines not in (None, "\r\n")


def normalize_newlines(message: bytes) -> bytes:
    """The message with only CRLF line ends; the same object if it has no others."""
    if not has_bare_newlines(message):
        return message
    if message.count(b"\r") <= message.endswith(b"\r\n"):
        # LF is how all lines end, up to the last one, which SMTP itself gives a CRLF.
        return message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return _Cleaning(message).result()


class _Next:
    """Finds the next match of a pattern; called from front to back, all the searching is one pass."""

    def __init__(self, pattern: re.Pattern[bytes], message: bytes) -> None:
        self._pattern = pattern
        self._message = message
        self._start = -1
        self._end = 0

    def __call__(self, at: int) -> tuple[int, int]:
        """Its start and end; both are the length of the message if it isn't found."""
        if self._start < at:
            found = self._pattern.search(self._message, at)
            self._start, self._end = found.span() if found else (len(self._message),) * 2
        return self._start, self._end


class _Cleaning:
    """The walk over one message from front to back, and the result so far."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._clean: list[bytes] = []
        self._delimiters = Delimiters(message)
        self._default_types: list[str] = []
        self._is_multipart = False
        self._headers_left = MAX_HEADERS
        self._crlf = _Next(re.compile(rb"\r\n"), message)
        self._no_field = _Next(_NO_FIELD, message)
        self._field = _Next(_FIELD, message)
        self._empty_line = {lf: _Next(pattern, message) for lf, pattern in _EMPTY.items()}

    def result(self) -> bytes:
        """The message with only CRLF."""
        delimiter = self._entity(0, None)
        while delimiter is not None:
            self._write_delimiter(delimiter)
            self._delimiters.leave(delimiter)
            del self._default_types[self._delimiters.depth :]
            if delimiter.closes:
                delimiter = self._text(delimiter.end)
            else:
                delimiter = self._entity(delimiter.end, delimiter)
        return b"".join(self._clean)

    def _entity(self, start: int, delimiter: Delimiter | None) -> Delimiter | None:
        """Write the message or part that begins here, and those within it that begin before a
        delimiter; returns the delimiter behind them.

        delimiter: the one before it, None for a message.
        """
        default_type = self._default_types[-1] if delimiter and self._default_types else "text/plain"
        lf = self._ends_with_lf(start, delimiter)
        while True:
            self._headers_left -= 1
            if self._headers_left < 0:
                self._clean.append(_clean_header(self._message[start:], lf=lf))
                return None
            if _EMPTY_FIRST[lf].match(self._message, start) is None:
                if not self._has_header(start, lf=lf):
                    return self._text_without_header(start, lf=lf)
                header, start, found = self._header(start, lf=lf)
                self._clean.append(header)
                if found is not None:
                    return found
            else:
                header = b""
            start = self._write_empty_line(start, lf=lf)
            value = _CONTENT_TYPE.search(header)
            media_type = parse_content_type(value[1]).media_type if value else default_type
            if media_type in _FIELDS_ONLY:
                return self._fields(start)
            if media_type not in _HEADERS_ONLY and not media_type.startswith("message/"):
                return self._text(start)
            default_type = "text/plain"
            lf = self._ends_with_lf(start, None)

    def _ends_with_lf(self, start: int, delimiter: Delimiter | None) -> bool:
        """Is LF alone how the lines of the header end that begins here?

        A client that ends them with CRLF has fields and folds behind its CRLFs, up to one with the empty
        line behind it. So LF it is where there is no CRLF up to the last line, or where what is between
        CRLFs is no such header and what is between LFs has an empty line. The header of a part whose
        delimiter ends with LF is an LF client's, too. And so is a message's where CRLF would make it one
        field, LF several, From among them.
        """
        message = self._message
        if delimiter is not None and message[delimiter.end - 2 : delimiter.end - 1] != b"\r":
            return True
        line_end, behind = self._crlf(start)
        if behind == len(message):
            return True
        empty, _ = self._empty_line[True](start)
        crlf_empty, _ = self._empty_line[False](start)
        if empty > crlf_empty or empty == len(message):
            return False
        if crlf_empty == len(message) or self._no_field(start)[0] < crlf_empty:
            return True
        several = start == 0 and crlf_empty == line_end and b"\n" in message[:empty]
        return several and _FROM.search(message, 0, empty) is not None

    def _has_header(self, start: int, *, lf: bool) -> bool:
        """Whether the message or part that begins here has fields."""
        if not self._message.startswith(b"\r", start):
            return _FIELD_START.match(self._message, start) is not None
        field, _ = self._field(start)
        return field < self._empty_line[lf](start)[0]

    def _header(self, start: int, *, lf: bool) -> tuple[bytes, int, Delimiter | None]:
        """The header that begins here, clean; where it ends; the delimiter there if that ends it.

        It goes on behind a line that is no field, where some readers see the body begin. Opens the
        multipart that it declares.
        """
        end = min(self._empty_line[lf](start)[0] + (1 if lf else 2), len(self._message))
        delimiter = self._delimiters.find(start, end, crlf=not lf)
        end = delimiter.start if delimiter else end
        header = _clean_header(self._message[start:end], lf=lf)
        value = _CONTENT_TYPE.search(header)
        content_type = parse_content_type(value[1]) if value else None
        if (
            delimiter is not None
            or content_type is None
            or content_type.boundary is None
            or not content_type.media_type.startswith("multipart/")
        ):
            return header, end, delimiter
        self._is_multipart = True
        self._delimiters.open(content_type.boundary)
        is_digest = content_type.media_type == "multipart/digest"
        self._default_types.append("message/rfc822" if is_digest else "text/plain")
        # Where the empty line is missing, the first delimiter ends the header.
        delimiter = self._delimiters.find(start, end, crlf=not lf)
        if delimiter is not None:
            end = delimiter.start
            header = _clean_header(self._message[start:end], lf=lf)
        return header, end, delimiter

    def _write_empty_line(self, start: int, *, lf: bool) -> int:
        """Write the line behind a header; returns where it ends."""
        line = _EMPTY_FIRST[lf].match(self._message, start)
        if line is None:
            return start
        self._clean.append(b"\r\n")
        return line.end()

    def _text(self, start: int) -> Delimiter | None:
        """Write the text up to the next delimiter, and return that."""
        delimiter = self._delimiters.find(start)
        self._write_text(start, delimiter.start if delimiter else len(self._message))
        return delimiter

    def _text_without_header(self, start: int, *, lf: bool) -> Delimiter | None:
        """Write a message or part that begins with no field: up to its first empty line nothing must
        come to look like one, as there are readers that pass over such lines."""
        delimiter = self._delimiters.find(start)
        end = delimiter.start if delimiter else len(self._message)
        middle = min(self._empty_line[lf](start)[1], end)
        self._write_text(start, middle, fields=_CR_BEFORE_FIELD if lf else _BEFORE_FIELD)
        self._write_text(middle, end)
        return delimiter

    def _fields(self, start: int) -> Delimiter | None:
        """Write blocks of fields up to the next delimiter, and return that."""
        lf = self._ends_with_lf(start, None)
        delimiter = self._delimiters.find(start, crlf=not lf)
        end = delimiter.start if delimiter else len(self._message)
        self._clean.append(_clean_header(self._message[start:end], lf=lf))
        return delimiter

    def _write_text(self, start: int, end: int, *, fields: re.Pattern[bytes] | None = None) -> None:
        """Write text that is not a header.

        fields: what has to become a space, so that it begins no field.
        """
        text: bytes | bytearray = self._message[start:end]
        if self._is_multipart and text.count(b"\r") > text.count(b"\r\n"):
            text = self._without_new_delimiters(start, end)
        if fields is not None:
            text = fields.sub(b" ", text)
        if b"\r\r\n" in text:
            text = _CRS_LF.sub(b"\r\n", text)
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        self._clean.append(bytes(text))

    def _without_new_delimiters(self, start: int, end: int) -> bytearray:
        """A text with spaces instead of bare CRs that, as line ends, would create a delimiter."""
        before = start - 1 if start else 0  # a line may begin where the text does
        text = bytearray(self._message[before:end])
        for line in _DASHES.finditer(self._message, before, end):
            if not self._delimiters.is_delimiter(line[2]):
                continue
            if line[1] == b"\r":
                text[line.start() - before] = 0x20
            else:
                behind, length = line.end() - before, len(line[3])
                text[behind : behind + length] = line[3].replace(b"\r", b" ")
        return text[start - before :]

    def _write_delimiter(self, delimiter: Delimiter) -> None:
        line = self._message[delimiter.start : delimiter.end]
        content = line.rstrip(b"\r\n")
        self._clean.append(content.replace(b"\r", b" ") + (b"\r\n" if content != line else b""))


def _clean_header(text: bytes, *, lf: bool) -> bytes:
    """Lines of a header with CRLF line ends, and spaces for what else there is of CR and LF.

    A line of white space only, which ends the header for some readers, is left out.
    """
    if not has_bare_newlines(text):
        return text
    if lf:
        text = _CRS_LF.sub(b"\n", text).replace(b"\r", b" ").replace(b"\n", b"\r\n")
    else:
        text = _CRS_LF.sub(b"\r\n", _BARE_LF.sub(b" ", text))
        text = _BARE_CR.sub(b" ", text)
    return _WHITE_LINE.sub(b"", text)
