"""Paths of MAIL FROM and RCPT TO (RFC 5321 §4.1.2, RFC 6531 §3.3), read as clients really write them.

Accepted beside the standard's `<local@domain>`: no angle brackets, spaces around the address, source
routes (dropped, as §4.1.1.3 allows), quoted local parts, address literals, UTF-8 with or without
SMTPUTF8, and dots anywhere in a local part (mailboxes like `a..b@` exist). Knows no session.
"""

import re

from smtp2cf.reply import Reply

ADDRESS_LIMIT = 320
"""Characters of an address: 64 of a local part, the @, 255 of a domain (RFC 5321 §4.5.3.1)."""

# Spaces, line ends and marks that turn the direction of text round, which are no part of a name.
_UNSEEN = r"\x7f-\xa0\u1680\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"
_LOCAL = rf"""(?:[^\x00-\x20{_UNSEEN}<>()\[\]\\,;:@"]+|"(?:[^\x00-\x1f{_UNSEEN}"\\]|\\[\x20-\x7e])*")"""
_LETTER = rf"(?:[0-9A-Za-z_]|[^\x00-\x7f{_UNSEEN}])"
_LABEL = rf"{_LETTER}(?:{_LETTER}|-)*+(?<!-)"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[(?:(?i:IPv6):)?[0-9A-Fa-f:.]+\])"
_ROUTE = r"(?:@[^:<>@,\s]+(?:,@[^:<>@,\s]+)*:)?"

_PLAIN = re.compile(
    r"<([0-9A-Za-z.+=_-]+@[0-9A-Za-z][0-9A-Za-z-]*+(?<!-)(?:\.[0-9A-Za-z][0-9A-Za-z-]*+(?<!-))+)>"
)
_BRACKETED = re.compile(rf"<\s*(?:{_ROUTE}({_LOCAL}@{_DOMAIN})\s*)?>")
_BARE = re.compile(rf"({_LOCAL}@{_DOMAIN})(?=\s|\Z)")
_LOCAL_ONLY = re.compile(rf"<\s*({_LOCAL})\s*>|({_LOCAL})(?=\s|\Z)")


class PathError(ValueError):
    """What was given is no path; `reply` says so."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


def parse_path(text: str) -> tuple[str, str]:
    """Read a path from the start of `text`: the address ("" for `<>`) and what follows it.

    Raises PathError.
    """
    if match := _PLAIN.match(text):
        address = match[1]
    else:
        text = text.lstrip()
        if not text:
            raise PathError(Reply(501, "5.1.3", "an address is missing"))
        match = _BRACKETED.match(text) or _BARE.match(text)
        if match is None:
            raise PathError(_no_address(text))
        address = match[1] or ""
        if not address.isascii() and not _is_text(address):
            raise PathError(Reply(553, "5.1.3", "the address is not UTF-8"))
        address = address.removesuffix(".") if not address.endswith("]") else address
    if len(address) > ADDRESS_LIMIT:
        raise PathError(Reply(501, "5.1.3", f"the address has more than {ADDRESS_LIMIT} characters"))
    rest = text[match.end() :]
    if rest and not rest[0].isspace():
        raise PathError(_no_address(text))
    return address, rest.strip()


def _no_address(text: str) -> Reply:
    shown = text if len(text) <= 100 else text[:100] + "..."
    match = _LOCAL_ONLY.match(text)
    if match is not None and (match.end() == len(text) or text[match.end()].isspace()):
        return Reply(553, "5.1.3", f"{shown}: the address has no domain")
    return Reply(553, "5.1.3", f"{shown}: not an address")


def _is_text(address: str) -> bool:
    """No byte of it was left over from decoding as UTF-8 (surrogateescape)."""
    try:
        address.encode()
    except UnicodeEncodeError:
        return False
    return True
