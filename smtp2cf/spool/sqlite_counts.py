"""Counts in an SQLite spool: see protocol.Spool.recount. Knows nothing of what is counted."""

import json
import sqlite3
from collections.abc import Sequence
from typing import TypeVar

from smtp2cf.spool.protocol import MOST_COUNTS, Recount

T = TypeVar("T")

_READ = "SELECT name, text FROM count WHERE name IN (SELECT value FROM json_each(?))"
_WRITE = "INSERT OR REPLACE INTO count (name, text, until) VALUES (?, ?, ?)"
ALL = "SELECT name, text FROM count WHERE until > ? ORDER BY until"


def recount(connection: sqlite3.Connection, now: float, names: Sequence[str], change: Recount[T]) -> T:
    """In a transaction."""
    texts = dict.fromkeys(names, "")
    if names:
        texts.update(connection.execute(_READ, (json.dumps(names),)).fetchall())
    changed, result = change(texts, now)
    connection.executemany(_WRITE, [(name, text, now + lasts) for name, (text, lasts) in changed.items()])
    return result


def forget(connection: sqlite3.Connection, now: float) -> None:
    """Drop the counts that are over, and those beyond MOST_COUNTS that end first."""
    connection.execute("DELETE FROM count WHERE until <= ?", (now,))
    (kept,) = connection.execute("SELECT count(*) FROM count").fetchone()
    if kept > MOST_COUNTS:
        connection.execute(
            "DELETE FROM count WHERE name IN (SELECT name FROM count ORDER BY until LIMIT ?)",
            (kept - MOST_COUNTS,),
        )
