"""Tally: the calls that all bridges on an account have made, and who may make the next ones. No I/O.

Never more than a rate's calls in its seconds, wherever the window begins. Calls are counted in 300 slots of
the window: one-second counts for five minutes. The counts are a note (JSON) in the store that all bridges
share, and all times here are the store's.

A bridge makes no call that was not granted. A grant counts at once, as if the call were made when the grant
runs out. The bridge says later when it made the call, or that it did not; one that stops without a word has
used them all, so that a restart forgets nothing.

New mail gets what is left, at once. Waiting mail gets turns at even distances, and leaves a few calls for new
mail while there is some. Knows neither HTTP nor the store.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import orjson

SLOTS = 300
"""Counts in a window."""
HELD_BACK = 0.02
"""The share of a rate that is never used: for jitter on the way."""
VALIDITY = 10.0
"""Seconds until a grant runs out: far more than the store takes to answer."""
SCARCE = 0.25
"""While less than this share of the window is left, nothing is granted that nobody waits for."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `calls` in any `seconds`."""

    calls: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.calls}/{self.seconds:g}"

    @property
    def usable(self) -> int:
        """Calls in a window that we make at most."""
        return max(1, int(self.calls * (1 - HELD_BACK)))

    @property
    def slot(self) -> float:
        """Seconds of one count."""
        return self.seconds / SLOTS

    @property
    def distance(self) -> float:
        """Seconds between two calls that are spread evenly."""
        return self.seconds / self.usable

    @property
    def arrival(self) -> float:
        """Seconds after which a call has arrived, however long its answer takes."""
        return min(2.0, self.seconds / 50)

    @property
    def ahead(self) -> float:
        """Seconds between two questions of a bridge that makes calls; turns are granted for so long."""
        return min(1.0, self.seconds / 25)

    @property
    def catch_up(self) -> float:
        """Seconds of missed turns that waiting mail makes up for."""
        return min(2.0, self.seconds / 10)

    @property
    def for_new(self) -> int:
        """Calls that waiting mail leaves while there is new mail."""
        return min(max(2, self.usable // 50), self.usable // 4)

    @property
    def memory(self) -> float:
        """Seconds after new mail until waiting mail takes everything again."""
        return min(10.0, self.seconds / 5)


class Ask(NamedTuple):
    """What a bridge reports and wants.

    bridge: a name that no other has. settled: grants by their slot that were used, or never will be. made:
    how many calls were made, by how many seconds ago. new, waiting: calls it would make now, for new and for
    waiting mail. spare: how many more it would like to have at hand. blocked_for: seconds for which the API
    refuses calls, as it was told.
    """

    bridge: str
    settled: tuple[tuple[float, int], ...] = ()
    made: tuple[tuple[float, int], ...] = ()
    new: int = 0
    waiting: int = 0
    spare: int = 0
    blocked_for: float = 0.0


class Standing(NamedTuple):
    """What a bridge is told.

    new: calls it may make, for any mail, and slot: where they count. turns: for waiting mail, in how many
    seconds, and the slot. left: calls that nobody has. next_in: seconds until there is one. scarce: little is
    left. blocked_for: seconds for which nobody may call. bridges: how many there were in the window.
    """

    new: int
    slot: float
    turns: tuple[tuple[float, float], ...]
    left: int
    next_in: float
    scarce: bool
    blocked_for: float
    bridges: int


@dataclass(slots=True)
class _Tally:
    """The note.

    counts: calls by the end of their slot. turn_at: when the next call for waiting mail is due. new_at: when
    there was new mail. blocked_until: nobody may call before. seen: when each bridge last asked.
    """

    counts: dict[float, int] = field(default_factory=dict)
    turn_at: float = 0.0
    new_at: float = 0.0
    blocked_until: float = 0.0
    seen: dict[str, float] = field(default_factory=dict)

    def count(self, at: float, calls: int, rate: Rate) -> float:
        """Count calls, a little too late rather than too early; returns the slot."""
        slot = round((math.floor(at / rate.slot) + 1) * rate.slot, 6)
        if calls:
            self.counts[slot] = self.counts.get(slot, 0) + calls
        return slot

    def settle(self, slot: float, calls: int) -> None:
        """Take back what was counted for grants."""
        if (counted := self.counts.get(slot, 0)) > calls:
            self.counts[slot] = counted - calls
        else:
            self.counts.pop(slot, None)

    def forget(self, now: float, rate: Rate) -> None:
        """Drop what no longer counts, and what can't be: the clock was set back."""
        since, latest = now - rate.seconds, now + rate.seconds + 2 * VALIDITY
        set_back = max(self.seen.values(), default=now) - now
        if set_back > 0:
            self.blocked_until -= set_back
        self.counts = {slot: calls for slot, calls in self.counts.items() if since < slot < latest}
        self.seen = {bridge: at for bridge, at in self.seen.items() if since < at < latest}
        self.turn_at = min(max(self.turn_at, now - rate.catch_up), latest)
        self.new_at = min(self.new_at, now)

    def free_at(self, now: float, wanted: int, rate: Rate) -> float:
        """From when on, not before now, so many calls are left."""
        slots = sorted(self.counts)
        gone = [0, *accumulate(self.counts[slot] for slot in slots)]
        first = bisect_right(slots, now - rate.seconds)
        for ended in range(first, len(gone)):
            if rate.usable - (gone[-1] - gone[ended]) >= wanted:
                return now if ended == first else slots[ended - 1] + rate.seconds
        return math.inf


def exchange(text: str, now: float, rate: Rate, ask: Ask) -> tuple[str, Standing]:
    """Take a bridge's report into the note, and grant it calls."""
    tally = _read(text)
    for slot, calls in ask.settled:
        tally.settle(slot, calls)
    for ago, calls in ask.made:
        tally.count(now - ago, calls, rate)
    tally.forget(now, rate)
    tally.seen[ask.bridge] = now
    tally.blocked_until = max(tally.blocked_until, now + ask.blocked_for)
    left = max(0, rate.usable - sum(tally.counts.values()))
    new = min(ask.new, left)
    if ask.new:
        tally.new_at = now
    slot = tally.count(now + VALIDITY, new, rate)
    turns = tuple(_turns(tally, now, rate, ask.waiting)) if new == ask.new else ()
    left -= new + len(turns)
    much = math.ceil(rate.usable * SCARCE)
    spare = max(0, min(ask.spare, (left - much) // len(tally.seen)))
    tally.count(now + VALIDITY, spare, rate)
    left = max(0, left - spare)
    standing = Standing(
        new=new + spare,
        slot=slot,
        turns=turns,
        left=left,
        next_in=min(tally.free_at(now, 1, rate) - now, rate.arrival + rate.seconds),
        scarce=left <= much,
        blocked_for=max(0.0, tally.blocked_until - now),
        bridges=len(tally.seen),
    )
    return _written(tally), standing


def _turns(tally: _Tally, now: float, rate: Rate, wanted: int) -> "list[tuple[float, float]]":
    """Turns for waiting mail until the bridge asks again: in how many seconds, and the slot."""
    kept = rate.for_new if now - tally.new_at < rate.memory else 0
    turns: list[tuple[float, float]] = []
    while len(turns) < wanted:
        at = tally.free_at(max(tally.turn_at, now), kept + 1, rate)
        if at > now + rate.ahead:
            break
        turns.append((at - now, tally.count(at + VALIDITY, 1, rate)))
        tally.turn_at += rate.distance
    return turns


def _read(text: str) -> _Tally:
    """The note; a new one if there is none, or none that can be read."""
    try:
        note = orjson.loads(text)
        return _Tally(
            counts={float(slot): int(calls) for slot, calls in note["counts"]},
            turn_at=float(note["turn_at"]),
            new_at=float(note["new_at"]),
            blocked_until=float(note["blocked_until"]),
            seen={bridge: float(at) for bridge, at in note["seen"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return _Tally()


def _written(tally: _Tally) -> str:
    note = {
        "counts": list(tally.counts.items()),
        "turn_at": tally.turn_at,
        "new_at": tally.new_at,
        "blocked_until": tally.blocked_until,
        "seen": tally.seen,
    }
    return orjson.dumps(note).decode()
