"""Mentions: where a text names an address, in whatever letter case and form of its domain. Pure."""

import re

import idna

from smtp2cf.journal.rows import Address, storable


def pattern_of(address: str) -> str:
    """A regular expression that finds the address in texts, to be used without regard to letter case; Python
    and PostgreSQL read it alike. A longer address that contains this one is another one.
    """
    local, _, domain = storable(address).rpartition("@")
    compared = Address.of(address).domain
    domains = "|".join(map(re.escape, dict.fromkeys((domain, compared, _for_people(compared)))))
    return rf"(?<![\w.+-]){re.escape(local)}@(?:{domains})(?![\w-]|\.\w)"


def _for_people(domain: str) -> str:
    """The domain without A-labels."""
    try:
        return idna.decode(domain)
    except UnicodeError:
        return domain
