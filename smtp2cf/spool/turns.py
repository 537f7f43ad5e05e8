"""Who goes next when not all can: new mail and mail that was tried before share the places.

Knows nothing of either database.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Lanes:
    """Shares places in halves; an odd one goes to each lane in turn."""

    def __init__(self) -> None:
        self._turn = 0

    def tried_share(self, limit: int) -> int:
        """How many of `limit` places are for mail that was tried before, where there is enough of both."""
        self._turn ^= 1
        return (limit + self._turn) // 2

    def merge(self, new: Sequence[T], tried: Sequence[T], limit: int) -> list[T]:
        """The first of both lanes, at most `limit`; what one lane leaves goes to the other."""
        share = min(len(tried), max(self.tried_share(limit), limit - len(new)))
        return [*tried[:share], *new[: limit - share]]
