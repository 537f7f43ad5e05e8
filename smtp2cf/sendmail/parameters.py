"""The arguments of MAIL and RCPT (RFC 5321 §4.1.2, RFC 3461), for our own session."""

from __future__ import annotations

from .addresses import UNSEEN, end_of_quoted, is_text, parse_addresses
from .options import LONGEST_ENVID, NOTIFY_CONDITIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def is_xtext(text: str) -> bool:
    """Is it xtext (RFC 3461 §4)?"""
    place = 0
    while place < len(text):
        if text[place] == "+":
            if len(text[place + 1 : place + 3].strip("0123456789ABCDEF")) or place + 3 > len(text):
                return False
            place += 2
        elif not "!" <= text[place] <= "~" or text[place] == "=":
            return False
        place += 1
    return bool(text)


def _is_notify(text: str) -> bool:
    conditions = text.lower().split(",")
    return text.upper() == "NEVER" or (
        len(conditions) <= 3 and all(condition in NOTIFY_CONDITIONS for condition in conditions)
    )


def _is_orcpt(text: str) -> bool:
    kind, semicolon, address = text.partition(";")
    good = semicolon and kind.isascii() and kind.replace("-", "x").isalnum() and len(text) <= 500
    if not good or not address:
        return False
    return is_xtext(address) or (
        kind.lower() == "utf-8" and is_text(address) and not UNSEEN.intersection(address)
    )


# As in smtp2cf/smtpd/parameters.py: the bridge gets these values later.
MAIL_PARAMETERS: dict[str, Callable[[str], bool]] = {
    "SIZE": lambda text: text.isascii() and text.isdigit() and len(text) <= 20,
    "BODY": lambda text: text.upper() in ("7BIT", "8BITMIME"),
    "SMTPUTF8": lambda text: not text,
    "RET": lambda text: text.upper() in ("FULL", "HDRS"),
    "ENVID": lambda text: len(text) <= LONGEST_ENVID and is_xtext(text),
}

RCPT_PARAMETERS: dict[str, Callable[[str], bool]] = {"NOTIFY": _is_notify, "ORCPT": _is_orcpt}


def smtp_path(
    argument: str, keyword: str, known: dict[str, Callable[[str], bool]]
) -> tuple[str, dict[str, str], str]:
    """Parse `FROM:<path> KEY=VALUE ...`: the path, the parameters, and "" or the reply that refuses them."""
    usage = f"syntax: {'MAIL' if keyword == 'FROM:' else 'RCPT'} {keyword}<address>"
    no_path = f"501 {'5.1.7' if keyword == 'FROM:' else '5.1.3'} {usage}"
    if argument[: len(keyword)].upper() != keyword:
        return "", {}, no_path
    rest = argument[len(keyword) :].strip()
    end = 0
    while end < len(rest) and rest[end] != ">" and (rest[end] != " " or rest[0] == "<"):
        end = end_of_quoted(rest, end) if rest[end] == '"' else end + 1
    start = max(0, rest.rfind("<", 0, end))  # <Name <a@b>> and <<a@b>> mean the inner one
    closing = ">" * rest.count("<", 0, end)
    mailboxes = parse_addresses(rest[start : end + 1], blanks_part=False)
    behind = rest[end + len(closing) :]
    address = mailboxes[0].address if len(mailboxes) == 1 else None
    local = address is not None and mailboxes[0].insert_at is not None
    if local and keyword == "TO:" and str(address).lower() == "postmaster":
        local = False  # RFC 5321 §4.5.1
    if address is None or local or not rest.startswith(closing, end) or behind[:1] not in ("", " "):
        return "", {}, no_path
    parameters: dict[str, str] = {}
    for word in behind.split():
        key, _, value = word.partition("=")
        key = key.upper()
        if key not in known:
            return "", {}, f"555 5.5.4 {key}: unknown parameter"
        if key in parameters or not known[key](value):
            return "", {}, f"501 5.5.4 {key}: invalid value"
        parameters[key] = value
    return address, parameters, ""
