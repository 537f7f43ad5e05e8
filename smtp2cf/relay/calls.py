"""Calls: the calls of one attempt, and what they show of the message and of each recipient.

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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from smtp2cf.cloudflare import MAX_RECIPIENTS_PER_CALL, Sent
from smtp2cf.envelope import Outcomes
from smtp2cf.relay.groups import halves, probes
from smtp2cf.relay.repairs import Version, Versions
from smtp2cf.reply import Reply, Scope, SendError

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

T = TypeVar("T")

_UNCLEAR = frozenset({"5.5.0", "5.6.0"})
"""Enhanced status of refusals that may be about the message or about a recipient."""


@dataclass(slots=True)
class Attempt:
    """What one attempt came to.

    outcomes: every recipient's. message_ids: Cloudflare's, by recipient, of calls that were accepted for
    somebody. unanswered: recipients of calls without an answer; their mail may have been sent. together: the
    same, those of each call.
    unmatched: entries in Cloudflare's answers that are none of the recipients. repaired: what was repaired in
    the message that was taken. retry_after: seconds, if Cloudflare named them. sender_refusal: what it means
    that Cloudflare refused the sender's domain. account: which made the calls, "" where there is only one.
    sent_as: who it was sent as instead of the envelope's sender, "" for nobody else. sender: who all in all.
    called_at: when the last call began, in seconds since the epoch, 0 for unknown. error: raised by our own
    code during a call, whose recipients count as unanswered.
    """

    outcomes: Outcomes = field(default_factory=dict)
    message_ids: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    together: list[Sequence[str]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    repaired: tuple[str, ...] = ()
    retry_after: float | None = None
    sender_refusal: Reply | None = None
    account: str = ""
    sent_as: str = ""
    sender: str = ""
    called_at: float = 0.0
    error: Exception | None = None

    @property
    def never_set_up(self) -> bool:
        """Cloudflare does not know the sender's domain, and never sent for it."""
        return self.sender_refusal is not None and self.sender_refusal.permanent


@dataclass(slots=True)
class Calls:
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
            self._unanswered(part)
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
        self._unanswered(part)
        self._answer(part, INTERNAL_ERROR)

    def _unanswered(self, part: Sequence[str]) -> None:
        self.attempt.unanswered += part
        self.attempt.together.append(part)

    def _answer(self, recipients: Iterable[str], reply: Reply) -> None:
        self.attempt.outcomes.update(dict.fromkeys(recipients, reply))


async def _result(version: Version, part: Sequence[str]) -> Sent | Exception:
    try:
        return await version.send(part)
    except Exception as error:  # noqa: BLE001 - see `_Calls._note`
        return error


def _is_unclear(reply: Reply) -> bool:
    return reply.status in _UNCLEAR
