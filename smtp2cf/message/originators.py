"""Originators: every address that a reader may take for a message's author or sender (RFC 5322 §3.6.2).

These are the addresses in every From and Sender field, and whatever looks like an address in their display
names and comments, encoded or not. Readers treat malformed fields differently, so only what all of them read
alike is accepted: no groups, no routes, no white space in or around an address, no encoded word that some may
decode differently, no header with a line that ends it for some. It does not decide who may send as whom.
"""

import binascii
import codecs
import re
import unicodedata
from collections.abc import Iterator

from smtp2cf.message.comments import comment_end
from smtp2cf.message.encoded_words_encode import ENCODED_WORD
from smtp2cf.message.header import Field, Header, parse_header, split_header

MAX_FIELDS = 10_000
"""Fields that a header may have."""
MAX_OCTETS = 64 * 1024
"""Bytes that From and Sender may have together."""

_FIELDS = frozenset({"from", "sender"})

_CONFUSING = re.compile(
    rb"[\0-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\r(?!\n)|\xc2\x85|\xe2\x80[\xa8\xa9]|\n[ \t]+\r?(?:\n|\Z)"
)
"""What ends a line, a text or the header only for some readers."""

# Spaces and marks that are not part of an address and can't be seen.
_UNSEEN = r"\s\x00-\x1f\x7f-\xa0\xad\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff"
_ATOM = rf'[^{_UNSEEN}<>()\[\],;:"\\@]+'
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_LABEL = rf"(?:[0-9A-Za-z_-]|[^\x00-\x7f{_UNSEEN}])+"
_ADDRESS = rf"(?:{_ATOM}|{_QUOTED})@{_LABEL}(?:\.{_LABEL})*\.?"
_TOKEN = re.compile(
    rf"""(?P<space>[ \t]++)
      | (?P<comment>\()
      | (?P<comma>,)
      | <(?P<angle>{_ADDRESS})>
      | (?P<address>{_ADDRESS})(?=[ \t,(<]|\Z)
      | (?P<quoted>{_QUOTED})
      | (?P<word>[^\s<>(),;:"\\@]++)""",
    re.VERBOSE,
)
_FOLD = re.compile(r"\r?\n(?=[ \t])")
_RUN = re.compile(rf"{ENCODED_WORD}(?:[ \t]*{ENCODED_WORD})*+")
"""Encoded words that a reader may join."""
_WORD = re.compile(ENCODED_WORD)
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_SHOWN = re.compile(r"""[^\s<>()\[\],;:"\\]*@[^\s<>()\[\],;:"\\]*""")
_NO_CHARSETS = frozenset({"utf-7", "hz", "idna", "punycode", "unicode_escape", "raw_unicode_escape"})
"""Codecs that not every reader decodes alike; nor UTF-16 and UTF-32."""


class _AmbiguousError(Exception):
    """Readers may disagree about it."""


def originators(message: bytes, *, names: bool = True) -> list[str] | None:
    """The addresses, each once; None if there is no From, or readers may disagree about one.

    message: UTF-8 with CRLF line ends. names: those in names and comments too.
    """
    header = _clear_header(message)
    if header is None:
        return None
    named = [field for field in header.fields if field.name in _FIELDS]
    if all(field.name != "from" for field in named):
        return None
    if sum(field.end - field.start for field in named) > MAX_OCTETS:
        return None
    found: dict[str, None] = {}
    try:
        for field in named:
            found.update(dict.fromkeys(_addresses(_value(message, field), names=names)))
    except _AmbiguousError:
        return None
    return list(found)


def _clear_header(message: bytes) -> Header | None:
    """The header, if no reader sees another end or another field in it."""
    fields_and_end, _ = split_header(message)
    header = parse_header(message, 0, len(fields_and_end), most=MAX_FIELDS)
    is_clear = (
        header.end == len(fields_and_end)
        and all(field.name for field in header.fields)
        and _CONFUSING.search(fields_and_end) is None
    )
    return header if is_clear else None


def _value(message: bytes, field: Field) -> str:
    if field.value - field.start != len(field.name) + 1:
        raise _AmbiguousError  # a space before the colon
    try:
        text = message[field.value : field.end].decode()
    except UnicodeDecodeError:
        raise _AmbiguousError from None
    return _FOLD.sub("", text).rstrip("\r\n")


def _addresses(text: str, *, names: bool) -> Iterator[str]:
    """The addresses of a list of mailboxes, and those that its names and comments show if `names`.

    Raises _AmbiguousError.
    """
    before: list[str] = []  # the kinds of what stands before the <address>, spaces and comments left out
    after = False
    last_address = ""
    shown: list[str] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        end = found and (comment_end(text, at) if found["comment"] else found.end())
        if found is None or end is None:
            raise _AmbiguousError
        kind, written = str(found.lastgroup), text[at:end]
        at = end
        if kind == "comma":
            yield from _mailbox(before, after, last_address, shown if names else [])
            before, after, last_address, shown = [], False, "", []
        elif kind in ("comment", "space"):
            shown.append(written)
        elif after:
            raise _AmbiguousError  # something behind the <address>
        elif kind == "angle":
            after = True
            yield from _address(found["angle"])
        else:
            before.append(kind)
            if kind == "address":
                last_address = written
            else:
                shown.append(written)
    yield from _mailbox(before, after, last_address, shown if names else [])


def _mailbox(before: list[str], after: bool, bare: str, shown: list[str]) -> Iterator[str]:
    """What a mailbox shows beside its <address>; or, where it has none, its one address."""
    if "address" in before:
        if len(before) > 1:
            raise _AmbiguousError
        yield from _address(bare)
    elif not after:
        raise _AmbiguousError
    yield from _shown("".join(shown))


def _address(written: str) -> Iterator[str]:
    """An address, and what its local part shows if that is quoted."""
    if "=?" in written or unicodedata.normalize("NFKC", written).count("@") != 1:
        raise _AmbiguousError
    yield written


def _shown(text: str) -> Iterator[str]:
    """What looks like an address in a text that readers show, maybe after decoding it."""
    if text.isascii() and "@" not in text and "=?" not in text:
        return
    for reading in _readings(text.replace("\\", "")):
        for found in _SHOWN.findall(unicodedata.normalize("NFKC", reading)):
            if found.count("@") > 1:
                raise _AmbiguousError
            yield found.strip("'").rstrip(".")


def _readings(text: str) -> Iterator[str]:
    """The text with its encoded words decoded: those beside one another together, and joined with what
    else stands beside them; then one by one, and apart from that."""
    if "=?" in _RUN.sub("", text):
        raise _AmbiguousError  # what some take for an encoded word
    yield _RUN.sub(lambda run: _decoded(_WORD.findall(run[0]), joined=True), text)
    yield _RUN.sub(lambda run: f" {_decoded(_WORD.findall(run[0]), joined=False)} ", text)


def _decoded(words: list[str], *, joined: bool) -> str:
    """The text of encoded words. joined: those in one charset are decoded together, and must be whole."""
    pieces: list[tuple[str, bytes]] = []
    for word in words:
        _, label, encoding, content, _ = word.split("?")
        charset = label.partition("*")[0].lower()  # behind * stands a language (RFC 2231 §5)
        octets = _octets(encoding, content)
        if joined and pieces and pieces[-1][0] == charset:
            pieces[-1] = (charset, pieces[-1][1] + octets)
        else:
            pieces.append((charset, octets))
    try:
        text = "".join(
            octets.decode(charset, "strict" if joined else "replace") for charset, octets in pieces
        )
        text.encode()
    except (LookupError, ValueError):
        raise _AmbiguousError from None
    if any(_is_no_charset(charset) for charset, _ in pieces) or any(
        unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text
    ):
        raise _AmbiguousError
    return text


def _octets(encoding: str, content: str) -> bytes:
    if encoding in "qQ":
        return binascii.a2b_qp(content, header=True)
    if _BASE64.fullmatch(content) is None:
        raise _AmbiguousError
    return binascii.a2b_base64(content)


def _is_no_charset(charset: str) -> bool:
    name = codecs.lookup(charset).name
    return name in _NO_CHARSETS or name.startswith(("utf-16", "utf-32"))
