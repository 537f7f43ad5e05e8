"""Lease: whether this process may still send a message, asked right before each call.

Several bridges can share a spool in PostgreSQL. If one of them stands still for longer than its claim lasts
(stopped, or in a paused virtual machine), another takes its messages over. A message that its client still
owns can't be taken over. Knows no database and no HTTP.
"""

import asyncio
import time

import structlog

from smtp2cf.reply import Reply, Scope, SendError
from smtp2cf.spool import NewMail, Spool

TAKEN_OVER = Reply(451, "4.3.0", "another bridge has this message now, or it was deleted")

log = structlog.stdlib.get_logger("smtp2cf.queue")


class Lease:
    """The right to send one message.

    kept: it is in the spool, claimed by this process. called: at least one call was about to be made, as the
    account's limits allowed, or what would come of it was known. called_at: when the last began, in seconds
    since the epoch.
    """

    def __init__(self, spool: Spool, queue_id: str, *, kept: bool) -> None:
        self._spool = spool
        self._queue_id = queue_id
        self.kept = kept
        self._keeping: asyncio.Future[Reply | None] | None = None
        self.called = False
        self.called_at = 0.0

    async def keep(self, mail: NewMail) -> None:
        """Put the message into the spool, claimed, while its call is under way. Raises SendError.

        From here on another bridge can take it over.
        """
        self.kept = True  # before the write: a call that begins meanwhile must wait for it in `confirm`
        self._keeping = asyncio.ensure_future(self._spool.put(mail))
        try:
            await self._keeping
        except SendError as error:
            self.kept = error.unanswered  # the write may have succeeded; otherwise the client still owns it
            raise
        finally:
            self._keeping = None

    def holds(self) -> bool:
        """Whether it may be sent, as far as is known without asking. Ask again after every await."""
        return not self.kept or self._spool.holds(self._queue_id)

    async def confirm(self) -> None:
        """Make sure that it may be sent. Raises SendError if it may not, or if nobody can tell."""
        if (keeping := self._keeping) is not None:
            await asyncio.wait((keeping,))  # only then is it known whether there is a claim to ask about
        if self.kept and not await self._spool.confirm(self._queue_id):
            log.warning("queue.taken_over", queue_id=self._queue_id)
            raise SendError(TAKEN_OVER, Scope.ACCOUNT)
        self.called = True
        self.called_at = time.time()
