"""Writing encoded words: non-ASCII text in header fields (RFC 2047), in UTF-8.

A field's text comes as units whose kind the caller knows; this finds the runs that become encoded words, and
folds the lines. Knows nothing of field names and of bytes.
"""

import binascii
import enum
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

LINE = 76
"""Characters of a line that has an encoded word in it (RFC 2047 §2)."""

ENCODED_WORD = r"=\?[!->@-~]++\?[bBqQ]\?[!->@-~]*+\?="
"""What readers decode as an encoded word, as a regular expression."""

_WORD_LIMIT = 75
_FRAME = len("=?utf-8?q??=")
_LATEST_START = 40
"""A column behind which no first word begins where there is a space to fold at."""
_SMALLEST_ROOM = LINE - _LATEST_START

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!*+-/")
"""What stands for itself in the Q encoding wherever the word is (RFC 2047 §5)."""

_Q = [bytes([o]) if o in _PLAIN else b"_" if o == 0x20 else b"=%02X" % o for o in range(256)]
_TEXT_UNIT = re.compile(
    rf"(?P<space>[ \t\r\n]++)|(?P<encoded>{ENCODED_WORD})|(?:(?!{ENCODED_WORD})[^ \t\r\n])++"
)


class Kind(enum.Enum):
    """The kind of a piece of text: a word that may be encoded, white space, an encoded word, or something
    that has to stay unchanged."""

    WORD = enum.auto()
    SPACE = enum.auto()
    ENCODED = enum.auto()
    FIXED = enum.auto()


class Unit(NamedTuple):
    """A piece of a field's text as written, and its meaning without quotes and folds."""

    kind: Kind
    written: str
    says: str


def space(written: str) -> Unit:
    """White space, with any folds in it."""
    return Unit(Kind.SPACE, written, written.replace("\r", "").replace("\n", ""))


def fixed(written: str) -> Unit:
    """Something that stays unchanged: raw UTF-8 if it is not ASCII (RFC 6532)."""
    return Unit(Kind.FIXED, written, written)


def text_units(text: str) -> Iterator[Unit]:
    """The units of unstructured text (RFC 5322 §2.2.1)."""
    for found in _TEXT_UNIT.finditer(text):
        if found["space"]:
            yield space(found[0])
        else:
            yield Unit(Kind.ENCODED if found["encoded"] else Kind.WORD, found[0], found[0])


def write(units: Iterable[Unit], column: int) -> str:
    """The units as one folded text, with encoded words for what is not ASCII.

    column: characters before it on its line. Everything from the first to the last non-ASCII word becomes one
    run of encoded words, so that the spaces in between are kept; the rest stays as written.
    """
    everything = list(units)
    line = _Line(column)
    done = 0
    for start, stop in _runs(everything):
        for unit in everything[done:start]:
            line.put(unit)
        line.encode(_run_text(everything, start, stop), _glued_before(everything, start))
        if stop < len(everything) and _glued(everything[stop]):
            line.put(space(" "))
        line.fold_if_too_long(everything[stop : stop + 2])
        done = stop
    for unit in everything[done:]:
        line.put(unit)
    return line.text()


class _Line:
    """The text so far and its column."""

    def __init__(self, column: int) -> None:
        self._pieces: list[str] = []
        self._column = column
        self._must_fold = False

    def text(self) -> str:
        return "".join(self._pieces)

    def put(self, unit: Unit) -> None:
        written = unit.written
        if self._must_fold and unit.kind is Kind.SPACE and "\n" not in written:
            written = "\r\n" + written
        self._must_fold = False
        self._append(written)

    def encode(self, text: str, glued: bool) -> None:
        if glued:
            self._append(" ")
        # The first line of a field must not be left empty (RFC 5322 §3.2.2).
        if self._column > _LATEST_START and len(self._pieces) > 1 and not self._pieces[-1].strip(" \t"):
            self._append("\r\n" + self._pieces.pop())
        room = max(LINE - self._column, _SMALLEST_ROOM)
        self._append("\r\n ".join(encoded_words(text, min(room, _WORD_LIMIT))))

    def fold_if_too_long(self, following: Sequence[Unit]) -> None:
        length = sum(len(unit.written) for unit in following)
        self._must_fold = len(following) == 2 and self._column + length > LINE

    def _append(self, written: str) -> None:
        self._pieces.append(written)
        line_end = written.rfind("\n")
        self._column = len(written) - line_end - 1 + (self._column if line_end < 0 else 0)


def _runs(units: Sequence[Unit]) -> Iterator[tuple[int, int]]:
    """The spans of units that become encoded words, each as long as nothing ENCODED or FIXED is within."""
    start = stop = -1
    for number, unit in enumerate(units):
        if unit.kind is Kind.WORD:
            if start < 0 and not unit.says.isascii():
                start = number
                while start > 0 and units[start - 1].kind is Kind.WORD:
                    start -= 1
            if start >= 0 and (stop == number or not unit.says.isascii()):
                stop = number + 1
        elif unit.kind is not Kind.SPACE and start >= 0:
            yield start, stop
            start = stop = -1
    if start >= 0:
        yield start, stop


def _run_text(units: Sequence[Unit], start: int, stop: int) -> str:
    """What a run says. White space between two encoded words says nothing (RFC 2047 §6.2), so that
    between the run and a neighbour that is encoded already goes into the run."""
    before, after = units[max(start - 2, 0) : start], units[stop : stop + 2]
    text = "".join(unit.says for unit in units[start:stop])
    if [unit.kind for unit in before] == [Kind.ENCODED, Kind.SPACE]:
        text = before[1].says + text
    if [unit.kind for unit in after] == [Kind.SPACE, Kind.ENCODED]:
        text += after[0].says
    return text


def _glued_before(units: Sequence[Unit], start: int) -> bool:
    return start > 0 and (
        units[start - 1].kind is Kind.ENCODED or units[start - 1].written[-1:] in (">", ")")
    )


def _glued(unit: Unit) -> bool:
    """Whether it follows a run so closely that readers would not see the end of the encoded word."""
    return unit.kind is Kind.ENCODED or unit.written[:1] in ("<", "(")


def encoded_words(text: str, room: int = _WORD_LIMIT) -> Iterator[str]:
    """`text` as encoded words, Q or B, whichever is shorter; the first has `room` characters. No character is
    split (RFC 2047 §5)."""
    raw = text.encode()
    quoted = b"".join([_Q[octet] for octet in raw])
    q = len(quoted) <= (len(raw) + 2) // 3 * 4
    start, end = 0, len(quoted if q else raw)
    while start < end:
        if q:
            stop = min(start + room - _FRAME, end)
            while stop < end and not _between_characters(quoted, stop):
                stop -= 1
            yield f"=?utf-8?q?{quoted[start:stop].decode()}?="
        else:
            stop = min(start + (room - _FRAME) // 4 * 3, end)
            while stop < end and raw[stop] & 0xC0 == 0x80:
                stop -= 1
            yield f"=?utf-8?b?{binascii.b2a_base64(raw[start:stop], newline=False).decode()}?="
        start, room = stop, _WORD_LIMIT


def _between_characters(quoted: bytes, place: int) -> bool:
    """Whether this position in Q-encoded UTF-8 is not inside =XX or a character of several =XX."""
    if b"=" in quoted[place - 2 : place]:
        return False
    return quoted[place : place + 1] != b"=" or quoted[place + 1] not in b"89AB"
