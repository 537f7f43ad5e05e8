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

Send = Callable[[Sequence[str]], Awaitable[Sent]]

_MALFORMED_ADDRESS = (553, "5.1.3")


@dataclass(slots=True)
class Attempt:
    """What one attempt came to.

    outcomes: every recipient's. message_ids: Cloudflare's, one for each call that told one.
    unanswered: a call had no answer, so its mail may have been sent. retry_after: seconds, where
    Cloudflare named them.
    """

    outcomes: Outcomes = field(default_factory=dict)
    message_ids: list[str] = field(default_factory=list)
    unanswered: bool = False
    retry_after: float | None = None


async def deliver(send: Send, recipients: Sequence[str]) -> Attempt:
    """Try to send to `recipients` (each once) and tell what became of each."""
    attempt = Attempt()
    if len(recipients) <= MAX_RECIPIENTS_PER_CALL:
        await _deliver_group(send, recipients, attempt, _Halt())
    else:
        await _deliver_groups(send, recipients, attempt)
    return attempt


class _Halt:
    """The error that ended the attempt for everybody, once there is one."""

    error: SendError | None = None


async def _deliver_groups(send: Send, recipients: Sequence[str], attempt: Attempt) -> None:
    halt = _Halt()
    groups = [
        recipients[start : start + MAX_RECIPIENTS_PER_CALL]
        for start in range(0, len(recipients), MAX_RECIPIENTS_PER_CALL)
    ]
    # The first call alone: it finds out what is wrong with the account or the message, once.
    await _deliver_group(send, groups[0], attempt, halt)
    turns = asyncio.Semaphore(PARALLEL_CALLS)

    async def in_turn(group: Sequence[str]) -> None:
        async with turns:
            await _deliver_group(send, group, attempt, halt)

    async with asyncio.TaskGroup() as tasks:
        for group in groups[1:]:
            tasks.create_task(in_turn(group))


async def _deliver_group(send: Send, group: Sequence[str], attempt: Attempt, halt: _Halt) -> None:
    """Send to a group, halving it for as long as somebody in it is refused."""
    undecided = [group]
    while undecided:
        part = undecided.pop()
        if halt.error is not None:
            _answer_all(part, halt.error.reply, attempt)
            continue
        try:
            sent = await send(part)
        except SendError as error:
            if error.scope is Scope.RECIPIENT and len(part) > 1:
                middle = len(part) // 2
                undecided += [part[middle:], part[:middle]]
                continue
            if error.scope is not Scope.RECIPIENT:
                halt.error = error
            attempt.unanswered |= error.unanswered
            attempt.retry_after = error.retry_after or attempt.retry_after
            _answer_all(part, _reply_for(error, part, group), attempt)
        else:
            attempt.outcomes.update(sent.outcomes)
            if sent.message_id:
                attempt.message_ids.append(sent.message_id)


def _reply_for(error: SendError, part: Sequence[str], group: Sequence[str]) -> Reply:
    """A recipient singled out of a group is refused for its address, not for the message."""
    if error.scope is Scope.RECIPIENT and len(group) > len(part) and error.reply.status == "5.6.0":
        code, status = _MALFORMED_ADDRESS
        return Reply(code, status, error.reply.text)
    return error.reply


def _answer_all(recipients: Sequence[str], reply: Reply, attempt: Attempt) -> None:
    attempt.outcomes.update(dict.fromkeys(recipients, reply))
