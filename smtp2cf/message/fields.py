"""Converting header fields with raw 8-bit bytes to a form that readers understand (RFC 2047, 2231, 6532).

Text becomes encoded words, in addresses only display names and comments; file names become RFC 2231
parameters; what can be neither becomes raw UTF-8. Knows nothing of the body and of other fields.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from urllib.parse import quote

from smtp2cf.message.charset import decode
from smtp2cf.message.encoded_words_decode import decode_words, mend_words
from smtp2cf.message.encoded_words_encode import ENCODED_WORD, Kind, Unit, fixed, space, text_units, write
from smtp2cf.message.mime import PARAMETER, SEGMENT, unquote

_ADDRESSES = frozenset(
    """
    from sender reply-to to cc bcc resent-from resent-sender resent-reply-to resent-to resent-cc resent-bcc
    return-path errors-to return-receipt-to disposition-notification-to mail-reply-to mail-followup-to
    apparently-to delivered-to x-original-to x-sender list-id keywords
    """.split()  # noqa: SIM905 - quoted one by one they fill a page
)
"""Fields with addresses, or with phrases as in those."""

_WITH_PARAMETERS = frozenset({"content-type", "content-disposition"})

_PLAIN_PARAMETERS = frozenset({"boundary", "charset"})
"""Parameters that many readers know in their plain form only, and without which a message falls apart. Raw
bytes in their segment are rubbish behind the value."""

_STRUCTURED = frozenset(
    """
    date resent-date message-id resent-message-id in-reply-to references received mime-version
    content-transfer-encoding content-id content-location content-base content-language content-md5
    content-duration content-features content-alternative list-help list-subscribe list-unsubscribe
    list-unsubscribe-post list-post list-owner list-archive dkim-signature domainkey-signature
    authentication-results arc-seal arc-message-signature arc-authentication-results received-spf autocrypt
    auto-submitted precedence priority importance x-priority original-recipient
    disposition-notification-options feedback-id
    """.split()  # noqa: SIM905 - quoted one by one they fill a page
)
"""Fields in which an encoded word would be a syntax error."""

_LONGEST_PARAMETER = 900
"""Characters after which a parameter is split into sections, to stay below 998 per line (RFC 5322 §2.1.1)."""
_SECTION = 60

_ADDRESS_TOKEN = re.compile(
    rf"""(?P<space>[ \t\r\n]++)
      | (?P<quoted>"(?:[^"\\]++|\\.)*+"?)
      | (?P<angle><[^>]*+>?)
      | (?P<comment>\()
      | (?P<separator>[,;:])
      | (?P<encoded>{ENCODED_WORD})
      | (?P<atom>(?:(?!{ENCODED_WORD})[^ \t\r\n"<(,;:])++)""",
    re.DOTALL | re.VERBOSE,
)
_COMMENT_TOKEN = re.compile(
    rf"""(?P<space>[ \t\r\n]++)
      | (?P<parenthesis>[()])
      | (?P<encoded>{ENCODED_WORD})
      | (?P<word>(?:\\.|(?!{ENCODED_WORD})[^ \t\r\n()\\]|\\\Z)++)""",
    re.DOTALL | re.VERBOSE,
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


def convert_field(name: str, value: bytes, charset: str) -> bytes:
    """The value of a field, from its colon to its last line end, as valid UTF-8.

    name: in lower case. charset: the label of the probable charset of `value`, "" if unknown.
    """
    if name in _STRUCTURED:
        return decode(value, charset).encode()
    mended = mend_words(value)
    text = decode(mended, charset)
    column = len(name) + 1
    if name in _ADDRESSES:
        text = write(_address_units(text), column)
    elif name in _WITH_PARAMETERS:
        text = _write_parameters(text, has_words=mended is not value)
    else:
        text = write(text_units(text), column)
    return text.encode()


def _write_parameters(text: str, *, has_words: bool) -> str:
    """Content-Type or Content-Disposition with RFC 2231's parameters instead of raw ones.

    has_words: instead of encoded words, too, which do not belong there but are read by many.

    One that has such a form already, whole or in sections, keeps its plain twin as raw UTF-8.
    """
    segments = [PARAMETER.fullmatch(segment[0]) for segment in SEGMENT.finditer(text)]
    extended = {
        found["name"].lower() for found in segments if found and (found["section"] or found["extended"])
    }

    def rewrite(segment: re.Match[str]) -> str:
        if segment[0].isascii() and not (has_words and "=?" in segment[0]):
            return segment[0]
        found = PARAMETER.fullmatch(segment[0])
        if found is None or found["name"].lower() in extended | _PLAIN_PARAMETERS:
            return segment[0]
        blank = found["blank"] if segment.start() == 0 or "\n" in found["blank"] else "\r\n "
        return blank + _extended_parameter(found["name"], unquote(found["value"]))

    return SEGMENT.sub(rewrite, text)


def _extended_parameter(name: str, value: str) -> str:
    """A parameter in RFC 2231's form; in sections if it is very long."""
    encoded = quote(decode_words(value).replace("\r", "").replace("\n", ""), safe="!#$&+-.^_`|~")
    if len(encoded) <= _LONGEST_PARAMETER:
        return f"{name}*=utf-8''{encoded}"
    sections = re.findall(rf"(?:%..|[^%]){{1,{_SECTION // 3}}}", encoded)
    sections[0] = "utf-8''" + sections[0]
    return ";\r\n ".join(f"{name}*{number}*={section}" for number, section in enumerate(sections))


def _address_units(text: str) -> list[Unit]:
    """The units of a list of mailboxes (RFC 5322 §3.4), of which display names and comments are words."""
    units: list[Unit] = []
    words: list[int] = []
    at = 0
    while (found := _ADDRESS_TOKEN.match(text, at)) is not None:
        at, written = found.end(), found[0]
        match found.lastgroup:
            case "space":
                units.append(space(written))
            case "comment":
                at = _add_comment(units, text, found.start())
            case "encoded":
                units.append(Unit(Kind.ENCODED, written, written))
            case "quoted":
                words.append(len(units))
                units.append(Unit(Kind.WORD, written, decode_words(unquote(written))))
            case "atom":
                words.append(len(units))
                units.append(Unit(Kind.WORD, written, written))
            case _:
                # A name stands before <…> and before the colon of a group.
                if written in (",", ";"):
                    _keep_addr_spec(units, words)
                words.clear()
                units.append(fixed(written))
    _keep_addr_spec(units, words)
    return units


def _keep_addr_spec(units: list[Unit], words: Sequence[int]) -> None:
    """Fix those of a mailbox's words that are an addr-spec without <>: the one with the @ and what is
    joined to it without a space, such as a quoted local part."""
    for _, joined in groupby(enumerate(words), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in joined]
        if any(
            "@" in units[number].written and not units[number].written.startswith('"') for number in numbers
        ):
            for number in numbers:
                units[number] = fixed(units[number].written)


def _add_comment(units: list[Unit], text: str, at: int) -> int:
    """Add the units of the comment that begins here; returns where it ends."""
    depth = 0
    while (found := _COMMENT_TOKEN.match(text, at)) is not None:
        at, written = found.end(), found[0]
        match found.lastgroup:
            case "space":
                units.append(space(written))
            case "encoded":
                units.append(Unit(Kind.ENCODED, written, written))
            case "word":
                units.append(Unit(Kind.WORD, written, _QUOTED_PAIR.sub(r"\1", written)))
            case _:
                units.append(fixed(written))
                depth += 1 if written == "(" else -1
                if depth == 0:
                    break
    return at
