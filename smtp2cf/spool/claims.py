"""What a spool does by itself: renew the leases of claimed mail, and wake whoever waits for due mail.

Knows nothing of either database.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import structlog

from smtp2cf.journal import tasks
from smtp2cf.reply import SendError
from smtp2cf.spool import clock
from smtp2cf.spool.protocol import SpoolItem

_log = structlog.get_logger(__name__)

RENEWALS = 3
"""Renewals during a lease, so that two may fail."""
IN_VAIN = 1.0
"""Seconds between two tries for due mail that can't be claimed, because another process has locked it."""
FRESH = 1.0
"""Seconds for which a confirmed claim needs no further check."""


class Moment(NamedTuple):
    """A moment by two clocks: either may stop while the host is suspended, and the other then counts."""

    passed: float
    epoch: float

    @classmethod
    def now(cls) -> "Moment":
        return cls(clock.passed(), time.time())

    @property
    def since(self) -> float:
        """Seconds since then; too many rather than too few."""
        return max(clock.passed() - self.passed, time.time() - self.epoch)


class Claims:
    """The queue ids this process claims, and the task that renews their leases.

    lease: seconds. renew: takes queue ids and returns those whose leases it renewed; called three times per
    lease, even without any.
    """

    def __init__(self, lease: float, renew: Callable[[Sequence[str]], Awaitable[Collection[str]]]) -> None:
        self._ids: dict[str, Moment] = {}
        self._period = lease / RENEWALS
        # The rest of the lease is for the call to begin and for the next renewal.
        self._holds_for = lease - self._period
        self._renew = renew
        self._failed = False
        self._task = tasks.keep_running(self._keep_renewing, "spool.renew")

    def add(self, queue_ids: Iterable[str], asked_at: Moment | None = None) -> None:
        """These are ours; their leases began at `asked_at` (default: now) or later."""
        asked_at = asked_at or Moment.now()
        self._ids.update(dict.fromkeys(queue_ids, asked_at))

    def confirm(self, queue_ids: Iterable[str], asked_at: Moment) -> None:
        """The leases of those that are still ours were renewed."""
        self._ids.update(dict.fromkeys(self._ids.keys() & set(queue_ids), asked_at))

    async def ask(self, queue_id: str, is_ours: Awaitable[bool]) -> bool:
        """Whether a claim is ours, as the database answers; keeps the claim, or drops it."""
        asked_at = Moment.now()
        ours = await is_ours
        if ours:
            self.confirm((queue_id,), asked_at)
        else:
            self.drop((queue_id,))
        return ours

    def take(self, claimed: Sequence[SpoolItem], asked_at: Moment) -> list[SpoolItem]:
        """Add what was just claimed; returns what wasn't ours before.

        What was ours has had its lease renewed: it had run out, because this process was stopped.
        """
        fresh = [item for item in claimed if item.queue_id not in self._ids]
        self.add((item.queue_id for item in claimed), asked_at)
        return fresh

    def drop(self, queue_ids: Iterable[str]) -> None:
        """These are no longer ours."""
        for queue_id in queue_ids:
            self._ids.pop(queue_id, None)

    def holds(self, queue_id: str) -> bool:
        """Whether its lease certainly still runs, even if this process was stopped since."""
        asked_at = self._ids.get(queue_id)
        return asked_at is not None and asked_at.since < self._holds_for

    def is_fresh(self, queue_id: str) -> bool:
        """Whether it was confirmed just now."""
        asked_at = self._ids.get(queue_id)
        return asked_at is not None and asked_at.since < min(FRESH, self._holds_for)

    def __contains__(self, queue_id: object) -> bool:
        return queue_id in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    async def close(self) -> None:
        """Stop renewing."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._ids.clear()

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            asked_at = Moment.now()
            try:
                self.confirm(await self._renew(tuple(self._ids)), asked_at)
            except SendError as error:
                if not self._failed:
                    _log.warning("spool.unavailable", reply=str(error.reply))
                self._failed = True
            except Exception:  # noqa: BLE001 - logged below
                # The next renewal must not wait for longer than the leases do.
                _log.exception("spool.renewal_failed")
                self._failed = True
            else:
                if self._failed:
                    _log.info("spool.available")
                self._failed = False


class DueAlarm:
    """Wakes whoever waits for mail to be due.

    until_due: returns the seconds until some is, None for never. poll: seconds after which to ask again,
    because another process may have changed that without notice.
    """

    def __init__(self, until_due: Callable[[], Awaitable[float | None]], poll: float) -> None:
        self._until_due = until_due
        self._poll = poll
        self._changed = asyncio.Event()
        self._sent_in_vain = False

    def found(self) -> None:
        """The one that was woken found due mail."""
        self._sent_in_vain = False

    def ring(self) -> None:
        """Something became due, or will be sooner."""
        self._changed.set()

    async def wait(self, at_most: float) -> None:
        """Return when mail is due, or after `at_most` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + at_most
        while (left := deadline - loop.time()) > 0:
            # Clear it before asking, so that nothing in between is missed.
            self._changed.clear()
            until_due = await self._until_due()
            if until_due is not None and until_due <= 0:
                if not self._sent_in_vain:
                    self._sent_in_vain = True
                    return
                self._sent_in_vain = False
                until_due = IN_VAIN
            pause = min(left, self._poll, left if until_due is None else until_due)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
