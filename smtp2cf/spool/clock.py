"""The clock of an SQLite spool: epoch seconds at its start, and from then on the time that passes.

The host's clock may be wrong, or be set: a Raspberry Pi has none that survives. The time that passes is taken
from another clock, which nobody sets and which also counts the time a host is suspended. So correcting the
host's clock makes no mail late, early or old.

A spool outlives its process, so the file keeps a mark of this clock. On the same boot of the host the next
process continues from there exactly, whatever the host's clock shows by then. After another boot nobody can
tell how long the host was off: this clock stood still meanwhile.

Knows nothing of files and mail.
"""

import time
from pathlib import Path
from typing import NamedTuple

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Mark(NamedTuple):
    """What the clock showed, `now`, when `passed` had passed on this boot of the host."""

    boot: str
    passed: float
    now: float


def passed() -> float:
    """Seconds since some moment of this boot, including suspended time where the host counts it."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def boot() -> str:
    """An id of this boot of the host; "" if the host has none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Clock:
    """Starts at `now`. May be used from any thread."""

    def __init__(self, now: float) -> None:
        self._ahead = now - passed()

    @classmethod
    def resume(cls, mark: Mark) -> "Clock":
        """The clock that left this mark."""
        since = passed() - mark.passed
        # In a container with its own time, less may have passed than before on the same boot.
        return cls(mark.now + (since if mark.boot and mark.boot == boot() and since > 0 else 0.0))

    def now(self) -> float:
        """Roughly seconds since the epoch; compare only with other times of this clock."""
        return passed() + self._ahead

    def mark(self) -> Mark:
        """A mark for `resume`."""
        at = passed()
        return Mark(boot(), at, at + self._ahead)
