"""Deliver: one attempt to send a message to recipients that have no final outcome yet.

At most 50 recipients a call, a few calls at a time. A RECIPIENT error for several recipients says
only that one of them is to blame: the group is halved until it is known who. A MESSAGE error holds
for all of them, an ACCOUNT error ends the attempt for those who are left. Knows no spool.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from smtp2cf.cloudflare import MAX_RECIPIENTS_PER_CALL, Sent
from smtp2cf.envelope import Outcomes
from smtp2cf.reply import Reply, Scope, SendError

PARALLEL_CALLS = 4
"""Calls at once for one message: each holds a copy of it."""
MALFORMED_LIMIT = 10
"""Recipients refused one by one as malformed, and nobody taken, after which it is the message or its
sender that is malformed: to go on would take two calls a recipient from the account's limit."""

Send = Callable[[Sequence[str]], Awaitable[Sent]]

_MALFORMED = "5.6.0"


@dataclass(slots=True)
class Attempt:
    """What one attempt came to.

    outcomes: every recipient's. message_ids: Cloudflare's, one for each call that told one.
    unanswered: recipients of calls that had no answer: their mail may have been sent. retry_after:
    seconds, where Cloudflare named them.
    """

    outcomes: Outcomes = field(default_factory=dict)
    message_ids: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    retry_after: float | None = None


async def deliver(send: Send, recipients: Sequence[str]) -> Attempt:
    """Try to send to `recipients` (each once) and tell what became of each."""
    delivery = _Delivery(send, alone=len(recipients) == 1)
    if len(recipients) <= MAX_RECIPIENTS_PER_CALL:
        await delivery.to_group(recipients)
    else:
        await delivery.to_groups(recipients)
        outcomes = delivery.attempt.outcomes
        delivery.attempt.outcomes = {who: outcomes[who] for who in recipients}
    return delivery.attempt


class _Delivery:
    """An attempt under way. alone: the message has one recipient."""

    def __init__(self, send: Send, *, alone: bool) -> None:
        self._send = send
        self._alone = alone
        self._sent = False
        self._malformed: list[str] = []
        self._halt: Reply | None = None
        self.attempt = Attempt()

    async def to_groups(self, recipients: Sequence[str]) -> None:
        """Send to as many as there are, in groups that a call can take."""
        groups = [
            recipients[start : start + MAX_RECIPIENTS_PER_CALL]
            for start in range(0, len(recipients), MAX_RECIPIENTS_PER_CALL)
        ]
        # The first call alone: it finds out what is wrong with the account or the message, once.
        await self.to_group(groups[0])
        turns = asyncio.Semaphore(PARALLEL_CALLS)

        async def in_turn(group: Sequence[str]) -> None:
            async with turns:
                await self.to_group(group)

        async with asyncio.TaskGroup() as tasks:
            for group in groups[1:]:
                tasks.create_task(in_turn(group))

    async def to_group(self, group: Sequence[str]) -> None:
        """Send to a group, halving it for as long as somebody in it is refused."""
        undecided = [group]
        while undecided:
            part = undecided.pop()
            if self._halt is not None:
                self._answer(part, self._halt)
                continue
            try:
                sent = await self._send(part)
            except SendError as error:
                if error.scope is Scope.RECIPIENT and len(part) > 1:
                    middle = len(part) // 2
                    undecided += [part[middle:], part[:middle]]
                else:
                    self._failed(part, error)
            else:
                self._sent = True
                self.attempt.outcomes.update(sent.outcomes)
                if sent.message_id:
                    self.attempt.message_ids.append(sent.message_id)

    def _failed(self, part: Sequence[str], error: SendError) -> None:
        """A call failed for all of its recipients."""
        if error.scope is not Scope.RECIPIENT:
            self._halt = error.reply
            self._answer(part, error.reply)
        elif error.reply.status != _MALFORMED or self._alone:
            self._answer(part, error.reply)
        else:
            # One singled out of several is refused for its address, not for the message.
            self._answer(part, Reply(553, "5.1.3", error.reply.text))
            self._malformed += part
            if len(self._malformed) >= MALFORMED_LIMIT and not self._sent:
                self._halt = error.reply
                self._answer(self._malformed, error.reply)
        if error.unanswered:
            self.attempt.unanswered += part
        if error.retry_after is not None:
            self.attempt.retry_after = max(self.attempt.retry_after or 0.0, error.retry_after)

    def _answer(self, recipients: Sequence[str], reply: Reply) -> None:
        self.attempt.outcomes.update(dict.fromkeys(recipients, reply))
