"""smtp2cf log, trace and forget beside a running bridge; and what a follower lives through."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtp2cf.cli import log as command
from smtp2cf.journal.record import Entry, Message, Row, Search, Step
from smtp2cf.journal.sqlite_journal import SqliteJournal
from smtp2cf.journal.steps import Kind
from tests.cli.actions import actions
from tests.support.bridge import Bridge, running_bridge
from tests.support.command import Done, running, smtp2cf

KEYS = [
    *("time", "queue_id", "from", "to", "status", "what", "reply", "detail", "attempts", "message_id"),
    *(
        "original_message_id",
        "received",
        "client",
        "user",
        "helo",
        "account",
        "size",
        "header_from",
        "subject",
    ),
    "dsn_for",
]
LETTERS = (
    ("app@example.com", ["anna@example.org", "ben+bounce@example.org"]),
    ("cron@example.com", ["carl+error@example.org"]),
    ("app@example.com", ["annabel@example.net"]),
)
ROWS = {"anna@example.org", "ben+bounce@example.org", "carl+error@example.org", "annabel@example.net"}


class Desk:
    """A bridge that has sent some mail, and the commands for its journal."""

    def __init__(self, bridge: Bridge, directory: Path) -> None:
        self.bridge = bridge
        self.directory = directory
        state = {"STATE_DIR": str(directory)}
        with running("log", "--follow", "--json", **state) as follower:
            assert follower.stdout is not None
            with bridge.client() as client:
                for number, (sender, to) in enumerate(LETTERS):
                    header = f"From: N <news@example.com>\r\nMessage-ID: <{number}@host>\r\nSubject: x\r\n"
                    client.sendmail(sender, to, f"{header}\r\nx\r\n")
            self.followed: list[dict] = []
            while not {one for line in self.followed for one in line["to"]} >= {*ROWS, "app@example.com"}:
                self.followed.append(json.loads(follower.stdout.readline()))
                if self.followed[-1]["what"] == "kept":  # the DSN, of which more comes
                    self.followed.pop()
        self.ids = {line["to"][0]: line["queue_id"] for line in self.json()}

    def run(self, *arguments: str) -> Done:
        return smtp2cf(*arguments, STATE_DIR=str(self.directory))

    def json(self, *arguments: str) -> list[dict]:
        done = self.run("log", "--json", *arguments)
        assert done.status == 0, done.err
        return [json.loads(line) for line in done.out.splitlines()]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    directory = tmp_path_factory.mktemp("log")
    settings = {"STATE_DIR": str(directory), "SENDMAIL_DROP_DIR": str(directory / "drop")}
    # Events would change what became of the mail while it is looked at.
    times = {"smtp2cf.journal.recorder:OPERATORS_EVERY": 0.1, "smtp2cf.relay.events:PULL_EVERY": 600.0}
    with running_bridge(directory, constants=times, JOURNAL_SUBJECTS="yes", **settings) as bridge:
        yield Desk(bridge, directory)


def test_json_has_the_same_keys_in_each_line(desk: Desk) -> None:
    lines = desk.json()
    assert {tuple(line) for line in lines} == {tuple(KEYS)}
    anna = next(line for line in lines if line["to"] == ["anna@example.org"])
    known = {"queue_id", "time", "received", "message_id", "client", "helo", "size"}
    assert {name: value for name, value in anna.items() if name not in known} == {
        "from": "app@example.com",
        "to": ["anna@example.org"],
        "status": "sent",
        "what": "sent",
        "reply": "250 2.0.0 delivered",
        "detail": "",
        "attempts": 1,
        "original_message_id": "<0@host>",
        "user": "",
        "account": "",
        "header_from": "news@example.com",
        "subject": "x",
        "dsn_for": "",
    }
    logged = desk.bridge.wait_for_log("mail.attempt", to=["anna@example.org"])
    assert anna["message_id"] == logged["message_id"]
    assert tuple(desk.followed[0]) == tuple(KEYS)


def test_options_choose(desk: Desk) -> None:
    anna = desk.json("--to", "anna@example.org")[0]
    for arguments, wanted in {
        (): 5,
        ("--limit", "2"): 2,
        ("--to", "anna"): 2,
        ("--to", "<anna@example.org>"): 1,
        ("--to", "@example.org"): 3,
        ("--from", "app@example.com"): 3,
        ("--from", "<>"): 1,
        ("--status", "bounced"): 1,
        ("--status", "bounced", "--status", "deferred"): 2,
        ("--since", f"{'9' * 14}d", "--limit", "9" * 20): 5,
        ("--since", "0s"): 0,
        ("--id", anna["queue_id"]): 2,
        ("--message-id", anna["message_id"]): 2,
        ("--message-id", "2@host"): 1,
        ("--to", "anna", "--from", "cron"): 0,
    }.items():
        assert len(desk.json(*arguments)) == wanted, arguments
    assert desk.run("log", "--to", "nobody").out == "no matching mail\n"
    assert desk.run("log", "--since", "soon").status == os.EX_USAGE
    assert desk.run("log", "--status", "lost").status == os.EX_USAGE


def test_the_table_has_a_line_for_each(desk: Desk) -> None:
    head, *lines = desk.run("log", "--to", "@example.net").out.splitlines()
    assert head.split() == ["when", "id", "status", "from", "to", "reply"]
    (line,) = lines
    assert line.split()[2:6] == [
        desk.ids["annabel@example.net"],
        "sent",
        "app@example.com",
        "annabel@example.net",
    ]


def test_a_trace_tells_the_story(desk: Desk) -> None:
    queue_id = desk.ids["anna@example.org"]
    dsn = desk.ids["app@example.com"]
    told = desk.run("trace", queue_id).out
    for said in (
        f"{queue_id}  <app@example.com> → <anna@example.org>, <ben+bounce@example.org>",
        "From:        news@example.com",
        "received          from 127.0.0.1",
        "bounced           attempt 1: <ben+bounce@example.org>: 550 5.1.1",
        f"reported          {dsn}",
        f"DSN               {dsn} to <app@example.com> sent",
        "now  sent              <anna@example.org>",
    ):
        assert said in told, told
    for what in ("<0@host>", "0@host", "anna@example.org"):
        assert desk.run("trace", what).out == told
    (story,) = map(json.loads, desk.run("trace", "--json", queue_id).out.splitlines())
    assert [step["what"] for step in story["steps"]] == ["sent", "bounced", "reported"]
    assert story["dsns"] == [dsn]
    assert f"A DSN about: {queue_id}" in desk.run("trace", dsn).out
    assert desk.run("trace", "nobody@example.org").status == os.EX_NOINPUT
    assert desk.run("trace", " ").status == os.EX_NOINPUT


def test_what_an_operator_does_is_told(desk: Desk) -> None:
    waiting = desk.ids["carl+error@example.org"]
    for action in ("hold", "release", "delete"):
        assert desk.run("queue", action, waiting).status == 0
    (story,) = map(json.loads, desk.run("trace", "--json", waiting).out.splitlines())
    by_hand = [(step["what"], step["detail"].split()[0]) for step in story["steps"] if step["detail"]]
    assert by_hand == [("held", "by"), ("released", "by"), ("deleted", "by")]
    assert story["to"] == [{"address": "carl+error@example.org", "status": "deleted"}]
    for action in ("hold", "release", "delete"):
        line = desk.bridge.wait_for_log(f"operator.{action}")
        assert (line["who"], line["queue_ids"]) == (
            story["steps"][-1]["detail"].removeprefix("by "),
            [waiting],
        )
    done = actions(desk.directory)
    assert [name for name, _ in done] == ["operator.delete", "operator.release", "operator.hold"]
    assert {fields["count"] for _, fields in done} == {1}


def test_a_killed_bridge_leaves_its_journal_and_a_person_is_forgotten(desk: Desk) -> None:
    before = desk.json()
    desk.bridge.stop(signal.SIGKILL)
    assert desk.json() == before
    done = desk.run("forget", "annabel@example.net", "--json")
    assert json.loads(done.out) == {"recipients": 1, "messages_from": 0, "waiting": []}
    assert [line["to"] for line in desk.json("--to", "annabel")] == []
    octets = b"".join(file.read_bytes() for file in desk.directory.glob("journal.sqlite3*"))
    assert b"annabel" not in octets
    assert b"anna" in octets
    assert desk.run("forget", "nobody").status == os.EX_DATAERR


def test_without_a_journal_the_commands_say_so(tmp_path: Path) -> None:
    none = smtp2cf("log", STATE_DIR=str(tmp_path))
    assert (none.status, none.err) == (
        os.EX_UNAVAILABLE,
        f"smtp2cf: there is no journal at {tmp_path}/journal.sqlite3: 'smtp2cf serve' creates it\n",
    )
    off = smtp2cf("trace", "x", STATE_DIR=str(tmp_path), JOURNAL_DAYS="0")
    assert off.status == os.EX_CONFIG
    assert "SMTP2CF_JOURNAL_DAYS is 0" in off.err


async def test_a_follower_survives_a_new_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(command, "EVERY", 0.01)
    monkeypatch.setattr(command, "say", said.put_nowait)
    path = tmp_path / "journal.sqlite3"
    writer, reader = SqliteJournal(path), SqliteJournal(path, create=False)
    seen: asyncio.Queue[Row] = asyncio.Queue()
    which = Search(recipient="@x", limit=1)
    following = asyncio.create_task(command.follow_journal(reader, which, seen.put_nowait))

    async def happens(queue_id: str, to: str = "b@x") -> None:
        message = Message(queue_id, 1e9, "a@example.com", (to,))
        await writer.record([Entry(message, [Step(1e9, Kind.SENT, (to,))])])

    async def next_id() -> str:
        async with asyncio.timeout(30):
            return (await seen.get()).message.queue_id

    assert await said.get() == f"there is no journal at {path}: 'smtp2cf serve' creates it; waiting for it"
    await happens("Q1")
    assert await next_id() == "Q1"
    await happens("Q2")
    assert await next_id() == "Q2"
    await happens("Q3", "b@y")
    for file in (path, path.with_name("journal.sqlite3-wal"), path.with_name("journal.sqlite3-shm")):
        file.unlink()  # the next record makes a new one
    await happens("Q4")
    assert await next_id() == "Q4"
    following.cancel()
    await writer.close()
    await reader.close()
