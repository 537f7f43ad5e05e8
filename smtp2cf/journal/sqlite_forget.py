"""Removing a person from a journal in SQLite, in pages that are a transaction each.

Knows nothing of files.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import NamedTuple

from smtp2cf.journal.mentions import pattern_of
from smtp2cf.journal.rows import SEGMENT_BITS, Address
from smtp2cf.journal.sqlite_record import forget_messages

FORGOTTEN = "(forgotten)"
"""What a text says in place of the address."""


class Removed(NamedTuple):
    """Rows of recipients, and messages."""

    recipients: int = 0
    messages: int = 0


Work = Callable[[sqlite3.Connection], Removed]


def pages(address: str) -> Iterator[Work]:
    """What to do, one after the other; each in a transaction."""
    forgetting = _Forgetting(address)
    yield forgetting.find
    while forgetting.segments:
        yield forgetting.next_segment
    yield forgetting.texts


class _Forgetting:
    """One address, and the segments that are left to look through."""

    def __init__(self, address: str) -> None:
        self._address = Address.of(address)
        self._pattern = re.compile(pattern_of(address), re.IGNORECASE)
        self._domain = 0
        self._header_from: list[int] = []
        self.segments: list[int] = []

    def find(self, connection: sqlite3.Connection) -> Removed:
        """Find out where to look."""
        self._domain = _number(connection, self._address.domain)
        texts = connection.execute("SELECT id, text FROM text WHERE instr(text, '@') > 0")
        self._header_from = [number for number, text in texts if self._pattern.fullmatch(text)]
        self.segments = [segment for (segment,) in connection.execute("SELECT id FROM segment ORDER BY id")]
        return Removed()

    def next_segment(self, connection: sqlite3.Connection) -> Removed:
        """Forget the person in one segment."""
        segment = self.segments.pop()
        messages = connection.execute(
            f"SELECT id, recipients FROM message WHERE id >> {SEGMENT_BITS} = ?"  # noqa: S608 - a constant
            " AND (sender = ? AND sender_domain = ? OR header_from IN (SELECT value FROM json_each(?)))",
            (segment, *self._key(), json.dumps(self._header_from)),
        ).fetchall()
        for number, count in messages:
            self._forget_steps(connection, number, number + count)
        forget_messages(connection, messages)
        rows = connection.execute(
            f"SELECT id FROM recipient WHERE id >> {SEGMENT_BITS} = ? AND local = ? AND domain = ?",  # noqa: S608 - a constant
            (segment, *self._key()),
        ).fetchall()
        for (number,) in rows:
            self._forget_recipient(connection, number)
        return Removed(len(rows) + sum(count for _, count in messages), len(messages))

    def texts(self, connection: sqlite3.Connection) -> Removed:
        """Take the address out of replies, and out of what operators did."""
        connection.create_function("without", 1, self._without, deterministic=True)
        for table, column in (("text", "text"), ("action", "fields"), ("message", "subject")):
            connection.execute(
                f"UPDATE {table} SET {column} = without({column}){_unique(table)}"  # noqa: S608 - constants
                f" WHERE instr({column}, '@') > 0 AND without({column}) <> {column}"
            )
        return Removed()

    def _without(self, text: str) -> str:
        return self._pattern.sub(FORGOTTEN, text)

    def _key(self) -> tuple[str, int]:
        return self._address.local, self._domain

    def _forget_recipient(self, connection: sqlite3.Connection, number: int) -> None:
        self._forget_steps(connection, number, number + 1)
        connection.execute("DELETE FROM recipient WHERE id = ?", (number,))
        message, count = connection.execute(
            "SELECT id, recipients FROM message WHERE id <= ? ORDER BY id DESC LIMIT 1", (number,)
        ).fetchone()
        left = "SELECT 1 FROM recipient WHERE id >= ? AND id < ? LIMIT 1"
        if connection.execute(left, (message, message + count)).fetchone() is None:
            forget_messages(connection, [(message, count)])

    @staticmethod
    def _forget_steps(connection: sqlite3.Connection, first: int, end: int) -> None:
        """Delete the steps of recipients, from their last ones back."""
        wanted = connection.execute(
            "SELECT step FROM recipient WHERE id >= ? AND id < ? AND step > 0", (first, end)
        ).fetchall()
        while wanted:
            wanted = [
                previous
                for step in wanted
                for previous in connection.execute("DELETE FROM step WHERE id = ? RETURNING previous", step)
                if previous[0]
            ]


def _number(connection: sqlite3.Connection, text: str) -> int:
    row = connection.execute("SELECT id FROM text WHERE text = ?", (text,)).fetchone()
    return row[0] if row is not None else 0


def _unique(table: str) -> str:
    """Texts are unique, so two that differed in the address go on differing."""
    return " || ' ' || id" if table == "text" else ""
