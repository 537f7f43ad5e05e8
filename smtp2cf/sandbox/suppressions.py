"""The suppression list: addresses that get no mail, for the whole account or for one sender's domain.

Behaves as https://developers.cloudflare.com/email-service/ and the SDK's docstrings say: an entry is
one address and one scope, an expired entry is none, creating what is there returns what is there.

Knows nothing of HTTP.
"""

import contextlib
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Literal, get_args

Reason = Literal["manual", "complaint", "hard_bounce", "soft_bounce", "policy"]
REASONS = frozenset(get_args(Reason))

ENTRIES_LIMIT = 10_000
BOUNCED_FOR = timedelta(days=7)


class ListFullError(Exception):
    """The list holds as many entries as it may."""


@dataclass(slots=True, kw_only=True)
class Suppression:
    """One entry. email: in lower case. domain: the sender's domain it is for, "" for all of them.
    expires_at: None for never. number: rises with every entry made."""

    id: str
    number: int
    email: str
    domain: str
    reason: Reason
    created_at: datetime
    expires_at: datetime | None
    note: str
    read_only: bool

    @property
    def active(self) -> bool:
        """It has not expired."""
        return self.expires_at is None or self.expires_at > datetime.now(UTC)

    @property
    def place(self) -> tuple[bool, int]:
        """Where it stands in a listing: domains' entries first, newest first."""
        return (not self.domain, -self.number)

    @property
    def scope(self) -> dict[str, str]:
        """The scope as the API writes it."""
        return {"type": "sending_domain", "value": self.domain} if self.domain else {"type": "account"}

    def identity(self) -> dict[str, object]:
        """What the API answers to create and delete."""
        return {"id": self.id, "scope": self.scope}

    def entry(self) -> dict[str, object]:
        """What the API answers to get, list and edit."""
        return {
            "id": self.id,
            "email": self.email,
            "reason": self.reason,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "read_only": self.read_only,
            "note": self.note or None,
            "scope": self.scope,
        }


class Suppressions:
    """All entries of the sandbox's one account."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Suppression] = {}
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Suppression]:
        """The active entries in the order of a listing."""
        return iter(sorted((e for e in self._entries.values() if e.active), key=attrgetter("place")))

    def add(
        self,
        email: str,
        *,
        domain: str = "",
        reason: Reason = "manual",
        expires_at: datetime | None = None,
        note: str = "",
        read_only: bool = False,
    ) -> Suppression:
        """Suppress an address; the active entry as it is where there is one. Raises ListFullError."""
        key = (email.lower(), domain)
        if present := self._active(key):
            return present
        self._make_room()
        self._entries[key] = Suppression(
            id=secrets.token_hex(16),
            number=next(self._numbers),
            email=key[0],
            domain=domain,
            reason=reason,
            created_at=datetime.now(UTC),
            expires_at=expires_at,
            note=note,
            read_only=read_only,
        )
        return self._entries[key]

    def add_bounced(self, email: str, domain: str) -> None:
        """As Cloudflare itself does after a hard bounce: suppress it for that domain's mail, for a while."""
        with contextlib.suppress(ListFullError):
            expires_at = datetime.now(UTC) + BOUNCED_FOR
            self.add(email, domain=domain, reason="hard_bounce", expires_at=expires_at)

    def get(self, suppression_id: str) -> Suppression | None:
        """The active entry with this id."""
        return next((e for e in self._entries.values() if e.id == suppression_id and e.active), None)

    def remove(self, suppression: Suppression) -> None:
        """Take an entry off the list."""
        del self._entries[suppression.email, suppression.domain]

    def blocks(self, recipient: str, sender_domain: str) -> bool:
        """Mail from this domain to this address is suppressed."""
        if not self._entries:
            return False
        email = recipient.lower()
        return bool(self._active((email, "")) or self._active((email, sender_domain)))

    def _active(self, key: tuple[str, str]) -> Suppression | None:
        entry = self._entries.get(key)
        return entry if entry and entry.active else None

    def _make_room(self) -> None:
        if len(self._entries) < ENTRIES_LIMIT:
            return
        for key in [key for key, entry in self._entries.items() if not entry.active]:
            del self._entries[key]
        if len(self._entries) >= ENTRIES_LIMIT:
            raise ListFullError(f"the limit is {ENTRIES_LIMIT} entries")
