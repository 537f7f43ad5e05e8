"""Display names in From: quotes for those that need them (RFC 5322 §3.2.4, §3.4).

`Smith, John <j@example.com>` becomes `"Smith, John" <j@example.com>`, and comments become part of the name:
`j@example.com (John)` becomes `"John" <j@example.com>`. Every reader finds the same mailboxes as before. A
field with a group, or whose mailboxes can't be told apart for certain, stays as it is. Knows nothing of other
fields.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from smtp2cf.message.comments import comment_end
from smtp2cf.message.encoded_words_decode import decode_words
from smtp2cf.message.encoded_words_encode import ENCODED_WORD, encoded_words

LINE_LIMIT = 998
"""Octets of a line without its CRLF (RFC 5322 §2.1.1)."""


class _Token(NamedTuple):
    kind: str
    written: str


class _Unclear(Exception):  # noqa: N818 - it never leaves this file
    """The field is left alone."""


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
      | (?P<special>[)@\[\]\\])
      | (?P<text>(?:(?!{ENCODED_WORD})[^ \t\r\n"<>(),:;@\[\]\\])++)""",
    re.DOTALL | re.VERBOSE,
)
_ATOMS = r'[^\s"<>(),:;@\[\]\\]++'
_ADDRESS = re.compile(rf"{_ATOMS}@{_ATOMS}")
_IN_BRACKETS = re.compile(rf"<(?:{_ATOMS}|{_QUOTED})@(?:{_ATOMS}|\[{_ATOMS}\])>", re.DOTALL)
_COMMA, _AT, _LITERAL = _Token("comma", ","), _Token("special", "@"), _Token("special", "[")
_SAYS_NOTHING = frozenset({"space", "comment"})
_NEEDS_QUOTES = frozenset({"comma", "colon", "semicolon", "special", "comment"})
"""Not a dot, which should be in quotes too (RFC 5322 §4.1): nobody refuses `John Q. Public`."""
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_SPECIAL_IN_QUOTES = re.compile(r'["\\]')
_LINE_END = re.compile(r"[\r\n]+")
_ENCODED_WORD = re.compile(ENCODED_WORD)


def quote_display_names(value: str) -> str:
    """The value of a From field, from its colon on; the same text if no name needs quotes."""
    end = value[len(value.rstrip("\r\n")) :]
    try:
        mailboxes = list(_mailboxes(list(_tokens(value.removesuffix(end)))))
    except _Unclear:
        return value
    quoted = ",".join(mailboxes) + end
    lines = quoted.encode().split(b"\n")
    return value if any(len(line) > LINE_LIMIT - len("From:") for line in lines) else quoted


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        end = found and (comment_end(text, at) if found["comment"] else found.end())
        if found is None or end is None:
            raise _Unclear  # a quote, a bracket or a comment that is not closed
        yield _Token(str(found.lastgroup), text[at:end])
        at = end


def _mailboxes(tokens: Sequence[_Token]) -> Iterator[str]:
    """What stands between the commas of the list, each with quotes where necessary."""
    kinds = [token.kind for token in tokens]
    if "colon" in kinds and "semicolon" in kinds[kinds.index("colon") :]:
        raise _Unclear  # a group
    name: list[_Token] = []  # what stood between commas and is part of the name that follows
    for piece in _split_at_commas(tokens):
        kinds = [token.kind for token in piece]
        if "angle" in kinds:
            yield _with_name([*name, *piece], len(name) + kinds.index("angle"))
            name = []
        elif _AT in piece:
            if name:
                raise _Unclear  # several mailboxes or one: nobody can tell
            yield _without_brackets(piece)
        elif name or not _SAYS_NOTHING.issuperset(kinds):
            name += [*piece, _COMMA]
        else:
            yield _written(piece)  # an empty element of the list
    if name:
        raise _Unclear


def _split_at_commas(tokens: Sequence[_Token]) -> Iterator[list[_Token]]:
    piece: list[_Token] = []
    for token in tokens:
        if token == _COMMA:
            yield piece
            piece = []
        else:
            piece.append(token)
    yield piece


def _with_name(mailbox: Sequence[_Token], at: int) -> str:
    """A mailbox whose <address> is the token at this place."""
    name, address = [*mailbox[:at], *mailbox[at + 1 :]], mailbox[at].written
    if not _SAYS_NOTHING.issuperset(token.kind for token in mailbox[at + 1 :]):
        raise _Unclear
    if not any(token.kind in _NEEDS_QUOTES for token in name):
        return _written(mailbox)
    if _IN_BRACKETS.fullmatch(address) is None or {_AT, _LITERAL}.issubset(name):
        raise _Unclear
    return f" {_phrase(name)} {address}"


def _without_brackets(mailbox: Sequence[_Token]) -> str:
    """A mailbox that is an address; a comment beside it becomes its name."""
    comments = [token for token in mailbox if token.kind == "comment"]
    address = "".join(" " if token.kind == "comment" else token.written for token in mailbox).strip()
    if _ADDRESS.fullmatch(address) is None:
        raise _Unclear
    return f" {_phrase(comments)} <{address}>" if comments else _written(mailbox)


def _phrase(name: Sequence[_Token]) -> str:
    """A display name as a quoted string; as encoded words if it has some, which no reader sees in quotes."""
    said = _said(name)
    if _ENCODED_WORD.search(said) is None:
        return '"' + _SPECIAL_IN_QUOTES.sub(r"\\\g<0>", said) + '"'
    if any(token.kind == "quoted" and "=?" in token.written for token in name):
        raise _Unclear
    return "\r\n ".join(encoded_words(decode_words(said)))


def _said(name: Sequence[_Token]) -> str:
    """A name without its quotes and folds; comments that are all of it without their parentheses."""
    only_comments = _SAYS_NOTHING.issuperset(token.kind for token in name)
    said: list[str] = []
    for kind, written in name:
        if kind == "space":
            said += [" "] if said and said[-1] != " " else []
        elif kind == "quoted" or kind == "comment":
            inside = written[1:-1] if kind == "quoted" or only_comments else written
            said.append(_PAIR.sub(r"\1", _LINE_END.sub("", inside)))
        else:
            said.append(written)
    return "".join(said).strip()


def _written(tokens: Sequence[_Token]) -> str:
    return "".join(token.written for token in tokens)
