"""From and Sender with other addresses, where the old ones may not send (RFC 5322 §3.6.2).

An address changes and nothing else: names, comments, groups and folds stay. Where an address had no name, it
becomes the name itself, so that people still see whose message it is. If there is no Reply-To, one with the
old addresses is added, for as far as they can get replies. Every reader finds the same mailboxes as before;
what can't be read for certain stays as it is. Decides nothing about addresses.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from smtp2cf.message.comments import comment_end
from smtp2cf.message.encoded_words_encode import ENCODED_WORD
from smtp2cf.message.header import fields_named

OCTETS_LIMIT = 64 * 1024
"""Octets of From and Sender that are looked at, in all fields together: see repair.FROM_LIMIT."""
LINE_LIMIT = 998
"""Octets of a line without its CRLF (RFC 5322 §2.1.1)."""

Becomes = Callable[[str], str | None]
"""An address as it stands in a field, or a name without a domain → the address to write instead; None if it
stays."""
GetsReplies = Callable[[str], str]
"""An address → the form in which it goes into Reply-To, "" if no reply can arrive there."""


class Rewritten(NamedTuple):
    """changed: the names of the fields that were changed or added; if it is empty, message is the very same
    object. signatures: the domains whose DKIM signatures the message had."""

    message: bytes
    changed: tuple[str, ...]
    signatures: tuple[str, ...] = ()


class _Mailbox(NamedTuple):
    """Where in a field's value an address stands, with its angle brackets if it has some.

    address: without brackets and route. says: the name to write in the place `name`, "" if it has one that
    stays. bare: it has no brackets, and a comment for a name.
    """

    start: int
    end: int
    address: str
    says: str = ""
    name: tuple[int, int] = (0, 0)
    bare: bool = False


class _Unclear(Exception):  # noqa: N818 - it never leaves this file
    """The field is left alone."""


class _Token(NamedTuple):
    kind: str
    start: int
    end: int
    written: str


_NAMES = {"from": "From", "sender": "Sender"}
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_TOKEN = re.compile(
    rf"""(?P<space>[ \t\r\n]++)
      | (?P<quoted>{_QUOTED})
      | (?P<angle><(?:{_QUOTED}|[^"<>])*+>)
      | (?P<encoded>{ENCODED_WORD})
      | (?P<comment>\()
      | (?P<comma>,)
      | (?P<colon>:)
      | (?P<semicolon>;)
      | (?P<at>@)
      | (?P<text>(?:(?!{ENCODED_WORD})[^ \t\r\n"<>(),:;@])++)""",
    re.DOTALL | re.VERBOSE,
)
_SIMPLE = re.compile(
    r"""[ \t]*((?:"[^"\\\s][^"\\\r\n]*"|[\w .'-]*[\w.'-])[ ])?"""
    r"""(<)?([A-Za-z0-9.+=_-]+@[A-Za-z0-9.-]+)(?(2)>)[ \t]*\r?\n"""
)
"""Nearly every From: read without a token for each piece."""
_IN_BRACKETS = re.compile(
    rf"""<[ \t\r\n]*+(?:@[^:]*+:)?((?:{_QUOTED}|[^\s"<>(),:;@]++)(?:@\S+?)?)[ \t\r\n]*+>"""
)
_ADDRESS = re.compile(rf"""(?:{_QUOTED}|[^\s"<>(),:;@\[\]\\]++)(?:@[^\s"<>(),:;@]++|@\[[^\s\[\]]*\])?""")
_SPECIAL_IN_QUOTES = re.compile(r'["\\]')
_SIGNED_BY = re.compile(rb"(?:^|;)[ \t\r\n]*d[ \t\r\n]*=[ \t\r\n]*([!-:<-~]+)")
_LIST = ",\r\n "
_SAYS_NOTHING = frozenset({"space", "comment"})


def rewrite_senders(message: bytes, becomes: Becomes, gets_replies: GetsReplies) -> Rewritten:
    """The message with other addresses in From and Sender. message: UTF-8 with CRLF line ends."""
    fields = fields_named(message, _NAMES)
    pieces: list[bytes] = []
    changed: dict[str, None] = {}
    copied = looked_at = 0
    for field in fields:
        if (looked_at := looked_at + field.end - field.start) > OCTETS_LIMIT:
            continue
        value = message[field.value : field.end].decode()
        mailboxes = _changing(value, becomes)
        rewritten = _rewritten(value, mailboxes, becomes, len(field.name) + 1)
        if rewritten == value:
            continue
        changed[_NAMES[field.name]] = None
        pieces += [message[copied : field.value], rewritten.encode()]
        copied = field.end
        if field.name == "from" and (replies := _replies(message, mailboxes, becomes, gets_replies)):
            changed["Reply-To"] = None
            pieces.append(replies)
    if not changed:
        return Rewritten(message, ())
    return Rewritten(b"".join([*pieces, message[copied:]]), (*changed,), (*_signatures(message),))


def _replies(
    message: bytes, mailboxes: Sequence[_Mailbox], becomes: Becomes, gets_replies: GetsReplies
) -> bytes:
    """Reply-To for a From, b"" for none: where replies would have gone to before it was changed."""
    if fields_named(message, ["reply-to"]):
        return b""
    addresses = {mailbox.address: gets_replies(mailbox.address) for mailbox in mailboxes}
    if not any(addresses[old] and becomes(old) is not None for old in addresses):
        return b""
    return f"Reply-To: {_LIST.join(filter(None, addresses.values()))}\r\n".encode()


def _signatures(message: bytes) -> Iterator[str]:
    for field in fields_named(message, ["dkim-signature"]):
        found = _SIGNED_BY.search(message[field.value : field.end])
        yield found[1].decode("ascii") if found else "?"


def _changing(value: str, becomes: Becomes) -> Sequence[_Mailbox]:
    """The mailboxes of a field; none if all of them stay."""
    simple = _SIMPLE.fullmatch(value)
    if simple is not None and becomes(simple[3]) is None:
        return ()
    if simple is not None and (simple[2] or not simple[1]):
        start, end, address = simple.start(2 if simple[2] else 3), simple.end(3) + bool(simple[2]), simple[3]
        return (_Mailbox(start, end, address, "" if simple[1] else address, (start, start)),)
    try:
        return _mailboxes(value)
    except _Unclear:
        return ()


def _rewritten(value: str, mailboxes: Sequence[_Mailbox], becomes: Becomes, column: int) -> str:
    """The value with other addresses; the same text where a line would become too long even if folded."""
    for fold in ("", "\r\n "):
        written = _written(value, mailboxes, becomes, fold)
        lines = written.encode().split(b"\n")
        if len(lines[0]) + column <= LINE_LIMIT + 1 and all(len(line) <= LINE_LIMIT + 1 for line in lines):
            return written
    return value


def _written(value: str, mailboxes: Sequence[_Mailbox], becomes: Becomes, fold: str) -> str:
    pieces: list[str] = []
    copied = 0
    for mailbox in mailboxes:
        new = becomes(mailbox.address)
        if new is None:
            continue
        if mailbox.says:
            start, end = mailbox.name
            name = _SPECIAL_IN_QUOTES.sub(r"\\\g<0>", mailbox.says)
            pieces += [value[copied:start], f'"{name}"{"" if end > start else " "}']
            copied = end
        pieces += [value[copied : mailbox.start], fold, new if mailbox.bare else f"<{new}>"]
        copied = mailbox.end
    return "".join([*pieces, value[copied:]])


def _mailboxes(value: str) -> Sequence[_Mailbox]:
    """The mailboxes of a list, those in groups too, for as far as they can be told apart.

    A mere word is one in angle brackets, or where nothing else is there: it may be part of a name, as in
    Smith, John <…>.
    """
    found: list[_Mailbox] = []
    piece: list[_Token] = []
    tokens = [*_tokens(value)]
    for token in [*tokens, _Token("comma", len(value), len(value), "")]:
        if token.kind in ("comma", "semicolon"):
            if (mailbox := _mailbox(piece)) is not None:
                found.append(mailbox)
            piece = []
        elif token.kind == "colon":
            piece = []  # what stood before it is the name of a group
        else:
            piece.append(token)
    said = "".join(token.written for token in tokens if token.kind not in _SAYS_NOTHING)
    return [each for each in found if "@" in each.address or value[each.start] == "<" or said == each.address]


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        end = found and (comment_end(text, at) if found["comment"] else found.end())
        if found is None or end is None:
            raise _Unclear  # a quote, a bracket or a comment that is not closed
        yield _Token(str(found.lastgroup), at, end, text[at:end])
        at = end


def _mailbox(piece: Sequence[_Token]) -> _Mailbox | None:
    said = [token for token in piece if token.kind not in _SAYS_NOTHING]
    has_comment = any(token.kind == "comment" for token in piece)
    if not said:
        return None
    *name, last = said
    if last.kind != "angle":
        return _without_brackets(said, has_comment=has_comment)
    found = _IN_BRACKETS.fullmatch(last.written)
    if found is None or any(token.kind == "angle" for token in name):
        return None
    mailbox = _Mailbox(last.start, last.end, found[1])
    if any(token.kind == "at" for token in name):  # root@web07 <root@web07>, which needs quotes
        place = (name[0].start, name[-1].end)
        is_address = "".join(token.written for token in name) == found[1] and not has_comment
        return mailbox._replace(says=found[1], name=place) if is_address else None
    if has_comment or any(token.kind != "quoted" or token.written[1:-1].strip() for token in name):
        return mailbox
    place = (name[0].start, name[-1].end) if name else (last.start, last.start)
    return mailbox._replace(says=found[1], name=place)


def _without_brackets(said: Sequence[_Token], *, has_comment: bool) -> _Mailbox | None:
    start, end = said[0].start, said[-1].end
    address = "".join(token.written for token in said)
    whole = len(address) == end - start and all(token.kind != "encoded" for token in said)
    if not whole or _ADDRESS.fullmatch(address) is None:
        return None
    return _Mailbox(start, end, address, "" if has_comment else address, (start, start), bare=has_comment)
