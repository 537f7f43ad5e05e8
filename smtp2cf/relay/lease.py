"""Lease: whether this process may still send a message, asked right before each call.

Several bridges share a spool in PostgreSQL. One that stood still for longer than its claim lasts, stopped
or in a virtual machine that was paused, finds that another has the message now. Mail that its client still
owns is nobody else's. Knows no database and no HTTP.
"""

import asyncio

import structlog

from smtp2cf.reply import Reply, Scope, SendError
from smtp2cf.spool import NewMail, Spool

TAKEN_OVER = Reply(451, "4.3.0", "another bridge has this message now, or it was deleted")

log = structlog.stdlib.get_logger("smtp2cf.queue")


class Lease:
    """The right to send one message.

    kept: it is in the spool, claimed by this process. called: a call was about to be made, and the limits of
    the account allowed it.
    """

    def __init__(self, spool: Spool, queue_id: str, *, kept: bool) -> None:
        self._spool = spool
        self._queue_id = queue_id
        self._kept = kept
        self._keeping: asyncio.Future[None] | None = None
        self.called = False

    async def keep(self, mail: NewMail) -> None:
        """Put the message into the spool, claimed, while its call is under way; raises SendError.

        From here on another bridge may come to have it.
        """
        self._kept = True
        self._keeping = asyncio.ensure_future(self._spool.put(mail))
        try:
            await self._keeping
        except SendError as error:
            self._kept = error.unanswered  # nobody knows
            raise
        finally:
            self._keeping = None

    def holds(self) -> bool:
        """It may be sent, as far as is known without asking; no longer so after whatever is awaited."""
        return not self._kept or self._spool.holds(self._queue_id)

    async def confirm(self) -> None:
        """Make sure that it may be sent; raises SendError when it may not, or nobody can tell."""
        if (keeping := self._keeping) is not None:
            await asyncio.wait((keeping,))
        if self._kept and not await self._spool.confirm(self._queue_id):
            log.warning("queue.taken_over", queue_id=self._queue_id)
            raise SendError(TAKEN_OVER, Scope.ACCOUNT)
        self.called = True
