"""A waiting message as JSON, for scripts. Imports little, so that `smtp2cf queue` starts fast."""

from collections.abc import AsyncIterator

from smtp2cf.envelope import Envelope
from smtp2cf.spool.protocol import Spool, SpoolItem


async def items_as_json(spool: Spool) -> AsyncIterator[dict[str, object]]:
    """Every message that waits in a spool."""
    async for item in spool.items():
        yield item_as_json(item)


def item_as_json(item: SpoolItem) -> dict[str, object]:
    """The fields of the JSON object in `smtp2cf queue list --json`, the admin's /queue and mailq.

    Times are in seconds since the epoch; recipients are those still to be delivered.
    """
    return {
        "queue_id": item.queue_id,
        "status": str(item.status),
        "size": item.size,
        "received_at": item.envelope.received_at,
        "sender": item.envelope.reverse_path,
        "recipients": [
            {"address": who, "reply": str(item.outcomes[who]) if who in item.outcomes else ""}
            for who in item.unresolved
        ],
        "attempts": item.attempts,
        "next_attempt": item.next_attempt,
        "expires": item.expires,
        "is_dsn": item.is_dsn,
        "possible_duplicate": item.unanswered,
        "hold_reason": item.hold_reason,
        **_as_given(item.envelope),
    }


def _as_given(envelope: Envelope) -> dict[str, object]:
    """What the client said, where something else goes out; and what a DSN of ours is about."""
    said: dict[str, object] = {}
    if envelope.given_reverse_path is not None:
        said["orig_sender"] = envelope.given_reverse_path
    if envelope.given_forward_paths:
        said["orig_recipients"] = {path: list(who) for path, who in envelope.given_forward_paths.items()}
    if envelope.dsn_for:
        said["dsn_for"] = envelope.dsn_for
    return said
