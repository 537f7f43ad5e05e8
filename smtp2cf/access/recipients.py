"""Recipients: who gets mail instead of whom, and to whom mail may go. No I/O.

A target of the map may itself be a name of the map, as in sendmail's aliases. Where that leads in a circle,
those who stand for themselves get the mail, and whoever it was for. What is refused is judged by who would
get it. Knows no settings.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping

from smtp2cf.access.address_map import AddressMap
from smtp2cf.access.senders import ANY, SHOWN_LIMIT, Senders, match_key
from smtp2cf.reply import Reply, one_line

ALLOWED = "SMTP2CF_ALLOWED_RECIPIENTS"
DENIED = "SMTP2CF_DENIED_RECIPIENTS"

REMEMBERED = 4096
"""Recipients of whom it is remembered who gets their mail: each is asked about several times."""

Table = Mapping[str, tuple[str, ...]]
"""Addresses, or names of the table, by pattern."""


class Recipients:
    """What becomes of recipients; it may change while the bridge runs.

    own_hosts: host names at which a name alone counts. redirect: who gets all mail instead, () for nobody.
    """

    def __init__(self, own_hosts: Iterable[str] = (), redirect: tuple[str, ...] = ()) -> None:
        self._own_hosts = tuple(own_hosts)
        self._mailless = {"", *(match_key(f"@{host}")[1] for host in self._own_hosts)}
        self._map = AddressMap[tuple[str, ...]]()
        self._table: Table = {}
        self._file: Table = {}
        self._allowed = ANY
        self._denied = ANY
        self.redirect = redirect
        self.expand = functools.lru_cache(maxsize=REMEMBERED)(self._expand)
        """Who gets an address's mail, each once, in the order of the map; () if nobody stands for a name."""
        self.recipients_of: Callable[[str], Senders] | None = None
        """To whom a user's mail may go, None if there are no users."""

    @property
    def changes_mail(self) -> bool:
        """Some mail goes to somebody else."""
        return bool(self._map) or bool(self.redirect)

    def use_table(self, table: Table) -> None:
        """Use another map; raises ValueError for what is no pattern."""
        self._use(table, self._file)

    def use_file(self, table: Table) -> None:
        """Use another map of a file, where the table has no such pattern."""
        self._use(self._table, table)

    def _use(self, table: Table, file: Table) -> None:
        self._map = AddressMap([*file.items(), *table.items()], self._own_hosts)
        self._table, self._file = table, file
        self.expand.cache_clear()

    def use_allowed(self, patterns: Collection[str]) -> None:
        """Let mail go only to these, none for everybody."""
        self._allowed = Senders.parse(patterns)

    def use_denied(self, patterns: Collection[str]) -> None:
        """Let no mail go to these."""
        self._denied = Senders.parse(patterns)

    def _expand(self, address: str) -> tuple[str, ...]:
        return self._ends(address, circle_ends=True) or ((address,) if "@" in address else ())

    def leads_somewhere(self, address: str) -> bool:
        """Whether the map does not only lead in a circle from here."""
        return bool(self._ends(address))

    def _ends(self, address: str, *, circle_ends: bool = False) -> tuple[str, ...]:
        """circle_ends: whoever the map leads back to from its own targets gets the mail as well."""
        if not self._map.find(address):
            return (address,) if "@" in address else ()  # as most are
        found: dict[tuple[str, str], str] = {}
        done: set[tuple[str, str]] = set()
        waiting, first = [address], match_key(address)
        while waiting:
            one = waiting.pop()
            if (key := match_key(one)) in done:
                if circle_ends and key == first and first[1] not in self._mailless:
                    found.setdefault(key, address)
                continue
            done.add(key)
            targets = self._map.find(one) or ()
            is_end = not targets or key in map(match_key, targets)
            if is_end and "@" in one:
                found[key] = one
            waiting += reversed(targets)
        return tuple(found.values())

    def takes_name(self, name: str) -> bool:
        """Whether somebody gets the mail of a name without a domain."""
        return bool(self.redirect) or bool(self.expand(name))

    def refusal(self, address: str, user: str = "") -> Reply | None:
        """550 5.7.1 if mail to this recipient may not go to somebody who would get it, or not this user's."""
        if user and self.recipients_of is not None and (allowed := self.recipients_of(user)).written:
            own = self.refused_by(address, allowed, f"recipients of user {user} in SMTP2CF_USERS_FILE")
            if own is not None:
                return own
        if not self._allowed.written and not self._denied.written:
            return None
        return self.refused_by(address, self._allowed, ALLOWED) or self._denial(address)

    def refused_by(self, address: str, allowed: Senders, setting: str) -> Reply | None:
        """The same for a list of whom mail may go to. setting: what names the list."""
        for one in self.expand(address) or (address,):
            if not allowed.allow(one):
                return _refusal(address, one, f"{setting} allows {allowed}")
        return None

    def _denial(self, address: str) -> Reply | None:
        if self._denied.written:
            for one in self.expand(address):
                if self._denied.allow(one):
                    return _refusal(address, one, f"{DENIED} contains {self._denied}")
        return None


class RecipientsAt:
    """The same at a listener with a list of its own: both lists count. setting: what names its list."""

    def __init__(self, recipients: Recipients, allowed: Iterable[str], setting: str) -> None:
        self._recipients = recipients
        self._allowed = Senders.parse(allowed)
        self._setting = setting
        self.takes_name = recipients.takes_name

    def refusal(self, address: str, user: str = "") -> Reply | None:
        """550 5.7.1 if mail to this recipient may not go to somebody who would get it."""
        own = self._recipients.refused_by(address, self._allowed, self._setting)
        return own or self._recipients.refusal(address, user)


def _refusal(address: str, one: str, why: str) -> Reply:
    shown = one_line(address, SHOWN_LIMIT)
    became = f", which becomes <{one_line(one, SHOWN_LIMIT)}>," if one != address else ""
    return Reply(550, "5.7.1", f"mail to <{shown}>{became} is not allowed: {why}")
