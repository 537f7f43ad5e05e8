"""Allowed senders: the patterns, and who may send as whom (RFC 6409 §6.1). No I/O.

A pattern is an address, a domain (`example.com`, or `*@example.com`, which means the same), or the subdomains
of one (`*.example.com`, which does not include example.com itself). Letter case is ignored, in local parts
too: Postfix does the same, and nobody has two mailboxes that differ only in case. A domain is the same in all
of its spellings, as A-labels or in its own script. Knows no users file and no settings.
"""

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from smtp2cf.envelope import SenderRefusal, address_key
from smtp2cf.reply import Reply, few_in_words, one_line

NAMED_LIMIT = 5
"""Patterns that a refusal names; the others are only counted."""
SHOWN_LIMIT = 100
"""Characters of a name or an address that a refusal shows."""

SendersOf = Callable[[str], "Senders | None"]
"""What a user may send as; None if there is no such user."""
Becomes = Callable[[str, str, str], str]
"""(address, user, listener) → the address that is sent."""
NO_MATCH = ": no pattern of [senders] matches it, and there is no SMTP2CF_SENDER_DEFAULT"

PATTERN = re.compile(
    r"""(?:(?P<local>\*|[^\s@*<>()\[\]\\,;:"]+)@)?
        (?P<subdomains>\*\.)?
        (?P<domain>[^\s@*<>()\[\]\\,;:".]+(?:\.[^\s@*<>()\[\]\\,;:".]+)*)\.?""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Senders:
    """A list of patterns; an empty one allows every address.

    written: as they were written. addresses, domains: as `match_key` returns them. parents: domains whose
    subdomains are allowed.
    """

    written: tuple[str, ...] = ()
    addresses: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)
    domains: frozenset[str] = field(default=frozenset(), repr=False)
    parents: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> "Senders":
        """Parse patterns; raises ValueError naming an invalid one."""
        written, addresses, domains, parents = [], set(), set(), set()
        for pattern in patterns:
            found = PATTERN.fullmatch(pattern)
            local = found["local"] if found is not None else None
            if found is None or (found["subdomains"] and local not in (None, "*")):
                raise ValueError(
                    f"invalid sender {pattern!r}: use anna@example.com, example.com or *.example.com"
                )
            written.append(pattern)
            key = match_key(f"{local or ''}@{found['domain']}")
            if found["subdomains"]:
                parents.add(key[1])
            elif local in (None, "*"):
                domains.add(key[1])
            else:
                addresses.add(key)
        return cls(tuple(written), frozenset(addresses), frozenset(domains), frozenset(parents))

    def allow(self, address: str) -> bool:
        """Whether this address matches. One without a local part or a domain doesn't."""
        if not self.written:
            return True
        key = match_key(address)
        local, domain = key
        if not local or not domain:
            return False
        return domain in self.domains or key in self.addresses or self._is_subdomain(domain)

    def _is_subdomain(self, domain: str) -> bool:
        if not self.parents:
            return False
        label, _, parent = domain.partition(".")
        while label and parent:
            if parent in self.parents:
                return True
            label, _, parent = parent.partition(".")
        return False

    def __str__(self) -> str:
        return few_in_words([one_line(pattern, SHOWN_LIMIT) for pattern in self.written], NAMED_LIMIT)


ANY = Senders()
"""Every address."""


class SenderRules:
    """Who may send as whom: rules for everybody (SMTP2CF_ALLOWED_SENDER_DOMAINS) and for each user.

    A user's rules are held against what the client says, those for everybody against what becomes of it.
    senders_of: None if there are no users. becomes: (address, user, listener) → the address that is sent.
    """

    def __init__(
        self,
        everybody: Senders = ANY,
        senders_of: SendersOf | None = None,
        becomes: Becomes = lambda address, *_: address,
    ) -> None:
        self.everybody = everybody
        self.senders_of = senders_of
        self._becomes = becomes

    def refusal(self, user: str, address: str, listener: str = "") -> Reply | None:
        """None if `user` ("" for nobody) may send as `address`, else 550 5.7.1.

        Everybody who may send at all may use the null reverse path: it is sent as NULL_SENDER_ADDRESS. A user
        who has been deleted may not send at all.
        """
        if user:
            senders = self.senders_of(user) if self.senders_of is not None else None
            if senders is None:
                text = f"user {one_line(user, SHOWN_LIMIT)} is no longer in SMTP2CF_USERS_FILE"
                return Reply(550, "5.7.1", text)
            if address and not senders.allow(address):
                who = f"user {one_line(user, SHOWN_LIMIT)} may not send as <{one_line(address, SHOWN_LIMIT)}>"
                return Reply(550, "5.7.1", f"{who}: SMTP2CF_USERS_FILE allows {senders}")
        if not address:
            return None
        sent = self._becomes(address, user, listener)
        if "@" not in sent:
            return Reply(
                553, "5.1.3", f"<{one_line(address, SHOWN_LIMIT)}>: the address has no domain{NO_MATCH}"
            )
        if not self.everybody.allow(sent):
            instead = f", which <{one_line(address, SHOWN_LIMIT)}> becomes," if sent != address else ""
            text = f"sending as <{one_line(sent, SHOWN_LIMIT)}>{instead} is not allowed"
            return Reply(550, "5.7.1", f"{text}: SMTP2CF_ALLOWED_SENDER_DOMAINS allows {self.everybody}")
        return None


def also(first: SenderRefusal | None, allowed: Senders, setting: str) -> SenderRefusal | None:
    """A refusal of whom the first one refuses, and of whom a listener's own list doesn't allow.

    setting: what names the listener. None if nobody is refused.
    """
    if not allowed.written:
        return first

    def refusal(user: str, address: str) -> Reply | None:
        if address and not allowed.allow(address):
            text = f"sending as <{one_line(address, SHOWN_LIMIT)}> is not allowed here"
            return Reply(550, "5.7.1", f"{text}: allowed_senders of {setting} allows {allowed}")
        return first(user, address) if first is not None else None

    return refusal


@functools.lru_cache(maxsize=8192)
def match_key(address: str) -> tuple[str, str]:
    """Local part and domain, as they are compared; the domain of a mere name is "".

    The local part of `""@example.com` is two quotes: it is an address, which rules for its domain must find.
    """
    if "@" not in address or address.endswith('"'):
        address = f"{address}@"
    local, _, domain = address_key(address).rpartition("@")
    if not local and address.startswith('"'):
        local = '""'
    return local.lower(), domain
