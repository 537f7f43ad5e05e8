"""Reading a journal in PostgreSQL: searching, following, one message's story.

A search is one statement that goes through the segments from the newest on, and ends with enough rows: the
subqueries are joined from the outer to the inner one, and OFFSET 0 keeps each in its own order. Which table
it begins with is the one of which the fewest rows match.

Knows nothing of connections.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from smtp2cf.journal import decode
from smtp2cf.journal.record import Action, Row, Search, Story
from smtp2cf.journal.rows import SEGMENT_BITS, Address, bare, milliseconds, seconds, storable, word
from smtp2cf.journal.steps import STATUS_NUMBERS, is_whole, status_of

PROBE = 500
"""Rows up to which the two tables are compared by how many match."""
PROBED = 4
"""Segments, the newest ones, in which they are compared."""
SHOWN = 50
"""Recipients of a step that a follower is told by name."""
STORY_LIMIT = 1000
"""Recipients whose steps a story tells."""

_SEGMENT_OF = f"({{}} >> {SEGMENT_BITS})::int"
_ITS_MESSAGE = "(SELECT * FROM smtp2cf_journal_message WHERE id <= {} ORDER BY id DESC LIMIT 1) m"
_STEP = (
    "LEFT JOIN LATERAL (SELECT * FROM smtp2cf_journal_step"
    " WHERE id = CASE WHEN r.step > 0 THEN r.step ELSE m.step END OFFSET 0) s ON true"
)


class _Values(list[object]):
    """The values of a statement; `add` returns what stands for one in it."""

    def add(self, value: object) -> str:
        self.append(value)
        return f"${len(self)}"


class Terms(NamedTuple):
    """The criteria as SQL: those of recipients r, and those of messages m."""

    recipients: list[str]
    messages: list[str]


async def search(connection: Any, which: Search) -> list[Row]:
    """See record.Journal."""
    values = _Values()
    terms = await _terms(connection, which, values)
    if terms is None:
        return []
    if which.message_id:
        source = await _by_message_id(connection, which, values)
    else:
        by_messages = await _fewer_messages(connection, terms, values)
        segments = "(SELECT 0) g" if which.queue_id else _segments(which, values)
        source = (_from_messages if by_messages or which.queue_id else _from_recipients)(terms, segments)
    conditions = " AND ".join([*terms.recipients, *terms.messages, *_conditions(which, values)]) or "true"
    found = await connection.fetch(
        f"SELECT {decode.COLUMNS} FROM {source} {_STEP} WHERE {conditions} LIMIT {values.add(which.limit)}",  # noqa: S608 - constants
        *values,
    )
    texts = await _texts(connection, decode.texts_in(found))
    return sorted((decode.row(columns, texts) for columns in found), key=lambda row: -row.number)


async def _terms(connection: Any, which: Search, values: _Values) -> Terms | None:
    """The criteria that an index helps with; None if there is one that nothing can match."""
    terms = Terms([], [])
    for pattern, into, columns in (
        (which.recipient, terms.recipients, ("r", "local", "domain")),
        (which.sender, terms.messages, ("m", "sender", "sender_domain")),
    ):
        if pattern:
            term = await _address(connection, *columns, pattern, values)
            if term is None:
                return None
            into.append(term)
    if which.statuses:
        numbers = [STATUS_NUMBERS[status] for status in which.statuses]
        terms.recipients.append(f"r.status = ANY ({values.add(numbers)}::smallint[])")
    if which.queue_id:
        number = await connection.fetchval(
            "SELECT id FROM smtp2cf_journal_message WHERE queue_id = $1", storable(which.queue_id)
        )
        if number is None:
            return None
        terms.messages.append(f"m.id = {values.add(number)}")
    return terms


async def _address(
    connection: Any, table: str, local: str, domain: str, pattern: str, values: _Values
) -> str | None:
    if pattern == "<>":
        return f"lower({table}.{local}) = '' AND {table}.{domain} = 0"
    address = Address.of(pattern)
    lowered = address.local.lower()
    if "@" not in pattern:
        first, end = values.add(lowered), values.add(f"{lowered}\U0010ffff")
        return f"lower({table}.{local}) >= {first} AND lower({table}.{local}) < {end}"
    number = await connection.fetchval("SELECT id FROM smtp2cf_journal_text WHERE text = $1", address.domain)
    if number is None:
        return None
    of_domain = f"{table}.{domain} = {values.add(number)}"
    return f"lower({table}.{local}) = {values.add(lowered)} AND {of_domain}" if lowered else of_domain


async def _fewer_messages(connection: Any, terms: Terms, values: Sequence[object]) -> bool:
    """Whether fewer messages match their criteria than recipients theirs."""
    if not terms.recipients or not terms.messages:
        return bool(terms.messages)
    counts = ", ".join(
        f"(SELECT count(*) FROM (SELECT 1 FROM (SELECT id FROM smtp2cf_journal_segment ORDER BY id DESC"  # noqa: S608 - constants
        f" LIMIT {PROBED}) g, smtp2cf_journal_{table} {name} WHERE {_SEGMENT_OF.format(f'{name}.id')} = g.id"
        f" AND {' AND '.join(where)} LIMIT {PROBE}) x)"
        for table, name, where in (("message", "m", terms.messages), ("recipient", "r", terms.recipients))
    )
    messages, recipients = await connection.fetchrow(f"SELECT {counts}", *values)
    fewer: bool = messages <= recipients
    return fewer


def _segments(which: Search, values: _Values) -> str:
    since = milliseconds(which.since) if which.since is not None else 0
    until = milliseconds(which.until) if which.until is not None else 2**62
    highest = which.before >> SEGMENT_BITS if which.before is not None else 2**31 - 1
    return (
        f"(SELECT id FROM smtp2cf_journal_segment WHERE last >= {values.add(since)}"  # noqa: S608 - constants
        f" AND first <= {values.add(until)} AND id <= {values.add(highest)} ORDER BY id DESC OFFSET 0) g"
    )


def _from_recipients(terms: Terms, segments: str) -> str:
    where = " AND ".join([f"{_SEGMENT_OF.format('r.id')} = g.id", *terms.recipients])
    if not terms.recipients:  # then the table itself is in the right order
        where = f"r.id >= g.id::bigint << {SEGMENT_BITS} AND r.id < (g.id::bigint + 1) << {SEGMENT_BITS}"
    return (
        f"{segments}, LATERAL (SELECT * FROM smtp2cf_journal_recipient r WHERE {where} ORDER BY r.id DESC"  # noqa: S608 - constants
        f" OFFSET 0) r CROSS JOIN LATERAL {_ITS_MESSAGE.format('r.id')}"
    )


def _from_messages(terms: Terms, segments: str) -> str:
    named = any(term.startswith("m.id =") for term in terms.messages)
    where = " AND ".join(
        terms.messages if named else [f"{_SEGMENT_OF.format('m.id')} = g.id", *terms.messages]
    )
    return (
        f"{segments}, LATERAL (SELECT * FROM smtp2cf_journal_message m WHERE {where}"  # noqa: S608 - constants
        " ORDER BY m.id DESC OFFSET 0) m"
        " CROSS JOIN LATERAL (SELECT * FROM smtp2cf_journal_recipient r WHERE r.id >= m.id"
        " AND r.id < m.id + m.recipients ORDER BY r.id DESC OFFSET 0) r"
    )


async def _by_message_id(connection: Any, which: Search, values: _Values) -> str:
    """The recipients of messages that have this id, and those whose call Cloudflare gave it."""
    # In each segment by its index: without OFFSET 0, PostgreSQL may read the whole table instead.
    rows = await connection.fetch(
        "SELECT r.id FROM smtp2cf_journal_segment g, LATERAL (SELECT id, recipients"  # noqa: S608 - constants
        f" FROM smtp2cf_journal_message m WHERE {_SEGMENT_OF.format('m.id')} = g.id AND m.original_word = $1"
        " AND m.original_id = $2 OFFSET 0) m, LATERAL (SELECT id FROM smtp2cf_journal_recipient r"
        " WHERE r.id >= m.id AND r.id < m.id + m.recipients OFFSET 0) r"
        " UNION SELECT s.recipient FROM smtp2cf_journal_segment g, LATERAL (SELECT recipient"
        f" FROM smtp2cf_journal_step s WHERE {_SEGMENT_OF.format('s.recipient')} = g.id AND s.word = $1"
        " AND s.message_id = $2 OFFSET 0) s",
        word(bare(which.message_id)),
        bare(which.message_id),
    )
    numbers = values.add([number for (number,) in rows])
    return (
        f"(SELECT * FROM smtp2cf_journal_recipient WHERE id = ANY ({numbers}::bigint[])"  # noqa: S608 - constants
        " ORDER BY id DESC OFFSET 0) r"
        f" CROSS JOIN LATERAL {_ITS_MESSAGE.format('r.id')}"
    )


def _conditions(which: Search, values: _Values) -> Iterator[str]:
    """The criteria that no index is needed for, once the rows are found."""
    if which.since is not None:
        yield f"m.received >= {values.add(milliseconds(which.since))}"
    if which.until is not None:
        yield f"m.received <= {values.add(milliseconds(which.until))}"
    if which.before is not None:
        yield f"r.id < {values.add(which.before)}"


async def _texts(connection: Any, numbers: Iterable[int]) -> dict[int, str]:
    return dict(
        await connection.fetch(
            "SELECT id, text FROM smtp2cf_journal_text WHERE id = ANY ($1::int[])", list(numbers)
        )
    )


# ---- following


async def follow(connection: Any, after: int, limit: int) -> tuple[list[Row], int | None]:
    """The steps after `after`, the oldest first; and where to go on, None where these were all."""
    columns = ", ".join(
        [*(f"m.{name}" for name in decode.OF_MESSAGE), *(f"s.{name}" for name in decode.OF_STEP)]
    )
    rows = await connection.fetch(
        f"SELECT s.id, s.recipient, m.recipients, r.local, r.domain, {columns} FROM smtp2cf_journal_step s"  # noqa: S608 - constants
        f" CROSS JOIN LATERAL {_ITS_MESSAGE.format('s.recipient')}"
        " LEFT JOIN smtp2cf_journal_recipient r ON r.id = s.recipient WHERE s.id > $1 ORDER BY s.id LIMIT $2",
        after,
        limit,
    )
    texts = await _texts(connection, decode.texts_in((0, 0, row[4], 0, *row[5:]) for row in rows))
    found = []
    for number, recipient, count, local, domain, *rest in rows:
        who: tuple[str, ...] = ()
        if count > 1 and is_whole(rest[len(decode.OF_MESSAGE) + 1]):
            who = tuple((await _addresses(connection, recipient, min(count, SHOWN))).values())
        elif local is not None:
            who = (str(Address(local, texts.get(domain, ""))),)
        if who:
            found.append(decode.news(number, rest, who, texts))
    return found, rows[-1][0] if len(rows) == limit else None


async def _addresses(connection: Any, first: int, count: int) -> dict[int, str]:
    rows = await connection.fetch(
        "SELECT r.id, local, coalesce(text, '') FROM smtp2cf_journal_recipient r"
        " LEFT JOIN smtp2cf_journal_text t ON t.id = domain WHERE r.id >= $1 AND r.id < $2 ORDER BY r.id",
        first,
        first + count,
    )
    return {number: str(Address(local, domain)) for number, local, domain in rows}


# ---- what operators did


async def actions(connection: Any, since: float, limit: int) -> list[Action]:
    """See record.Journal."""
    rows = await connection.fetch(
        "SELECT at, name, who, fields FROM"
        " (SELECT * FROM smtp2cf_journal_action ORDER BY id DESC LIMIT $1) a WHERE at >= $2 ORDER BY id DESC",
        limit,
        milliseconds(since),
    )
    return [Action(seconds(at), name, who, orjson.loads(fields)) for at, name, who, fields in rows]


# ---- a story


async def story(connection: Any, queue_id: str) -> Story | None:
    """See record.Journal."""
    found = await connection.fetchrow(
        f"SELECT id, recipients, step, {', '.join(decode.OF_MESSAGE)} FROM smtp2cf_journal_message"  # noqa: S608 - constants
        " WHERE queue_id = $1",
        storable(queue_id),
    )
    if found is None:
        return None
    number, count, step, *columns = found
    names = await _addresses(connection, number, count)
    rows = await connection.fetch(
        "SELECT id, status, step FROM smtp2cf_journal_recipient WHERE id >= $1 AND id < $2 ORDER BY id",
        number,
        number + count,
    )
    steps = await _steps(connection, [step, *(step for _, _, step in rows[:STORY_LIMIT])])
    told = [(0, 0, 0, 0, *columns), *((0, 0, 0, 0, *columns, *step[2:]) for step in steps)]
    texts = await _texts(connection, decode.texts_in(told))
    dsns = await connection.fetch(
        "SELECT queue_id FROM smtp2cf_journal_message WHERE parent = $1 ORDER BY id", queue_id
    )
    return Story(
        decode.message(columns, tuple(names.values()), texts),
        {names[one]: status_of(status) for one, status, _ in rows},
        decode.told(steps, names, texts),
        [dsn for (dsn,) in dsns],
    )


async def _steps(connection: Any, last: Iterable[int]) -> list[tuple[Any, ...]]:
    """These steps and all before them, in order."""
    found: list[tuple[Any, ...]] = []
    wanted = [number for number in last if number]
    while wanted:
        rows = await connection.fetch(
            f"SELECT id, recipient, {', '.join(decode.OF_STEP)}, previous FROM smtp2cf_journal_step"  # noqa: S608 - constants
            " WHERE id = ANY ($1::bigint[])",
            wanted,
        )
        found += [tuple(row)[:-1] for row in rows]
        wanted = [row[-1] for row in rows if row[-1]]
    return sorted(found)
