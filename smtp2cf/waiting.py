"""Waiting: what waits in the spool, counted now and then for metrics, readiness and the status page."""

import asyncio
import time

import structlog
from prometheus_client import Gauge

from smtp2cf.admin import Readiness
from smtp2cf.reply import SendError
from smtp2cf.spool import Spool, Status, Total

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
        self._broken = ""

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Write to the spool, count what is in it."""
        try:
            # Counted first: what waits in a spool that takes no more mail goes out all the same.
            self._totals = await self._spool.totals()
            await self._spool.check()
        except SendError as error:
            if not self._broken:
                log.error("spool.broken", reply=str(error.reply))  # noqa: TRY400 - the cause is in the reply
            self._broken = error.reply.text
        else:
            if self._broken:
                log.info("spool.recovered")
            self._broken = ""
        for status in Status:
            total = self._totals.get(status, Total(0, 0, 0.0))
            MESSAGES.labels(status).set(total.messages)
            BYTES.labels(status).set(total.bytes)
        OLDEST.set(self._age())

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
