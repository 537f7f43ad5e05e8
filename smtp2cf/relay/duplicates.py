"""Duplicates: a client that never got our 250 sends its message again, and it must not go out twice.

Every transaction is noted before its call, and its answer after it, until it is clear that the client got the
answer. The same envelope and bytes within ten minutes get the same answer without a call. They wait while the
first transaction is still under way, or nobody knows yet whether its client got the answer. Mail that goes
into the spool is noted together with it, in one write; that also finds a note that was committed only after
we looked, because a database goes on with what a killed bridge asked for. A transaction that a killed process
began and never answered may have been sent: the second one is sent, and logged as a possible duplicate.

One answer is noted per transaction. If the client takes one for each recipient (LMTP, PRDR), those that
failed behind a success are noted beside it, one by one. Knows no SMTP session.
"""

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass

from smtp2cf.envelope import Envelope, Outcomes, Verdict
from smtp2cf.journal import maillog
from smtp2cf.reply import Reply
from smtp2cf.spool import Answer, Spool

PATIENCE = 90.0
"""Seconds a message waits at most to find out whether the client of an identical one got its answer. `smtpd`
knows that long before."""


@dataclass(slots=True, eq=False)
class _Transaction:
    """One that is under way, or whose client has not shown that it got its answer.

    left: the client hung up before the answer. settled: set once it is clear whether the client got its
    answer; None while nobody waits for that. noted: the answer handed to the spool together with the mail.
    exceptions: digests under which recipients' own answers are noted. in_doubt: nobody knows whether the
    mail, and `noted` with it, is in the spool. repeatable: a repetition gets the answer if it was lost.
    owed: the client of an identical transaction at the same time lost its answer; a repetition gets that.
    twin: an identical one was under way at the same time, so that both are meant.
    """

    digest: bytes
    exceptions: tuple[bytes, ...] = ()
    under_way: bool = False
    ended: bool = False
    noted: Reply | None = None
    in_doubt: bool = False
    repeatable: bool = False
    owed: bool = False
    twin: bool = False
    left: bool = False
    settled: asyncio.Event | None = None

    async def wait(self) -> None:
        """Wait until the spool's memory says what became of this one, or nothing if it is forgotten."""
        self.settled = self.settled or asyncio.Event()
        await self.settled.wait()


class Duplicates:
    """Knows the transactions whose clients have not shown that they got their answer."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._transactions: dict[str, _Transaction] = {}
        self._same: dict[bytes, list[_Transaction]] = {}

    async def begin(self, envelope: Envelope, message: bytes, *, call: bool) -> Verdict | None:
        """Note a transaction. Returns the answers of an earlier, identical one whose client did not get them.

        call: Cloudflare will be called before anything is kept, so that after a crash nobody could say
        whether the mail was sent. Raises SendError if the spool can't be asked.
        """
        transaction = _Transaction(_digest(envelope, message))
        self._transactions[envelope.queue_id] = transaction
        try:
            reply = await self._earlier(envelope, transaction, call)
            return await self.repeat(envelope, reply) if reply is not None else None
        except BaseException:
            self.fail(envelope)
            raise

    async def repeat(self, envelope: Envelope, reply: Reply) -> Verdict:
        """The answers to a transaction that repeats an earlier one with this answer, and ends with it.

        Raises SendError if the spool can't be asked.
        """
        transaction = self._transactions[envelope.queue_id]
        verdict = await self._verdict(envelope, transaction, reply)
        maillog.answer_repeated(envelope, reply)
        transaction.noted = reply
        transaction.repeatable = True
        self._end(transaction)
        return verdict

    def answer_to_note(
        self, envelope: Envelope, verdict: Verdict, *, unless_noted: bool = False
    ) -> Answer | None:
        """What to put into the spool together with the mail; None if the transaction was not noted.

        unless_noted: no call was made, so if another's answer turns out to be noted, that one counts.
        """
        transaction = self._transactions.get(envelope.queue_id)
        reply = verdict.reply
        if transaction is None or reply.transient:
            return None
        transaction.noted = reply
        if envelope.per_recipient:
            self._remember_exceptions(transaction, verdict.outcomes)
        return Answer(transaction.digest, reply, unless_noted=unless_noted and not transaction.twin)

    def may_be_kept(self, envelope: Envelope) -> None:
        """The spool went away while it kept the mail and its answer. If it did keep them, a repetition gets
        that answer, whatever this client is told."""
        transaction = self._transactions.get(envelope.queue_id)
        if transaction is not None:
            transaction.in_doubt = True

    def end(self, envelope: Envelope, verdict: Verdict) -> None:
        """Note the answer: from here on a repetition gets it."""
        transaction = self._transactions.get(envelope.queue_id)
        if transaction is None:
            return
        self._end(transaction)
        reply = verdict.reply
        transaction.in_doubt = transaction.in_doubt and reply.transient
        # A refusal too, if some got the mail or wait for it in the spool: they must not get it twice.
        reached_some = any(outcome.success for outcome in verdict.outcomes.values())
        transaction.repeatable = reply.success or (
            reply.permanent and (reply == transaction.noted or reached_some)
        )
        if transaction.repeatable:
            if reply != transaction.noted:
                if envelope.per_recipient:
                    self._remember_exceptions(transaction, verdict.outcomes)
                self._spool.remember(transaction.digest, reply)
        elif (transaction.noted is None or reply.permanent) and not self._is_needed(transaction):
            # Refused mail may be sent again. (If `noted`, the spool may have kept it and then failed.)
            self._forget(transaction)

    def fail(self, envelope: Envelope) -> None:
        """A transaction ended without an answer: nobody knows what became of it."""
        transaction = self._transactions.pop(envelope.queue_id, None)
        if transaction is not None:
            self._end(transaction)
            self._settle(transaction)

    def answered(self, envelope: Envelope, *, received: bool) -> None:
        """The client has shown that it got its answer, or has gone away without it.

        The latter may be said before there is an answer: the client has hung up, but may still read.
        """
        transaction = self._transactions.get(envelope.queue_id)
        if transaction is None:
            return
        if not transaction.ended:
            transaction.left = True
            return
        del self._transactions[envelope.queue_id]
        if not received and transaction.repeatable:
            for other in self._others(transaction):
                other.owed = True
        elif received and not transaction.in_doubt and not self._is_needed(transaction):
            self._forget(transaction)
        self._settle(transaction)

    def _remember_exceptions(self, transaction: _Transaction, outcomes: Outcomes) -> None:
        failed = {
            _digest_of(transaction.digest, who): reply for who, reply in outcomes.items() if not reply.success
        }
        transaction.exceptions = tuple(failed)
        for digest, reply in failed.items():
            self._spool.remember(digest, reply)

    async def _verdict(self, envelope: Envelope, transaction: _Transaction, reply: Reply) -> Verdict:
        """The earlier answers: each recipient's own if the client takes one for each."""
        outcomes = dict.fromkeys(envelope.recipients_as_given, reply)
        if envelope.per_recipient:
            digests = {who: _digest_of(transaction.digest, who) for who in outcomes}
            for who, digest in digests.items():
                known = await self._spool.recall(digest, begin=False)
                if known is not None and known.reply is not None:
                    outcomes[who] = known.reply
            if any(not outcome.success for outcome in outcomes.values()):
                # The joint answer's text speaks of all of them.
                taken = reply._replace(text=f"{reply.text.partition(' ')[0]} taken before")
                outcomes = {who: taken if out is reply else out for who, out in outcomes.items()}
            transaction.exceptions = tuple(digests.values())
        return Verdict(reply, outcomes)

    async def _earlier(self, envelope: Envelope, transaction: _Transaction, call: bool) -> Reply | None:
        digest = transaction.digest
        twice, owed = False, False
        if digest in self._same:
            twice, owed = await self._meet_others(envelope, transaction)
        transaction.under_way = True
        self._same.setdefault(digest, []).append(transaction)
        if twice and not owed:
            return None  # somebody sends the same mail twice on purpose
        known = await self._spool.recall(digest, begin=call and not twice)
        if known is not None and known.reply is None:
            maillog.possible_duplicate(envelope, envelope.forward_paths)
        return known.reply if known is not None else None

    async def _meet_others(self, envelope: Envelope, transaction: _Transaction) -> tuple[bool, bool]:
        """Wait for transactions of the same mail. Whether one is under way, and one's client is owed its
        answer, which this client gets now."""
        digest = transaction.digest
        await self._until_settled(digest)
        if self._unsettled(digest) is not None:
            maillog.possible_duplicate(envelope, envelope.forward_paths)
        others = self._same.get(digest, ())
        owed = any(other.owed for other in others)
        for other in others:
            other.twin = transaction.twin = True
        if owed:
            for other in others:
                other.owed = False
        return self._is_under_way(digest), owed

    async def _until_settled(self, digest: bytes) -> None:
        """Wait until it is clear whether clients that were answered, or hung up, got their answers."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while (other := self._unsettled(digest)) is not None:
                    await other.wait()

    def _unsettled(self, digest: bytes) -> _Transaction | None:
        return next((other for other in self._same.get(digest, ()) if other.left or other.ended), None)

    def _is_under_way(self, digest: bytes) -> bool:
        return any(other.under_way for other in self._same.get(digest, ()))

    def _others(self, transaction: _Transaction) -> list[_Transaction]:
        """Transactions of the same mail at the same time."""
        return [other for other in self._same.get(transaction.digest, ()) if other is not transaction]

    def _is_needed(self, transaction: _Transaction) -> bool:
        """Whether what is noted is, or may be, for the client of another transaction that lost its answer."""
        others = self._others(transaction)
        return transaction.owed or any(other.noted is not None or other.repeatable for other in others)

    def _forget(self, transaction: _Transaction) -> None:
        for digest in (transaction.digest, *transaction.exceptions):
            self._spool.forget(digest)
        if self._is_under_way(transaction.digest):
            self._spool.remember(transaction.digest, None)  # the other one's mail may have been sent

    def _end(self, transaction: _Transaction) -> None:
        transaction.ended = True
        transaction.under_way = False

    def _settle(self, transaction: _Transaction) -> None:
        others = self._same.get(transaction.digest, [])
        if transaction in others:
            others.remove(transaction)
            if not others:
                del self._same[transaction.digest]
        if transaction.settled is not None:
            transaction.settled.set()


def _digest_of(transaction: bytes, recipient: str) -> bytes:
    """The digest under which a recipient's own answer is noted."""
    part = recipient.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(part, key=transaction, digest_size=24).digest()


def _digest(envelope: Envelope, message: bytes) -> bytes:
    """What makes two transactions the same: sender, recipients in their order, every byte."""
    parts = "\0".join((envelope.reverse_path, *envelope.forward_paths, "", ""))
    digest = hashlib.blake2b(parts.encode("utf-8", "surrogateescape"), digest_size=24)
    digest.update(message)
    return digest.digest()
