"""Disk space: whether there is room for more mail, before it runs out (Postfix's queue_minfree).

What is free on the disk counts, and what is free inside the spool's own file.

Knows no SQLite: whoever writes the file says how much of it is free.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from smtp2cf.journal import news
from smtp2cf.spool.protocol import SpoolFull

LOOK_EVERY = 0.25
"""Seconds for which a measurement is used."""

ENOUGH = 17 / 16
"""Times the minimum that must be free again before mail is accepted again, so that it doesn't flap."""

SCARCE = 2
"""Times the minimum: where less is free, there is a warning."""

log = structlog.stdlib.get_logger("smtp2cf.spool")


class Space:
    """The free space, measured at most every LOOK_EVERY seconds.

    directory: where the spool is. min_free: bytes below which no new mail is accepted. on_disk: returns
    the bytes that are free on the disk of a directory.
    """

    def __init__(
        self,
        directory: Path,
        min_free: int,
        *,
        on_disk: Callable[[Path], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._min_free = min_free
        self._on_disk = on_disk or free_on_disk
        self._clock = clock
        self._looked_at = float("-inf")
        self._refusal: SpoolFull | None = None
        self._is_scarce = False
        self.inside = 0
        """Bytes that are free inside the spool's file."""
        self.free = 0
        """Bytes that were free at the last measurement, inside and outside the file."""
        self.exhausted = False
        """The reserve for a full disk was used: no mail is accepted until it is restored."""

    def refusal(self) -> SpoolFull | None:
        """The error that refuses new mail while there is too little room; None while there is enough."""
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            self._look()
        return self._refusal

    def look_again(self) -> None:
        """Measure again at the next question, because something has changed."""
        self._looked_at = float("-inf")

    def has_enough(self) -> bool:
        """Whether there is enough room now, apart from the reserve."""
        wanted = self._min_free * ENOUGH if self._refusal is not None else self._min_free
        return self._measured() >= wanted

    def warn_if_scarce(self) -> None:
        """Say once that there is little room left, by the last measurement."""
        scarce = SCARCE * self._min_free
        if self.free < scarce and not self._is_scarce:
            self._is_scarce = True
            fields = {"directory": str(self._directory), "free": self.free, "min_free": self._min_free}
            log.warning("spool.nearly_full", **fields)
            least = f"below {_shown(self._min_free)} new mail is refused (SMTP2CF_SPOOL_MIN_FREE)"
            text = f"only {_shown(self.free)} are free in {self._directory}; {least}"
            news.tell("spool.nearly_full", text, **fields)
        elif self.free >= scarce * ENOUGH:
            self._is_scarce = False

    def _look(self) -> None:
        try:
            enough = self.has_enough()
        except OSError:
            return  # the directory is gone: whoever writes will say so
        if enough and not self.exhausted:
            self._refusal = None
            return
        self._refusal = SpoolFull(
            f"only {_shown(self.free)} are free in {self._directory}, and {_shown(self._min_free)} must stay"
            " free (SMTP2CF_SPOOL_MIN_FREE)"
            if not enough
            else f"the disk of {self._directory} was full, and the spool's reserve is not restored yet"
        )

    def _measured(self) -> int:
        self.free = self._on_disk(self._directory) + self.inside
        return self.free


def free_on_disk(directory: Path) -> int:
    """Bytes that a user other than root may still write. Raises OSError."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _shown(octets: int) -> str:
    return f"{octets / 2**20:.1f} MiB" if octets >= 2**20 else f"{octets / 2**10:.0f} KiB"
