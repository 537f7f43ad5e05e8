"""Paths of MAIL FROM and RCPT TO (RFC 5321 §4.1.2, RFC 6531 §3.3), read as clients really write them.

Accepted beside the standard's `<local@domain>`: no angle brackets, brackets in brackets with or without a
name before them (`<Anna B <anna@example.com>>`, as barcode scanners write it), spaces around the address,
source routes (dropped, as §4.1.1.3 allows), quoted local parts, address literals, domains in UTF-8 with or
without SMTPUTF8 (but no such local parts: Cloudflare takes only ASCII), and dots anywhere in a local part
(mailboxes like `a..b@` exist). `<Postmaster>` is a recipient without a domain (§4.5.1). Knows no session.
"""

import re
from collections.abc import Callable

from smtp2cf.envelope import sent_form
from smtp2cf.reply import RefusedError, Reply

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
_NAMED = re.compile(r"((?:[^\x00-\x1f<>@,]*<)+)([^<>,]*)((?:>\s*)+)(?=\S|\Z)")
_POSTMASTER = re.compile(
    r'(?:<\s*(?:postmaster|"postmaster")\s*>|(?:postmaster|"postmaster")(?=\s|\Z))', re.IGNORECASE
)
_LOCAL_ONLY = re.compile(rf"<\s*({_LOCAL})\s*>|({_LOCAL})(?=\s|\Z)")


NO_POSTMASTER = Reply(
    550, "5.1.1", "there is no address for the postmaster here: SMTP2CF_POSTMASTER is not set"
)


NO_DOMAIN = "the address has no domain"
NAME_TAKEN = "[recipients] in the TOML file can say who gets its mail"
TakesName = Callable[[str], bool]
"""Whether something is known to become of a name without a domain."""


class PathError(RefusedError):
    """The text is not a path."""


def parse_path(text: str, takes_name: TakesName | None = None) -> tuple[str, str]:
    """Read a path from the start of `text`: the address ("" for `<>`) and what follows it.

    takes_name: whether a name without a domain will do; None if none does. Raises PathError.
    """
    if match := _PLAIN.match(text):
        address = match[1]
    else:
        text = _without_name(text.lstrip())
        if not text:
            raise PathError(Reply(501, "5.1.3", "an address is missing"))
        match = _BRACKETED.match(text) or _BARE.match(text) or _name(text, takes_name)
        if match is None:
            raise PathError(_no_address(text))
        address = match[match.lastindex or 0] if match.lastindex else ""
        if not address.isascii():
            _require_sendable(address)
        address = address.removesuffix(".") if not address.endswith("]") else address
    if len(address) > ADDRESS_LIMIT:
        raise PathError(Reply(501, "5.1.3", f"the address has more than {ADDRESS_LIMIT} characters"))
    rest = text[match.end() :].strip()
    if not _ends_at(text, match.end()) or rest.startswith("<"):
        raise PathError(_no_address(text))
    return address, rest


def _name(text: str, takes_name: TakesName | None) -> re.Match[str] | None:
    """A name without a domain, if it will do."""
    found = _LOCAL_ONLY.match(text) if takes_name is not None else None
    return (
        found if found is not None and takes_name is not None and takes_name(found[1] or found[2]) else None
    )


def parse_forward_path(text: str, postmaster: str, takes_name: TakesName | None = None) -> tuple[str, str]:
    """The same for a recipient, where `Postmaster` in any letter case needs no domain (RFC 5321 §4.5.1), nor
    does a name that is taken.

    postmaster: who that is, "" for nobody. Raises PathError.
    """
    if _PLAIN.match(text):
        return parse_path(text)
    path = _without_name(text.lstrip())
    if takes_name is not None:
        name = _LOCAL_ONLY.match(path)
        if name is not None and _ends_at(path, name.end()):
            local = name[1] or name[2]
            if local.isascii() and takes_name(local):
                return local, path[name.end() :].strip()
    match = _POSTMASTER.match(path)
    if match is None or not _ends_at(path, match.end()):
        return _or_name_a_setting(text)
    if not postmaster:
        raise PathError(NO_POSTMASTER)
    return postmaster, path[match.end() :].strip()


def _or_name_a_setting(text: str) -> tuple[str, str]:
    """A path; what is no more than a name is refused with the setting by which it would be taken."""
    try:
        return parse_path(text)
    except PathError as error:
        if not text.isascii() or not error.reply.text.endswith(NO_DOMAIN):
            raise
        reply = error.reply._replace(text=f"{error.reply.text}: {NAME_TAKEN}")
        raise PathError(reply) from None


def _ends_at(path: str, end: int) -> bool:
    return end == len(path) or path[end].isspace()


def _without_name(text: str) -> str:
    """A path in one pair of brackets: without those around it, and the names that are not the address."""
    match = _NAMED.match(text)
    if match is None:
        return text
    opened, address, closed = match.groups()
    if opened == "<" or opened.count("<") != closed.count(">"):
        return text
    rest = text[match.end() :]
    return f"<{address}>" + (f" {rest}" if closed[-1:].isspace() else rest)


def _no_address(text: str) -> Reply:
    shown = text if len(text) <= 100 else text[:100] + "..."
    match = _LOCAL_ONLY.match(text)
    if match is not None and _ends_at(text, match.end()) and "<" not in text[match.end() :]:
        return Reply(553, "5.1.3", f"{shown}: {NO_DOMAIN}")
    return Reply(553, "5.1.3", f"{shown}: not an address")


def _require_sendable(address: str) -> None:
    """Raise PathError where an address that is not ASCII has no form that Cloudflare takes."""
    try:
        address.encode()
        sent_form(address)
    except UnicodeEncodeError:  # a byte was left over from decoding as UTF-8 (surrogateescape)
        raise PathError(Reply(553, "5.1.3", "the address is not UTF-8")) from None
    except RefusedError as error:
        raise PathError(error.reply) from None
