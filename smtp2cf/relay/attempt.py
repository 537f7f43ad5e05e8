"""Attempt: one attempt to send a message to recipients that have no final outcome yet.

At most 50 recipients a call, a few calls at a time. A RECIPIENT error for several recipients says only
that at least one of them is to blame; some errors may be about the message instead. An ACCOUNT error ends
the attempt for all who are left; so does a MESSAGE error.

Nobody is refused for good by guesswork. A group that was refused is cut in halves until it is known which
recipients the refusal is about. The message is to blame only if every part of it was refused, and some
recipients on their own as well; a single call that succeeds shows that it is not. The number of these calls
is limited: a recipient that is still unclear after them waits for the next attempt. A message that
Cloudflare calls invalid is tried repaired as well (`repairs`). Knows no spool.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from smtp2cf.cloudflare import MAX_RECIPIENTS_PER_CALL, Sent
from smtp2cf.envelope import SENT_AS_IS, Envelope, Outcomes, sent_form
from smtp2cf.message import dsn
from smtp2cf.relay.bounces import BouncePolicy
from smtp2cf.relay.groups import halves, probes
from smtp2cf.relay.lease import Lease
from smtp2cf.relay.repairs import Repairs, Version, Versions, repair_all, version_of
from smtp2cf.relay.sender_domains import SenderDomains
from smtp2cf.relay.spellings import Spellings
from smtp2cf.relay.suppressed import LookUp, explain
from smtp2cf.reply import RefusedError, Reply, Scope, SendError

PARALLEL_CALLS = 4
"""Calls at once for one message: each holds a copy of it."""
SEARCH_LIMIT = 100
"""Calls per attempt that only find out whom a refusal is about: enough for 50 recipients, all refused."""
PROBES = 4
"""Recipients that must be refused on their own before the message is to blame."""
PROBE_ROUNDS = 3
"""Times that others take the places of those who were refused for themselves."""

NOT_FOUND_OUT = Reply(
    452,
    "4.5.3",
    f"Cloudflare refuses some of the recipients; {SEARCH_LIMIT} calls did not show whether this one",
)

INTERNAL_ERROR = Reply(451, "4.3.0", "internal error in the bridge: its log says more")

log = structlog.stdlib.get_logger("smtp2cf.relay")

SendRaw = Callable[..., Awaitable[Sent]]
"""(reverse path, at most 50 recipients, message=, deadline= in time.monotonic() seconds) → Sent; with a
spool, lease= is passed too. Raises SendError: cloudflare's `Client.send`."""
T = TypeVar("T")

_UNCLEAR = frozenset({"5.5.0", "5.6.0"})
"""Enhanced status of refusals that may be about the message or about a recipient."""


@dataclass(slots=True)
class Attempt:
    """What one attempt came to.

    outcomes: every recipient's. message_ids: Cloudflare's, by recipient, of calls that were accepted for
    somebody. unanswered: recipients of calls without an answer; their mail may have been sent.
    unmatched: entries in Cloudflare's answers that are none of the recipients. repaired: what was repaired in
    the message that was taken. retry_after: seconds, if Cloudflare named them. sender_refusal: Cloudflare's,
    of a call for the sender's domain. error: raised by our own code during a call, whose recipients count as
    unanswered.
    """

    outcomes: Outcomes = field(default_factory=dict)
    message_ids: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    repaired: tuple[str, ...] = ()
    retry_after: float | None = None
    sender_refusal: Reply | None = None
    error: Exception | None = None


class Attempts:
    """One account's way out: makes attempts, for new mail and for what waits.

    null_sender_address: who stands in for `<>`, which Cloudflare does not take; "" for nobody. bounce: says
    who a DSN comes from. domains: which senders' domains may send. repair: whether a message that Cloudflare
    calls invalid is tried repaired. look_up: says why a recipient is suppressed.
    """

    def __init__(
        self,
        send_raw: SendRaw,
        null_sender_address: str,
        bounce: BouncePolicy,
        domains: SenderDomains | None = None,
        *,
        repair: bool = False,
        look_up: LookUp | None = None,
    ) -> None:
        self._send_raw = send_raw
        self._domains = domains or SenderDomains()
        self._null_sender_address = null_sender_address
        self._bounce = bounce
        self._repair = repair
        self._repairs = Repairs()
        self._look_up = look_up

    async def make(
        self,
        envelope: Envelope,
        recipients: Sequence[str],
        message: bytes,
        *,
        patience: float,
        taken: bool = False,
        is_dsn: bool = False,
        lease: Lease | None = None,
    ) -> Attempt:
        """One attempt to send to `recipients`, with an outcome for each spelling they were given in.

        patience: seconds it may wait for its turn. taken: Cloudflare took the message for others, so it is
        not to blame. lease: the right to send mail that is, or may come to be, in a spool.
        """
        sender = envelope.reverse_path or self._null_sender_address
        if is_dsn:
            sender = await self._domains.sender_of_dsn(self._bounce, recipients[0])
        if not SENT_AS_IS.fullmatch(sender):
            try:
                sender = sent_form(sender)
            except RefusedError as error:
                return Attempt(outcomes=dict.fromkeys(recipients, error.reply))
        message = dsn.from_sender(message, sender) if is_dsn else message
        forms, spelled = recipients, None
        if len(recipients) > 1 or not SENT_AS_IS.fullmatch(recipients[0]):
            spelled = Spellings.of(recipients)
            if not (forms := spelled.forms):
                return Attempt(outcomes=spelled.refused)
        domain = sender.rpartition("@")[2]
        known = self._known_refusal(domain, lease, keep=is_dsn) if domain in self._domains.troubles else None
        leased = {} if lease is None else {"lease": lease}
        send = functools.partial(self._send_raw, sender, deadline=time.monotonic() + patience, **leased)
        version = Version(functools.partial(send, message=message))
        if sender in self._repairs.by_sender:
            version = version_of(send, self._repairs.at_once(sender, message))
        # The first call goes alone: it finds out once what is wrong with the account or the message.
        first = forms[:MAX_RECIPIENTS_PER_CALL]
        try:
            result: Sent | Exception = known or await version.send(first)
        except Exception as error:  # noqa: BLE001 - see `_Calls.go_on`
            result = error
        repair_it = functools.partial(repair_all, send, message, version.changed) if self._repair else None
        attempt = await _Calls(Versions(version, repair_it), forms, vouched=taken).go_on(first, result)
        if known is None:
            await self._learn(sender, version, attempt, keep=is_dsn)
        await self._explain(attempt, sender, spelled)
        return attempt

    def _known_refusal(self, domain: str, lease: Lease | None, *, keep: bool) -> SendError | None:
        """See SenderDomains.refusal. Such an attempt counts, although it needs no call."""
        refusal = self._domains.refusal(domain, keep=keep, waits=lease is not None and lease.kept)
        if refusal is not None and lease is not None:
            lease.called = True
        return refusal

    async def _explain(self, attempt: Attempt, sender: str, spelled: Spellings | None) -> None:
        """Say in the outcomes what is known beyond the answers to the calls, for every spelling."""
        if self._look_up is not None:
            await explain(attempt.outcomes, sender, self._look_up)
        if spelled is not None and not spelled.as_sent:
            attempt.outcomes = spelled.refused | spelled.as_given(attempt.outcomes)
            attempt.message_ids = spelled.as_given(attempt.message_ids)
            attempt.unanswered = list(spelled.as_given(dict.fromkeys(attempt.unanswered)))

    async def _learn(self, sender: str, version: Version, attempt: Attempt, *, keep: bool) -> None:
        """Remember what an attempt says of its sender and the domain, and say what a refusal means.

        version: which was tried first. keep: see SenderDomains.refusal.
        """
        if attempt.repaired and attempt.repaired != version.changed:
            self._repairs.remember(sender, attempt.repaired)
        domains, refused, domain = self._domains, attempt.sender_refusal, sender.rpartition("@")[2]
        if (domain in domains.troubles or domain not in domains.noted) and any(
            reply.success for reply in attempt.outcomes.values()
        ):
            domains.has_sent(domain)
        if refused is not None:
            error = await domains.refused(domain, refused, keep=keep)
            attempt.retry_after = max(attempt.retry_after or 0.0, error.retry_after or 0.0) or None
            attempt.outcomes = {
                who: error.reply if reply == refused else reply for who, reply in attempt.outcomes.items()
            }


@dataclass(slots=True)
class _Calls:
    """The calls of one attempt, and what they have shown so far.

    recipients: each once. vouched: a call has shown that the message is not to blame. to_blame: the message
    is. halt: what ends the attempt for all who are left. refused: groups that were refused together. alone:
    recipients that were refused on their own, by a refusal that may be about the message. searched: calls
    made only to find out whom a refusal is about.
    """

    versions: Versions
    recipients: Sequence[str]
    vouched: bool
    to_blame: bool = False
    halt: Reply | None = None
    refused: list[tuple[Sequence[str], Reply]] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    searched: int = 0
    attempt: Attempt = field(default_factory=Attempt)

    async def go_on(self, first: Sequence[str], result: Sent | Exception) -> Attempt:
        """Do what the first call leaves to do. result: its own, or what it raised."""
        attempt, versions = self.attempt, self.versions
        try:
            refusal = await self._note(first, versions.now, result)
            if refusal is not None:
                self.refused.append((first, refusal))
            if self.refused or self.alone or len(first) < len(self.recipients):
                await self._send_to_the_rest()
        except Exception as error:  # noqa: BLE001 - logged; what is known of some must not be lost
            self._crashed([who for who in self.recipients if who not in attempt.outcomes], error)
        if len(self.recipients) > 1 or versions.refused:
            attempt.outcomes = {who: versions.explained(attempt.outcomes[who]) for who in self.recipients}
        return attempt

    async def _note(self, part: Sequence[str], version: Version, result: Sent | Exception) -> Reply | None:
        """What a call shows; and another call, if the message may be taken in another version.

        Returns the reply that refuses several recipients without saying which.
        """
        while isinstance(result, SendError):
            other = self.versions.after(result, version, part)
            if other is None:
                return self._failed(part, result)
            if self.halt is not None or self.searched >= SEARCH_LIMIT:
                self._answer(part, self.halt or NOT_FOUND_OUT)
                return None
            self.searched += 1
            version, result = other, await _result(other, part)
        if isinstance(result, Exception):
            self._crashed(part, result)  # the other calls must not be lost with this one
            return None
        self.vouched, self.to_blame = True, False
        self.versions.settle(version)
        self.attempt.repaired = self.attempt.repaired or version.changed
        self.attempt.outcomes.update(result.outcomes)
        self.attempt.unmatched += result.unmatched
        if result.message_id and any(reply.success for reply in result.outcomes.values()):
            self.attempt.message_ids.update(dict.fromkeys(part, result.message_id))
        return None

    async def _send_to_the_rest(self) -> None:
        """Send to the groups after the first, then find out about all that were refused."""
        size = MAX_RECIPIENTS_PER_CALL
        everybody = self.recipients
        groups = [everybody[start : start + size] for start in range(size, len(everybody), size)]
        await self._each(self._try, groups)
        if not self.vouched and any(_is_unclear(reply) for _, reply in self.refused):
            await self._judge_message()
        # First those among whom somebody is refused for himself: if another gets the message, it is cleared.
        await self._each(self._search, [each for each in self.refused if not _is_unclear(each[1])])
        await self._each(self._search, [each for each in self.refused if _is_unclear(each[1])])
        if self.vouched:
            for who in self.alone:
                text = f"the address is refused: {self.attempt.outcomes[who].text}"
                self.attempt.outcomes[who] = Reply(553, "5.1.3", text)

    async def _each(self, work: Callable[[T], Awaitable[None]], parts: Sequence[T]) -> None:
        """Do this for each part, a few at a time; one after the other if one call can take all recipients."""
        if len(self.recipients) <= MAX_RECIPIENTS_PER_CALL:
            for part in parts:
                await work(part)
            return
        turns = asyncio.Semaphore(PARALLEL_CALLS)

        async def in_turn(part: T) -> None:
            async with turns:
                await work(part)

        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(in_turn(part))

    async def _try(self, part: Sequence[str]) -> None:
        """One call; note the group if it was refused and nobody knows yet whom that is about."""
        reply = await self._call(part)
        if reply is not None:
            self.refused.append((part, reply))

    async def _judge_message(self) -> None:
        """Nobody got the message, and a refusal may be about the message itself: find out."""
        for index, (part, _) in enumerate(self.refused):
            if len(part) > len(self.recipients) // 2:
                del self.refused[index]
                for half in halves(part):
                    self.searched += 1
                    await self._try(half)
                break  # only one part can be more than half
        unclear = [who for part, reply in self.refused if _is_unclear(reply) for who in part]
        known = len(self.alone)
        for _ in range(PROBE_ROUNDS):
            # One that is refused for itself, such as a suppressed one, says nothing of the message.
            unclear = [who for who in unclear if who not in self.attempt.outcomes]
            for who in probes(unclear, PROBES - len(self.alone) + known):
                if self.vouched or self.halt is not None:
                    return
                self.searched += 1
                await self._call([who])
        enough = len(self.alone) - known >= PROBES or all(who in self.attempt.outcomes for who in unclear)
        self.to_blame = enough and not self.vouched and self.halt is None

    async def _search(self, refused: tuple[Sequence[str], Reply]) -> None:
        """Find out whom the refusal of a part is about."""
        part, reply = refused
        # Some may have been tried on their own meanwhile.
        part = [who for who in part if who not in self.attempt.outcomes]
        if self.to_blame and _is_unclear(reply):
            return self._answer(part, reply)
        undecided = halves(part)[::-1]
        while undecided:
            part = undecided.pop()
            if self.halt is None and self.searched >= SEARCH_LIMIT:
                self._answer(part, NOT_FOUND_OUT)
                continue
            self.searched += 1
            found = await self._call(part)
            if found is None:
                continue
            if self.to_blame and _is_unclear(found):
                self.refused.append((part, found))  # the next may yet clear the message
            else:
                undecided += halves(part)[::-1]
        return None

    async def _call(self, part: Sequence[str]) -> Reply | None:
        """One call after the first, see `_note`."""
        if self.halt is not None:
            self._answer(part, self.halt)
            return None
        version = self.versions.now
        return await self._note(part, version, await _result(version, part))

    def _failed(self, part: Sequence[str], error: SendError) -> Reply | None:
        """A call failed for all of its recipients."""
        if error.unanswered:
            self.attempt.unanswered += part
        if error.retry_after is not None:
            self.attempt.retry_after = max(self.attempt.retry_after or 0.0, error.retry_after)
        if error.scope is Scope.SENDER:
            self.attempt.sender_refusal = error.reply
        if error.scope is not Scope.RECIPIENT:
            self.halt = error.reply
        elif len(part) > 1:
            return error.reply
        elif _is_unclear(error.reply):
            self.alone += part
        self._answer(part, error.reply)
        return None

    def _crashed(self, part: Sequence[str], error: Exception) -> None:
        """Our own code failed, before or after the call for these recipients."""
        log.exception("relay.error", exc_info=error)
        self.attempt.error = error
        self.attempt.unanswered += part
        self._answer(part, INTERNAL_ERROR)

    def _answer(self, recipients: Iterable[str], reply: Reply) -> None:
        self.attempt.outcomes.update(dict.fromkeys(recipients, reply))


async def _result(version: Version, part: Sequence[str]) -> Sent | Exception:
    try:
        return await version.send(part)
    except Exception as error:  # noqa: BLE001 - see `_Calls._note`
        return error


def _is_unclear(reply: Reply) -> bool:
    return reply.status in _UNCLEAR
