"""Parameters of MAIL and RCPT, checked for syntax: a table of keyword to rule.

SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), RET, ENVID, NOTIFY, ORCPT (RFC 3461),
AUTH (RFC 4954 §5), PRDR (draft-hall-prdr). Values are kept as they were given, still in xtext. Knows no
session.
"""

import re
from collections.abc import Mapping

from smtp2cf.reply import Reply

Parameters = dict[str, str]
"""Keyword in upper case to value; "" for a keyword that has none."""

_KEYWORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]*")
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})"

MAIL_RULES: Mapping[str, tuple[re.Pattern[str], str]] = {
    "SIZE": (re.compile(r"[0-9]{1,20}"), "a number of octets"),
    "BODY": (re.compile(r"7BIT|8BITMIME", re.IGNORECASE), "7BIT or 8BITMIME"),
    "SMTPUTF8": (re.compile(r""), "no value"),
    "PRDR": (re.compile(r""), "no value"),
    "RET": (re.compile(r"FULL|HDRS", re.IGNORECASE), "FULL or HDRS"),
    "ENVID": (re.compile(rf"(?=.{{1,100}}\Z){_XTEXT}+"), "xtext of at most 100 characters"),
    "AUTH": (re.compile(rf"(?=.{{1,500}}\Z)(?:<>|{_XTEXT}+)"), "an address in xtext, or <>"),
}
RCPT_RULES: Mapping[str, tuple[re.Pattern[str], str]] = {
    "NOTIFY": (
        re.compile(r"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2}", re.IGNORECASE),
        "NEVER, or a list of SUCCESS, FAILURE and DELAY",
    ),
    "ORCPT": (
        re.compile(
            rf"(?=.{{1,500}}\Z)(?:[0-9A-Za-z-]+;{_XTEXT}+|utf-8;[^\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+)",
            re.IGNORECASE,
        ),
        "type;address with the address in xtext",
    ),
}
_CASE_INSENSITIVE = frozenset({"BODY", "RET", "NOTIFY"})


def parse_parameters(
    text: str, rules: Mapping[str, tuple[re.Pattern[str], str]]
) -> tuple[Parameters, Reply | None]:
    """Read `KEYWORD[=value] …` by a table of rules: the parameters, and the reply where one is wrong."""
    parameters: Parameters = {}
    for word in text.split():
        keyword, equals, value = word.partition("=")
        name = keyword.upper()
        if not _KEYWORD.fullmatch(keyword):
            return {}, Reply(501, "5.5.4", f"{word}: not a parameter")
        if name not in rules:
            return {}, Reply(555, "5.5.4", f"{name}: unknown parameter")
        if name in parameters:
            return {}, Reply(501, "5.5.4", f"{name} is given twice")
        pattern, allowed = rules[name]
        if not pattern.fullmatch(value) or (equals and not value):
            return {}, Reply(501, "5.5.4", f"{name} takes {allowed}")
        parameters[name] = value.upper() if name in _CASE_INSENSITIVE else value
    return parameters, None
