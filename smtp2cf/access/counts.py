"""Counts: what all keys have sent, in the memory of one process, and kept in its spool.

Nobody waits for the spool: what was counted is written a second later, together. What a killed process has
counted in its last second is lost. Keys that have been idle for a whole window are forgotten as new ones
come, and past MAX_KEYS the one that was heard longest ago.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from smtp2cf.access import charge as charges
from smtp2cf.access.charge import Charge, Refused
from smtp2cf.access.usage import Usage
from smtp2cf.reply import SendError

MAX_KEYS = 100_000
"""Keys that are counted at once, over all quotas."""
EVERY = 1.0
"""Seconds between two writes."""

log = structlog.stdlib.get_logger("smtp2cf.quotas")


class Kept(NamedTuple):
    """A count to keep. lasts: seconds until it may be forgotten."""

    text: str
    lasts: float


class Store(Protocol):
    """Where counts are kept: a spool that nobody shares."""

    async def counts(self) -> tuple[dict[str, str], float]:
        """All of them by name, and the time in seconds by the store's clock."""

    async def recount(
        self,
        names: Sequence[str],
        change: Callable[[Mapping[str, str], float], tuple[Mapping[str, Kept], None]],
    ) -> None:
        """Write some."""


class Counts:
    """All counts of one process. store: None for none. clock: seconds, at the pace of the store's.

    on_scarce: told once a window of who nears a limit.
    """

    def __init__(
        self,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_scarce: Callable[[Charge, int], None] = charges.say_scarce,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_scarce = on_scarce
        self._ahead = 0.0
        # The names are in the order in which they were last counted.
        self._usages: dict[str, Usage] = {}
        self._unwritten: set[str] = set()
        self._counted = asyncio.Event()

    async def read(self) -> None:
        """Go on from what the store has. Without this, or if it fails, nothing is written."""
        store, self._store = self._store, None
        if store is None:
            return
        try:
            kept, now = await store.counts()
        except SendError as error:
            note = "what was sent earlier does not count, and what is sent now is not kept over a restart"
            log.warning("quota.not_read", reason=error.reply.text, note=note)
            return
        self._store, self._ahead = store, now - self._clock()
        for name, text in kept.items():
            if seconds := charges.seconds_of(name):
                self._usages[name] = Usage.read(text, now, seconds)

    def take(self, wanted: Sequence[Charge]) -> Refused | None:
        """Count one of each, or none: then the refusal that lasts longest."""
        now = self._clock() + self._ahead
        found = (charges.refusal(self._usages.get(one.name), one, now) for one in wanted)
        if (refused := charges.longest([one for one in found if one is not None])) is not None:
            return refused
        for one in wanted:
            self._count(one, now)
        return None

    def _count(self, charge: Charge, now: float) -> None:
        usage = self._usages.pop(charge.name, None)
        if usage is None:
            self._forget_idle(now)
            usage = Usage()
        self._usages[charge.name] = usage
        if charges.count(usage, charge, now):
            self._on_scarce(charge, usage.sum)
        if self._store is not None:
            if not self._unwritten:
                self._counted.set()
            self._unwritten.add(charge.name)

    def _forget_idle(self, now: float) -> None:
        """Drop up to two names for the one that comes: so many at a time that no call takes long."""
        for _ in range(2):
            oldest = next(iter(self._usages), None)
            if oldest is None:
                return
            usage = self._usages[oldest]
            usage.forget(now, charges.seconds_of(oldest))
            if usage.sum and len(self._usages) < MAX_KEYS:
                return
            del self._usages[oldest]
            self._unwritten.discard(oldest)

    async def keep(self) -> None:
        """Write what was counted, a second later, until cancelled."""
        while True:
            await self._counted.wait()
            await asyncio.sleep(EVERY)
            await self.write()

    async def write(self) -> None:
        """Write what was counted. What can't be written now is written the next time."""
        self._counted.clear()
        if self._store is None or not self._unwritten:
            return
        names, self._unwritten = self._unwritten, set()
        kept = {
            name: Kept(self._usages[name].text(), charges.lasts(charges.seconds_of(name)))
            for name in names
            if name in self._usages
        }
        try:
            await self._store.recount((), lambda _, __: (kept, None))
        except SendError as error:
            self._unwritten |= names
            self._counted.set()
            log.debug("quota.not_written", reason=error.reply.text)
