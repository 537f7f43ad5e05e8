"""Waits for events: mail whose calls had no answer, until an event shows that they went through.

Between the relay, which knows mail, and `lost_answers`, which knows what proves what. Knows no HTTP.
"""

from collections.abc import Sequence
from typing import NamedTuple

from smtp2cf.envelope import Envelope
from smtp2cf.journal import event_log, maillog
from smtp2cf.message.facts import subject
from smtp2cf.message.header import message_id
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.lost_answers import Call, LostAnswers, Said, Unanswered, proven_outcomes
from smtp2cf.reply import SendError
from smtp2cf.spool import SpoolItem
from smtp2cf.spool.following import recipient_key


class Sender(NamedTuple):
    """Who a message would be sent as, and through which account, "" for the only one."""

    address: str
    account: str


async def wait_for(lost: LostAnswers | None, envelope: Envelope, attempt: Attempt, message: bytes) -> float:
    """Wait for events about an attempt's calls that had no answer.

    Returns the seconds in which the mail is not to be sent again: 0 where no events are heard, or all calls
    had answers.
    """
    if not attempt.unanswered:
        return 0.0
    if lost is not None and attempt.called_at and attempt.account in lost.accounts:
        calls = [(to, attempt.called_at) for to in attempt.together]
        try:
            await lost.add(
                Unanswered(envelope.queue_id, attempt.account, attempt.sender, subject(message), calls)
            )
        except SendError:
            pass  # the spool is away: nobody could find what is noted there
        else:
            maillog.waits_for_event(envelope, attempt.unanswered)
            return lost.wait
    maillog.possible_duplicate(envelope, attempt.unanswered)
    return 0.0


async def wait_for_killed(lost: LostAnswers, item: SpoolItem, sender: Sender, message: bytes) -> None:
    """The same for mail that a process had begun to send when it ended. Raises SendError.

    The calls began some time after the mail had come in, and nobody knows who was in which.
    """
    calls = [((who,), item.envelope.received_at) for who in item.unresolved]
    await lost.add(Unanswered(item.queue_id, sender.account, sender.address, subject(message), calls))
    maillog.waits_for_event(item.envelope, item.unresolved)


class Shown(NamedTuple):
    """What events have shown of mail that waits. attempt: its outcomes, as if the answer had come. told: what
    is known of recipients beyond that, with Cloudflare's message id."""

    attempt: Attempt
    told: Sequence[tuple[str, Said, str]]


def shown(item: SpoolItem, proven: Sequence[Call], account: str) -> Shown | None:
    """What calls that went through came to, as far as the mail does not know it; None for nothing new."""
    attempt, told = Attempt(account=account), []
    for call in proven:
        for who, reply in proven_outcomes(call).items():
            if who not in item.unresolved:
                continue
            attempt.outcomes[who] = reply
            said = call.said.get(recipient_key(who))
            if reply.success and not (said is not None and said.terminal):
                attempt.message_ids[who] = f"<{call.message_id}>"
            if reply.success and said is not None:
                told.append((who, said, call.message_id))
    return Shown(attempt, told) if attempt.outcomes else None


def log_events(item: SpoolItem, found: Shown, message: bytes) -> None:
    """Log what events said; not of failures, which the line about the attempt names already."""
    for who, said, call_id in found.told:
        event_log.told(
            said.kind,
            who,
            said.reply,
            call_id,
            envelope=item.envelope,
            original_id=message_id(message),
            account=found.attempt.account,
        )
