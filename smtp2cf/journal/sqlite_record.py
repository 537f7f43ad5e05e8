"""Writing to a journal in SQLite: a batch of entries, and what is deleted. All in the caller's transaction.

Knows nothing of files.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence

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
    milliseconds,
    texts_of,
)

AT_ONCE = 2000
"""Rows of a table that one step of pruning deletes, or a little more."""
DAY = 86400
PIECES = (256, 32, 4, 1)
"""Rows of one statement, so that few different ones do for any number."""
# Named, because a newer bridge may have added some.
_MESSAGE = (
    "id, queue_id, received, recipients, sender, sender_domain, header_from, client, login, helo, account,"
    " size, original_id, parent, subject, step"
)
_STEP = "id, recipient, at, kind, reply, detail, attempt, message_id, previous"
_IN = "IN (SELECT value FROM json_each(?))"


def record(
    connection: sqlite3.Connection, entries: Sequence[Entry], actions: Sequence[Action], texts: dict[str, int]
) -> dict[str, int]:
    """Write a batch. texts: numbers that are known; returns those of the batch, known once committed."""
    used = _texts(connection, texts_of(entries), texts)
    known = _known(connection, [entry.message.queue_id for entry in entries])
    counters = Counters(*connection.execute("SELECT recipient, step FROM journal").fetchone())
    rows, counters = Compiler(known, counters, used).compile(entries)
    _write(connection, rows)
    connection.execute("UPDATE journal SET recipient = ?, step = ?", counters)
    connection.executemany(
        "INSERT INTO action (at, name, who, fields) VALUES (?, ?, ?, ?)",
        [
            (milliseconds(at), name, who, orjson.dumps(fields, default=str).decode())
            for at, name, who, fields in actions
        ],
    )
    return used


def _texts(connection: sqlite3.Connection, texts: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """The numbers of texts; those that are not known yet are written, or noted as used today."""
    today = int(time.time()) // DAY
    numbers = {}
    for text in texts:
        number = known.get(text)
        if number is None:
            (number,) = connection.execute(
                "INSERT INTO text (text, used) VALUES (?, ?)"
                " ON CONFLICT (text) DO UPDATE SET used = excluded.used RETURNING id",
                (text, today),
            ).fetchone()
        numbers[text] = number
    return numbers


def _known(connection: sqlite3.Connection, queue_ids: Sequence[str]) -> dict[str, Known]:
    """Those of the messages that are there."""
    rows = connection.execute(
        "SELECT m.queue_id, m.id, m.step, r.id, r.local, ifnull(t.text, ''), r.status, r.step FROM message m"  # noqa: S608 - a constant
        " LEFT JOIN recipient r ON r.id >= m.id AND r.id < m.id + m.recipients"
        f" LEFT JOIN text t ON t.id = r.domain WHERE m.queue_id {_IN}",
        (json.dumps(queue_ids),),
    ).fetchall()
    found: dict[str, Known] = {}
    for queue_id, number, step, one, local, domain, status, last in rows:
        message = found.setdefault(queue_id, Known(number, step))
        if one is not None:
            message.recipients[Address(local, domain)] = Recipient(one, status, last)
    return found


def _write(connection: sqlite3.Connection, rows: Rows) -> None:
    _insert(connection, f"INSERT INTO message ({_MESSAGE})", rows.messages)
    _insert(connection, "INSERT INTO recipient (id, local, domain, status, step)", rows.recipients)
    _insert(connection, f"INSERT INTO step ({_STEP})", rows.steps)
    _insert(connection, "INSERT OR IGNORE INTO word (segment, hash, message)", rows.words)
    connection.execute(
        "UPDATE recipient SET status = v.status, step = v.step"
        " FROM (SELECT json_extract(value, '$[0]') AS status, json_extract(value, '$[1]') AS step,"
        " json_extract(value, '$[2]') AS id FROM json_each(?)) v"
        " WHERE recipient.id = v.id",
        (json.dumps(rows.changed_recipients),),
    )
    connection.execute(
        "UPDATE message SET step = v.step FROM (SELECT json_extract(value, '$[0]') AS step,"
        " json_extract(value, '$[1]') AS id FROM json_each(?)) v WHERE message.id = v.id",
        (json.dumps(rows.changed_messages),),
    )
    connection.executemany(
        "INSERT INTO segment (id, first, last) VALUES (?, ?, ?) ON CONFLICT (id)"
        " DO UPDATE SET first = min(first, excluded.first), last = max(last, excluded.last)",
        [(segment, *times) for segment, times in rows.segments.items()],
    )
    connection.executemany(
        "INSERT INTO tally (minute, status, recipients) VALUES (?, ?, ?) ON CONFLICT (minute, status)"
        " DO UPDATE SET recipients = recipients + excluded.recipients",
        [(*key, count) for key, count in rows.tallies.items()],
    )


def _insert(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows, few statements for many: the interpreter's lock is let go and fought for at each."""
    start = 0
    for piece in PIECES:
        while len(rows) - start >= piece:
            marks = ",".join([f"({','.join('?' * len(rows[start]))})"] * piece)
            values = [value for row in rows[start : start + piece] for value in row]
            connection.execute(f"{statement} VALUES {marks}", values)
            start += piece


def prune(connection: sqlite3.Connection, before: float, actions_before: float) -> bool:
    """Delete some of what is older; True if there may be more."""
    bound = milliseconds(before)
    deleted = [
        _delete_messages(connection, bound),
        connection.execute(
            "DELETE FROM step WHERE id IN (SELECT id FROM step ORDER BY id LIMIT ?) AND at < ?",
            (AT_ONCE, bound),
        ).rowcount,
        connection.execute(
            "DELETE FROM action WHERE id IN (SELECT id FROM action WHERE at < ? LIMIT ?)",
            (milliseconds(actions_before), AT_ONCE),
        ).rowcount,
        _delete_words(connection),
    ]
    if any(deleted):
        return True
    # A day more: when a text was last used is only noted once a day.
    connection.execute("DELETE FROM text WHERE used < ?", (int(before) // DAY - 1,))
    connection.execute("DELETE FROM tally WHERE minute < ?", (bound // 60_000,))
    return False


def _delete_messages(connection: sqlite3.Connection, bound: int) -> int:
    """Delete the oldest messages with their recipients, as far as they were received before `bound`."""
    found = connection.execute("SELECT id, recipients, received FROM message ORDER BY id LIMIT ?", (AT_ONCE,))
    old, rows = [], 0
    for number, count, received in found.fetchall():
        if received < bound and rows < AT_ONCE:
            old.append((number, count))
            rows += count
    forget_messages(connection, old)
    return len(old)


def _delete_words(connection: sqlite3.Connection) -> int:
    """Delete some of what finds messages of segments that have none any more, and the segments."""
    (first,) = connection.execute(
        "SELECT ifnull((SELECT min(id) FROM message), (SELECT recipient FROM journal))"
    ).fetchone()
    segment = first >> SEGMENT_BITS
    connection.execute("DELETE FROM segment WHERE id < ?", (segment,))
    return connection.execute(
        "DELETE FROM word WHERE (segment, hash, message) IN"
        " (SELECT segment, hash, message FROM word WHERE segment < ? LIMIT ?)",
        (segment, AT_ONCE),
    ).rowcount


def forget_messages(connection: sqlite3.Connection, messages: Sequence[tuple[int, int]]) -> None:
    """Delete messages, each named by its number and how many recipients it has. Their steps stay, which say
    nothing without them; so do their words, which are hashes."""
    ranges = [(number, number + count) for number, count in messages]
    connection.executemany("DELETE FROM recipient WHERE id >= ? AND id < ?", ranges)
    connection.executemany("DELETE FROM message WHERE id = ?", [(number,) for number, _ in messages])
