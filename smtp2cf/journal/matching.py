"""Matching: whether a step that a follower gets is one of those looked for. As a search would say. Pure."""

from smtp2cf.journal.record import Row, Search
from smtp2cf.journal.rows import Address, bare


def matches(row: Row, which: Search) -> bool:
    """Whether a row of News meets all criteria; limit and before say nothing here."""
    said = row.message
    return (
        (not which.recipient or any(_is_like(one, which.recipient) for one in said.recipients))
        and (not which.sender or _is_like(said.sender, which.sender))
        and (not which.statuses or row.status in which.statuses)
        and (which.since is None or said.received_at >= which.since)
        and (which.until is None or said.received_at <= which.until)
        and (not which.queue_id or said.queue_id == which.queue_id)
        and (not which.message_id or bare(which.message_id) in (row.message_id, said.original_id))
    )


def _is_like(address: str, pattern: str) -> bool:
    if pattern == "<>":
        return not address
    one, wanted = Address.of(address), Address.of(pattern)
    local, looked_for = one.local.lower(), wanted.local.lower()
    if "@" not in pattern:
        return local.startswith(looked_for)
    return one.domain == wanted.domain and (not looked_for or local == looked_for)
