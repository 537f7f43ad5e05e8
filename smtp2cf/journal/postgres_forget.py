"""Removing a person from a journal in PostgreSQL.

Knows nothing of connections.
"""

from typing import Any

from smtp2cf.journal import postgres_record
from smtp2cf.journal.mentions import pattern_of
from smtp2cf.journal.record import Forgotten
from smtp2cf.journal.rows import SEGMENT_BITS, Address

FORGOTTEN = "(forgotten)"
"""What a text says in place of the address."""


async def forget(connection: Any, address: str) -> Forgotten:
    """See record.Journal; in the caller's transaction."""
    await postgres_record.lock(connection)
    key, pattern = Address.of(address), pattern_of(address)
    domain = await connection.fetchval("SELECT id FROM smtp2cf_journal_text WHERE text = $1", key.domain)
    of_address = (key.local.lower(), domain or 0)
    messages = await connection.fetch(
        "SELECT id, recipients FROM smtp2cf_journal_message"
        " WHERE lower(sender) = $1 AND sender_domain = $2 OR header_from IN"
        " (SELECT id FROM smtp2cf_journal_text WHERE text ~* ('^(?:' || $3::text || ')$'))",
        *of_address,
        pattern,
    )
    count = sum(count for _, count in messages)
    for number, recipients in messages:
        await _forget_steps(connection, number, number + recipients)
    await postgres_record.forget_messages(connection, [tuple(row) for row in messages])
    rows = await connection.fetch(
        "SELECT r.id FROM smtp2cf_journal_segment g JOIN smtp2cf_journal_recipient r"  # noqa: S608 - a constant
        f" ON (r.id >> {SEGMENT_BITS})::int = g.id AND lower(local) = $1 AND domain = $2",
        *of_address,
    )
    for (number,) in rows:
        await _forget_recipient(connection, number)
    await _forget_in_texts(connection, pattern)
    return Forgotten(len(rows) + count, len(messages))


async def _forget_recipient(connection: Any, number: int) -> None:
    await _forget_steps(connection, number, number + 1)
    await connection.execute("DELETE FROM smtp2cf_journal_recipient WHERE id = $1", number)
    message, count = await connection.fetchrow(
        "SELECT id, recipients FROM smtp2cf_journal_message WHERE id <= $1 ORDER BY id DESC LIMIT 1", number
    )
    left = "SELECT 1 FROM smtp2cf_journal_recipient WHERE id >= $1 AND id < $2 LIMIT 1"
    if await connection.fetchval(left, message, message + count) is None:
        await postgres_record.forget_messages(connection, [(message, count)])


async def _forget_steps(connection: Any, first: int, end: int) -> None:
    """Delete the steps of recipients, from their last ones back."""
    wanted = await connection.fetch(
        "SELECT step FROM smtp2cf_journal_recipient WHERE id >= $1 AND id < $2 AND step > 0", first, end
    )
    while wanted:
        wanted = await connection.fetch(
            "DELETE FROM smtp2cf_journal_step WHERE id = ANY ($1::bigint[]) RETURNING previous",
            [number for (number,) in wanted if number],
        )


async def _forget_in_texts(connection: Any, pattern: str) -> None:
    """Take the address out of replies, out of subjects, and out of what operators did."""
    for table, column, to_be_unique in (
        # Two texts that differed in the address go on differing.
        ("text", "text", " || ' ' || id"),
        ("action", "fields", ""),
        ("message", "subject", ""),
    ):
        await connection.execute(
            f"UPDATE smtp2cf_journal_{table}"  # noqa: S608 - constants
            f" SET {column} = regexp_replace({column}, $1::text, $2, 'gi'){to_be_unique}"
            f" WHERE {column} ~* $1",
            pattern,
            FORGOTTEN,
        )
