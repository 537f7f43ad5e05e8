"""The spool's health: whether it can be written to, and what waits in it, for people and metrics."""

import asyncio
import time

import structlog
from prometheus_client import Gauge

from smtp2cf.journal import news
from smtp2cf.journal.readiness import Readiness
from smtp2cf.reply import SendError, rough_duration
from smtp2cf.spool.protocol import Spool, SpoolError, Status, Total

INTERVAL = 5.0
"""Seconds between two checks of the spool."""

MESSAGES = Gauge("smtp2cf_spool_messages", "Messages in the spool", ["status"])
BYTES = Gauge("smtp2cf_spool_bytes", "Bytes of messages in the spool", ["status"])
OLDEST = Gauge("smtp2cf_spool_oldest_seconds", "Age of the oldest waiting message, not counting held ones")

log = structlog.stdlib.get_logger("smtp2cf.spool")


class SpoolHealth:
    """Checks a spool: whether it can be written to, how much mail waits in it, and how long.

    warn_after: seconds the oldest mail may wait before there is a warning.
    """

    def __init__(self, spool: Spool, warn_after: float) -> None:
        self._spool = spool
        self._warn_after = warn_after
        self._totals: dict[Status, Total] = {}
        self._broken = "the spool has not answered yet"
        self.looked = asyncio.Event()
        """Set after the first look."""

    async def watch(self) -> None:
        """Check again and again. Raises SpoolError if the spool can never be used."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Write to the spool and count what is in it. Raises SpoolError if it can never be used."""
        try:
            # Count first: a spool that takes no more mail still sends what is in it.
            self._totals = await self._spool.totals()
            await self._spool.check()
        except SpoolError:
            raise
        except SendError as error:
            self._is_broken(error.reply.text, reply=str(error.reply))
        except Exception as error:  # noqa: BLE001 - whatever it is, the spool doesn't work
            self._is_broken(f"the spool fails: {type(error).__name__}: {error}", exc_info=error)
        else:
            if self._broken and self.looked.is_set():
                log.info("spool.recovered")
                news.tell("spool.recovered", "the spool works again")
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
            news.tell("spool.broken", reason, reason=reason)
        self._broken = reason

    @property
    def messages(self) -> int:
        """How many were waiting at the last check."""
        return sum(total.messages for total in self._totals.values())

    def readiness(self) -> Readiness:
        """Not ready if the spool can't be written to; ready with a warning if mail has waited too long."""
        if self._broken:
            return Readiness(False, self._broken)
        age = self._age()
        if age > self._warn_after:
            waited = rough_duration(age)
            return Readiness(True, f"warning: the oldest mail has waited for {waited} (SMTP2CF_WARN_AFTER)")
        return Readiness(True, "")

    def all_well(self) -> Readiness:
        """Not ready either if mail has waited too long."""
        found = self.readiness()
        return Readiness(found.ready and not found.reason, found.reason.removeprefix("warning: "))

    def summary(self) -> str:
        """For the status page."""
        if not self._totals:
            return "none"
        counts = ", ".join(f"{total.messages} {status}" for status, total in self._totals.items())
        return f"{counts}; the oldest for {rough_duration(self._age())}"

    def _age(self) -> float:
        oldest = [total.oldest for status, total in self._totals.items() if status is not Status.HELD]
        return max(0.0, time.time() - min(oldest)) if oldest else 0.0
