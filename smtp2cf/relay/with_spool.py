"""New mail with a spool: what can't be sent now is kept, and nothing a client repeats is sent twice.

In queue mode the client waits until its mail is in the spool. In direct mode it waits for Cloudflare's
answer, but not for longer than reply_timeout: then the mail is kept while its call goes on.
"""

import asyncio
from collections.abc import Sequence

import structlog

from smtp2cf.envelope import Envelope, Outcomes, Verdict
from smtp2cf.journal import maillog
from smtp2cf.relay import time_limit
from smtp2cf.relay.attempt import Attempt, Attempts
from smtp2cf.relay.attempt_log import log_attempt
from smtp2cf.relay.bounces import BouncePolicy, reports_for
from smtp2cf.relay.checks import Checks
from smtp2cf.relay.dsn_sender import DsnSender
from smtp2cf.relay.duplicates import Duplicates
from smtp2cf.relay.lease import Lease
from smtp2cf.relay.policy import MessagePolicy
from smtp2cf.relay.rewriting import Rewriting
from smtp2cf.relay.senders import as_sent
from smtp2cf.relay.settle import Situation, answer_to, same_for_all, settle
from smtp2cf.relay.spooled import SpooledMail
from smtp2cf.relay.waits_for_events import wait_for
from smtp2cf.reply import Reply, SendError
from smtp2cf.spool import NewMail

log = structlog.stdlib.get_logger("smtp2cf.relay")


class WithSpool:
    """One of the two ways in; `WithoutSpool` is the other."""

    def __init__(
        self,
        checks: Checks,
        rewriting: Rewriting,
        attempts: Attempts,
        policy: MessagePolicy,
        bounce: BouncePolicy,
        mail: SpooledMail,
    ) -> None:
        self._checks = checks
        self._rewriting = rewriting
        self._attempts = attempts
        self._policy = policy
        self._bounce = bounce
        self._mail = mail
        self._duplicates = Duplicates(mail.spool)
        self._dsns = DsnSender(attempts, policy.reply_timeout)
        self._situation = Situation(spool=True, client_waits=True, partial_bounce=policy.partial_bounce)

    async def accept(self, envelope: Envelope, received: bytes) -> Verdict:
        """Send or keep a message. received: as it came in."""
        message = self._checks.fit(envelope, received)
        if isinstance(message, Reply):
            maillog.refused(envelope, message, received)
            maillog.answered(message)
            return same_for_all(envelope, message)
        direct = self._policy.mode == "direct"
        try:
            earlier = await self._duplicates.begin(envelope, received, call=direct)
        except SendError as error:
            log.warning("mail.not_remembered", queue_id=envelope.queue_id, reply=str(error.reply))
            earlier = None
        if earlier is not None:
            maillog.answered(earlier.reply)
            return earlier
        try:
            refusal = None
            if self._rewriting.steps:
                envelope, message = self._rewriting.apply(envelope, message)
                refusal = self._checks.left_in_header(message)
            if refusal is None:
                verdict = await (self._send_or_keep if direct else self._keep)(envelope, message)
            else:
                maillog.refused(envelope, refusal, message)
                verdict = same_for_all(envelope, refusal)
        except BaseException:
            self._duplicates.fail(envelope)
            raise
        self._duplicates.end(envelope, verdict)
        maillog.answered(verdict.reply)
        return verdict

    def answered(self, envelope: Envelope, received: bool) -> None:
        """The client has its answer, or went away without it: then it will send the message again."""
        self._duplicates.answered(envelope, received=received)

    async def tell(self, envelope: Envelope, message: bytes, outcomes: Outcomes) -> Sequence[NewMail]:
        """Put DSNs to the sender into the spool; returns them. Raises SendError if they can't be kept."""
        dsns = await reports_for(envelope, message, outcomes, self._bounce)
        await self._mail.spool.put(*dsns)
        return dsns

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Let DSNs that could not be kept go out within `timeout` seconds."""
        await self._dsns.drain(timeout)

    async def _keep(self, envelope: Envelope, message: bytes) -> Verdict:
        """Queue mode: safe in the spool is all the client waits for."""
        if (refusal := self._attempts.refusal(envelope)) is not None:
            maillog.refused(envelope, refusal)
            return same_for_all(envelope, refusal)
        verdict = same_for_all(envelope, Reply(250, "2.0.0", f"{envelope.queue_id} queued"))
        note = self._duplicates.answer_to_note(envelope, verdict, unless_noted=True)
        try:
            noted = await self._mail.keep(envelope, message, {}, answer=note)
            if noted is not None:
                return await self._duplicates.repeat(envelope, noted)
        except SendError as error:
            maillog.refused(envelope, error.reply, message)
            if error.unanswered:
                self._may_be_kept(envelope, envelope.forward_paths)
            return same_for_all(envelope, error.reply)
        maillog.kept(envelope, "queued", message=message)
        return verdict

    async def _send_or_keep(self, envelope: Envelope, message: bytes) -> Verdict:
        """Direct mode: Cloudflare's answer, or the spool if that takes too long."""
        timeout = self._policy.reply_timeout
        lease = Lease(self._mail.spool, envelope.queue_id, kept=False)
        attempt = asyncio.get_running_loop().create_task(
            self._attempts.make(envelope, envelope.forward_paths, message, patience=timeout, lease=lease)
        )
        may_be_kept = False
        try:
            if await time_limit.wait((attempt,), timeout):
                return await self._keep_in_flight(envelope, message, attempt, lease)
        except SendError as error:
            # The mail can't be kept, so its client waits on for the true answer.
            log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
            may_be_kept = error.unanswered
        except asyncio.CancelledError:
            attempt.cancel()
            raise
        except Exception:
            log.exception("relay.error", queue_id=envelope.queue_id)  # a call is made: wait for its answer
        if may_be_kept:
            return await self._settle_in_doubt(envelope, message, attempt, lease)
        return await self._settle(envelope, message, await attempt, called=lease.called)

    async def _keep_in_flight(
        self, envelope: Envelope, message: bytes, attempt: asyncio.Task[Attempt], lease: Lease
    ) -> Verdict:
        """Keep mail whose call goes on. Raises SendError if it can't be kept."""
        text = f"{envelope.queue_id} kept, Cloudflare has not answered yet"
        verdict = same_for_all(envelope, Reply(250, "2.0.0", text))
        note = self._duplicates.answer_to_note(envelope, verdict)
        await self._mail.keep_in_flight(envelope, message, attempt, lease, note)
        maillog.kept(envelope, "Cloudflare has not answered yet", message=message)
        return verdict

    async def _settle_in_doubt(
        self, envelope: Envelope, message: bytes, attempt: asyncio.Task[Attempt], lease: Lease
    ) -> Verdict:
        """Answer with what the attempt comes to, and end the claim of mail that may have been kept."""
        self._duplicates.may_be_kept(envelope)
        done, tell = None, True
        try:
            done = await attempt
            verdict = await self._settle(envelope, message, done, called=lease.called)
            tell = verdict.reply.transient
            return verdict
        finally:
            self._mail.end_doubtful(envelope, message, done, tell=tell)

    # ---- after the attempt

    async def _settle(self, envelope: Envelope, message: bytes, attempt: Attempt, *, called: bool) -> Verdict:
        """An attempt has ended: find the answer, and keep or report what it leaves open.

        called: a call was made.
        """
        try:
            log_attempt(envelope, attempt, message, all_of_it=False)
            self._mail.follow_soon(envelope, attempt, message)
            wait = 0.0
            if attempt.unanswered:
                wait = await wait_for(self._mail.lost, envelope, attempt, message)
            plan = settle(envelope, {}, attempt, self._situation)
            about = as_sent(envelope, attempt.sent_as)
            dsns = await reports_for(about, message, plan.told, self._bounce) if plan.told else []
            if plan.deferred:
                return await self._keep_deferred(envelope, message, attempt, dsns, called=called, wait=wait)
            if dsns:
                await self._report(envelope, dsns)
            return self._answer(envelope, attempt, kept=False)
        except Exception as error:
            log.exception("relay.error", queue_id=envelope.queue_id)
            return await self._rescue(envelope, message, attempt, error)

    async def _keep_deferred(
        self,
        envelope: Envelope,
        message: bytes,
        attempt: Attempt,
        dsns: Sequence[NewMail],
        *,
        called: bool,
        wait: float,
    ) -> Verdict:
        """Keep the mail for those who need another attempt, together with DSNs about the others.

        wait: seconds that events have to show what a call came to.
        """
        verdict = self._answer(envelope, attempt, kept=True)
        try:
            await self._mail.keep(
                envelope,
                message,
                attempt.outcomes,
                attempts=int(called),
                retry_in=max(wait, self._mail.retry_in(attempt, 1, called=called)),
                dsns=dsns,
                answer=self._duplicates.answer_to_note(envelope, verdict),
            )
        except SendError as error:
            if wait:  # in vain: the client sends it again, whatever an event shows
                maillog.possible_duplicate(envelope, attempt.unanswered)
            return self._not_kept(envelope, attempt, error)
        maillog.reported(envelope, dsns=dsns)
        return verdict

    def _not_kept(self, envelope: Envelope, attempt: Attempt, error: SendError) -> Verdict:
        """The answer when mail that is deferred can't be kept: not a success, because that would lose it."""
        log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
        verdict = self._answer(envelope, attempt, kept=False)
        if error.unanswered:
            self._may_be_kept(envelope, [who for who, out in attempt.outcomes.items() if out.transient])
        if envelope.per_recipient or not verdict.reply.success:
            return verdict
        # The client will send it to all of them again.
        maillog.possible_duplicate(envelope, [who for who, out in attempt.outcomes.items() if out.success])
        reply = error.reply._replace(text=f"{envelope.queue_id} {error.reply.text}")
        return Verdict(reply, verdict.outcomes)

    async def _report(self, envelope: Envelope, dsns: Sequence[NewMail]) -> None:
        """Put DSNs into the spool, or send them at once if it is away."""
        try:
            await self._mail.spool.put(*dsns)
        except SendError as error:
            log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
            for mail in dsns:
                self._dsns.send_later(mail)
        else:
            maillog.reported(envelope, dsns=dsns)

    async def _rescue(
        self, envelope: Envelope, message: bytes, attempt: Attempt, failure: Exception
    ) -> Verdict:
        """Our own code failed after the calls. Nothing that was sent may be sent again, and no bounce may go
        unreported: unless the answer says everything, the mail is held for a person to look at.
        """
        plan = settle(envelope, {}, attempt, self._situation)
        verdict = self._answer(envelope, attempt, kept=False)
        if not plan.deferred and not plan.told:
            return verdict
        kept = self._answer(envelope, attempt, kept=True)
        note = self._duplicates.answer_to_note(envelope, kept)
        try:
            await self._mail.keep_held(envelope, message, attempt.outcomes, failure, note)
        except SendError as error:
            if plan.deferred:
                return self._not_kept(envelope, attempt, error)
            log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
            return verdict
        return kept

    def _answer(self, envelope: Envelope, attempt: Attempt, *, kept: bool) -> Verdict:
        return answer_to(envelope, attempt, self._policy.partial_bounce, kept=kept)

    def _may_be_kept(self, envelope: Envelope, recipients: Sequence[str]) -> None:
        """The client is told to send the mail again although the spool may have it."""
        maillog.possible_duplicate(envelope, recipients)
        self._duplicates.may_be_kept(envelope)
