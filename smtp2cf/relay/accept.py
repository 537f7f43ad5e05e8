"""Accept: a new message from its envelope to its verdict, in a straight line.

Check it, make it fit for JSON where it isn't, send it or keep it, find the one answer. A 250 means
handed to Cloudflare, or fsynced in the spool. Knows no SMTP session and no HTTP.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from smtp2cf import maillog
from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope, Outcomes, Verdict, address_key, unique_addresses
from smtp2cf.message.eightbit import to_utf8
from smtp2cf.message.header import drop_headers, received_count
from smtp2cf.message.newlines import has_bare_newlines, normalize_newlines
from smtp2cf.relay.bounce import BouncePolicy, dsns_for
from smtp2cf.relay.deliver import Attempt, deliver
from smtp2cf.relay.queue import Pace, Queue, RetryPolicy
from smtp2cf.relay.recall import Recall
from smtp2cf.relay.settle import settle
from smtp2cf.reply import Reply, SendError
from smtp2cf.spool import Answer, NewMail, Spool

MAX_RECEIVED = 100
"""Received fields a message may have before it is taken for a loop (RFC 5321 §6.3)."""
QUEUE_PATIENCE = 60.0
"""Seconds that mail from the queue waits for its turn under the account's limit before it is put back."""

SendRaw = Callable[[str, Sequence[str], bytes, float], Awaitable[Sent]]
"""(reverse path, at most 50 recipients, message, deadline in time.monotonic() seconds) → Sent."""

LOOP = Reply(554, "5.4.6", f"more than {MAX_RECEIVED} Received fields: a mail loop")
BARE_NEWLINE = Reply(550, "5.6.11", "a bare CR or LF is in the message (SMTP2CF_BARE_NEWLINE=reject)")
NOT_UTF8 = Reply(554, "5.6.3", "the message is not UTF-8 (SMTP2CF_NON_UTF8=reject)")
NULL_SENDER = Reply(
    550, "5.1.7", "Cloudflare takes no mail from the null sender <>: see SMTP2CF_NULL_SENDER_ADDRESS"
)

log = structlog.stdlib.get_logger("smtp2cf.relay")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePolicy:
    """What is done with a message before it goes out, and when its client is answered.

    null_sender_address: who stands in for `<>`, "" for nobody. drop_headers: field names in lower
    case. mode: answer after Cloudflare has, or as soon as the message is in the spool.
    reply_timeout: seconds a client waits for Cloudflare's answer, or for the account's limits.
    """

    null_sender_address: str = ""
    partial_bounce: Literal["accept", "reject"] = "accept"
    non_utf8: Literal["convert", "reject"] = "convert"
    bare_newline: Literal["normalize", "reject"] = "normalize"
    drop_headers: frozenset[str] = frozenset()
    mode: Literal["direct", "queue"] = "direct"
    reply_timeout: float = 30.0


class Relay:
    """Takes messages and answers what became of them.

    spool: where mail waits that can't go out now; without one it stays with its client. pace: what the
    account's limits leave for the mail that waits.
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
    ) -> None:
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
        """Tell the sender of mail that nobody waits for an answer to whom it was refused for.

        Raises SendError when the DSN can't be kept.
        """
        # Without a spool nobody tries again: what is transient is final too.
        dsns = dsns_for(envelope, message, outcomes, self._bounce, expired=self.queue is None)
        if self.queue is not None:
            await self.queue.spool.put(*dsns)
        else:
            self._send_dsns(dsns)
        maillog.reported(envelope, dsns_sent=len(dsns))

    async def attempt(
        self,
        envelope: Envelope,
        recipients: Sequence[str],
        message: bytes,
        is_dsn: bool = False,
        patience: float | None = None,
    ) -> Attempt:
        """One attempt to send to `recipients`, with an outcome for each spelling they were given in.

        patience: seconds it may wait for its turn, None for as long as a client would.
        """
        sender = envelope.reverse_path or self._policy.null_sender_address
        if is_dsn:
            sender = self._bounce.sender_of(recipients[0])
        deadline = time.monotonic() + (self._policy.reply_timeout if patience is None else patience)
        unique = unique_addresses(recipients)
        attempt = await deliver(lambda part: self._send_raw(sender, part, message, deadline), unique)
        if len(unique) < len(recipients):
            by_key = {address_key(who): reply for who, reply in attempt.outcomes.items()}
            attempt.outcomes = {who: by_key[address_key(who)] for who in recipients}
        return attempt

    async def _attempt_from_queue(
        self, envelope: Envelope, recipients: Sequence[str], message: bytes, is_dsn: bool
    ) -> Attempt:
        return await self.attempt(envelope, recipients, message, is_dsn, QUEUE_PATIENCE)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - what is under way outlives it
        """Let what is under way end for `timeout` seconds; the rest stays in the spool."""
        started = time.monotonic()
        if self._reports:
            await asyncio.wait(self._reports, timeout=timeout)
        if self.queue is not None:
            await self.queue.drain(max(0.0, timeout - (time.monotonic() - started)))

    async def _accept(self, envelope: Envelope, message: bytes) -> Verdict:
        sender = envelope.reverse_path or self._policy.null_sender_address
        fit = self._fit(message) if sender else NULL_SENDER
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
            return _same_for_all(envelope, earlier)
        try:
            if self._policy.mode == "queue":
                verdict = await self._keep(self.queue, envelope, fit)
            else:
                verdict = await self._send_or_keep(self.queue, envelope, fit)
        except BaseException:
            self._recall.fail(envelope)
            raise
        self._recall.end(envelope, verdict.reply)
        return verdict

    async def _keep(self, queue: Queue, envelope: Envelope, message: bytes) -> Verdict:
        """Queue mode: safe in the spool is all the client waits for."""
        reply = Reply(250, "2.0.0", f"{envelope.queue_id} queued")
        try:
            await queue.keep(envelope, message, {}, answer=self._answer(envelope, reply))
        except SendError as error:
            maillog.refused(envelope, error.reply)
            return _same_for_all(envelope, error.reply)
        maillog.kept(envelope, "queued", size=len(message))
        return _same_for_all(envelope, reply)

    async def _send_or_keep(self, queue: Queue, envelope: Envelope, message: bytes) -> Verdict:
        """Direct mode: Cloudflare's answer, or the spool when that takes too long."""
        attempt = asyncio.get_running_loop().create_task(
            self.attempt(envelope, envelope.forward_paths, message)
        )
        try:
            await asyncio.wait((attempt,), timeout=self._policy.reply_timeout)
            if not attempt.done():
                text = f"{envelope.queue_id} kept, Cloudflare has not answered yet"
                reply = Reply(250, "2.0.0", text)
                await queue.keep_in_flight(envelope, message, attempt, self._answer(envelope, reply))
                maillog.kept(envelope, "Cloudflare has not answered yet", size=len(message))
                return _same_for_all(envelope, reply)
        except SendError as error:
            # It can't be kept: the client waits on for the true answer.
            log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
        except asyncio.CancelledError:
            attempt.cancel()
            raise
        return await self._settle(envelope, message, await attempt)

    async def _settle(self, envelope: Envelope, message: bytes, attempt: Attempt) -> Verdict:
        """An attempt has ended: keep or report what the answer leaves open, and find the answer."""
        outcomes = attempt.outcomes
        maillog.attempted(envelope, outcomes, attempt.message_ids, size=len(message))
        if attempt.unanswered:
            maillog.possible_duplicate(envelope, attempt.unanswered)
        kept = self.queue is not None and any(reply.transient for reply in outcomes.values())
        reply = self._reply(envelope, attempt, kept=kept)
        if self.queue is not None and kept:
            try:
                await self._keep_rest(self.queue, envelope, message, attempt, reply)
            except SendError as error:
                log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
                kept = False
                reply = self._not_kept(envelope, attempt, error)
        elif not self._is_plain(envelope, outcomes):
            await self._report(envelope, message, outcomes)
        if kept:
            outcomes = {who: reply if out.transient else out for who, out in outcomes.items()}
        return Verdict(reply, outcomes)

    def _reply(self, envelope: Envelope, attempt: Attempt, *, kept: bool) -> Reply:
        return settle(
            attempt.outcomes,
            envelope.queue_id,
            attempt.message_ids,
            kept=kept,
            partial_bounce=self._policy.partial_bounce,
        )

    def _not_kept(self, envelope: Envelope, attempt: Attempt, error: SendError) -> Reply:
        """The answer when those who have to wait can't be kept: no success, for it would lose their mail."""
        reply = self._reply(envelope, attempt, kept=False)
        if not reply.success:
            return reply
        # Whoever sends it again, sends it to all of them.
        maillog.possible_duplicate(envelope, [who for who, out in attempt.outcomes.items() if out.success])
        return error.reply._replace(text=f"{envelope.queue_id} {error.reply.text}")

    def _answer(self, envelope: Envelope, reply: Reply) -> Answer | None:
        """What is kept with the mail, for a client that asks again because it did not get the reply."""
        return self._recall.answer(envelope, reply) if self._recall is not None else None

    def _rejects(self, outcomes: Outcomes) -> bool:
        """The answer is a 5xx that names the bounced ones, so no DSN needs to."""
        return self._policy.partial_bounce == "reject" and any(reply.permanent for reply in outcomes.values())

    def _is_plain(self, envelope: Envelope, outcomes: Outcomes) -> bool:
        """All sent and nobody asked to be told, or all refused: then the answer says everything."""
        if not envelope.notify and all(reply.success for reply in outcomes.values()):
            return True
        return all(reply.permanent for reply in outcomes.values())

    async def _keep_rest(
        self, queue: Queue, envelope: Envelope, message: bytes, attempt: Attempt, reply: Reply
    ) -> None:
        """Put what is not final into the spool, with DSNs about what is; raises SendError.

        reply: the answer that says so.
        """
        told = {who: reply for who, reply in attempt.outcomes.items() if not reply.transient}
        if self._rejects(attempt.outcomes):
            told = {who: reply for who, reply in told.items() if reply.success}
        dsns = dsns_for(envelope, message, told, self._bounce)
        await queue.keep(
            envelope,
            message,
            attempt.outcomes,
            attempts=1,
            retry_after=attempt.retry_after,
            dsns=dsns,
            answer=self._answer(envelope, reply),
        )
        maillog.reported(envelope, dsns_sent=len(dsns))

    async def _report(self, envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        """Send DSNs about recipients whose fate the one 250 can't tell."""
        if self._rejects(outcomes) or not any(reply.success for reply in outcomes.values()):
            return
        try:
            await self.bounce(envelope, message, outcomes)
        except SendError as error:
            log.warning("spool.unavailable", queue_id=envelope.queue_id, reply=str(error.reply))
            self._send_dsns(dsns_for(envelope, message, outcomes, self._bounce))

    def _send_dsns(self, dsns: Sequence[NewMail]) -> None:
        """Send DSNs that can't be kept."""
        for mail in dsns:
            self._in_background(self._send_dsn(mail))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _send_dsn(self, mail: NewMail) -> None:
        """A DSN that is not in the spool has one attempt."""
        attempt = await self.attempt(mail.envelope, mail.envelope.forward_paths, mail.message, is_dsn=True)
        maillog.attempted(mail.envelope, attempt.outcomes, attempt.message_ids, size=len(mail.message))

    def _fit(self, message: bytes) -> bytes | Reply:
        """The message as send_raw can take it, the very same bytes where they are fit; or why not."""
        policy = self._policy
        if received_count(message) > MAX_RECEIVED:
            return LOOP
        if has_bare_newlines(message):
            if policy.bare_newline == "reject":
                return BARE_NEWLINE
            message = normalize_newlines(message)
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
