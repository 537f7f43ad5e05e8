"""The clock of an SQLite spool: epoch seconds at its start, and from then on the time that passes.

The host's clock may be set, or wrong: a Pi has none of its own. What has passed is told by another, which
nobody sets and which counts the time a host is suspended, too. So nothing is late or early, and nothing is
old, because a clock was put right.

A spool outlives its process, so the file holds a mark of the clock. On the same boot of the host the
next process goes on from there exactly, whatever the host's clock shows by then. After another boot
nobody can say how long the host was off: this clock stood still meanwhile.

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
    """Seconds since some moment of this boot; those a host was suspended for count where it tells them."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def boot() -> str:
    """What tells this boot of the host from any other; "" where the host does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Clock:
    """Shows `now` from here on. May be asked from any thread."""

    def __init__(self, now: float) -> None:
        self._ahead = now - passed()

    @classmethod
    def resume(cls, mark: Mark) -> "Clock":
        """The clock of which this is a mark."""
        since = passed() - mark.passed
        # A container with a time of its own may show less than before on the same boot.
        return cls(mark.now + (since if mark.boot and mark.boot == boot() and since > 0 else 0.0))

    def now(self) -> float:
        """Seconds since the epoch, more or less; compared with nothing but what this clock has shown."""
        return passed() + self._ahead

    def mark(self) -> Mark:
        """What `resume` takes."""
        at = passed()
        return Mark(boot(), at, at + self._ahead)
