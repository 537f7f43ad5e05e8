"""Shared counts: what all keys have sent, in a spool that several bridges share.

The spool is asked each time, since another bridge may have just let the last one through: together they
never exceed a limit. All who ask while a question is under way are asked for together with the next one. The
time is the spool's.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from smtp2cf.access import charge as charges
from smtp2cf.access.charge import Charge, Refused
from smtp2cf.access.counts import Kept
from smtp2cf.access.usage import Usage
from smtp2cf.journal import tasks

TOGETHER = 200
"""Messages and recipients that are asked for in one go."""

Wanted = Sequence[Charge]


class Judged(NamedTuple):
    """What came of several wishes: for each the refusal, if any; and who nears a limit, with how many."""

    refused: list[Refused | None]
    scarce: list[tuple[Charge, int]]


class SharedStore(Protocol):
    """Where counts are kept."""

    async def recount(
        self,
        names: Sequence[str],
        change: Callable[[Mapping[str, str], float], tuple[Mapping[str, Kept], Judged]],
    ) -> Judged:
        """Change some, all of them or none; raises SendError."""


class SharedCounts:
    """The counts of all bridges on a store. on_scarce: told of who nears a limit, once a window."""

    def __init__(
        self, store: SharedStore, on_scarce: Callable[[Charge, int], None] = charges.say_scarce
    ) -> None:
        self._store = store
        self._on_scarce = on_scarce
        self._waiting: list[tuple[Wanted, asyncio.Future[Refused | None]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def take(self, wanted: Wanted) -> Refused | None:
        """Count one of each, or none: then the refusal that lasts longest. Raises SendError."""
        future: asyncio.Future[Refused | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        if self._asking is None or self._asking.done():
            self._asking = tasks.start(self._ask(), "quotas.ask")
        return await future

    async def _ask(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
            wishes = [wanted for wanted, _ in batch]
            names = sorted({charge.name for wanted in wishes for charge in wanted})
            try:
                judged = await self._store.recount(names, partial(judge, wishes))
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait get it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), refused in zip(batch, judged.refused, strict=True):
                if not future.done():
                    future.set_result(refused)
            for charge, used in judged.scarce:
                self._on_scarce(charge, used)


def judge(
    wishes: Sequence[Wanted], texts: Mapping[str, str], now: float
) -> tuple[Mapping[str, Kept], Judged]:
    """Count what there is room for, one wish after the other. texts: the counts as they are kept."""
    usages: dict[str, Usage] = {}
    judged, changed = Judged([], []), set()
    for wanted in wishes:
        for charge in wanted:
            if charge.name not in usages:
                usages[charge.name] = Usage.read(texts[charge.name], now, charge.named.limit.seconds)
        found = (charges.refusal(usages[charge.name], charge, now) for charge in wanted)
        refused = charges.longest([one for one in found if one is not None])
        judged.refused.append(refused)
        if refused is None:
            for charge in wanted:
                changed.add(charge.name)
                if charges.count(usages[charge.name], charge, now):
                    judged.scarce.append((charge, usages[charge.name].sum))
    kept = {
        name: Kept(usages[name].text(), charges.lasts(charges.seconds_of(name))) for name in sorted(changed)
    }
    return kept, judged
