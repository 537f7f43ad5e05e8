"""Settle: every recipient's outcome into the one answer SMTP has (DESIGN's table, without a spool).

| outcomes                                      | answer                                |
|-----------------------------------------------|---------------------------------------|
| all success                                   | 250                                   |
| all permanent                                 | the 5xx                               |
| all transient                                 | the 4xx                               |
| some success                                  | 250, naming those who did not get it  |
| transient and permanent, none successful      | the 4xx                               |
| any permanent, `PARTIAL_BOUNCE=reject`        | the 5xx, naming who                   |
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from smtp2cf.envelope import Outcomes
from smtp2cf.reply import Reply

NAMED_LIMIT = 10
"""Recipients a reply names; the rest are counted."""


def settle(
    outcomes: Outcomes,
    queue_id: str,
    message_ids: Sequence[str] = (),
    *,
    partial_bounce: Literal["accept", "reject"] = "accept",
) -> Reply:
    """The reply for a message whose recipients came out as `outcomes` (not empty)."""
    sent = {who: reply for who, reply in outcomes.items() if reply.success}
    failed = {who: reply for who, reply in outcomes.items() if not reply.success}
    if not failed:
        return Reply(250, "2.0.0", f"{queue_id} {_what_became(sent.values())}{_ids(message_ids)}")
    bounced = {who: reply for who, reply in failed.items() if reply.permanent}
    deferred = {who: reply for who, reply in failed.items() if reply.transient}
    if sent and (partial_bounce == "accept" or not bounced):
        text = f"{queue_id} {len(sent)} of {len(outcomes)} recipients {_what_became(sent.values())}"
        return Reply(250, "2.0.0", f"{text}{_ids(message_ids)}; not sent to {_named(failed)}")
    if sent:
        return _joined(bounced, queue_id, f"; sent to the other {len(sent)}: SMTP2CF_PARTIAL_BOUNCE=reject")
    return _joined(deferred or bounced, queue_id, "")


def _joined(outcomes: Outcomes, queue_id: str, addition: str) -> Reply:
    """One reply for several that failed: theirs where they agree, else naming each."""
    first = next(iter(outcomes.values()))
    if len(set(outcomes.values())) == 1 and not addition:
        return first._replace(text=f"{queue_id} {first.text}")
    return first._replace(text=f"{queue_id} {_named(outcomes)}{addition}")


def _named(outcomes: Outcomes) -> str:
    named = [f"<{who}> ({reply})" for who, reply in list(outcomes.items())[:NAMED_LIMIT]]
    if len(outcomes) > NAMED_LIMIT:
        named.append(f"and {len(outcomes) - NAMED_LIMIT} more")
    return ", ".join(named)


def _what_became(replies: Iterable[Reply]) -> str:
    return ", ".join(dict.fromkeys(reply.text for reply in replies))


def _ids(message_ids: Sequence[str]) -> str:
    return f", message-id {' '.join(message_ids[:3])}" if message_ids else ""
