"""Waiting: what waits in the spool, counted now and then for metrics, readiness and the status page."""

import asyncio
import time

import structlog
from prometheus_client import Gauge

from smtp2cf.journal.readiness import Readiness
from smtp2cf.reply import SendError
from smtp2cf.spool import Spool, SpoolError, Status, Total

INTERVAL = 5.0
"""Seconds between two looks at the spool."""

MESSAGES = Gauge("smtp2cf_spool_messages", "Messages in the spool", ["status"])
BYTES = Gauge("smtp2cf_spool_bytes", "Bytes of messages in the spool", ["status"])
OLDEST = Gauge("smtp2cf_spool_oldest_seconds", "Age of the oldest message that waits, held ones left out")

log = structlog.stdlib.get_logger("smtp2cf.spool")


class Waiting:
    """Looks after a spool: whether it can be written, and how much waits in it for how long.

    warn_after: seconds the oldest mail may wait before it is worth a warning.
    """

    def __init__(self, spool: Spool, warn_after: float) -> None:
        self._spool = spool
        self._warn_after = warn_after
        self._totals: dict[Status, Total] = {}
        self._broken = "the spool has not answered yet"
        self.looked = asyncio.Event()
        """Set after the first look."""

    async def watch(self) -> None:
        """Look again and again. Raises SpoolError where the spool can never be used."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Write to the spool, count what is in it. Raises SpoolError where it can never be used."""
        try:
            # Counted first: what waits in a spool that takes no more mail goes out all the same.
            self._totals = await self._spool.totals()
            await self._spool.check()
        except SpoolError:
            raise
        except SendError as error:
            self._is_broken(error.reply.text, reply=str(error.reply))
        except Exception as error:  # noqa: BLE001 - whatever it is, this is not a spool that works
            self._is_broken(f"the spool fails: {type(error).__name__}: {error}", exc_info=error)
        else:
            if self._broken and self.looked.is_set():
                log.info("spool.recovered")
            self._broken = ""
        self.looked.set()
        for status in Status:
            total = self._totals.get(status, Total(0, 0, 0.0))
            MESSAGES.labels(status).set(total.messages)
            BYTES.labels(status).set(total.bytes)
        OLDEST.set(self._age())

    def _is_broken(self, reason: str, **cause: object) -> None:
        if not self._broken or not self.looked.is_set():
            log.error("spool.broken", **cause)
        self._broken = reason

    @property
    def messages(self) -> int:
        """How many waited at the latest look."""
        return sum(total.messages for total in self._totals.values())

    def readiness(self) -> Readiness:
        """Not ready when the spool can't be written; ready with a warning when mail waits too long."""
        if self._broken:
            return Readiness(False, self._broken)
        age = self._age()
        if age > self._warn_after:
            return Readiness(
                True, f"warning: the oldest mail waits for {age / 3600:.1f} h (SMTP2CF_WARN_AFTER)"
            )
        return Readiness(True, "")

    def summary(self) -> str:
        """For the status page."""
        if not self._totals:
            return "none"
        counts = ", ".join(f"{total.messages} {status}" for status, total in self._totals.items())
        return f"{counts}; the oldest for {self._age():.0f} s"

    def _age(self) -> float:
        oldest = [total.oldest for status, total in self._totals.items() if status is not Status.HELD]
        return max(0.0, time.time() - min(oldest)) if oldest else 0.0
