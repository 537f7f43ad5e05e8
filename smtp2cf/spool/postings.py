"""Postings: what is to be told to a receiver over HTTP, until the receiver has it or its time is over.

They are kept with the spool, so that they survive the process and all who share the spool share the work. A
claim is a lease: while it lasts nobody else gets the posting, and if its owner dies, another posts it again
under the same id. Knows nothing of HTTP, of what is told, and of either database.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

LEASE = 60.0
"""Seconds a claim lasts. One call takes less."""

MOST_POSTINGS = 10_000
"""Postings that wait; beyond that, the oldest are dropped."""

KEPT_FOR = 5 * 86_400.0
"""Seconds until one that nobody claims is forgotten: its receiver is no longer configured."""


class Posting(NamedTuple):
    """Something to tell. id: stays the same however often it is posted. body: JSON. attempts: that failed."""

    id: str
    body: str
    attempts: int = 0


class Backlog(NamedTuple):
    """What waits. total: all postings. due_in: seconds until the next may be claimed, None for none."""

    total: int
    due_in: float | None


class Postings(Protocol):
    """Those that wait. Every method raises SpoolFull or SpoolUnavailable."""

    async def add(self, new: Sequence[Posting]) -> int:
        """Keep these; returns how many of the oldest were dropped because of MOST_POSTINGS. Adding one again
        is harmless."""

    async def claim(self, limit: int) -> list[Posting]:
        """Take some that are due, longest due first, for LEASE seconds."""

    async def settle(self, done: Sequence[str], later: Mapping[str, float]) -> None:
        """End claims, by id. done: their postings go. later: an attempt failed; the next is due in so many
        seconds."""

    async def expire(self, age: float) -> int:
        """Drop those that were added more than `age` seconds ago; returns how many."""

    async def backlog(self) -> Backlog:
        """What waits now."""
