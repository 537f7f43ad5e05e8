"""Salvage: the mail in a damaged SQLite file, as far as it can be read.

The index is not used. A range of the table that can't be read is halved until only the damaged part is left
out. Knows nothing of what damaged it.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smtp2cf.spool import codec
from smtp2cf.spool.protocol import SpoolItem
from smtp2cf.spool.sqlite_errors import DAMAGE, code_of

FIRST, LAST = 1, 2**31
ATTEMPTS = 20_000
"""Damaged ranges after which the rest is given up."""


def items(
    reader: sqlite3.Connection, where: str, values: Mapping[str, object], now: float
) -> list[SpoolItem]:
    """The readable mail that matches `where`. now: by the spool's clock."""
    statement = (
        f"SELECT {codec.ITEM_COLUMNS} FROM mail NOT INDEXED WHERE {where} AND id BETWEEN :low AND :high"  # noqa: S608 - constants
    )
    found = []
    for row in _rows(reader, statement, values):
        try:
            found.append(codec.decode_item(row, now))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # a row that another's bytes came into
    return sorted(found, key=lambda item: item.queue_id)


def message(reader: sqlite3.Connection, queue_id: str) -> bytes | None:
    """The bytes of a message; None if it isn't found. Raises sqlite3.Error if they can't be read."""
    statement = "SELECT id FROM mail NOT INDEXED WHERE queue_id = :queue_id AND id BETWEEN :low AND :high"
    for (key,) in _rows(reader, statement, {"queue_id": queue_id}):
        row = reader.execute("SELECT bytes FROM message WHERE id = ?", (key,)).fetchone()
        return row[0] if row is not None else None
    return None


def _rows(
    reader: sqlite3.Connection, statement: str, values: Mapping[str, object]
) -> Iterator[Sequence[Any]]:
    stretches, attempts = [(FIRST, LAST)], 0
    while stretches and attempts < ATTEMPTS:
        low, high = stretches.pop()
        try:
            rows = reader.execute(statement, {**values, "low": low, "high": high}).fetchall()
        except sqlite3.Error as error:
            if code_of(error) not in DAMAGE:
                raise
            attempts += 1
            if low < high:
                middle = (low + high) // 2
                stretches += [(middle + 1, high), (low, middle)]
        else:
            yield from rows
