"""New mail without a spool: what can't be sent now stays with the client, which gets the 4xx.

There is nothing to look up or to keep: an attempt, and the answer.
"""

from collections.abc import Sequence

import structlog

from smtp2cf.envelope import Envelope, Outcomes, Verdict
from smtp2cf.journal import mail_counts, maillog
from smtp2cf.relay.attempt import Attempt, Attempts
from smtp2cf.relay.attempt_log import log_attempt
from smtp2cf.relay.bounces import BouncePolicy, reports_for
from smtp2cf.relay.checks import Checks
from smtp2cf.relay.dsn_sender import DsnSender
from smtp2cf.relay.policy import MessagePolicy
from smtp2cf.relay.rewriting import Rewriting
from smtp2cf.relay.senders import as_sent
from smtp2cf.relay.settle import Situation, answer_to, same_for_all, settle
from smtp2cf.reply import Reply
from smtp2cf.spool import NewMail

log = structlog.stdlib.get_logger("smtp2cf.relay")


class WithoutSpool:
    """One of the two ways in; `WithSpool` is the other."""

    def __init__(
        self,
        checks: Checks,
        rewriting: Rewriting,
        attempts: Attempts,
        policy: MessagePolicy,
        bounce: BouncePolicy,
    ) -> None:
        self._checks = checks
        self._rewriting = rewriting
        self._attempts = attempts
        self._policy = policy
        self._bounce = bounce
        self._dsns = DsnSender(attempts, policy.reply_timeout)
        self._situation = Situation(spool=False, client_waits=True, partial_bounce=policy.partial_bounce)

    async def accept(self, envelope: Envelope, received: bytes) -> Verdict:
        """Send a message. received: as it came in."""
        message = self._checks.fit(envelope, received)
        if isinstance(message, Reply):
            maillog.refused(envelope, message, received)
            maillog.answered(message)
            return same_for_all(envelope, message)
        if self._rewriting.steps:
            envelope, message = self._rewriting.apply(envelope, message)
            if (refusal := self._checks.left_in_header(message)) is not None:
                maillog.refused(envelope, refusal, message)
                maillog.answered(refusal)
                return same_for_all(envelope, refusal)
        attempt = await self._attempts.make(
            envelope, envelope.forward_paths, message, patience=self._policy.reply_timeout
        )
        verdict = answer_to(envelope, attempt, self._policy.partial_bounce, kept=False)
        try:
            await self._report(envelope, message, attempt)
        except Exception:
            # The calls are made, so the client gets the answer that is true of them.
            log.exception("relay.error", queue_id=envelope.queue_id)
        maillog.answered(verdict.reply)
        return verdict

    def answered(self, envelope: Envelope, received: bool) -> None:
        """The client has its answer, or went away without it: there is no memory of it either way."""

    async def tell(self, envelope: Envelope, message: bytes, outcomes: Outcomes) -> Sequence[NewMail]:
        """Send the sender DSNs now; returns them. Raises SendError if one can't be sent."""
        dsns = await reports_for(envelope, message, outcomes, self._bounce)
        for mail in dsns:
            await self._dsns.send(mail)
        return dsns

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Let DSNs that are under way go out within `timeout` seconds."""
        await self._dsns.drain(timeout)

    async def _report(self, envelope: Envelope, message: bytes, attempt: Attempt) -> None:
        log_attempt(envelope, attempt, message)
        plan = settle(envelope, {}, attempt, self._situation)
        if plan.told:  # somebody got it, so its client does not send it again
            given_up = {who: reply for who, reply in plan.told.items() if reply.transient}
            mail_counts.given_up(given_up, attempt.account)
            about = as_sent(envelope, attempt.sent_as)
            for mail in await reports_for(about, message, plan.told, self._bounce):
                self._dsns.send_later(mail)
