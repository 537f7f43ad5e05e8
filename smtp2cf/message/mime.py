"""MIME as readers see it, in bytes: media types, parameters, the parts between boundaries (RFC 2045 §5,
RFC 2046 §5.1, RFC 2231).

As lenient as readers, above all Python's `email`: what they see as a part decides how its bytes are read.
Knows nothing of what is done with the parts.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

SEGMENT = re.compile(r'(?:[^;"]++|"(?:[^"\\]++|\\.)*+"?)++', re.DOTALL)
"""What stands between two semicolons: the type itself, or one parameter."""

PARAMETER = re.compile(
    r"""(?P<blank>\s*+)(?P<name>[^\s=*"]++)
        (?P<section>\*[0-9]{1,4}+)?(?P<extended>\*)?
        \s*+=\s*+(?P<value>.*)""",
    re.DOTALL | re.VERBOSE,
)
"""A segment that is a parameter; `section` and `extended` are those of RFC 2231 §3 and §4."""

_LONGEST_CONTENT_TYPE = 64 * 1024
"""Bytes; what is behind them is not looked at."""

_MEDIA_TYPE = re.compile(r"\s*+([^\s/;()]++/[^\s/;()]++)")
_TOKEN = re.compile(r'[\s"]*+([^\s;"()]++)')
_QUOTED = re.compile(r'"((?:[^"\\]++|\\.)*+)', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')
_LINE_OF_DASHES = re.compile(rb"\n--(?P<text>[^\r\n]*+)[ \t\r]*+(?=(?P<line_end>\n)|\Z)")


class ContentType(NamedTuple):
    """A Content-Type: the media type in lower case, the label of its charset ("" for none), and its
    boundary as the bytes it was written in."""

    media_type: str
    charset: str
    boundary: bytes | None


class Delimiter(NamedTuple):
    """A line that begins or ends a part: its place, line end included; how many multiparts are around
    the one it belongs to; and is it the last of that one?"""

    start: int
    end: int
    level: int
    closes: bool


class Delimiters:
    """The delimiters of the multiparts that are open at a place of a message.

    A delimiter is a whole line, except for trailing white space. If two multiparts have the same boundary, it
    belongs to the outer one. Called from front to back, all the searching is one pass over the lines, however
    many boundaries there are.
    """

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._open: list[bytes] = []
        self._levels: dict[bytes, int] = {}
        self._declared: set[bytes] = set()

    @property
    def depth(self) -> int:
        """How many multiparts are open."""
        return len(self._open)

    def open(self, boundary: bytes) -> None:
        """A multipart begins, within all that are open."""
        self._levels.setdefault(boundary, len(self._open))
        self._open.append(boundary)
        self._declared.add(boundary)

    def leave(self, delimiter: Delimiter) -> None:
        """Behind this one, no multipart within its own is open any more, nor its own if it is the last."""
        depth = delimiter.level + (not delimiter.closes)
        while len(self._open) > depth:
            boundary = self._open.pop()
            if self._levels[boundary] == len(self._open):
                del self._levels[boundary]

    def find(self, start: int, end: int | None = None, *, crlf: bool = False) -> Delimiter | None:
        """The first delimiter of any open multipart from the line that begins at `start` on.

        end: where a line begins behind which none is looked for. crlf: only a CRLF (or a CR CR LF)
        ends a line.
        """
        if not self._open:
            return None
        message = self._message
        for line in _LINE_OF_DASHES.finditer(
            message, max(start - 1, 0), len(message) if end is None else end
        ):
            found = self.level(line["text"].rstrip(b" \t"))
            if found is None:
                continue
            at = line.start() + 1
            if crlf and not (
                (at == start or message[at - 2 : at - 1] == b"\r")
                and (line["line_end"] is None or message[line.end() - 1 : line.end()] == b"\r")
            ):
                continue
            return Delimiter(at, line.end() + (line["line_end"] is not None), *found)
        return None

    def is_delimiter(self, text: bytes) -> bool:
        """Is a line that has this behind its two dashes one of any multipart so far, open or not?"""
        text = text.rstrip(b" \t")
        return text in self._declared or text.removesuffix(b"--") in self._declared

    def level(self, text: bytes) -> tuple[int, bool] | None:
        """Which open multipart a line of dashes with this text is of, and whether it closes it."""
        opens = self._levels.get(text)
        closes = self._levels.get(text[:-2]) if text.endswith(b"--") else None
        if closes is not None and (opens is None or closes < opens):
            return closes, True
        return None if opens is None else (opens, False)


def parse_content_type(value: bytes) -> ContentType:
    """Parse a Content-Type. Without a media type it is text/plain (RFC 2045 §5.2)."""
    text = _unfold(value[:_LONGEST_CONTENT_TYPE])
    media_type = _MEDIA_TYPE.match(text)
    found = _parameters(text)
    boundary = found.get("boundary")
    return ContentType(
        media_type[1].lower() if media_type else "text/plain",
        found.get("charset", ""),
        None if boundary is None else boundary.rstrip().encode("latin-1"),
    )


def parse_transfer_encoding(value: bytes) -> str:
    """Parse a Content-Transfer-Encoding; in lower case, "" for none."""
    token = _TOKEN.match(_unfold(value))
    return token[1].lower() if token else ""


def unquote(value: str) -> str:
    """A parameter's value without quotes. A backslash stays, as in Windows paths, unless it is before a quote
    or another one."""
    quoted = _QUOTED.match(value)
    return _ESCAPED.sub(r"\1", quoted[1]) if quoted else value.strip()


def _parameters(text: str) -> dict[str, str]:
    """The parameters by name; their text is bytes, each as the character of its number."""
    found: dict[str, str] = {}
    sections: dict[str, list[tuple[int, str]]] = {}
    for segment in SEGMENT.finditer(text):
        parameter = PARAMETER.fullmatch(segment[0])
        if parameter is None:
            continue
        name, value = parameter["name"].lower(), unquote(parameter["value"])
        if not parameter["section"] and not parameter["extended"]:
            found.setdefault(name, value)
            continue
        number = int((parameter["section"] or "*0")[1:])
        if parameter["extended"]:
            value = unquote_to_bytes(value.split("'", 2)[-1] if number == 0 else value).decode("latin-1")
        sections.setdefault(name, []).append((number, value))
    for name, numbered in sections.items():
        found.setdefault(name, "".join(value for _, value in sorted(numbered)))
    return found


def _unfold(value: bytes) -> str:
    return value.replace(b"\r", b"").replace(b"\n", b"").decode("latin-1")
