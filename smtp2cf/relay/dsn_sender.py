"""Sends DSNs that are in no spool: each has one attempt, and the log says what became of it."""

import asyncio

from smtp2cf.envelope import Outcomes
from smtp2cf.journal import mail_counts, tasks
from smtp2cf.relay import time_limit
from smtp2cf.relay.attempt import Attempt, Attempts
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
        deferred = _deferred(await self._attempt(mail))
        if deferred:
            raise SendError(next(iter(deferred.values())), Scope.MESSAGE)

    async def _attempt(self, mail: NewMail) -> Attempt:
        envelope = mail.envelope
        attempt = await self._attempts.make(
            envelope, envelope.forward_paths, mail.message, patience=self._patience, is_dsn=True
        )
        log_attempt(envelope, attempt, mail.message)
        return attempt

    def send_later(self, mail: NewMail) -> None:
        """The same while the caller goes on: nobody can do anything about a failure."""
        task = tasks.start(self._try(mail), "relay.report")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Wait for `timeout` seconds at most until all are sent."""
        await time_limit.wait(self._under_way, timeout)

    async def _try(self, mail: NewMail) -> None:
        attempt = await self._attempt(mail)
        mail_counts.given_up(_deferred(attempt), attempt.account)


def _deferred(attempt: Attempt) -> Outcomes:
    return {who: reply for who, reply in attempt.outcomes.items() if reply.transient}
