"""Whose turn it is when not all mail can be claimed: new mail and retries share the places.

Knows nothing of either database.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Turns:
    """Gives each kind half of the places; an odd one goes to new mail and to retries in turn."""

    def __init__(self) -> None:
        self._turn = 0

    def tried_share(self, limit: int) -> int:
        """How many of `limit` places retries get if there is enough mail of both kinds."""
        self._turn ^= 1
        return (limit + self._turn) // 2

    def merge(self, new: Sequence[T], tried: Sequence[T], limit: int) -> list[T]:
        """The first of both kinds, at most `limit` in all; what one leaves free goes to the other."""
        share = min(len(tried), max(self.tried_share(limit), limit - len(new)))
        return [*tried[:share], *new[: limit - share]]
