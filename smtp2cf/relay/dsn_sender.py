"""Sends DSNs that are in no spool: each has one attempt, and the log says what became of it."""

import asyncio
import contextlib

from smtp2cf.journal import tasks
from smtp2cf.relay import time_limit
from smtp2cf.relay.attempt import Attempts
from smtp2cf.relay.attempt_log import log_attempt
from smtp2cf.reply import Scope, SendError
from smtp2cf.spool import NewMail


class DsnSender:
    """patience: seconds a DSN may wait for its turn under the account's limits."""

    def __init__(self, attempts: Attempts, patience: float) -> None:
        self._attempts = attempts
        self._patience = patience
        self._under_way: set[asyncio.Task[None]] = set()

    async def send(self, mail: NewMail) -> None:
        """Make the one attempt. Raises SendError if another may succeed."""
        envelope = mail.envelope
        attempt = await self._attempts.make(
            envelope, envelope.forward_paths, mail.message, patience=self._patience, is_dsn=True
        )
        log_attempt(envelope, attempt, mail.message)
        if deferred := [reply for reply in attempt.outcomes.values() if reply.transient]:
            raise SendError(deferred[0], Scope.MESSAGE)

    def send_later(self, mail: NewMail) -> None:
        """The same while the caller goes on: nobody can do anything about a failure."""
        task = tasks.start(self._try(mail), "relay.report")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Wait for `timeout` seconds at most until all are sent."""
        await time_limit.wait(self._under_way, timeout)

    async def _try(self, mail: NewMail) -> None:
        with contextlib.suppress(SendError):
            await self.send(mail)
