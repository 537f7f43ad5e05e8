"""email.invalid: messages that Cloudflare refuses although they are messages (CLOUDFLARE.md).

Which header fields it claims as its own is published; the rest is what people have run into. Date,
Message-ID and the fields of MIME are claimed too, but replaced: no message could be sent without them.

Knows nothing of HTTP and of the sandbox's state.
"""

import re
from collections.abc import Callable, Iterator

from smtp2cf.sandbox.messages import header_of

_CLAIMED = re.compile(
    r"(?:received|return-path|dkim-signature|authentication-results|feedback-id|tls-required"
    r"|(?:arc|tls-report|cfbl)-.*)",
    re.IGNORECASE,
)
_FIELD = re.compile(r"^([!-9;-~]+)[ \t]*:(.*(?:\n[ \t].*)*)", re.MULTILINE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ANGLE = re.compile(r"<([^<>]*)>")
_ADDRESS = re.compile(r"[^\s<>,;:()]+@[^\s<>,;:()]+")


def cause_of(message: bytes, may_send: Callable[[str], bool]) -> str:
    """Why this message is email.invalid, "" if it is not.

    may_send: whether mail may come from a domain, in lower case.
    """
    header = header_of(message).decode("utf-8", "replace")
    return next(_causes(header.replace("\r\n", "\n"), may_send), "")


def has_misplaced_dot(address: str) -> bool:
    """It begins or ends with a dot, or has two in a row, on either side of the @."""
    local, _, domain = address.rpartition("@")
    return any(part.startswith(".") or part.endswith(".") or ".." in part for part in (local, domain))


def _causes(header: str, may_send: Callable[[str], bool]) -> Iterator[str]:
    if r"\r\n" in header:
        yield r"the header holds the characters \r\n, not a line ending"
    for name, value in _FIELD.findall(header):
        if _CLAIMED.fullmatch(name):
            yield f"the field {name} is Cloudflare's own"
        elif name.lower() == "from":
            yield from _causes_in_from(value, may_send)


def _causes_in_from(value: str, may_send: Callable[[str], bool]) -> Iterator[str]:
    unquoted = _QUOTED.sub("Q", value)
    names = _ANGLE.sub("@", unquoted)
    if _ANGLE.search(unquoted) and re.search(r"[()]", names):
        yield "parentheses in the name in From have no quotes around them"
    if any("@" not in part for part in names.rstrip(" \t\n,").split(",")):
        yield "a comma in the name in From has no quotes around it"
    for address in _ANGLE.findall(unquoted) or _ADDRESS.findall(unquoted):
        if has_misplaced_dot(address):
            yield "a dot in From's address is at an end, or beside another"
        if not may_send(address.rpartition("@")[2].lower()):
            yield "From's domain is not set up"
