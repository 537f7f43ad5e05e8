"""Settle: every recipient's outcome into the one answer SMTP has (DESIGN's table).

| outcomes                                 | answer                        | transient ones kept    |
|------------------------------------------|-------------------------------|------------------------|
| all success                              | 250                           |                        |
| all permanent                            | the 5xx                       |                        |
| all transient                            | the 4xx                       | 250, naming who waits  |
| some success                             | 250, naming who did not get it| 250, naming both       |
| transient and permanent, none successful | the 4xx                       | 250, naming both       |
| any permanent, not all, PARTIAL_BOUNCE=reject | the 5xx, naming who      | the 5xx, naming both   |

Of those who bounced behind a 250 the sender gets a DSN.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from smtp2cf.envelope import Outcomes
from smtp2cf.reply import Reply

NAMED_LIMIT = 10
"""Recipients a reply names; the rest are counted."""
NAMED_IDS = 3
"""Message ids a reply names."""
NO_IDS: Mapping[str, str] = {}


def settle(
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


def settle_each(
    outcomes: Outcomes, queue_id: str, message_ids: Mapping[str, str] = NO_IDS, *, kept: bool = False
) -> Outcomes:
    """Each recipient's own reply, for a client that takes them one by one (LMTP, PRDR). As in `settle`."""
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
    if len(outcomes) > NAMED_LIMIT:
        named.append(f"and {len(outcomes) - NAMED_LIMIT} more")
    return ", ".join(named)


def _what_became(replies: Iterable[Reply]) -> str:
    return ", ".join(dict.fromkeys(reply.text for reply in replies))


def _ids(recipients: Iterable[str], message_ids: Mapping[str, str]) -> str:
    """Cloudflare's message ids of these recipients, a few of them."""
    ids = dict.fromkeys(message_ids[who] for who in recipients if who in message_ids)
    return f", message-id {' '.join(list(ids)[:NAMED_IDS])}" if ids else ""
