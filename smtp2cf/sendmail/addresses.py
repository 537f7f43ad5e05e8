"""Addresses as people write them: lists of mailboxes (RFC 5322 §3.4), and what an address may be.

Knows nothing of settings: whoever needs a complete address adds the domain (Settings.qualified).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_ADDRESS = 320

# Local parts and domains are what the bridge accepts as such (smtp2cf/smtpd/path.py): it judges dropped
# mail later.
UNSEEN = frozenset(
    chr(code)
    for first, last in (
        (0x00, 0x1F), (0x7F, 0xA0), (0x1680, 0x1680), (0x2000, 0x200B), (0x200E, 0x200F),
        (0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
    )
    for code in range(first, last + 1)
)  # fmt: skip
"""Control characters, line ends, blanks other than the space, and marks that change the direction of text."""

NO_ATOM = UNSEEN | set(' <>()[]\\,;:@"')


class Mailbox:
    """One address of a list, as it was written.

    address: without comments and white space, "" for <>, None if it is not an address.
    insert_at: where in the text a missing domain belongs, None if there is a domain.
    source: the text itself.
    """

    __slots__ = ("address", "insert_at", "source")

    def __init__(self, address: str | None, insert_at: int | None, source: str) -> None:
        self.address = address
        self.insert_at = insert_at
        self.source = source


def parse_addresses(text: str, *, blanks_part: bool = True) -> list[Mailbox]:
    """The mailboxes of an address list (RFC 5322 §3.4, with obsolete forms; semicolons may separate too).

    blanks_part: addresses may stand side by side with blanks alone between them.
    """
    found: list[Mailbox] = []
    words: list[tuple[str, int]] = []
    bracket, in_angle = 0, False
    for word, end in _tokens(text):
        # In a source route, <@a,@b:c@d>, commas separate no addresses.
        in_route = in_angle and [one for one, _ in words[bracket + 1 : bracket + 2]] == ["@"]
        if word == "<":
            bracket, in_angle = len(words), True
        elif word == ">":
            in_angle = False
        elif word in (",", ";") and not in_route:
            found += _mailboxes(words, text, blanks_part)
            words, in_angle = [], False
            continue
        elif word == ":" and not in_angle:
            words = []  # those before it are the name of a group
            continue
        words.append((word, end))
    return found + _mailboxes(words, text, blanks_part)


def parse_argument(text: str) -> list[Mailbox]:
    """The mailboxes of a command line argument, which may not contain line ends, as a header may."""
    if UNSEEN.intersection(text.replace("\t", " ")) or not is_text(text):
        return [Mailbox(None, None, text)]
    return parse_addresses(text)


def _mailboxes(words: list[tuple[str, int]], text: str, blanks_part: bool) -> list[Mailbox]:
    """The mailboxes between two commas: one, or several separated by blanks."""
    parts = [words]
    if blanks_part and len(words) > 1:
        parts = [part for behind in _parted_at_brackets(words) for part in _parted_at_blanks(behind)]
    return [_mailbox(part, text[part[0][1] - len(part[0][0]) : part[-1][1]]) for part in parts if part]


def _parted_at_brackets(words: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """`A <a@x> B <b@x> c@x`: a > ends a mailbox if another address follows."""
    places = list(enumerate(word for word, _ in words))
    last = max((place for place, word in places if word in "<@"), default=-1)
    ends = [place + 1 for place, word in places if word == ">" and place < last]
    return [words[start:end] for start, end in zip([0, *ends], [*ends, len(words)])]


def _parted_at_blanks(words: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """`a@x b@x` is two addresses; words without any @ are a name, and in <> is one address."""
    tokens = [word for word, _ in words]
    if "<" in tokens or "@" not in tokens:
        return [words]
    parts = [[words[0]]]
    has_at = tokens[0] == "@"
    for place in range(1, len(words)):
        word, end = words[place]
        before, ended = words[place - 1]
        joined = ended == end - len(word)  # nothing between them
        dotted = before.endswith(".") or word.startswith(".")
        if not joined and has_at and before != "@":
            joined = dotted and tokens[place + 1 : place + 2] != ["@"]
        elif not joined:
            joined = dotted or "@" in (before, word)
        if joined:
            parts[-1].append(words[place])
        else:
            parts.append([words[place]])
            has_at = False
        has_at = has_at or word == "@"
    return parts


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Words and specials, each with the place where it ends. Comments and white space are left out."""
    place, length = 0, len(text)
    while place < length:
        first = text[place]
        start = place
        if first in " \t\r\n":
            place += 1
            continue
        if first == "(":
            place = _end_of_comment(text, place)
            continue
        if first == '"':
            place = end_of_quoted(text, place)
        elif first == "[":
            place = text.find("]", place) + 1 or length
        elif first in "<>,;:@":
            place += 1
        else:
            place = _end_of_atom(text, place)
        yield text[start:place], place


def _end_of_comment(text: str, place: int) -> int:
    depth = 0
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if not depth:
                return place + 1
        place += 1
    return len(text)


def end_of_quoted(text: str, place: int) -> int:
    place += 1
    while place < len(text):
        if text[place] == '"':
            return place + 1
        place += 2 if text[place] == "\\" else 1
    return len(text)


def _end_of_atom(text: str, place: int) -> int:
    if text.startswith("=?", place):  # an encoded word, in which some programs leave a comma
        end = text.find("?=", text.find("?", text.find("?", place + 2) + 1) + 1) + 2
        if place + 6 < end < place + 200 and len(text[place:end].split()) == 1:
            return end
    place += 1
    while place < len(text) and text[place] not in ' \t\r\n()<>,;:@"[':
        place += 1
    return place


def _mailbox(words: list[tuple[str, int]], source: str) -> Mailbox:
    """The address in the words of one list element: those in <>, else all of them."""
    source = " ".join(source.split())
    tokens = [token for token, _ in words]
    if "<" in tokens:
        opened = tokens.index("<") + 1
        if ">" not in tokens[opened:]:
            return Mailbox(None, None, source)
        closed = tokens.index(">", opened)
        words, tokens = words[opened:closed], tokens[opened:closed]
        if tokens[:1] == ["@"] and ":" in tokens:  # a source route: the address comes after it
            behind = tokens.index(":") + 1
            words, tokens = words[behind:], tokens[behind:]
        if not tokens:
            return Mailbox("", None, source)
    at = tokens.index("@") if "@" in tokens else len(tokens)
    local, domain = "".join(tokens[:at]), "".join(tokens[at + 1 :])
    if len(domain) > 1 and domain.endswith("."):
        domain = domain[:-1]
    has_domain = at < len(tokens)
    address = f"{local}@{domain}" if has_domain else local
    good = _are_dotted(tokens[:at]) and _are_dotted(tokens[at + 1 :])
    good = good and is_local(local) and (is_domain(domain) or not has_domain)
    if not good or len(address) > LONGEST_ADDRESS:
        return Mailbox(None, None, source)
    return Mailbox(address, None if has_domain else words[-1][1], source)


def _are_dotted(tokens: list[str]) -> bool:
    """Is there a dot wherever two of them meet?"""
    return all(left.endswith(".") or right.startswith(".") for left, right in zip(tokens, tokens[1:]))  # noqa: RUF007


def is_local(text: str) -> bool:
    """Is it a local part that Cloudflare takes: ASCII that needs no quotes, or one quoted string?"""
    if not text.isascii():
        return False
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return bool(text.strip(".")) and not NO_ATOM.intersection(text)
    escaped = False
    for c in text[1:-1]:
        if escaped:
            if not " " <= c <= "~":
                return False
            escaped = False
        elif c == "\\":
            escaped = True
        elif c == '"' or c in UNSEEN:
            return False
    return not escaped


def is_domain(text: str) -> bool:
    """Is it a domain name, in any script, or an address literal?"""
    if text[:1] == "[" and text[-1:] == "]":
        inside = text[1:-1]
        inside = inside[5:] if inside[:5].lower() == "ipv6:" else inside
        return bool(inside) and set(inside) <= set("0123456789abcdefABCDEF:.")
    if not text or UNSEEN.intersection(text) or not is_text(text):
        return False
    return all(
        label and label[0] != "-" and label[-1] != "-" and all(map(_is_in_label, label))
        for label in text.split(".")
    )


def _is_in_label(c: str) -> bool:
    return c > "\x7f" or c.isalnum() or c in "_-"


def is_text(text: str) -> bool:
    """Was all of it UTF-8? Other octets have become surrogates."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)
