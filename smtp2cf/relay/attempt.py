"""Deliver: one attempt to send a message to recipients that have no final outcome yet.

At most 50 recipients a call, a few calls at a time. A RECIPIENT error for several recipients says
only that one of them is to blame, and some say not even that: it may be the message. An ACCOUNT
error ends the attempt for those who are left, a MESSAGE error holds for all of them.

Nobody is refused for good by guesswork. Whoever was refused together with others is halved with them
until it is known who it is. The message is to blame only where all of it was refused in parts, and
some recipients on their own too; one call that was taken shows that it is not. Both cost few calls,
and there is an end to them: who is not known about then, waits for the next attempt. Knows no spool.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from smtp2cf.cloudflare import MAX_RECIPIENTS_PER_CALL, Sent
from smtp2cf.envelope import Outcomes
from smtp2cf.reply import Reply, Scope, SendError

PARALLEL_CALLS = 4
"""Calls at once for one message: each holds a copy of it."""
SEARCH_LIMIT = 100
"""Calls of an attempt that only find out whom a refusal is about: as many as 50 recipients take of whom
each is refused."""
PROBES = 4
"""Recipients that must be refused on their own, too, before the message is to blame."""

NOT_FOUND_OUT = Reply(
    452,
    "4.5.3",
    f"Cloudflare refuses some of the recipients, and {SEARCH_LIMIT} calls did not tell whether this one",
)

INTERNAL_ERROR = Reply(451, "4.3.0", "internal error in the bridge: its log says more")

log = structlog.stdlib.get_logger("smtp2cf.relay")

Send = Callable[[Sequence[str]], Awaitable[Sent]]
T = TypeVar("T")

_UNCLEAR = frozenset({"5.5.0", "5.6.0"})
"""Enhanced status of a refusal that may be about the message as well as about a recipient."""
_PLAIN = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
"""Addresses that nobody has a reason to refuse for their form."""


@dataclass(slots=True)
class Attempt:
    """What one attempt came to.

    outcomes: every recipient's. message_ids: Cloudflare's, by recipient, of calls that took it for
    somebody. unanswered: recipients of calls that had no answer: their mail may have been sent.
    retry_after: seconds, where Cloudflare named them. error: what our own code failed with over a call;
    its recipients are unanswered.
    """

    outcomes: Outcomes = field(default_factory=dict)
    message_ids: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    retry_after: float | None = None
    error: Exception | None = None


async def deliver(send: Send, recipients: Sequence[str], *, whole: bool = True) -> Attempt:
    """Try to send to `recipients` (each once) and tell what became of each.

    whole: they are all of the message's; others have been answered for otherwise, and so it is no use to
    ask what these say about the message.
    """
    delivery = _Delivery(send, recipients, whole=whole)
    outcomes = delivery.attempt.outcomes
    try:
        await delivery.to_all()
    except Exception as error:  # noqa: BLE001 - logged; what is known of some must not be lost
        delivery.crashed([who for who in recipients if who not in outcomes], error)
    delivery.attempt.outcomes = {who: outcomes[who] for who in recipients}
    return delivery.attempt


class _Delivery:
    """An attempt under way.

    vouched: a call has shown that the message is not to blame. halt: what ends it for all who are left.
    refused: parts of the recipients that were refused together. alone: those that were refused on their
    own, where that may be about the message. searched: calls that only found out whom it is about.
    """

    def __init__(self, send: Send, recipients: Sequence[str], *, whole: bool) -> None:
        self._send = send
        self._recipients = recipients
        self._vouched = not whole
        self._to_blame = False
        self._halt: Reply | None = None
        self._refused: list[tuple[Sequence[str], Reply]] = []
        self._alone: list[str] = []
        self._searched = 0
        self.attempt = Attempt()

    async def to_all(self) -> None:
        """Send to each group that a call can take, then find out about those that were refused."""
        size = MAX_RECIPIENTS_PER_CALL
        everybody = self._recipients
        groups = [everybody[start : start + size] for start in range(0, len(everybody), size)]
        # The first call alone: it finds out what is wrong with the account or the message, once.
        await self._try(groups[0])
        await self._each(self._try, groups[1:])
        if not self._vouched and any(_is_unclear(reply) for _, reply in self._refused):
            await self._judge_message()
        await self._each(self._search, self._refused)
        if self._vouched:
            for who in self._alone:
                text = f"the address is refused: {self.attempt.outcomes[who].text}"
                self.attempt.outcomes[who] = Reply(553, "5.1.3", text)

    async def _each(self, work: Callable[[T], Awaitable[None]], parts: Sequence[T]) -> None:
        """Do this for each part, a few at a time; for one group's recipients one after the other."""
        if len(self._recipients) <= MAX_RECIPIENTS_PER_CALL:
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
        """One call, and a note of the part where it must be found out whom the refusal is about."""
        reply = await self._call(part)
        if reply is not None:
            self._refused.append((part, reply))

    async def _judge_message(self) -> None:
        """Nobody got the message, and a refusal may be about it: find out whether it is to blame."""
        for index, (part, _) in enumerate(self._refused):
            if len(part) > len(self._recipients) // 2:
                del self._refused[index]
                for half in _halves(part):
                    self._searched += 1
                    await self._try(half)
                break  # there is one part at most that is more than half
        unclear = [who for part, reply in self._refused if _is_unclear(reply) for who in part]
        for who in _probes(unclear):
            if self._vouched or self._halt is not None:
                return
            self._searched += 1
            await self._call([who])
        self._to_blame = not self._vouched and self._halt is None

    async def _search(self, refused: tuple[Sequence[str], Reply]) -> None:
        """Find out whom the refusal of a part is about."""
        part, reply = refused
        # Some may have been asked about on their own.
        part = [who for who in part if who not in self.attempt.outcomes]
        if self._to_blame and _is_unclear(reply):
            return self._answer(part, reply)
        undecided = _halves(part)[::-1]
        while undecided:
            part = undecided.pop()
            if self._halt is None and self._searched >= SEARCH_LIMIT:
                self._answer(part, NOT_FOUND_OUT)
                continue
            self._searched += 1
            found = await self._call(part)
            if found is None:
                continue
            if self._to_blame and _is_unclear(found):
                self._answer(part, found)
            else:
                undecided += _halves(part)[::-1]
        return None

    async def _call(self, part: Sequence[str]) -> Reply | None:
        """One call; the reply, where it refuses several and does not say whom it is about."""
        if self._halt is not None:
            self._answer(part, self._halt)
            return None
        try:
            sent = await self._send(part)
        except SendError as error:
            return self._failed(part, error)
        except Exception as error:  # noqa: BLE001 - logged; the other calls must not be lost with this one
            self.crashed(part, error)
            return None
        self._vouched = True
        self.attempt.outcomes.update(sent.outcomes)
        if sent.message_id and any(reply.success for reply in sent.outcomes.values()):
            self.attempt.message_ids.update(dict.fromkeys(part, sent.message_id))
        return None

    def _failed(self, part: Sequence[str], error: SendError) -> Reply | None:
        """A call failed for all of its recipients."""
        if error.unanswered:
            self.attempt.unanswered += part
        if error.retry_after is not None:
            self.attempt.retry_after = max(self.attempt.retry_after or 0.0, error.retry_after)
        if error.scope is not Scope.RECIPIENT:
            self._halt = error.reply
        elif len(part) > 1:
            return error.reply
        elif _is_unclear(error.reply):
            self._alone += part
        self._answer(part, error.reply)
        return None

    def crashed(self, part: Sequence[str], error: Exception) -> None:
        """Our own code failed, before a call to them or after it."""
        log.exception("deliver.error", exc_info=error)
        self.attempt.error = error
        self.attempt.unanswered += part
        self._answer(part, INTERNAL_ERROR)

    def _answer(self, recipients: Iterable[str], reply: Reply) -> None:
        self.attempt.outcomes.update(dict.fromkeys(recipients, reply))


def _is_unclear(reply: Reply) -> bool:
    return reply.status in _UNCLEAR


def _halves(part: Sequence[str]) -> list[Sequence[str]]:
    """Both halves, one where there is one recipient, none where there is none."""
    middle = (len(part) + 1) // 2
    return [half for half in (part[:middle], part[middle:]) if half]


def _probes(recipients: Sequence[str]) -> list[str]:
    """Whom to ask about on their own: plain addresses first, and from all over the list."""
    plain = [who for who in recipients if _PLAIN.fullmatch(who)]
    odd = [who for who in recipients if not _PLAIN.fullmatch(who)]
    chosen = _evenly(plain, PROBES)
    return chosen + _evenly(odd, PROBES - len(chosen))


def _evenly(recipients: Sequence[str], count: int) -> list[str]:
    """So many of them, from the first to the last; all where there are fewer."""
    if len(recipients) <= count:
        return list(recipients)
    return [recipients[number * (len(recipients) - 1) // max(1, count - 1)] for number in range(count)]
