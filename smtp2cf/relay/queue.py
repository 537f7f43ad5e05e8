"""Queue: sends the mail that waits in the spool.

Claims what is due while the accounts' limits leave room for it, and tries those recipients that have no final
outcome yet. Each account has a lane of its own (`lanes`). What follows from an attempt is settled as for new
mail (`settle`), and written down by `spooled`. Knows no SMTP session and no HTTP.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Sequence

import structlog

from smtp2cf.journal import maillog, tasks
from smtp2cf.relay import spooled
from smtp2cf.relay.accounts import UNLIMITED, Accounts, Outlet, Pace
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.lanes import BLOCKED, PUT_OFF, Lane
from smtp2cf.relay.lease import Lease
from smtp2cf.relay.settle import Situation
from smtp2cf.relay.spooled import SpooledMail
from smtp2cf.relay.waiting import make_due
from smtp2cf.relay.waits_for_events import Sender
from smtp2cf.reply import SendError
from smtp2cf.spool import NOW, Filter, Period, SpoolItem, Status

PATIENCE = 60.0
"""Seconds that mail waits for its turn under the account's limits before it is put back."""
POLL = 60.0
"""Seconds until the spool is asked again if nothing wakes us."""
RUSH = 4
"""While this many clients wait for their mail to be kept, taking it in goes before sending."""
RUSH_PAUSE = 0.01
"""Seconds between two messages sent during a rush: still far more than any account's limit allows."""
LOOK_AGAIN = 0.05
"""Seconds until we look again whether calls still stand in line."""
SWEEP = 200
"""Messages that are claimed beyond those that have room, while some account takes none: its mail is put off,
for what is due behind it."""
LATER = Period(PUT_OFF, 1.5 * PUT_OFF)
"""When mail is due that is put off, unless it has a place before."""
NOBODY = "(nobody)"
"""The lane of mail that no account sends, where there are several. Its attempts need no calls."""

Attempting = Callable[..., Awaitable[Attempt]]
"""`Attempts.make`."""
OutletOf = Callable[[SpoolItem], Awaitable[Outlet | None]]
"""Which account would send a message now, None for none."""
SenderOf = Callable[[SpoolItem], Awaitable[str]]
"""Who it would be sent as."""

log = structlog.stdlib.get_logger("smtp2cf.queue")


class Queue:
    """Sends mail when it is due.

    pace: what the limits leave of the one account. accounts, outlet_of: where there are several. sender_of:
    needed where events are heard.
    """

    def __init__(
        self,
        mail: SpooledMail,
        attempt: Attempting,
        pace: Pace | None = None,
        *,
        accounts: Accounts | None = None,
        outlet_of: OutletOf | None = None,
        sender_of: SenderOf | None = None,
    ) -> None:
        self._mail = mail
        self._spool = mail.spool
        self._attempt = attempt
        parallel = mail.retry.parallel
        several = accounts is not None and accounts.only is None
        outlets = accounts.outlets if accounts is not None else ()
        paces = {each.name: each.pace for each in outlets} or {"": pace or UNLIMITED}
        self._lanes = {name: Lane(name, its, parallel) for name, its in paces.items()}
        if several:
            self._lanes[NOBODY] = Lane(NOBODY, UNLIMITED, parallel)
        self._outlet_of = outlet_of if several else None
        self._sender_of = sender_of
        self._only = None if several else next(iter(self._lanes.values()))
        self._runner: asyncio.Task[None] | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    def start(self) -> None:
        """Begin to send what is due, if it has not begun."""
        if self._runner is None:
            self._runner = tasks.keep_running(self._run, "queue.run")

    def wake(self) -> None:
        """More may go out than before."""
        self._woken.set()

    def retry_all(self, account: str | None = None) -> None:
        """Make all mail due that waits for another attempt. account: only what this one would send."""

        async def wanted(item: SpoolItem) -> bool:
            return (await self._lane_of(item)).name == account

        async def due() -> None:
            # Mail whose attempt ended before its call was made is queued, not deferred, and waits as well.
            waiting = Filter(statuses=(Status.QUEUED, Status.DEFERRED))
            everything = account is None or self._only is not None
            await make_due(self._spool, waiting, NOW, None if everything else wanted)

        self._retrying = tasks.start(self._mail.surely(due), "queue.retry_all")

    async def stop_claiming(self) -> None:
        """Send nothing more than what is under way."""
        for task in (self._runner, self._retrying):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Claim no more, and let what is under way end within `timeout` seconds; the spool keeps the rest."""
        await self.stop_claiming()
        await self._mail.drain(timeout)

    # ---- claiming

    async def _run(self) -> None:
        while True:
            try:
                await self._claim()
            except SendError as error:
                log.warning("queue.spool_unavailable", reply=str(error.reply))
                await asyncio.sleep(spooled.SPOOL_RETRY)
            except Exception:
                log.exception("queue.error")
                await asyncio.sleep(spooled.SPOOL_RETRY)

    async def _claim(self) -> None:
        """Take what is due and there is room for; if there is neither, wait."""
        self._woken.clear()
        lanes = self._lanes.values()
        await self._recall()
        if all(lane.closed for lane in lanes if lane is self._only or lane.name != NOBODY):
            # Nothing can be sent, so don't waste an attempt on finding that out.
            if not await self._claim_expired():
                await self._wait_to_open()
            return
        room = self._room()
        if self._mail.arriving >= RUSH:
            room = min(room, 1)
            await asyncio.sleep(RUSH_PAUSE)
        if room <= 0:
            await self._mail.one_less(LOOK_AGAIN)
            return
        if self._only is None and not all(lane.free for lane in lanes):
            room += SWEEP
        items = await self._spool.claim(room)
        await self._begin(items)
        if not items:
            await self._wait_for_mail()

    async def _claim_expired(self) -> bool:
        """Take what is to be given up; False if there is nothing."""
        items = await self._spool.claim(self._mail.retry.parallel, expired=True)
        await asyncio.gather(*[self._send(item, await self._lane_of(item)) for item in items])
        return bool(items)

    async def _wait_to_open(self) -> None:
        """Wait until some account may send again that may not now."""
        blocked_for = min(
            (lane.pace.blocked_for for lane in self._lanes.values() if lane.closed), default=0.0
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(blocked_for, POLL)):
                await self._woken.wait()

    async def _wait_for_mail(self) -> None:
        """Wait until mail is due, or there may be a place for what was put off."""
        lanes = self._lanes.values()
        if any(lane.holds_back for lane in lanes):
            await self._mail.one_less(LOOK_AGAIN)
        elif not any(lane.closed for lane in lanes):
            await self._spool.wait_due(POLL)
        else:
            due = tasks.start(self._spool.wait_due(POLL), "queue.wait_due")
            open_ = tasks.start(self._wait_to_open(), "queue.wait_to_open")
            try:
                await asyncio.wait((due, open_), return_when=asyncio.FIRST_COMPLETED)
            finally:
                due.cancel()
                open_.cancel()

    def _room(self) -> int:
        """How many messages to claim."""
        if self._only is not None:
            return self._only.room(self._mail.under_way)
        return sum(max(0, lane.room()) for lane in self._lanes.values() if not lane.closed)

    # ---- several accounts

    async def _begin(self, items: Sequence[SpoolItem]) -> None:
        """Begin to send claimed mail; what its account can't take now is put off."""
        aside: dict[str, list[str]] = {}
        for item in items:
            lane = self._only or await self._lane_of(item)
            if lane is self._only or lane.free or (item.expired and item.attempts):
                lane.active += 1
                self._mail.work(item.queue_id, self._send_in(lane, item))
            else:
                aside.setdefault(lane.name, []).append(item.queue_id)
        if aside:  # all of it first: the spool may go away between two accounts, and a claim stays
            await self._mail.give_back(*itertools.chain(*aside.values()))
        for name, queue_ids in aside.items():
            await make_due(self._spool, Filter(queue_ids=tuple(queue_ids)), LATER)
            self._lanes[name].put_off(queue_ids)

    async def _recall(self) -> None:
        """What was put off is due where there is a place for it."""
        for lane in self._lanes.values():
            if queue_ids := lane.next_ones():
                await make_due(self._spool, Filter(queue_ids=tuple(queue_ids)), NOW)

    async def _lane_of(self, item: SpoolItem) -> Lane:
        """The lane of the account that would send a message now."""
        if self._only is not None or self._outlet_of is None:
            return next(iter(self._lanes.values()))
        outlet = await self._outlet_of(item)
        return self._lanes[NOBODY if outlet is None else outlet.name]

    # ---- sending

    async def _send_in(self, lane: Lane, item: SpoolItem) -> None:
        """The same as `_send`, in a place of the lane's that is free afterwards."""
        try:
            await self._send(item, lane)
        finally:
            lane.active -= 1

    async def _send(self, item: SpoolItem, lane: Lane) -> None:
        """One attempt for one message, whatever happens."""
        try:
            async with lane.loading(item.size):
                await self._try(item, lane)
        except SendError as error:
            # The spool could not be read, or could not note the attempt: so none was made.
            log.warning("queue.spool_unavailable", queue_id=item.queue_id, reply=str(error.reply))
            await asyncio.sleep(spooled.SPOOL_RETRY)
            await self._mail.give_back(item.queue_id)
        except Exception as error:
            log.exception("queue.error", queue_id=item.queue_id)
            await self._mail.fail(
                item.envelope,
                error,
                item.outcomes,
                attempts=item.attempts + 1,
                failures=item.failures + 1,
            )

    async def _try(self, item: SpoolItem, lane: Lane) -> None:
        message = await self._spool.read(item.queue_id)
        if message is None:
            await self._spool.give_back(item.queue_id)  # it is gone, and so is the claim
        elif item.unresolved and await self._waits_for_events(item, message, lane):
            return  # and has no claim any more
        elif item.unresolved and self._is_over(item, lane):
            await self._settle(item, message, Attempt(), attempts=item.attempts, called=False, expired=True)
        elif await self._spool.begin(item.queue_id):
            if item.unanswered and self._mail.lost is None:
                maillog.possible_duplicate(item.envelope, item.unresolved)
            attempt, lease = Attempt(), Lease(self._spool, item.queue_id, kept=True)
            if item.unresolved:
                attempt = await self._attempt(
                    item.envelope,
                    item.unresolved,
                    message,
                    patience=PATIENCE,
                    taken=any(reply.success for reply in item.outcomes.values()),
                    is_dsn=item.is_dsn,
                    lease=lease,
                )
            # Mail that has expired had its last attempt, unless it was never tried and no call was made now.
            expired = item.expired and (lease.called or item.attempts > 0)
            await self._settle(
                item,
                message,
                attempt,
                attempts=item.attempts + 1,
                called=lease.called,
                expired=expired,
            )

    async def _waits_for_events(self, item: SpoolItem, message: bytes, lane: Lane) -> bool:
        """See SpooledMail.waits_for_events."""
        if self._mail.lost is None or self._sender_of is None or not item.attempts:
            return False
        sender = Sender(await self._sender_of(item), lane.name)
        return await self._mail.waits_for_events(item, message, sender)

    async def _settle(
        self,
        item: SpoolItem,
        message: bytes,
        attempt: Attempt,
        *,
        attempts: int,
        called: bool,
        expired: bool,
    ) -> None:
        situation = Situation(
            spool=True,
            client_waits=False,
            is_dsn=item.is_dsn,
            expired_after=item.age if expired else None,
        )
        await self._mail.settle(
            item.envelope,
            message,
            item.outcomes,
            attempt,
            situation,
            attempts=attempts,
            called=called,
            failures=item.failures,
        )

    def _is_over(self, item: SpoolItem, lane: Lane) -> bool:
        """It has expired and gets no further attempt.

        Every message gets one, and another while it is due, however old it is: it may only look old because
        the bridge was off, or the host's clock wrong.
        """
        can_be_tried = not item.attempts or (item.due and lane.pace.blocked_for <= BLOCKED)
        return item.expired and not can_be_tried
