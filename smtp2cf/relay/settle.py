"""Settle: what follows from an attempt, as a plan; the one table for new mail and for the queue.

A client waits for the answer:

| outcomes                                 | answer                        | with a spool           |
|------------------------------------------|-------------------------------|------------------------|
| all success                              | 250                           |                        |
| all permanent                            | the 5xx                       |                        |
| all transient                            | the 4xx                       | 250, naming who waits  |
| some success                             | 250, naming who did not get it| 250, naming both       |
| transient and permanent, none successful | the 4xx                       | 250, naming both       |
| any permanent, not all, PARTIAL_BOUNCE=reject | the 5xx, naming who      | the 5xx, naming both   |

With a spool, the transient ones are kept for another attempt, and a DSN tells the sender who bounced.
Without one, a DSN behind a 250 names the transient ones too. A DSN never repeats what the client was told: a
5xx names those it is about, and a client that takes one reply per recipient (LMTP, PRDR) has them all.

Nobody waits (mail from the queue, or a call that took too long): a DSN tells of all whose outcome is final,
and of those who are given up. There is no DSN about a DSN.

Pure: no clock, no spool, no log.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from smtp2cf.envelope import Envelope, Outcomes, Verdict
from smtp2cf.relay.as_given import as_given
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.senders import as_sent
from smtp2cf.reply import Reply, first_few, rough_duration

NAMED_LIMIT = 10
"""Recipients a reply names; the rest are counted."""
NAMED_IDS = 3
"""Message ids a reply names."""
NO_IDS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a plan depends on besides the outcomes.

    spool: mail that is deferred can be kept. client_waits: for the answer. partial_bounce: what a client that
    takes one answer for all is told when some bounced. is_dsn: the mail is a DSN of ours. expired_after: the
    mail's age in seconds where this was its last attempt.
    """

    spool: bool
    client_waits: bool
    partial_bounce: Literal["accept", "reject"] = "accept"
    is_dsn: bool = False
    expired_after: float | None = None


class Plan(NamedTuple):
    """What to do after an attempt.

    outcomes: every recipient's that is known, earlier ones and expired ones too. deferred: those who need
    another attempt, and can have it. expired: those given up. told: those a DSN tells the sender of, if the
    sender wants one; nothing will change for any of them. undeliverable: it did not reach somebody, and is
    a DSN or has no sender, so nobody can be told.
    What a waiting client is told depends on whether the mail could be kept: see `answer_to`.
    """

    outcomes: Outcomes
    deferred: Outcomes
    expired: Outcomes
    told: Outcomes
    undeliverable: bool


def settle(envelope: Envelope, earlier: Outcomes, attempt: Attempt, situation: Situation) -> Plan:
    """What follows from an attempt. earlier: outcomes from before it."""
    outcomes = {**earlier, **attempt.outcomes}
    expired: Outcomes = {}
    if situation.expired_after is None:
        if not envelope.notify and all(reply.success for reply in outcomes.values()):
            return Plan(outcomes, {}, {}, {}, undeliverable=False)  # as most mail: nothing is left to do
    else:
        expired = _given_up(envelope, outcomes, situation.expired_after)
        outcomes |= expired
    waiting = {who: reply for who, reply in outcomes.items() if reply.transient and who not in expired}
    deferred = waiting if situation.spool else {}
    if situation.client_waits:
        told = _untold(envelope, outcomes, situation, deferred=deferred)
    elif situation.is_dsn:
        told = {}
    else:
        told = _final(attempt.outcomes) | expired
    if not envelope.notify:
        told = {who: reply for who, reply in told.items() if not reply.success}  # nobody asked to be told
    return Plan(
        outcomes=outcomes,
        deferred=deferred,
        expired=expired,
        told=told,
        undeliverable=(situation.is_dsn or not (envelope.reverse_path or situation.client_waits))
        and (bool(expired) or any(reply.permanent for reply in attempt.outcomes.values())),
    )


def _untold(envelope: Envelope, outcomes: Outcomes, situation: Situation, *, deferred: Outcomes) -> Outcomes:
    """Those whose fate the client's answer does not tell, so that a DSN may have to."""
    bounced = any(reply.permanent for reply in outcomes.values())
    rejected = bounced and situation.partial_bounce == "reject" and not envelope.per_recipient
    if not deferred and (rejected or not any(reply.success for reply in outcomes.values())):
        return {}  # the client is told that its mail failed, and by whom
    if envelope.per_recipient or rejected:
        return {who: reply for who, reply in outcomes.items() if reply.success}
    return {who: reply for who, reply in outcomes.items() if who not in deferred}


def _final(outcomes: Outcomes) -> Outcomes:
    return {who: reply for who, reply in outcomes.items() if not reply.transient}


def _given_up(envelope: Envelope, outcomes: Outcomes, age: float) -> Outcomes:
    """The recipients without a final outcome, with the reply that says so. age: seconds."""
    last = {who: outcomes.get(who) for who in envelope.forward_paths}
    return {
        who: Reply(
            451,
            "4.4.7",
            f"given up after {rough_duration(age)}; "
            + (f"the last answer was: {reply}" if reply is not None else "no attempt was answered"),
        )
        for who, reply in last.items()
        if reply is None or reply.transient
    }


# ---- the answer's words


def same_for_all(envelope: Envelope, reply: Reply) -> Verdict:
    """One reply to the client, and for every recipient that it named."""
    outcomes = dict.fromkeys(envelope.forward_paths, reply)
    verdict = Verdict(reply, outcomes)
    return as_given(envelope, verdict, outcomes) if envelope.is_rewritten else verdict


def answer_to(
    envelope: Envelope, attempt: Attempt, partial_bounce: Literal["accept", "reject"], *, kept: bool
) -> Verdict:
    """The answers to an attempt. kept: the transient ones are in the spool and will be tried again."""
    envelope = as_sent(envelope, attempt.sent_as)
    outcomes, queue_id, ids = attempt.outcomes, envelope.queue_id, attempt.message_ids
    if envelope.per_recipient:
        reply = joint_reply(outcomes, queue_id, ids, kept=kept)
        replies = own_replies(outcomes, queue_id, ids, kept=kept)
    else:
        reply = joint_reply(outcomes, queue_id, ids, kept=kept, partial_bounce=partial_bounce)
        replies = {who: reply if kept and out.transient else out for who, out in outcomes.items()}
    verdict = Verdict(reply, replies)
    return as_given(envelope, verdict, outcomes) if envelope.is_rewritten else verdict


def joint_reply(
    outcomes: Outcomes,
    queue_id: str,
    message_ids: Mapping[str, str] = NO_IDS,
    *,
    kept: bool = False,
    partial_bounce: Literal["accept", "reject"] = "accept",
) -> Reply:
    """The reply for a message whose recipients came out as `outcomes` (not empty).

    message_ids: Cloudflare's, by recipient; those who got the message are asked for theirs. kept: the
    transient ones are in the spool and will be tried again.
    """
    failed = {who: reply for who, reply in outcomes.items() if not reply.success}
    if not failed:
        return Reply(
            250, "2.0.0", f"{queue_id} {_what_became(outcomes.values())}{_ids(outcomes, message_ids)}"
        )
    sent = {who: reply for who, reply in outcomes.items() if reply.success}
    bounced = {who: reply for who, reply in failed.items() if reply.permanent}
    deferred = {who: reply for who, reply in failed.items() if reply.transient}
    waits = f"; kept for another attempt to {_named(deferred)}" if kept else ""
    if bounced and partial_bounce == "reject" and (sent or kept):
        others = f"; sent to {len(sent)}" if sent else ""
        rest = waits or _not_sent(deferred)
        return _joined(bounced, queue_id, f"{others}{rest} (SMTP2CF_PARTIAL_BOUNCE=reject)")
    if sent:
        text = f"{queue_id} {len(sent)} of {len(outcomes)} recipients {_what_became(sent.values())}"
        lost = bounced if kept else failed
        return Reply(250, "2.0.0", f"{text}{_ids(sent, message_ids)}{_not_sent(lost)}{waits}")
    if kept:
        return Reply(250, "2.0.0", f"{queue_id}{waits.removeprefix(';')}{_not_sent(bounced)}")
    return _joined(deferred or bounced, queue_id, "")


def own_replies(
    outcomes: Outcomes, queue_id: str, message_ids: Mapping[str, str] = NO_IDS, *, kept: bool = False
) -> Outcomes:
    """Each recipient's own reply, for a client that takes one for each (LMTP, PRDR); see `joint_reply`."""
    return {
        who: _own(reply, queue_id, _ids((who,), message_ids), kept=kept) for who, reply in outcomes.items()
    }


def _own(reply: Reply, queue_id: str, ids: str, *, kept: bool) -> Reply:
    if reply.transient and kept:
        return Reply(250, "2.0.0", f"{queue_id} kept for another attempt ({reply})")
    return reply._replace(text=f"{queue_id} {reply.text}{ids if reply.success else ''}")


def _joined(outcomes: Outcomes, queue_id: str, addition: str) -> Reply:
    """One reply for several that failed: theirs where they agree, else naming each."""
    first = next(iter(outcomes.values()))
    if len(set(outcomes.values())) == 1 and not addition:
        return first._replace(text=f"{queue_id} {first.text}")
    return first._replace(text=f"{queue_id} {_named(outcomes)}{addition}")


def _not_sent(outcomes: Outcomes) -> str:
    return f"; not sent to {_named(outcomes)}" if outcomes else ""


def _named(outcomes: Outcomes) -> str:
    """The recipients with their replies, those of the same reply together."""
    groups: dict[Reply, list[str]] = {}
    for who, reply in list(outcomes.items())[:NAMED_LIMIT]:
        groups.setdefault(reply, []).append(f"<{who}>")
    named = [f"{', '.join(recipients)} ({reply})" for reply, recipients in groups.items()]
    return ", ".join([*named, *first_few(list(outcomes), NAMED_LIMIT)[NAMED_LIMIT:]])


def _what_became(replies: Iterable[Reply]) -> str:
    return ", ".join(dict.fromkeys(reply.text for reply in replies))


def _ids(recipients: Iterable[str], message_ids: Mapping[str, str]) -> str:
    """Cloudflare's message ids of these recipients, a few of them."""
    ids = dict.fromkeys(message_ids[who] for who in recipients if who in message_ids)
    return f", message-id {' '.join(list(ids)[:NAMED_IDS])}" if ids else ""
