"""The recorder: what mail events leave in the journal, and that no journal ever stands in the way of mail."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from smtp2cf.envelope import Envelope
from smtp2cf.journal import maillog, recorder
from smtp2cf.journal.record import Entry, JournalError, Message, Search, Step, Story
from smtp2cf.journal.recorder import Recorder, by_hand
from smtp2cf.journal.sqlite_journal import SqliteJournal
from smtp2cf.journal.steps import Kind
from smtp2cf.message.facts import facts
from smtp2cf.reply import BOUNCED, DELIVERED, QUEUED, Reply
from tests.support.each import each

LATER = Reply(451, "4.3.0", "later")
MESSAGE = (
    b"From: A Name <news@example.com>\r\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"Message-ID: <1@h>\r\n\r\nhello"
)


def envelope(*recipients: str, **changes: Any) -> Envelope:
    known = {"client": "192.0.2.1", "auth_user": "app", "helo": "host", **changes}
    return Envelope(reverse_path="a@example.com", forward_paths=recipients or ("b@x",), **known)


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Recorder]:
    """What keeps a journal; it writes when a test says so."""
    one = Recorder(SqliteJournal(tmp_path / "journal.sqlite3"), facts, days=14, subjects=True)
    maillog.record_with(one)
    yield one
    maillog.record_with(None)
    await one.journal.close()


async def story(kept: Recorder, queue_id: str) -> Story:
    await kept.write()
    found = await kept.journal.story(queue_id)
    assert found is not None
    return found


async def test_a_message_is_recorded_with_what_is_known_of_it(kept: Recorder) -> None:
    mail = envelope("b@x", "c@x")
    maillog.kept(mail, "queued", message=MESSAGE)
    outcomes = {"b@x": QUEUED, "c@x": LATER}
    maillog.attempted(
        mail, outcomes, {"b@x": "<1@cf>"}, original_id="<1@h>", size=9, attempts=1, message=MESSAGE
    )
    found = await story(kept, mail.queue_id)
    assert found.message._replace(received_at=0) == (
        mail.queue_id, 0, "a@example.com", ("b@x", "c@x"), "192.0.2.1", "app", "host", "", len(MESSAGE),
        "news@example.com", "1@h", "", "Grüße", "",
    )  # fmt: skip
    assert found.recipients == {"b@x": "queued", "c@x": "deferred"}
    assert [step[1:] for step in found.steps] == [
        ("kept", (), "", "", 0, "queued"),
        ("queued", ("b@x",), str(QUEUED), "1@cf", 1, ""),
        ("deferred", ("c@x",), str(LATER), "", 1, ""),
    ]


class Dsn:
    def __init__(self, about: str) -> None:
        self.envelope = Envelope(reverse_path="", forward_paths=("a@example.com",), dsn_for=about)
        self.message = b"Subject: Undelivered\r\n\r\n"


EVENTS: dict[str, tuple[Callable[[Envelope], object], tuple[str, str, str], str]] = {
    "refused": (
        lambda mail: maillog.refused(mail, BOUNCED, MESSAGE),
        ("bounced", str(BOUNCED), ""),
        "bounced",
    ),
    "kept": (lambda mail: maillog.kept(mail, "why", message=MESSAGE), ("kept", "", "why"), "kept"),
    "expired": (
        lambda mail: maillog.expired(mail, {"b@x": LATER}, size=1, attempts=3),
        ("expired", str(LATER), ""),
        "expired",
    ),
    "held": (lambda mail: maillog.held(mail, "a fault"), ("held", "", "a fault"), "held"),
    "undeliverable": (
        lambda mail: maillog.reported(mail, dsns=(), undeliverable=True),
        ("unreported", "", ""),
        "kept",
    ),
    "repeated": (
        lambda mail: maillog.answer_repeated(mail, QUEUED),
        ("repeated", str(QUEUED), ""),
        "repeated",
    ),
    "repaired": (
        lambda mail: maillog.repaired(mail, ["Received", "From"]),
        ("repaired", "", "Received, From"),
        "kept",
    ),
    "unanswered": (lambda mail: maillog.possible_duplicate(mail, ["b@x"]), ("unanswered", "", "b@x"), "kept"),
}


async def test_each_event_is_a_step(kept: Recorder) -> None:
    async def check(event: str) -> None:
        note, (kind, reply, detail), status = EVENTS[event]
        mail = envelope()
        note(mail)
        found = await story(kept, mail.queue_id)
        (step,) = found.steps
        assert (step.kind, step.reply, step.detail) == (kind, reply, detail)
        assert found.recipients == {"b@x": status}

    for event in EVENTS:
        await check(event)


async def test_a_dsn_is_found_from_what_it_is_about(kept: Recorder) -> None:
    mail = envelope()
    dsn = Dsn(mail.queue_id)
    maillog.reported(mail, dsns=[dsn])
    found = await story(kept, mail.queue_id)
    assert found.dsns == [dsn.envelope.queue_id]
    assert found.steps[0].detail == dsn.envelope.queue_id
    maillog.attempted(dsn.envelope, {"a@example.com": DELIVERED}, {}, original_id="", size=1)
    about = await story(kept, dsn.envelope.queue_id)
    assert about.message.parent == mail.queue_id
    assert about.recipients == {"a@example.com": "sent"}


async def test_rewritten_mail_is_recorded_as_both(kept: Recorder) -> None:
    mail = envelope("ops@x", given_reverse_path="root", given_forward_paths={"ops@x": ("root", "admin")})
    maillog.attempted(mail, {"ops@x": DELIVERED}, {}, original_id="", size=1)
    maillog.attempted(mail, {"ops@x": DELIVERED}, {}, original_id="", size=1)
    found = await story(kept, mail.queue_id)
    assert found.message.sender == "root"
    assert [(step.kind, step.detail) for step in found.steps] == [
        ("rewritten", "sent as <a@example.com> instead of <root>, to <ops@x> instead of <root>, <admin>"),
        ("sent", ""),
        ("sent", ""),
    ]


async def test_what_operators_do_is_recorded_of_mail_that_is_known(kept: Recorder) -> None:
    mail = envelope()
    maillog.kept(mail, "queued", message=MESSAGE)
    await kept.write()
    with capture_logs() as lines:
        kept.act("operator.hold", "root", {"queue_ids": [mail.queue_id]})
    assert [(line["event"], line["who"]) for line in lines] == [("operator.hold", "root")]
    await kept.journal.record(
        [by_hand(Kind.HELD, mail.queue_id, "root"), by_hand(Kind.HELD, "unknown", "root")]
    )
    for _ in range(2 * recorder.LOGINS_A_MINUTE):
        maillog.login("192.0.2.1", "eve", "failure", "wrong password")
    found = await story(kept, mail.queue_id)
    assert (found.steps[-1].kind, found.steps[-1].detail) == ("held", "by root")
    assert await kept.journal.story("unknown") is None
    actions = [(action.name, action.who) for action in await kept.journal.actions(0, limit=100)]
    assert actions[-1] == ("operator.hold", "root")
    assert actions[:-1] == [("auth.failed", "eve")] * recorder.LOGINS_A_MINUTE


# ---- a journal that can't be written


async def rows(kept: Recorder) -> int:
    return len(await kept.journal.search(Search(limit=10_000)))


def send(count: int = 1) -> None:
    for _ in range(count):
        maillog.kept(envelope(), "queued", message=MESSAGE)


async def test_a_locked_journal_is_told_of_once_and_catches_up(
    kept: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.journal.sqlite_journal.BUSY_TIMEOUT", 0.01)
    send()
    await kept.write()
    other = sqlite3.connect(tmp_path / "journal.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with capture_logs() as lines:
        for _ in range(3):
            send()
            await kept.write()
    other.execute("ROLLBACK")
    other.close()
    (told,) = [line for line in lines if line["event"].startswith("journal.")]
    assert "locked" in told["reason"]
    with capture_logs() as lines:
        await kept.write()
    assert [line["event"] for line in lines] == ["journal.written_again"]
    assert await rows(kept) == 4


async def test_only_so_much_waits(kept: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MOST", 5)
    monkeypatch.setattr(kept.journal, "_min_free", 1 << 62)
    send(9)
    with capture_logs() as lines:
        await kept.write()
    assert "which are for mail" in lines[0]["reason"]
    monkeypatch.setattr(kept.journal, "_min_free", 0)
    with capture_logs() as lines:
        await kept.write()
    assert [(line["event"], line["left_out"]) for line in lines] == [("journal.written_again", 4)]
    assert await rows(kept) == 5


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def cut(path: Path) -> None:
    octets = path.read_bytes()
    path.write_bytes(octets[:5000] + bytes(5000))


BREAKS: dict[str, tuple[Callable[[Path], object], bool]] = {
    "deleted": (lambda path: [file.unlink() for file in path.parent.glob(f"{path.name}*")], False),
    "moved away": (lambda path: path.rename(path.with_name("elsewhere")), False),
    "another's": (overwrite, True),
    "damaged": (cut, True),
}


@pytest.mark.parametrize("how", BREAKS)
async def test_a_broken_journal_makes_room_for_a_new_one(tmp_path: Path, how: str) -> None:
    path = tmp_path / "journal.sqlite3"
    breaks, aside = BREAKS[how]
    first = Recorder(SqliteJournal(path), facts, days=14)
    maillog.record_with(first)
    send(200)
    await first.write()
    if aside:  # nobody has it open, or SQLite would go on with what it has in memory
        await first.journal.close()
    breaks(path)
    second = Recorder(SqliteJournal(path), facts, days=14) if aside else first
    maillog.record_with(second)
    send(3)
    with capture_logs() as lines:
        await second.write()
    maillog.record_with(None)
    assert await rows(second) == 3
    assert [line["event"] for line in lines] == ["journal.set_aside"] * aside
    assert any(name.startswith("journal.sqlite3.2") for name in os.listdir(tmp_path)) is aside
    assert os.stat(path).st_mode & 0o777 == 0o600
    await second.journal.close()


async def test_a_journal_that_is_damaged_beneath_its_writer_is_found_out_by_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    journal = SqliteJournal(path)
    await journal.record([Entry(Message("Q1", 0, "a@x", ["b@x"]), [])])
    with path.open("r+b") as file:
        file.write(b"x" * 100)
    path.with_name(f"{path.name}-wal").write_bytes(b"")
    with pytest.raises(JournalError, match="not a database"):
        await journal.actions(0)
    await journal.record([Entry(Message("Q2", 0, "a@x", ["b@x"]), [])])
    assert [row.message.queue_id for row in await journal.search(Search())] == ["Q2"]
    await journal.close()


async def test_a_text_that_a_command_has_changed_is_not_used_again(tmp_path: Path) -> None:
    bridge = SqliteJournal(tmp_path / "journal.sqlite3")
    command = SqliteJournal(tmp_path / "journal.sqlite3", create=False)
    for queue_id in ("Q1", "Q2"):
        no = Step(0, Kind.BOUNCED, ["b@x"], "550 not you, <anna@x>")
        await bridge.record([Entry(Message(queue_id, 0, "a@x", ["b@x"]), [no])])
        (row,) = await command.search(Search(queue_id=queue_id))
        assert row.reply == "550 not you, <anna@x>"
        await command.forget("anna@x")
    await command.close()
    await bridge.close()


async def test_what_is_noted_is_written_soon_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Recorder(SqliteJournal(tmp_path / "journal.sqlite3"), facts, days=14)
    written = asyncio.Event()
    record = kept.journal.record

    async def and_tell(*batch: Any) -> None:
        await record(*batch)
        written.set()

    monkeypatch.setattr(kept.journal, "record", and_tell)
    kept.start()
    kept.note(envelope(), Step(0, Kind.KEPT))
    async with asyncio.timeout(30):
        await written.wait()
    kept.note(envelope(), Step(0, Kind.KEPT))
    await kept.close()
    assert await rows(kept) == 2


HEADERS: dict[bytes, tuple[str, str, str]] = {
    b"From: a@x\r\n\r\nFrom: b@x\r\n": ("a@x", "", ""),
    b'From: "b@y, x" <a@x>, c@x\r\n\r\n': ("a@x", "", ""),
    b"FROM : A (comment)\r\n <a@x>\r\n (more)\r\n\r\n": ("a@x", "", ""),
    b"Subject: a\r\n b\r\nsubject: c\r\n\r\n": ("", "", "a b"),
    b"Message-Id:\r\n\t<1@x>\r\n": ("", "1@x", ""),
    b"X-From: a@x\r\n": ("", "", ""),
    b"\r\nFrom: a@x\r\n": ("", "", ""),
    b"From: nobody\r\n": ("", "", ""),
    b"From: \xff\r\nSubject: \x1b[31m\xe2\x80\xae\r\n": ("", "", "[31m"),
    b"": ("", "", ""),
}


@each(("header", "expected"), HEADERS.items())
def test_facts_of_a_header(header: bytes, expected: tuple[str, str, str]) -> None:
    assert facts(header) == expected


async def test_what_comes_while_a_batch_is_written_waits_for_the_next(kept: Recorder) -> None:
    """Else a busy bridge writes a few messages at a time, without a pause."""
    write, batches = kept.journal.record, []

    async def record(entries: Any, actions: Any = ()) -> None:
        batches.append(len(entries))
        if len(batches) < 10:
            maillog.kept(envelope(), "meanwhile", message=MESSAGE)
        await write(entries, actions)

    kept.journal.record = record  # type: ignore[method-assign]
    for _ in range(3):
        maillog.kept(envelope(), "first", message=MESSAGE)
    await kept.write()
    assert batches == [3]
    await kept.write()
    assert batches == [3, 1]
