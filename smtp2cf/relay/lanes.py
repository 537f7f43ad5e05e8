"""Lanes: the queue's work for one account, so that what waits for one account never delays another's mail.

Each account has places of its own for mail that is being sent, and its own share of memory. Mail that is due
is claimed in the order of its time, whosever it is: what its account can't take now is put off, out of
others' way, and is due again as soon as there is a place for it. Knows no spool.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

from smtp2cf.relay.accounts import Pace

LOADED_BYTES = 32 * 2**20
"""Bytes of messages held in memory at a time (one message may be larger). Their calls need as much again."""
BLOCKED = 1.0
"""While an account is blocked for longer than this many seconds, nothing is claimed for it."""
PUT_OFF = 120.0
"""Seconds after which mail that was put off is looked at again, where nothing makes it due before."""
REMEMBERED = 10_000
"""Messages that are known to be put off; any more come back by themselves."""


class Lane:
    """One account's. name: the account's. parallel: messages that are sent at once."""

    def __init__(self, name: str, pace: Pace, parallel: int) -> None:
        self.name = name
        self.pace = pace
        self.active = 0
        """Messages that are worked on."""
        self._parallel = parallel
        self._loaded = 0
        self._unloaded = asyncio.Condition()
        self._put_off: dict[str, None] = {}

    @property
    def closed(self) -> bool:
        """Nothing can be sent now."""
        return self.pace.blocked_for > BLOCKED

    def room(self, active: int | None = None) -> int:
        """How many messages to claim: at most `parallel` in all, doubling; while calls stand in line, as many
        as will go out soon, for another bridge may be able to send the rest.
        """
        active = self.active if active is None else active
        return min(self._parallel - active, self._in_line(active, active + 1))

    @property
    def free(self) -> int:
        """How many claimed messages have a place now."""
        if self.closed:
            return 0
        places = self._parallel - self.active
        return max(0, min(places, self._in_line(self.active, places)))

    @property
    def holds_back(self) -> bool:
        """It is open, and mail waits for a place in it."""
        return bool(self._put_off) and not self.closed

    def _in_line(self, active: int, otherwise: int) -> int:
        if self.pace.waiting or self.pace.blocked_for:
            return self.pace.line - max(0, active - self.pace.in_flight)
        return otherwise

    # ---- what is put off

    def put_off(self, queue_ids: Sequence[str]) -> None:
        """Note that this mail is put off."""
        self._put_off.update(dict.fromkeys(queue_ids[: max(0, REMEMBERED - len(self._put_off))]))

    def next_ones(self) -> list[str]:
        """As much of what was put off as there are places for; first what was put off first."""
        next_ones = list(itertools.islice(self._put_off, self.free))
        for queue_id in next_ones:
            del self._put_off[queue_id]
        return next_ones

    # ---- memory

    @contextlib.asynccontextmanager
    async def loading(self, size: int) -> AsyncIterator[None]:
        """Hold the message's share of memory; wait until there is room for it."""
        async with self._unloaded:
            await self._unloaded.wait_for(lambda: not self._loaded or self._loaded + size <= LOADED_BYTES)
            self._loaded += size
        try:
            yield
        finally:
            self._loaded -= size
            async with self._unloaded:
                self._unloaded.notify_all()
