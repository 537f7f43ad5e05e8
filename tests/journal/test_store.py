"""What record.Journal promises, on both databases."""

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.journal.record import Action, Cursor, Entry, Journal, JournalError, Message, Search, Step
from smtp2cf.journal.rows import SEGMENT_BITS, Address
from smtp2cf.journal.steps import MEANING, STATUS_NUMBERS, Kind, Status
from smtp2cf.journal.store import open_journal
from tests.spool.postgres_server import PostgresServer

NOON = 1_790_000_000.0
_numbers = itertools.count()


def message(queue_id: str = "Q1", *recipients: str, at: float = NOON, **known: Any) -> Message:
    return Message(
        queue_id, at, known.pop("sender", "app@example.com"), recipients or ("anna@example.org",), **known
    )


def sent(*recipients: str, at: float = NOON, **known: Any) -> Step:
    return Step(at, Kind.SENT, recipients or ("anna@example.org",), "250 2.0.0 delivered", **known)


class Place:
    """Where a journal is; `open` gives as many views of it as a test needs."""

    def __init__(self, spool: Path | str) -> None:
        self.spool = spool
        self.opened: list[Journal] = []

    def open(self, *, create: bool = True, **options: Any) -> Journal:
        journal = open_journal(self.spool, "a database", create=create, **options)
        self.opened.append(journal)
        return journal


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer()
    except LookupError as missing:
        pytest.skip(str(missing))
    yield server
    server.close()


async def _schema(server: PostgresServer) -> str:
    asyncpg = pytest.importorskip("asyncpg", reason="not installed: asyncpg")
    name = f"journal_{next(_numbers)}"
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"CREATE SCHEMA {name}")
    await connection.close()
    return f"{server.url}&search_path={name}"


@pytest.fixture(params=["sqlite", "postgres"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "sqlite":
        place = Place(tmp_path / "spool.sqlite3")
    else:
        place = Place(await _schema(request.getfixturevalue("postgres_server")))
    yield place
    for journal in place.opened:
        with contextlib.suppress(JournalError):
            await journal.close()


@pytest.fixture
def journal(place: Place) -> Journal:
    return place.open()


async def found(journal: Journal, **which: Any) -> list[str]:
    return [f"{row.message.queue_id} {row.recipient}" for row in await journal.search(Search(**which))]


async def test_what_is_recorded_is_found_as_it_was(journal: Journal) -> None:
    said = message(
        client="192.0.2.1",
        user="app",
        helo="host",
        account="main",
        size=1234,
        header_from="noreply@example.com",
        original_id="1@host",
        parent="Q0",
        subject="Grüße",
    )
    await journal.record([Entry(said, [sent(message_id="c1@example.com", attempt=2, detail="why")])])
    (row,) = await journal.search(Search())
    assert row.message == said
    assert row[2:] == (
        "anna@example.org", "sent", "sent", NOON, "250 2.0.0 delivered", "c1@example.com", 2, "why",
    )  # fmt: skip


LETTERS = (
    ("Q1", "app@example.com", ("anna@example.org", "Ben@example.net"), "sent"),
    ("Q2", "app@example.com", ("annabel@example.org",), "bounced"),
    ("Q3", "Root@host", ("hanna@sub.example.org", "x y@example.org"), "deferred"),
    ("Q4", "", ("ANNA@EXAMPLE.ORG",), "sent"),
)
SEARCHES: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "Q4 ANNA, Q3 x y, Q3 hanna, Q2 annabel, Q1 Ben, Q1 anna"),
    ({"limit": 2}, "Q4 ANNA, Q3 x y"),
    ({"recipient": "anna@example.org"}, "Q4 ANNA, Q1 anna"),
    ({"recipient": "Anna"}, "Q4 ANNA, Q2 annabel, Q1 anna"),
    ({"recipient": "@example.org"}, "Q4 ANNA, Q3 x y, Q2 annabel, Q1 anna"),
    ({"recipient": "@EXAMPLE.org."}, "Q4 ANNA, Q3 x y, Q2 annabel, Q1 anna"),
    ({"recipient": "@nowhere.example"}, ""),
    ({"recipient": "nobody"}, ""),
    ({"recipient": "an%"}, ""),
    ({"recipient": "anna@example.net"}, ""),
    ({"sender": "app@example.com"}, "Q2 annabel, Q1 Ben, Q1 anna"),
    ({"sender": "root"}, "Q3 x y, Q3 hanna"),
    ({"sender": "@host"}, "Q3 x y, Q3 hanna"),
    ({"sender": "<>"}, "Q4 ANNA"),
    ({"statuses": (Status.BOUNCED,)}, "Q2 annabel"),
    ({"statuses": (Status.BOUNCED, Status.DEFERRED)}, "Q3 x y, Q3 hanna, Q2 annabel"),
    ({"queue_id": "Q3"}, "Q3 x y, Q3 hanna"),
    ({"queue_id": "Q9"}, ""),
    ({"message_id": "<own-1@host>"}, "Q1 Ben, Q1 anna"),
    ({"message_id": "own-2@host"}, "Q2 annabel"),
    ({"message_id": "<cf-3@example.com>"}, "Q3 x y, Q3 hanna"),
    ({"message_id": "own-9@host"}, ""),
    ({"since": NOON + 3}, "Q4 ANNA, Q3 x y, Q3 hanna"),
    ({"until": NOON + 2}, "Q2 annabel, Q1 Ben, Q1 anna"),
    ({"since": NOON + 2, "until": NOON + 2}, "Q2 annabel"),
    ({"recipient": "anna", "sender": "app", "statuses": (Status.SENT,)}, "Q1 anna"),
    ({"recipient": "anna", "since": NOON + 2, "limit": 1}, "Q4 ANNA"),
    ({"sender": "@example.com", "statuses": (Status.SENT,)}, "Q1 Ben, Q1 anna"),
    ({"queue_id": "Q1", "recipient": "@example.net"}, "Q1 Ben"),
)


async def test_searches(journal: Journal) -> None:
    await journal.record(
        [
            Entry(
                message(queue_id, *to, at=NOON + n, sender=sender, original_id=f"own-{n}@host"),
                [Step(NOON + n, Kind(status), to, "some reply", f"cf-{n}@example.com")],
            )
            for n, (queue_id, sender, to, status) in enumerate(LETTERS, 1)
        ]
    )

    def short(rows: list[str]) -> str:
        return ", ".join(row.rpartition("@")[0] for row in rows)

    wrong = []
    for which, expected in SEARCHES:
        if (got := short(await found(journal, **which))) != expected:
            wrong.append(f"{which}: {got!r} instead of {expected!r}")
        pages, before = [], None
        while page := await journal.search(Search(**{**which, "limit": 1}, before=before)):
            pages.append(f"{page[0].message.queue_id} {page[0].recipient}")
            before = page[0].number
        if "limit" not in which and short(pages) != expected:
            wrong.append(f"{which}, page by page: {short(pages)!r} instead of {expected!r}")
    assert wrong == []


async def test_a_search_crosses_segments(journal: Journal) -> None:
    many = tuple(f"u{n}@example.org" for n in range((1 << SEGMENT_BITS) - 2))
    await journal.record([Entry(message("Q1", "anna@example.org", sender="ben@x"), [])])
    await journal.record([Entry(message("Q2", *many), [])])
    three = ("anna@example.org", "carl@example.org", "doro@example.org")
    await journal.record([Entry(message("Q3", *three, at=NOON + 9, sender="ben@x"), [])])
    assert await found(journal, recipient="anna@example.org") == [
        "Q3 anna@example.org",
        "Q1 anna@example.org",
    ]
    assert await found(journal, sender="ben@x", recipient="anna") == [
        "Q3 anna@example.org",
        "Q1 anna@example.org",
    ]
    assert (
        await found(journal, recipient="u7")
        == [f"Q2 {one}" for one in reversed(many) if one[:2] == "u7"][:50]
    )
    assert await found(journal, since=NOON + 5, recipient="@example.org") == [
        f"Q3 {one}" for one in reversed(three)
    ]


async def test_times_are_found_within_a_segment_though_some_are_late(journal: Journal) -> None:
    times = [0, 1, 2, 9, 3, 4, 1, 5, 6, 7, 8, 10]
    names = [f"q{at}.{number}" for number, at in enumerate(times)]
    await journal.record(
        [
            Entry(message(name, f"{name}@x", at=NOON + at, sender=f"s{at % 2}@y"), [sent(f"{name}@x")])
            for name, at in zip(names, times, strict=True)
        ]
    )
    for since in (None, 0, 1, 4, 9, 11):
        for until in (None, 0, 1, 5, 9, 11):
            bounds = {name: NOON + at for name, at in (("since", since), ("until", until)) if at is not None}
            within = [
                (name, at)
                for name, at in zip(names, times, strict=True)
                if (since is None or at >= since) and (until is None or at <= until)
            ][::-1]
            expected = [f"{name} {name}@x" for name, _ in within]
            assert await found(journal, **bounds) == expected
            assert await found(journal, recipient="@x", **bounds) == expected
            assert await found(journal, sender="s1", **bounds) == [
                f"{name} {name}@x" for name, at in within if at % 2
            ]


async def test_steps_come_one_after_another_and_the_last_one_counts(place: Place) -> None:
    one, other = place.open(), place.open()
    to = ("anna@example.org", "ben@example.org")
    said = message("Q1", *to)
    await one.record([Entry(said, [Step(NOON, Kind.KEPT, detail="queued")])])
    assert [row.status for row in await one.search(Search())] == ["kept", "kept"]
    later = Step(NOON + 1, Kind.DEFERRED, to, "451 4.3.0 later", attempt=1)
    await other.record([Entry(said, [later, Step(NOON + 2, Kind.HELD, detail="by root")])])
    assert [row.status for row in await one.search(Search())] == ["held", "held"]
    await one.record([Entry(said, [Step(NOON + 3, Kind.RELEASED)])])
    await other.record([Entry(said, [sent("ben@example.org", at=NOON + 4, attempt=2)])])
    await one.record([Entry(said, [Step(NOON + 5, Kind.DELETED, detail="by root")])])
    await one.record([Entry(said, [Step(NOON + 4, Kind.DEFERRED, to[:1], "451 4.3.0 late")])])
    rows = await other.search(Search())
    assert [(row.recipient, row.status, row.reply) for row in rows] == [
        ("ben@example.org", "sent", "250 2.0.0 delivered"),
        ("anna@example.org", "deleted", "451 4.3.0 late"),
    ]
    story = await one.story("Q1")
    assert story is not None
    assert story.recipients == {"anna@example.org": "deleted", "ben@example.org": "sent"}
    assert [(step.kind, step.recipients, step.detail) for step in story.steps] == [
        ("kept", (), "queued"),
        ("deferred", to, ""),
        ("held", (), "by root"),
        ("released", (), ""),
        ("sent", ("ben@example.org",), ""),
        ("deleted", (), "by root"),
        ("deferred", ("anna@example.org",), ""),
    ]
    assert await one.story("Q2") is None


async def test_a_story_names_the_dsns(journal: Journal) -> None:
    await journal.record([Entry(message("Q1"), [sent()]), Entry(message("Q2", sender="", parent="Q1"), [])])
    story = await journal.story("Q1")
    assert story is not None
    assert story.dsns == ["Q2"]


async def test_a_follower_misses_nothing_and_sees_nothing_twice(place: Place) -> None:
    writers = [place.open(), place.open()]
    reader = place.open()
    await writers[0].record([Entry(message("Q0"), [sent()])])
    seen: list[str] = []

    async def write(writer: Journal, name: str) -> None:
        for n in range(10):
            await writer.record([Entry(message(f"{name}{n}"), [Step(NOON, Kind.KEPT), sent()])])

    async def follow() -> None:
        nonlocal cursor
        while len(seen) < 40:
            rows, cursor = await reader.follow(cursor, limit=7)
            seen.extend(f"{row.message.queue_id} {row.kind}" for row in rows)

    before, cursor = await reader.begin(Search())
    assert [row.message.queue_id for row in before] == ["Q0"]
    await asyncio.gather(*(write(writer, name) for writer, name in zip(writers, "AB", strict=True)), follow())
    assert sorted(seen) == sorted(
        f"{name}{n} {kind}" for name in "AB" for n in range(10) for kind in ("kept", "sent")
    )
    assert (await reader.follow(cursor)).rows == []
    everything, _ = await reader.follow(Cursor("another", 10**9))
    assert len(everything) == 41


async def test_a_follower_sees_what_is_written_while_it_begins_once(place: Place) -> None:
    writer, reader = place.open(), place.open()
    await writer.record([Entry(message("Q0"), [sent()])])

    async def write() -> None:
        for n in range(1, 21):
            await writer.record([Entry(message(f"Q{n}"), [sent()])])

    writing = asyncio.create_task(write())
    while not writing.done():
        before, cursor = await reader.begin(Search())
        after = (await reader.follow(cursor)).rows
        seen = [row.message.queue_id for row in (*reversed(before), *after)]
        assert seen == [f"Q{n}" for n in range(len(seen))]
    await writing


async def test_what_is_old_is_deleted_in_small_steps(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sqlite_record", "postgres_record"):
        monkeypatch.setattr(f"smtp2cf.journal.{module}.AT_ONCE", 3)
    entries = [
        Entry(
            message(f"Q{n}", at=NOON + n, original_id=f"{n}@host"),
            [sent(at=NOON + n, message_id=f"c{n}@host")],
        )
        for n in range(8)
    ]
    late = Step(NOON + 7, Kind.EVENT_BOUNCED, ("anna@example.org",), "550 5.1.1 nobody")
    await journal.record(
        entries, [Action(NOON, "operator.hold", "root", {}), Action(NOON + 9, "operator.retry", "me", {})]
    )
    await journal.record([Entry(message("Q0"), [late])])
    steps = 1
    while await journal.prune(NOON + 6, NOON + 1):
        steps += 1
    assert steps >= 3
    assert await found(journal) == ["Q7 anna@example.org", "Q6 anna@example.org"]
    assert [action.who for action in await journal.actions(0)] == ["me"]
    assert await found(journal, message_id="c7@host") == ["Q7 anna@example.org"]
    assert not await journal.prune(NOON + 6, NOON + 1)
    await journal.record([Entry(message("Q9"), [sent()])])
    assert await found(journal, recipient="anna", limit=1) == ["Q9 anna@example.org"]


async def test_a_person_is_forgotten(journal: Journal) -> None:
    anna, ben = "anna@example.org", "ben@example.org"
    named = f"550 5.1.1 <{anna}>: nobody"
    await journal.record(
        [
            Entry(message("Q1", anna, ben), [Step(NOON, Kind.BOUNCED, (anna,), named)]),
            Entry(message("Q2", ben, sender="Anna@example.org"), [sent(ben)]),
            Entry(message("Q3", ben, header_from=anna), [sent(ben)]),
            Entry(message("Q4", ben), [Step(NOON, Kind.BOUNCED, (ben,), named)]),
            Entry(message("Q5"), [sent()]),
        ],
        [Action(NOON, "operator.delete", "root", {"to": "anna@example.org"})],
    )  # fmt: skip
    assert await journal.forget("anna@example.org") == (4, 2)
    assert await found(journal) == ["Q4 ben@example.org", "Q1 ben@example.org"]
    assert await journal.story("Q5") is None
    texts = f"{await journal.search(Search())} {await journal.actions(0)} {await journal.story('Q4')}"
    assert "anna" not in texts
    assert "forgotten" in texts
    await journal.record([Entry(message("Q6"), [Step(NOON, Kind.BOUNCED, ("anna@example.org",), named)])])
    assert (await journal.search(Search(queue_id="Q6")))[0].reply == named


MENTIONS = [
    # A text, and whether it names anna@bücher.example.
    ("550 no <anna@b\u00fccher.example>.", True),
    ("anna@xn--bcher-kva.example", True),
    ("<Anna@XN--BCHER-KVA.Example>", True),
    ("rfc822;ANNA@B\u00fccher.example", True),
    ("joanna@b\u00fccher.example", False),
    ("x.anna@b\u00fccher.example", False),
    ("anna@b\u00fccher.example.org", False),
    ("anna@b\u00fccher.examples", False),
]


async def test_a_person_is_forgotten_in_every_spelling_and_nobody_else_is(journal: Journal) -> None:
    await journal.record(
        [
            Entry(message(f"Q{n}", "ben@x", header_from=text), [Step(NOON, Kind.BOUNCED, ("ben@x",), text)])
            for n, (text, _) in enumerate(MENTIONS)
        ]
        + [
            Entry(message(f"R{n}", "ben@x"), [Step(NOON, Kind.BOUNCED, ("ben@x",), f"to {text}")])
            for n, (text, _) in enumerate(MENTIONS)
        ]
    )
    await journal.forget("anna@b\u00fccher.example")
    left = {row.message.queue_id: row.reply for row in await journal.search(Search())}
    for number, (text, is_named) in enumerate(MENTIONS):
        assert (left[f"R{number}"] == f"to {text}") is not is_named
        assert ("(forgotten)" in left[f"R{number}"]) is is_named
        is_sender = is_named and "550" not in text and "<" not in text and ";" not in text
        assert (f"Q{number}" in left) is not is_sender


async def test_minutes_are_tallied(journal: Journal) -> None:
    await journal.record(
        [Entry(message("Q1", "a@x", "b@x"), [sent("a@x", "b@x")]), Entry(message("Q2"), [sent()])]
    )
    await journal.record([Entry(message("Q3"), [sent(at=NOON + 1)])])
    minute = NOON // 60 * 60
    assert await journal.tallies(NOON - 60, NOON + 60) == [(minute, "sent", 4)]
    assert await journal.tallies(NOON + 61, NOON + 120) == []


async def test_whatever_is_in_a_text_is_stored(journal: Journal) -> None:
    odd = "\x00\ud800\n" + "é" * 5000
    said = message("Q1", 'a"\x00@x', "b", sender="\udcff@\udcff", subject=odd, original_id=odd, helo=odd)
    await journal.record([Entry(said, [Step(NOON, Kind.SENT, ("b", "nobody@x"), odd, odd, 1, odd)])])
    (row, _) = await journal.search(Search())
    assert (row.recipient, row.status) == ("b", "sent")
    assert await found(journal, message_id=odd) == ["Q1 b", 'Q1 a"?@x']
    for name in (odd, "\udcff", "\udcff@x"):
        assert await journal.story(name) is None
        assert await found(journal, queue_id=name) == []
        assert await journal.forget(name) == (0, 0)


async def test_there_is_a_journal_only_where_one_was_made(place: Place) -> None:
    with pytest.raises(JournalError, match="'smtp2cf serve' creates it"):
        await place.open(create=False).search(Search())
    with pytest.raises(JournalError):
        await place.open(create=False).record([Entry(message(), [])])
    await place.open().record([])
    assert await place.open(create=False).search(Search()) == []
    assert await place.open(create=False).size() > 0


def test_numbers_are_for_good() -> None:
    assert len({meaning.number for meaning in MEANING.values()}) == len(Kind)
    assert set(STATUS_NUMBERS) == set(Status)
    assert len(set(STATUS_NUMBERS.values())) == len(Status)


def test_addresses_are_compared_as_they_are_sent() -> None:
    assert Address.of("A@EXAMPLE.org.") == ("A", "example.org")
    assert Address.of("a@bücher.example") == ("a", "xn--bcher-kva.example")
    assert str(Address.of("postmaster")) == "postmaster"


async def _change(place: Place, *statements: str) -> None:
    """Change a journal as a newer bridge might."""
    if isinstance(place.spool, Path):
        connection = sqlite3.connect(place.spool.with_name("journal.sqlite3"))
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()
    else:
        import asyncpg

        server = await asyncpg.connect(place.spool)
        for statement in statements:
            await server.execute(statement.replace("ALTER TABLE ", "ALTER TABLE smtp2cf_journal_"))
        await server.close()


async def test_a_newer_bridges_journal_is_used_unless_it_needs_more(place: Place) -> None:
    await place.open().record([Entry(message("Q1"), [sent()])])
    table = "journal" if isinstance(place.spool, Path) else "smtp2cf_journal"
    await _change(place, f"UPDATE {table} SET version = 99", "ALTER TABLE message ADD COLUMN more INTEGER")
    older = place.open()
    await older.record([Entry(message("Q2"), [sent()])])
    assert await found(older) == ["Q2 anna@example.org", "Q1 anna@example.org"]
    needs = "PRAGMA user_version = 99" if table == "journal" else f"UPDATE {table} SET min_reader = 99"
    await _change(place, needs)
    with pytest.raises(JournalError, match="newer smtp2cf"):
        await place.open().record([Entry(message("Q3"), [])])
