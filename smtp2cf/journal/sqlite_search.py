"""Reading a journal in SQLite: searching, following, one message's story.

A search goes through the segments from the newest on. In each it takes the term that the fewest rows match,
finds these by an index that has all it needs, and looks at the other terms row by row.

Knows nothing of files.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from smtp2cf.journal import decode
from smtp2cf.journal.record import Action, Row, Search, Story
from smtp2cf.journal.rows import SEGMENT_BITS, Address, bare, milliseconds, seconds, storable, word
from smtp2cf.journal.steps import STATUS_NUMBERS, is_whole, status_of

CHUNK = 200
"""Rows that are looked at in one go."""
PROBE = 500
"""Rows up to which terms are compared by how many they match."""
SHOWN = 50
"""Recipients of a step that a follower is told by name."""
STORY_LIMIT = 1000
"""Recipients whose steps a story tells."""

_IN = "IN (SELECT value FROM json_each(?))"
_LAST_STEP = "LEFT JOIN step s ON s.id = iif(r.step > 0, r.step, m.step)"
_ITS_MESSAGE = "m.id = (SELECT max(id) FROM message WHERE id <= {})"
_AFTER_ALL = "\U0010ffff"
"""Sorts behind every character of an address."""


class Term(NamedTuple):
    """One criterion. table: of what, "r" for recipients and "m" for messages. where: SQL."""

    table: str
    where: str
    values: tuple[Any, ...]


def search(connection: sqlite3.Connection, which: Search) -> list[Row]:
    """See record.Journal."""
    found: list[decode.Columns] = []
    terms: list[Term] = []
    for term in _terms(connection, which):
        if term is None:
            return []
        terms.append(term)
    for numbers in _candidates(connection, which, terms):
        found += _matching(connection, numbers, which, terms, which.limit - len(found))
        if len(found) >= which.limit:
            break
    texts = _texts(connection, decode.texts_in(found))
    return [decode.row(columns, texts) for columns in found]


def _terms(connection: sqlite3.Connection, which: Search) -> Iterator[Term | None]:
    """The criteria that an index helps with; None for one that nothing can match."""
    if which.recipient:
        yield _address(connection, "r", "local", "domain", which.recipient)
    if which.sender:
        yield _address(connection, "m", "sender", "sender_domain", which.sender)
    if which.statuses:
        numbers = [STATUS_NUMBERS[status] for status in which.statuses]
        yield Term("r", f"r.status IN ({', '.join('?' * len(numbers))})", tuple(numbers))
    if which.queue_id:
        asked = (storable(which.queue_id),)
        row = connection.execute("SELECT id FROM message WHERE queue_id = ?", asked).fetchone()
        yield Term("m", "m.id = ?", row) if row is not None else None


def _address(
    connection: sqlite3.Connection, table: str, local: str, domain: str, pattern: str
) -> Term | None:
    if pattern == "<>":
        return Term(table, f"{table}.{local} = '' AND {table}.{domain} = 0", ())
    address = Address.of(pattern)
    if "@" not in pattern:
        return Term(
            table,
            f"{table}.{local} >= ? AND {table}.{local} < ?",
            (address.local, address.local + _AFTER_ALL),
        )
    row = connection.execute("SELECT id FROM text WHERE text = ?", (address.domain,)).fetchone()
    if row is None:
        return None
    if not address.local:
        return Term(table, f"{table}.{domain} = ?", row)
    return Term(table, f"{table}.{local} = ? AND {table}.{domain} = ?", (address.local, *row))


def _candidates(
    connection: sqlite3.Connection, which: Search, terms: Sequence[Term]
) -> Iterator[Sequence[int]]:
    """The numbers of recipients that may match, the highest first."""
    direct = [term for term in terms if term.where == "m.id = ?"]
    if direct:
        (number,) = direct[0].values
        yield from _recipients_of(connection, [number])
        return
    for segment in _segments(connection, which):
        if which.message_id:
            words = connection.execute(
                "SELECT message FROM word WHERE segment = ? AND hash = ? ORDER BY message DESC",
                (segment, word(bare(which.message_id))),
            )
            yield from _recipients_of(connection, [number for (number,) in words])
        else:
            bounds = _bounds(connection, segment, which)
            yield from _of_segment(connection, segment, _rarest(connection, segment, terms), bounds)


def _segments(connection: sqlite3.Connection, which: Search) -> list[int]:
    since = milliseconds(which.since) if which.since is not None else 0
    until = milliseconds(which.until) if which.until is not None else 2**62
    highest = which.before >> SEGMENT_BITS if which.before is not None else 2**62
    rows = connection.execute(
        "SELECT id FROM segment WHERE last >= ? AND first <= ? AND id <= ? ORDER BY id DESC",
        (since, until, highest),
    )
    return [segment for (segment,) in rows]


def _bounds(connection: sqlite3.Connection, segment: int, which: Search) -> tuple[int, int]:
    """Between which numbers of the segment, the second excluded, all is that was received in the time that is
    asked for: numbers rise with time, but for a few messages that were recorded late."""
    lowest, end = segment << SEGMENT_BITS, (segment + 1) << SEGMENT_BITS
    first, last = connection.execute("SELECT first, last FROM segment WHERE id = ?", (segment,)).fetchone()
    bounds = [lowest, end if which.before is None else min(end, which.before)]
    within = "FROM message WHERE id >= ? AND id < ? AND received"
    if which.until is not None and last > milliseconds(which.until):
        for (after,) in connection.execute(
            f"SELECT id + recipients {within} <= ? ORDER BY id DESC LIMIT 1",
            (lowest, end, milliseconds(which.until)),
        ):
            bounds[1] = min(bounds[1], after)
    if which.since is not None and first < milliseconds(which.since):
        for (begin,) in connection.execute(
            f"SELECT id {within} >= ? ORDER BY id LIMIT 1", (lowest, end, milliseconds(which.since))
        ):
            bounds[0] = begin
    return bounds[0], bounds[1]


def _rarest(connection: sqlite3.Connection, segment: int, terms: Sequence[Term]) -> Term | None:
    if len(terms) < 2:
        return terms[0] if terms else None
    return min(terms, key=lambda term: _count(connection, segment, term))


def _count(connection: sqlite3.Connection, segment: int, term: Term) -> int:
    """How many rows of the segment match, up to PROBE."""
    table = _TABLES[term.table]
    count: int
    (count,) = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {_in_segment(term.table)}"  # noqa: S608 - constants
        f" AND {term.where} LIMIT {PROBE})",
        (segment, *term.values),
    ).fetchone()
    return count


def _of_segment(
    connection: sqlite3.Connection, segment: int, term: Term | None, bounds: tuple[int, int]
) -> Iterator[Sequence[int]]:
    if term is None:
        rows = connection.execute(
            "SELECT id FROM recipient WHERE id >= ? AND id < ? ORDER BY id DESC", bounds
        )
        yield from _chunks(rows)
        return
    rows = connection.execute(
        f"SELECT {term.table}.id FROM {_TABLES[term.table]} WHERE {_in_segment(term.table)} AND {term.where}"  # noqa: S608 - constants
        f" AND {term.table}.id >= ? AND {term.table}.id < ? ORDER BY {term.table}.id DESC",
        (segment, *term.values, *bounds),
    )
    for numbers in _chunks(rows):
        if term.table == "m":
            yield from _recipients_of(connection, numbers)
        else:
            yield numbers


_TABLES = {"r": "recipient r", "m": "message m"}


def _in_segment(table: str) -> str:
    return f"{table}.id >> {SEGMENT_BITS} = ?"


def _recipients_of(connection: sqlite3.Connection, messages: Sequence[int]) -> Iterator[Sequence[int]]:
    rows = connection.execute(
        "SELECT r.id FROM message m CROSS JOIN recipient r ON r.id >= m.id AND r.id < m.id + m.recipients"  # noqa: S608 - constants
        f" WHERE m.id {_IN} ORDER BY r.id DESC",
        (json.dumps(messages),),
    )
    yield from _chunks(rows)


def _chunks(rows: sqlite3.Cursor) -> Iterator[list[int]]:
    while chunk := rows.fetchmany(CHUNK):
        yield [number for (number,) in chunk]


def _matching(
    connection: sqlite3.Connection, numbers: Sequence[int], which: Search, terms: Sequence[Term], limit: int
) -> list[decode.Columns]:
    """Those of the recipients that match everything."""
    where: list[str] = [f"r.id {_IN}"]
    values: list[Any] = [json.dumps(numbers)]
    for term in terms:
        where.append(term.where)
        values += term.values
    for sql, value in _conditions(which):
        where.append(sql)
        values += value
    return connection.execute(
        f"SELECT {decode.COLUMNS} FROM recipient r"  # noqa: S608 - constants
        f" CROSS JOIN message m ON {_ITS_MESSAGE.format('r.id')} {_LAST_STEP}"
        f" WHERE {' AND '.join(where)} ORDER BY r.id DESC LIMIT ?",
        (*values, limit),
    ).fetchall()


def _conditions(which: Search) -> Iterator[tuple[str, list[Any]]]:
    """The criteria that no index is needed for, once the rows are found."""
    if which.since is not None:
        yield "m.received >= ?", [milliseconds(which.since)]
    if which.until is not None:
        yield "m.received <= ?", [milliseconds(which.until)]
    if which.before is not None:
        yield "r.id < ?", [which.before]
    if which.message_id:
        yield "(m.original_id = ? OR s.message_id = ?)", [bare(which.message_id)] * 2


def _texts(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, str]:
    return dict(
        connection.execute(f"SELECT id, text FROM text WHERE id {_IN}", (json.dumps(list(numbers)),))  # noqa: S608 - a constant
    )


# ---- following


def follow(connection: sqlite3.Connection, after: int, limit: int) -> tuple[list[Row], int | None]:
    """The steps after `after`, the oldest first; and where to go on, None where these were all."""
    columns = ", ".join(
        [*(f"m.{name}" for name in decode.OF_MESSAGE), *(f"s.{name}" for name in decode.OF_STEP)]
    )
    rows = connection.execute(
        f"SELECT s.id, s.recipient, m.recipients, r.local, r.domain, {columns} FROM step s"  # noqa: S608 - constants
        f" JOIN message m ON {_ITS_MESSAGE.format('s.recipient')} LEFT JOIN recipient r ON r.id = s.recipient"
        " WHERE s.id > ? ORDER BY s.id LIMIT ?",
        (after, limit),
    ).fetchall()
    texts = _texts(connection, decode.texts_in((0, 0, row[4], 0, *row[5:]) for row in rows))
    found = []
    for number, recipient, count, local, domain, *rest in rows:
        who: tuple[str, ...] = ()
        if count > 1 and is_whole(rest[len(decode.OF_MESSAGE) + 1]):
            who = tuple(_addresses(connection, recipient, min(count, SHOWN)).values())
        elif local is not None:
            who = (str(Address(local, texts.get(domain, ""))),)
        if who:
            found.append(decode.news(number, rest, who, texts))
    return found, rows[-1][0] if len(rows) == limit else None


def _addresses(connection: sqlite3.Connection, first: int, count: int) -> dict[int, str]:
    rows = connection.execute(
        "SELECT r.id, local, ifnull(text, '') FROM recipient r LEFT JOIN text ON text.id = domain"
        " WHERE r.id >= ? AND r.id < ?",
        (first, first + count),
    )
    return {number: str(Address(local, domain)) for number, local, domain in rows}


# ---- what operators did


def actions(connection: sqlite3.Connection, since: float, limit: int) -> list[Action]:
    """See record.Journal."""
    rows = connection.execute(
        "SELECT at, name, who, fields FROM (SELECT * FROM action ORDER BY id DESC LIMIT ?) WHERE at >= ?",
        (limit, milliseconds(since)),
    )
    return [Action(seconds(at), name, who, orjson.loads(fields)) for at, name, who, fields in rows]


# ---- a story


def story(connection: sqlite3.Connection, queue_id: str) -> Story | None:
    """See record.Journal."""
    found = connection.execute(
        f"SELECT id, recipients, step, {', '.join(decode.OF_MESSAGE)} FROM message WHERE queue_id = ?",  # noqa: S608 - constants
        (storable(queue_id),),
    ).fetchone()
    if found is None:
        return None
    number, count, step, *columns = found
    names = _addresses(connection, number, count)
    rows = connection.execute(
        "SELECT id, status, step FROM recipient WHERE id >= ? AND id < ?", (number, number + count)
    ).fetchall()
    steps = _steps(connection, [step, *(step for _, _, step in rows[:STORY_LIMIT])])
    told = [(0, 0, 0, 0, *columns), *((0, 0, 0, 0, *columns, *step[2:]) for step in steps)]
    texts = _texts(connection, decode.texts_in(told))
    dsns = connection.execute("SELECT queue_id FROM message WHERE parent = ? ORDER BY id", (queue_id,))
    return Story(
        decode.message(columns, tuple(names.values()), texts),
        {names[one]: status_of(status) for one, status, _ in rows},
        decode.told(steps, names, texts),
        [dsn for (dsn,) in dsns],
    )


def _steps(connection: sqlite3.Connection, last: Iterable[int]) -> list[tuple[Any, ...]]:
    """These steps and all before them, in order."""
    found: list[tuple[Any, ...]] = []
    wanted = [number for number in last if number]
    while wanted:
        rows = connection.execute(
            f"SELECT id, recipient, {', '.join(decode.OF_STEP)}, previous FROM step WHERE id {_IN}",  # noqa: S608 - constants
            (json.dumps(wanted),),
        ).fetchall()
        found += [row[:-1] for row in rows]
        wanted = [row[-1] for row in rows if row[-1]]
    return sorted(found)
