"""Reading encoded words (RFC 2047), and repairing those that contain raw bytes.

Some programs put `=?iso-8859-1?Q?` and `?=` around a text without encoding it. Readers are lenient, so this
is too: a word may be anywhere, even in quotes and file names, and may contain spaces. Knows nothing of field
names.
"""

import binascii
import re

from smtp2cf.message.charset import decode_word
from smtp2cf.message.encoded_words_encode import ENCODED_WORD, encoded_words

_RUN = re.compile(rf"{ENCODED_WORD}(?:[ \t\r\n]*+{ENCODED_WORD})*+")
"""Encoded words with white space between them, which says nothing (RFC 2047 §6.2)."""
_WORD = re.compile(ENCODED_WORD)
_RAW_WORD = re.compile(rb"=\?([!->@-~]++)\?([bBqQ])\?((?:(?!\?=)[^\r\n])*+)\?=")
_RAW = bytes(range(0x80, 0x100))
_QUOTED_RAW = {octet: f"={octet:02X}" for octet in _RAW}


def decode_words(text: str) -> str:
    """The text with its encoded words decoded."""
    return _RUN.sub(_said, text) if "=?" in text else text


def mend_words(value: bytes) -> bytes:
    """A field's value with the raw bytes in its encoded words encoded; the same object if there are none.

    The bytes are in the charset that the word names.
    """
    lines = value.split(b"\n")
    for number, line in enumerate(lines):
        # Without a word's end in the line, no place in it is looked at twice.
        end = line.rfind(b"?=") + 2
        if end > 1 and not line.isascii():
            lines[number] = _RAW_WORD.sub(_mended, line[:end]) + line[end:]
    mended = b"\n".join(lines)
    return value if mended == value else mended


def _mended(word: re.Match[bytes]) -> bytes:
    if word[3].isascii():
        return word[0]
    label, encoding = word[1].decode("ascii"), word[2].decode("ascii")
    content = word[3].decode("latin-1")
    said = decode_word(_octets(encoding, content), _charset(label))
    return "\r\n ".join(encoded_words(said)).encode("ascii")


def _said(run: re.Match[str]) -> str:
    # A character may be cut in two between words of one charset.
    pieces: list[tuple[str, bytes]] = []
    for word in _WORD.findall(run[0]):
        _, label, encoding, content, _ = word.split("?")
        charset, octets = _charset(label), _octets(encoding, content)
        if pieces and pieces[-1][0] == charset:
            pieces[-1] = charset, pieces[-1][1] + octets
        else:
            pieces.append((charset, octets))
    return "".join(decode_word(octets, charset) for charset, octets in pieces)


def _charset(label: str) -> str:
    return label.partition("*")[0]  # behind * stands a language (RFC 2231 §5)


def _octets(encoding: str, content: str) -> bytes:
    """The bytes of a word's content; in it, raw bytes are characters with the same number."""
    if encoding in "qQ":
        return binascii.a2b_qp(content.translate(_QUOTED_RAW), header=True)
    content = content.encode("ascii", "ignore").decode().rstrip("=")
    try:
        return binascii.a2b_base64(content + "=" * (-len(content) % 4))
    except binascii.Error:
        return b""
