"""Accept: a new message from its envelope to its verdict, in a straight line.

Check it, make it fit for JSON where it isn't, send it or keep it, find the one answer. A 250 means
handed to Cloudflare, or fsynced in the spool. Knows no SMTP session and no HTTP.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope, Outcomes, Verdict, address_key, unique_addresses
from smtp2cf.journal import maillog, tasks
from smtp2cf.message.eightbit import to_utf8
from smtp2cf.message.header import drop_headers, received_count
from smtp2cf.message.newlines import has_bare_newlines, normalize_newlines
from smtp2cf.message.originators import originators
from smtp2cf.relay import time_limit
from smtp2cf.relay.attempt import Attempt, deliver
from smtp2cf.relay.bounces import BouncePolicy, dsns_for
from smtp2cf.relay.duplicates import Recall
from smtp2cf.relay.lease import Lease
from smtp2cf.relay.queue import Pace, Queue, RetryPolicy
from smtp2cf.relay.settle import settle, settle_each
from smtp2cf.reply import Reply, Scope, SendError
from smtp2cf.spool import Answer, NewMail, Spool

MAX_RECEIVED = 100
"""Received fields a message may have before it is taken for a loop (RFC 5321 §6.3)."""
QUEUE_PATIENCE = 60.0
"""Seconds that mail from the queue waits for its turn under the account's limit before it is put back."""

SendRaw = Callable[..., Awaitable[Sent]]
"""(reverse path, at most 50 recipients, message, deadline in time.monotonic() seconds) → Sent. With a spool
there is one more: the Lease."""
SenderRefusal = Callable[[str, str], Reply | None]
"""(user name, "" for nobody; reverse path or address of the header) → None if it may be used, or why not."""

LOOP = Reply(554, "5.4.6", f"more than {MAX_RECEIVED} Received fields: a mail loop")
BARE_NEWLINE = Reply(550, "5.6.11", "a bare CR or LF is in the message (SMTP2CF_BARE_NEWLINE=reject)")
NOT_UTF8 = Reply(554, "5.6.3", "the message is not UTF-8 (SMTP2CF_NON_UTF8=reject)")
HEADER_FROM = Reply(
    550,
    "5.7.1",
    "the header has no From, or a From or Sender that readers may not agree on (SMTP2CF_CHECK_HEADER_FROM)",
)
NOBODYS = "@"
"""No pattern of allowed senders means it: only who may send as anybody may send as this."""
NULL_SENDER = Reply(
    550, "5.1.7", "Cloudflare takes no mail from the null sender <>: see SMTP2CF_NULL_SENDER_ADDRESS"
)

log = structlog.stdlib.get_logger("smtp2cf.relay")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePolicy:
    """What is done with a message before it goes out, and when its client is answered.

    null_sender_address: who stands in for `<>`, "" for nobody. drop_headers: field names in lower
    case. check_header_from: hold From and Sender against who may send as whom, too. mode: answer after
    Cloudflare has, or as soon as the message is in the spool.
    reply_timeout: seconds a client waits for Cloudflare's answer, or for the account's limits.
    """

    null_sender_address: str = ""
    partial_bounce: Literal["accept", "reject"] = "accept"
    non_utf8: Literal["convert", "reject"] = "convert"
    bare_newline: Literal["normalize", "reject"] = "normalize"
    drop_headers: frozenset[str] = frozenset()
    check_header_from: bool = False
    mode: Literal["direct", "queue"] = "direct"
    reply_timeout: float = 30.0


class Relay:
    """Takes messages and answers what became of them.

    spool: where mail waits that can't go out now; without one it stays with its client. pace: what the
    account's limits leave for the mail that waits. sender_refusal: who may send as whom, None for
    everybody as anybody.
    """

    def __init__(
        self,
        send_raw: SendRaw,
        policy: MessagePolicy,
        *,
        spool: Spool | None = None,
        retry: RetryPolicy | None = None,
        bounce: BouncePolicy | None = None,
        pace: Pace | None = None,
        sender_refusal: SenderRefusal | None = None,
    ) -> None:
        self._sender_refusal = sender_refusal
        self._send_raw = send_raw
        self._policy = policy
        self._bounce = bounce or BouncePolicy(hostname="localhost")
        self._recall = Recall(spool) if spool is not None else None
        self._reports: set[asyncio.Task[None]] = set()
        self.queue: Queue | None = None
        if spool is not None:
            self.queue = Queue(spool, self._attempt_from_queue, retry or RetryPolicy(), self._bounce, pace)

    async def accept(self, envelope: Envelope, message: bytes) -> Verdict:
        """Relay one message: every recipient's outcome, and the answer to the client."""
        verdict = await self._accept(envelope, message)
        maillog.answered(verdict.reply)
        return verdict

    def answered(self, envelope: Envelope, received: bool) -> None:
        """The client has its answer, or went away without: it will send the message again."""
        if self._recall is not None:
            self._recall.answered(envelope, received=received)

    async def bounce(self, envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        """Tell the sender of mail that nobody waits for an answer to who was refused, or given up.

        Raises SendError when the DSN can be neither kept nor, without a spool, sent now.
        """
        dsns = dsns_for(envelope, message, outcomes, self._bounce, expired=True)
        if self.queue is not None:
            await self.queue.spool.put(*dsns)
        else:
            for mail in dsns:
                await self._send_dsn(mail)
        maillog.reported(envelope, dsns_sent=len(dsns))

    async def attempt(
        self,
        envelope: Envelope,
        recipients: Sequence[str],
        message: bytes,
        is_dsn: bool = False,
        patience: float | None = None,
        lease: Lease | None = None,
    ) -> Attempt:
        """One attempt to send to `recipients`, with an outcome for each spelling they were given in.

        patience: seconds it may wait for its turn, None for as long as a client would. lease: of mail that
        other bridges may come to have.
        """
        sender = envelope.reverse_path or self._policy.null_sender_address
        if is_dsn:
            sender = self._bounce.sender_of(recipients[0])
        deadline = time.monotonic() + (self._policy.reply_timeout if patience is None else patience)
        leases = () if lease is None else (lease,)
        unique = unique_addresses(recipients)
        attempt = await deliver(
            lambda part: self._send_raw(sender, part, message, deadline, *leases),
            unique,
            whole=len(recipients) >= len(envelope.forward_paths),
        )
        if len(unique) < len(recipients):
            first = {address_key(who): who for who in unique}
            spellings = [(who, first[address_key(who)]) for who in recipients]
            ids = attempt.message_ids
            attempt.outcomes = {who: attempt.outcomes[sent] for who, sent in spellings}
            attempt.message_ids = {who: ids[sent] for who, sent in spellings if sent in ids}
        return attempt

    async def _attempt_from_queue(
        self, envelope: Envelope, recipients: Sequence[str], message: bytes, is_dsn: bool, lease: Lease
    ) -> Attempt:
        return await self.attempt(envelope, recipients, message, is_dsn, QUEUE_PATIENCE, lease)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Let what is under way end for `timeout` seconds; the rest stays in the spool."""
        started = time.monotonic()
        if self._reports:
            await time_limit.wait(self._reports, timeout)
        if self.queue is not None:
            await self.queue.drain(max(0.0, timeout - (time.monotonic() - started)))

    async def _accept(self, envelope: Envelope, message: bytes) -> Verdict:
        sender = envelope.reverse_path or self._policy.null_sender_address
        fit = self._fit(message) if sender else NULL_SENDER
        if self._sender_refusal is not None and not isinstance(fit, Reply):
            fit = self._refusal_of_sender(self._sender_refusal, envelope, fit) or fit
        if isinstance(fit, Reply):
            maillog.refused(envelope, fit)
            return _same_for_all(envelope, fit)
        if self.queue is None or self._recall is None:
            return await self._settle(
                envelope, fit, await self.attempt(envelope, envelope.forward_paths, fit)
            )
        try:
            earlier = await self._recall.begin(envelope, message, call=self._policy.mode == "direct")
        except SendError as error:
            log.warning("recall.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
            earlier = None
        if earlier is not None:
            return earlier
        try:
            if self._policy.mode == "queue":
                verdict = await self._keep(self.queue, envelope, fit)
            else:
                verdict = await self._send_or_keep(self.queue, envelope, fit)
        except BaseException:
            self._recall.fail(envelope)
            raise
        self._recall.end(envelope, verdict)
        return verdict

    async def _keep(self, queue: Queue, envelope: Envelope, message: bytes) -> Verdict:
        """Queue mode: safe in the spool is all the client waits for."""
        verdict = _same_for_all(envelope, Reply(250, "2.0.0", f"{envelope.queue_id} queued"))
        try:
            await queue.keep(envelope, message, {}, answer=self._answer(envelope, verdict))
        except SendError as error:
            maillog.refused(envelope, error.reply)
            if error.unanswered:
                self._may_be_kept(envelope, envelope.forward_paths)
            return _same_for_all(envelope, error.reply)
        maillog.kept(envelope, "queued", size=len(message))
        return verdict

    async def _send_or_keep(self, queue: Queue, envelope: Envelope, message: bytes) -> Verdict:
        """Direct mode: Cloudflare's answer, or the spool when that takes too long."""
        lease = Lease(queue.spool, envelope.queue_id, kept=False)
        attempt = asyncio.get_running_loop().create_task(
            self.attempt(envelope, envelope.forward_paths, message, lease=lease)
        )
        may_be_kept = False
        try:
            if await time_limit.wait((attempt,), self._policy.reply_timeout):
                text = f"{envelope.queue_id} kept, Cloudflare has not answered yet"
                verdict = _same_for_all(envelope, Reply(250, "2.0.0", text))
                await queue.keep_in_flight(envelope, message, attempt, lease, self._answer(envelope, verdict))
                maillog.kept(envelope, "Cloudflare has not answered yet", size=len(message))
                return verdict
        except SendError as error:
            # It can't be kept: the client waits on for the true answer.
            log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
            may_be_kept = error.unanswered
            if may_be_kept and self._recall is not None:
                self._recall.may_be_kept(envelope)
        except asyncio.CancelledError:
            attempt.cancel()
            raise
        except Exception:
            log.exception("relay.error", queue_id=envelope.queue_id)  # a call is made: wait for its answer
        if not may_be_kept:
            return await self._settle(envelope, message, await attempt, tried=lease.called)
        done, tell = None, True
        try:
            done = await attempt
            verdict = await self._settle(envelope, message, done, tried=lease.called)
            tell = verdict.reply.transient
            return verdict
        finally:
            queue.settle_in_doubt(envelope, message, done, tell=tell)

    async def _settle(
        self, envelope: Envelope, message: bytes, attempt: Attempt, *, tried: bool = True
    ) -> Verdict:
        """An attempt has ended: keep or report what the answer leaves open, and find the answer.

        tried: a call was made.
        """
        try:
            return await self._keep_and_report(envelope, message, attempt, tried=tried)
        except Exception as error:
            log.exception("relay.error", queue_id=envelope.queue_id)
            return await self._rescue(envelope, message, attempt, error)

    async def _rescue(
        self, envelope: Envelope, message: bytes, attempt: Attempt, failure: Exception
    ) -> Verdict:
        """Our own code failed after the calls: what was sent must not be sent again, nor may anybody who
        bounced go unsaid. Where the answer does not say everything, a person has to look.
        """
        verdict = self._verdict(envelope, attempt, kept=False)
        if self._is_plain(envelope, attempt.outcomes):
            return verdict
        if self.queue is not None:
            kept = self._verdict(envelope, attempt, kept=True)
            answer = self._answer(envelope, kept)
            try:
                await self.queue.keep_held(envelope, message, attempt.outcomes, failure, answer)
            except SendError as error:
                log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
                if any(reply.transient for reply in attempt.outcomes.values()):
                    return self._not_kept(envelope, attempt, error)
            else:
                return kept
        return verdict

    async def _keep_and_report(
        self, envelope: Envelope, message: bytes, attempt: Attempt, *, tried: bool
    ) -> Verdict:
        outcomes = attempt.outcomes
        maillog.attempted(envelope, outcomes, attempt.message_ids, size=len(message))
        if attempt.unanswered:
            maillog.possible_duplicate(envelope, attempt.unanswered)
        kept = self.queue is not None and any(reply.transient for reply in outcomes.values())
        verdict = self._verdict(envelope, attempt, kept=kept)
        if self.queue is not None and kept:
            try:
                await self._keep_rest(self.queue, envelope, message, attempt, verdict, tried=tried)
            except SendError as error:
                log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
                verdict = self._not_kept(envelope, attempt, error)
        elif not self._is_plain(envelope, outcomes):
            await self._report(envelope, message, outcomes)
        return verdict

    def _verdict(self, envelope: Envelope, attempt: Attempt, *, kept: bool) -> Verdict:
        """The answers to an attempt. kept: those who have to wait are in the spool."""
        outcomes, queue_id, ids = attempt.outcomes, envelope.queue_id, attempt.message_ids
        if envelope.per_recipient:
            own = settle_each(outcomes, queue_id, ids, kept=kept)
            return Verdict(settle(outcomes, queue_id, ids, kept=kept), own)
        reply = settle(outcomes, queue_id, ids, kept=kept, partial_bounce=self._policy.partial_bounce)
        if kept:
            outcomes = {who: reply if out.transient else out for who, out in outcomes.items()}
        return Verdict(reply, outcomes)

    def _not_kept(self, envelope: Envelope, attempt: Attempt, error: SendError) -> Verdict:
        """The answer when those who have to wait can't be kept: no success, for it would lose their mail."""
        verdict = self._verdict(envelope, attempt, kept=False)
        if error.unanswered:
            self._may_be_kept(envelope, [who for who, out in attempt.outcomes.items() if out.transient])
        if envelope.per_recipient or not verdict.reply.success:
            return verdict
        # Whoever sends it again, sends it to all of them.
        maillog.possible_duplicate(envelope, [who for who, out in attempt.outcomes.items() if out.success])
        reply = error.reply._replace(text=f"{envelope.queue_id} {error.reply.text}")
        return Verdict(reply, verdict.outcomes)

    def _may_be_kept(self, envelope: Envelope, recipients: Sequence[str]) -> None:
        """The client is told to send the mail again, and the spool may have it all the same."""
        maillog.possible_duplicate(envelope, recipients)
        if self._recall is not None:
            self._recall.may_be_kept(envelope)

    def _answer(self, envelope: Envelope, verdict: Verdict) -> Answer | None:
        """What is kept with the mail, for a client that asks again because it did not get the reply."""
        return self._recall.answer(envelope, verdict) if self._recall is not None else None

    def _rejects(self, outcomes: Outcomes) -> bool:
        """The answer is a 5xx that names the bounced ones, so no DSN needs to."""
        return self._policy.partial_bounce == "reject" and any(reply.permanent for reply in outcomes.values())

    def _untold(self, envelope: Envelope, outcomes: Outcomes) -> Outcomes:
        """Those whose fate the answer to the client does not tell: of them a DSN may have to."""
        if envelope.per_recipient or self._rejects(outcomes):
            return {who: reply for who, reply in outcomes.items() if reply.success}
        return outcomes

    def _is_plain(self, envelope: Envelope, outcomes: Outcomes) -> bool:
        """All sent and nobody asked to be told, or all refused: then the answer says everything."""
        if not envelope.notify and all(reply.success for reply in outcomes.values()):
            return True
        return all(reply.permanent for reply in outcomes.values())

    async def _keep_rest(
        self,
        queue: Queue,
        envelope: Envelope,
        message: bytes,
        attempt: Attempt,
        verdict: Verdict,
        *,
        tried: bool,
    ) -> None:
        """Put what is not final into the spool, with DSNs about what is; raises SendError.

        verdict: the answer that says so.
        """
        untold = self._untold(envelope, attempt.outcomes)
        final = {who: reply for who, reply in untold.items() if not reply.transient}
        dsns = dsns_for(envelope, message, final, self._bounce)
        await queue.keep(
            envelope,
            message,
            attempt.outcomes,
            attempts=int(tried),
            retry_in=queue.retry.delay(1, attempt.retry_after),
            dsns=dsns,
            answer=self._answer(envelope, verdict),
        )
        maillog.reported(envelope, dsns_sent=len(dsns))

    async def _report(self, envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        """Send DSNs about recipients whose fate the answer can't tell."""
        if not any(reply.success for reply in outcomes.values()):
            return
        if not envelope.per_recipient and self._rejects(outcomes):
            return
        outcomes = self._untold(envelope, outcomes)
        if self.queue is not None:
            try:
                await self.bounce(envelope, message, outcomes)
            except SendError as error:
                log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
            else:
                return
        # Without a spool nobody tries again: what is transient is final too.
        for mail in dsns_for(envelope, message, outcomes, self._bounce, expired=self.queue is None):
            self._in_background(self._try_dsn(mail))

    async def _try_dsn(self, mail: NewMail) -> None:
        """Send a DSN that can't be kept, while nobody waits for it: what became of it is in the log."""
        with contextlib.suppress(SendError):
            await self._send_dsn(mail)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = tasks.start(work, "relay.report")
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _send_dsn(self, mail: NewMail) -> None:
        """A DSN that is not in the spool has one attempt. Raises SendError where another may succeed."""
        attempt = await self.attempt(mail.envelope, mail.envelope.forward_paths, mail.message, is_dsn=True)
        maillog.attempted(mail.envelope, attempt.outcomes, attempt.message_ids, size=len(mail.message))
        if waits := [reply for reply in attempt.outcomes.values() if reply.transient]:
            raise SendError(waits[0], Scope.MESSAGE)

    def _refusal_of_sender(
        self, sender_refusal: SenderRefusal, envelope: Envelope, message: bytes
    ) -> Reply | None:
        """Why the client may not send as whom the envelope and the header name; None if it may.

        message: as it would go out.
        """
        user = envelope.auth_user
        refusal = sender_refusal(user, envelope.reverse_path)
        if refusal is not None or not self._policy.check_header_from:
            return refusal
        if sender_refusal(user, NOBODYS) is None:
            return None  # who may send as anybody may write what they like
        named = originators(message)
        if named is None:
            return HEADER_FROM
        refusals = (sender_refusal(user, address) for address in named)
        refusal = next((found for found in refusals if found is not None), None)
        return refusal and refusal._replace(text=f"in the header: {refusal.text} (SMTP2CF_CHECK_HEADER_FROM)")

    def _fit(self, message: bytes) -> bytes | Reply:
        """The message as send_raw can take it, the very same bytes where they are fit; or why not."""
        policy = self._policy
        if has_bare_newlines(message):
            if policy.bare_newline == "reject":
                return BARE_NEWLINE
            message = normalize_newlines(message)
        if received_count(message) > MAX_RECEIVED:
            return LOOP
        if policy.drop_headers:
            message = drop_headers(message, policy.drop_headers)
        if not message.isascii() and not _is_utf8(message):
            if policy.non_utf8 == "reject":
                return NOT_UTF8
            message = to_utf8(message)
        return message


def _same_for_all(envelope: Envelope, reply: Reply) -> Verdict:
    return Verdict(reply, dict.fromkeys(envelope.forward_paths, reply))


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True
