"""Address maps: what becomes of addresses, by pattern ([senders], [recipients]). No I/O.

Patterns are those of allowed senders, and three more; the most specific one that matches an address counts:

1. `anna@example.com`
2. `root`, a name alone: addresses without a domain, and that name at any of our own host names
3. `example.com`, or `*@example.com`
4. `*.example.com`, the subdomains; of several, the one with most labels
5. `root@*`, a name at any domain
6. `*`, every address

As everywhere, letter case is ignored, and a domain is the same in all of its spellings. Knows no settings.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from smtp2cf.access.senders import PATTERN, match_key

T = TypeVar("T")

_NAME = re.compile(r"""[^\s@*<>()\[\]\\,;:".]+""")
_ANYWHERE = re.compile(r"""[^\s@*<>()\[\]\\,;:"]+@\*""")


class AddressMap(Generic[T]):
    """A table of patterns; of one that stands twice, the last counts. own_hosts: the host names
    at which a name alone counts.
    """

    def __init__(
        self, table: Mapping[str, T] | Iterable[tuple[str, T]] = (), own_hosts: Iterable[str] = ()
    ) -> None:
        self._own_hosts = frozenset(match_key(f"@{host}")[1] for host in own_hosts)
        self._addresses: dict[tuple[str, str], T] = {}
        self._names: dict[str, T] = {}
        self._domains: dict[str, T] = {}
        self._parents: dict[str, T] = {}
        self._anywhere: dict[str, T] = {}
        self._all: T | None = None
        for pattern, value in table.items() if isinstance(table, Mapping) else table:
            self._add(pattern, value)

    def _add(self, pattern: str, value: T) -> None:
        """Raises ValueError for what is no pattern."""
        found = PATTERN.fullmatch(pattern)
        if pattern == "*":
            self._all = value
        elif _NAME.fullmatch(pattern):
            self._names[match_key(pattern)[0]] = value
        elif _ANYWHERE.fullmatch(pattern):
            self._anywhere[match_key(pattern[:-2])[0]] = value
        elif found is None or (found["subdomains"] and found["local"] not in (None, "*")):
            raise ValueError(
                f"invalid pattern {pattern!r}: use anna@example.com, example.com, *.example.com, root, root@*"
                " or *"
            )
        else:
            local, domain = match_key(f"{found['local'] or '*'}@{found['domain']}")
            if local != "*":
                self._addresses[local, domain] = value
            else:
                (self._parents if found["subdomains"] else self._domains)[domain] = value

    def __bool__(self) -> bool:
        """There are patterns."""
        tables = (self._addresses, self._names, self._domains, self._parents, self._anywhere)
        return self._all is not None or any(tables)

    def find(self, address: str) -> T | None:
        """What becomes of an address, or of a name without a domain; None for nothing. Nothing becomes of the
        null path.
        """
        key = match_key(address)
        local, domain = key
        if not local:
            return None
        found = self._addresses.get(key)
        if found is None and (not domain or domain in self._own_hosts):
            found = self._names.get(local)
        if found is None:
            found = self._domains.get(domain)
        if found is None and self._parents:
            found = self._of_a_parent(domain)
        if found is None:
            found = self._anywhere.get(local)
        return self._all if found is None else found

    def _of_a_parent(self, domain: str) -> T | None:
        _, _, parent = domain.partition(".")
        while parent:
            if (found := self._parents.get(parent)) is not None:
                return found
            _, _, parent = parent.partition(".")
        return None
