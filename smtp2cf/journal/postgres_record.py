"""Writing to a journal in PostgreSQL: a batch of entries, and what is deleted. In the caller's transaction.

The row of `smtp2cf_journal` is locked first, so that those who share the journal write one after another: a
higher number is never to be seen before a lower one, and a follower misses none.

Knows nothing of connections.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from smtp2cf.journal.record import Action, Entry
from smtp2cf.journal.rows import (
    SEGMENT_BITS,
    Address,
    Compiler,
    Counters,
    Known,
    Recipient,
    Rows,
    bare,
    milliseconds,
    texts_of,
    word,
)

AT_ONCE = 2000
"""Rows of a table that one step of pruning deletes, or a little more."""
DAY = 86400


async def lock(connection: Any) -> Counters:
    """Wait for whoever writes; the next numbers."""
    return Counters(*await connection.fetchrow("SELECT recipient, step FROM smtp2cf_journal FOR UPDATE"))


async def record(
    connection: Any, entries: Sequence[Entry], actions: Sequence[Action], texts: Mapping[str, int]
) -> dict[str, int]:
    """Write a batch. texts: numbers that are known; returns those of the batch, known once committed."""
    counters = await lock(connection)
    used = await _texts(connection, texts_of(entries), texts)
    known = await _known(connection, [entry.message.queue_id for entry in entries])
    rows, counters = Compiler(known, counters, used).compile(entries)
    await _write(connection, rows)
    await connection.execute("UPDATE smtp2cf_journal SET recipient = $1, step = $2", *counters)
    if actions:
        await connection.executemany(
            "INSERT INTO smtp2cf_journal_action (at, name, who, fields) VALUES ($1, $2, $3, $4)",
            [
                (milliseconds(at), name, who, orjson.dumps(fields, default=str).decode())
                for at, name, who, fields in actions
            ],
        )
    return used


async def _texts(connection: Any, texts: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    numbers = {text: known[text] for text in texts if text in known}
    missing = [text for text in texts if text not in known]
    if missing:
        rows = await connection.fetch(
            "INSERT INTO smtp2cf_journal_text (text, used) SELECT one, $2 FROM unnest($1::text[]) one"
            " ON CONFLICT (text) DO UPDATE SET used = excluded.used RETURNING text, id",
            missing,
            int(time.time()) // DAY,
        )
        numbers.update(rows)
    return numbers


async def _known(connection: Any, queue_ids: Sequence[str]) -> dict[str, Known]:
    rows = await connection.fetch(
        "SELECT m.queue_id, m.id, m.step, r.id, r.local, coalesce(t.text, ''), r.status, r.step"
        " FROM smtp2cf_journal_message m"
        " LEFT JOIN smtp2cf_journal_recipient r ON r.id >= m.id AND r.id < m.id + m.recipients"
        " LEFT JOIN smtp2cf_journal_text t ON t.id = r.domain"
        " WHERE m.queue_id = ANY ($1::text[])",
        queue_ids,
    )
    found: dict[str, Known] = {}
    for queue_id, number, step, one, local, domain, status, last in rows:
        message = found.setdefault(queue_id, Known(number, step))
        if one is not None:
            message.recipients[Address(local, domain)] = Recipient(one, status, last)
    return found


async def _write(connection: Any, rows: Rows) -> None:
    await _insert(connection, "message", _MESSAGE, [_message(row) for row in rows.messages])
    await _insert(connection, "recipient", _RECIPIENT, rows.recipients)
    await _insert(connection, "step", _STEP, [(*row, _word(row[-2])) for row in rows.steps])
    await _insert(
        connection,
        "segment",
        _SEGMENT,
        [(segment, *times) for segment, times in rows.segments.items()],
        "ON CONFLICT (id) DO UPDATE SET first = least(smtp2cf_journal_segment.first, excluded.first),"
        " last = greatest(smtp2cf_journal_segment.last, excluded.last)",
    )
    await _insert(
        connection,
        "tally",
        _TALLY,
        [(*key, count) for key, count in rows.tallies.items()],
        "ON CONFLICT (minute, status) DO UPDATE"
        " SET recipients = smtp2cf_journal_tally.recipients + excluded.recipients",
    )
    for table, columns, changed in (
        (
            "recipient",
            (("status", "smallint"), ("step", "bigint"), ("id", "bigint")),
            rows.changed_recipients,
        ),
        ("message", (("step", "bigint"), ("id", "bigint")), rows.changed_messages),
    ):
        await _update(connection, table, columns, changed)


Columns = Sequence[tuple[str, str]]

_MESSAGE: Columns = (
    *((name, "bigint") for name in ("id", "received", "step")),
    *(
        (name, "integer")
        for name in ("recipients", "sender_domain", "header_from", "client", "login", "helo")
    ),
    *((name, "integer") for name in ("account", "size", "original_word")),
    *((name, "text") for name in ("queue_id", "sender", "original_id", "parent", "subject")),
)
_RECIPIENT: Columns = (
    ("id", "bigint"),
    ("local", "text"),
    ("domain", "integer"),
    ("status", "smallint"),
    ("step", "bigint"),
)
_STEP: Columns = (
    *((name, "bigint") for name in ("id", "recipient", "at")),
    ("kind", "smallint"),
    ("reply", "integer"),
    ("detail", "integer"),
    ("attempt", "smallint"),
    ("message_id", "text"),
    ("previous", "bigint"),
    ("word", "integer"),
)
_SEGMENT: Columns = (("id", "integer"), ("first", "bigint"), ("last", "bigint"))
_TALLY: Columns = (("minute", "bigint"), ("status", "smallint"), ("recipients", "integer"))


def _message(row: Sequence[Any]) -> tuple[object, ...]:
    """The columns of _MESSAGE of a row of rows.Rows."""
    number, queue_id, received, count, sender, domain, *texts, size, original_id, parent, subject, step = row
    original_word = word(original_id) if original_id else 0
    numbers = (number, received, step, count, domain, *texts, size, original_word)
    return (*numbers, queue_id, sender, original_id, parent, subject)


def _word(message_id: Any) -> int | None:
    return word(bare(message_id)) if message_id else None


async def _insert(
    connection: Any, table: str, columns: Columns, rows: Sequence[Sequence[object]], on_conflict: str = ""
) -> None:
    if rows:
        names = ", ".join(name for name, _ in columns)
        await connection.execute(
            f"INSERT INTO smtp2cf_journal_{table} ({names}) SELECT * FROM {_arrays(columns)} {on_conflict}",  # noqa: S608 - constants
            *zip(*rows, strict=True),
        )


async def _update(connection: Any, table: str, columns: Columns, rows: Sequence[Sequence[object]]) -> None:
    """columns: the last one is the key."""
    if rows:
        names = [name for name, _ in columns]
        change = ", ".join(f"{name} = v.{name}" for name in names[:-1])
        await connection.execute(
            f"UPDATE smtp2cf_journal_{table} t SET {change} FROM {_arrays(columns)} v ({', '.join(names)})"  # noqa: S608 - constants
            " WHERE t.id = v.id",
            *zip(*rows, strict=True),
        )


def _arrays(columns: Columns) -> str:
    return f"unnest({', '.join(f'${at}::{kind}[]' for at, (_, kind) in enumerate(columns, 1))})"


# ---- deleting


async def prune(connection: Any, before: float, actions_before: float) -> bool:
    """Delete some of what is older; True if there may be more."""
    await lock(connection)
    bound = milliseconds(before)
    deleted = [
        await _delete_messages(connection, bound),
        await _count(
            connection,
            "DELETE FROM smtp2cf_journal_step WHERE id IN"
            " (SELECT id FROM smtp2cf_journal_step ORDER BY id LIMIT $1) AND at < $2",
            AT_ONCE,
            bound,
        ),
        await _count(
            connection,
            "DELETE FROM smtp2cf_journal_action WHERE id IN"
            " (SELECT id FROM smtp2cf_journal_action WHERE at < $1 LIMIT $2)",
            milliseconds(actions_before),
            AT_ONCE,
        ),
    ]
    if any(deleted):
        return True
    # A day more: when a text was last used is only noted once a day.
    await connection.execute("DELETE FROM smtp2cf_journal_text WHERE used < $1", int(before) // DAY - 1)
    await connection.execute("DELETE FROM smtp2cf_journal_tally WHERE minute < $1", bound // 60_000)
    await connection.execute(
        "DELETE FROM smtp2cf_journal_segment WHERE id <"  # noqa: S608 - a constant
        " (coalesce((SELECT min(id) FROM smtp2cf_journal_message),"
        f" (SELECT recipient FROM smtp2cf_journal)) >> {SEGMENT_BITS})"
    )
    return False


async def _delete_messages(connection: Any, bound: int) -> int:
    """Delete the oldest messages with their recipients, as far as they were received before `bound`."""
    found = await connection.fetch(
        "SELECT id, recipients, received FROM smtp2cf_journal_message ORDER BY id LIMIT $1", AT_ONCE
    )
    old, rows = [], 0
    for number, count, received in found:
        if received < bound and rows < AT_ONCE:
            old.append((number, count))
            rows += count
    await forget_messages(connection, old)
    return len(old)


async def forget_messages(connection: Any, messages: Sequence[tuple[int, int]]) -> None:
    """Delete messages, each named by its number and how many recipients it has; their steps stay."""
    numbers, counts = [number for number, _ in messages], [count for _, count in messages]
    await connection.execute(
        "DELETE FROM smtp2cf_journal_recipient r USING unnest($1::bigint[], $2::int[]) v (id, n)"
        " WHERE r.id >= v.id AND r.id < v.id + v.n",
        numbers,
        counts,
    )
    await connection.execute("DELETE FROM smtp2cf_journal_message WHERE id = ANY ($1::bigint[])", numbers)


async def _count(connection: Any, statement: str, *values: object) -> int:
    """How many rows a DELETE deleted."""
    done: str = await connection.execute(statement, *values)
    return int(done.rpartition(" ")[2])
