"""Listing: a message that waits, as scripts see it. Imports little, since `smtp2cf queue` starts with it."""

from smtp2cf.spool import SpoolItem


def listed(item: SpoolItem) -> dict[str, object]:
    """A message as scripts see it: `smtp2cf queue list --json`, the admin's /queue, mailq.

    Times are seconds since the epoch, recipients those who have not got it yet.
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
    }
