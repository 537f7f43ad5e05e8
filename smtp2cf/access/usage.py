"""Usage: how much one key has sent in a rolling window. Plain counting, no clock and no I/O.

A window is cut into 60 slots, and what is sent is counted in the slot of its moment. A slot counts until it
is over and a whole window has passed: so never too short, and at most a slot too long. Whatever the limit
and the window, a key takes at most 61 pairs of numbers.

So nobody ever gets more than a limit in any window, and who sends no more than the limit in 61/60 of the
window is never refused.
"""

from array import array

import orjson

SLOTS = 60
"""Counts in a window."""


class Usage:
    """What one key has sent.

    seconds: of the window. Times are seconds by one clock. warned_until: nothing is said of this key before.
    """

    __slots__ = ("_slots", "sum", "warned_until")

    def __init__(self) -> None:
        self.sum = 0
        self.warned_until = 0.0
        # A slot's number and its count for each slot that has one, oldest first.
        self._slots = array("q")

    def add(self, now: float, seconds: int) -> None:
        """Count one."""
        slot, slots = int(now * SLOTS / seconds), self._slots
        self.sum += 1
        if slots and slots[-2] >= slot:
            slots[-1] += 1
        else:
            slots.extend((slot, 1))

    def forget(self, now: float, seconds: int) -> None:
        """Drop the slots that no longer count."""
        slots, first = self._slots, int(now * SLOTS / seconds) - SLOTS
        gone = 0
        while gone < len(slots) and slots[gone] < first:
            self.sum -= slots[gone + 1]
            gone += 2
        if gone:
            del slots[:gone]

    def room_at(self, limit: int, seconds: int) -> float:
        """From when on there is room for one more."""
        left, slots = self.sum, self._slots
        for index in range(0, len(slots), 2):
            left -= slots[index + 1]
            if left < limit:
                return (slots[index] + SLOTS + 1) * seconds / SLOTS
        return 0.0

    def text(self) -> str:
        """For a store."""
        return orjson.dumps([self.warned_until, *self._slots.tolist()]).decode()

    @classmethod
    def read(cls, text: str, now: float, seconds: int) -> "Usage":
        """What `text` wrote; nothing, if it can't be read. What seems to come later than now (the clock was
        set back) counts as if it were now."""
        usage, latest = cls(), int(now * SLOTS / seconds)
        try:
            warned_until, *numbers = orjson.loads(text) if text else [0.0]
            usage.warned_until = min(float(warned_until), now + seconds)
            for slot, count in zip(numbers[::2], numbers[1::2], strict=True):
                usage._put(min(int(slot), latest), int(count))
        except (ValueError, TypeError, OverflowError):
            return cls()
        return usage

    def _put(self, slot: int, count: int) -> None:
        self.sum += count
        if self._slots and self._slots[-2] == slot:
            self._slots[-1] += count
        else:
            self._slots.extend((slot, count))
