"""Schemas change by addition: earlier versions' spools are sent from, and later versions' are started on."""

import asyncio
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from smtp2cf.envelope import Envelope
from smtp2cf.reply import Reply
from smtp2cf.sandbox import Sandbox
from smtp2cf.spool import (
    Action,
    Filter,
    Memory,
    SpoolError,
    Status,
    open_spool,
    postgres_schema,
    sqlite_schema,
)
from tests.spool.conftest import Backend, new_mail
from tests.support.bridge import Bridge, running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN
from tests.support.waiting import PATIENCE

FIXTURES = Path(__file__).with_name("fixtures")
OK = Reply(250, "2.0.0", "Sent")


async def execute(backend: Backend, script: str) -> None:
    if backend.is_sqlite:
        with closing(sqlite3.connect(backend.state_dir / "spool.sqlite3")) as connection:
            connection.executescript(script)
        return
    asyncpg = pytest.importorskip("asyncpg", reason="not installed: asyncpg")
    connection = await asyncpg.connect(backend.url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


async def restore(backend: Backend, fixture: str) -> None:
    """Put the spool of an earlier version in place, as if it had been written an hour ago."""
    if backend.is_sqlite:
        shutil.copy(FIXTURES / fixture, backend.state_dir / "spool.sqlite3")
        mail, memory, now = "mail", "memory", "strftime('%s', 'now')"
        made_at = f"(SELECT max(received_at) FROM {mail})"
    else:
        dump = (FIXTURES / fixture).read_text().replace("public.", "")
        await execute(backend, re.sub(r"SELECT pg_catalog.set_config\('search_path'.*\n", "", dump))
        mail, memory, now = "smtp2cf_mail", "smtp2cf_memory", "extract(epoch FROM now())"
        made_at = "1795676662"
    if fixture == "sqlite-2.sqlite3":  # which has a clock of its own: it stands still over a boot of the host
        await execute(backend, "UPDATE clock SET boot = 'an earlier one'")
        return
    await execute(
        backend,
        f"""
        UPDATE {memory} SET until = until - {made_at} + {now};
        CREATE TABLE shift AS SELECT {now} - 3600 - {made_at} AS seconds;
        UPDATE {mail} SET due = due + (SELECT seconds FROM shift),
            next_attempt = next_attempt + (SELECT seconds FROM shift),
            expires = expires + (SELECT seconds FROM shift),
            received_at = received_at + (SELECT seconds FROM shift);
        DROP TABLE shift;
        """,
    )


@pytest.fixture(params=["sqlite-1.sqlite3", "sqlite-2.sqlite3", "postgres-1.sql"])
def earlier(request: pytest.FixtureRequest) -> tuple[Backend, str]:
    """A place for a spool, and the file of the earlier version's."""
    return request.getfixturevalue(request.param.partition("-")[0]), request.param


async def test_what_an_earlier_version_wrote_is_read(earlier: tuple[Backend, str]) -> None:
    await restore(*earlier)
    spool = await earlier[0].open()
    items = {item.queue_id: item async for item in spool.items()}
    assert items.keys() == {"WAITING", "EVERYTHING", "HELD", "HALF", "UNANSWERED"}
    assert items["WAITING"].status is Status.QUEUED
    assert (items["HELD"].status, items["HELD"].hold_reason) == (Status.HELD, "looks odd")
    assert (items["HALF"].status, items["HALF"].unresolved) == (Status.DEFERRED, ("carl@example.org",))
    assert items["HALF"].outcomes["ben@example.org"] == OK
    assert (items["UNANSWERED"].attempts, items["UNANSWERED"].unanswered) == (1, True)
    assert items["EVERYTHING"].envelope == Envelope(
        reverse_path="anna@example.com",
        forward_paths=("ben@example.org", "carl@example.org"),
        body="8BITMIME",
        smtputf8=True,
        ret="HDRS",
        envid="QQ314159",
        notify={"ben@example.org": "SUCCESS,FAILURE", "carl@example.org": "NEVER"},
        orcpt={"ben@example.org": "rfc822;benjamin@example.org"},
        auth_user="shop",
        client="192.0.2.1",
        helo="host.example.com",
        per_recipient=True,
        received_at=items["EVERYTHING"].envelope.received_at,
        queue_id="EVERYTHING",
    )
    assert not any(item.expired for item in items.values())
    assert await spool.recall(b"digest" * 4, begin=False) == Memory(OK)
    assert b"\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n.\r\n" in (await spool.read("EVERYTHING") or b"")


@contextmanager
def real_bridge(directory: Path, spool_url: str) -> Iterator[tuple[Sandbox, Bridge]]:
    """A bridge that takes a sandbox for Cloudflare: one that knew would not send an earlier bridge's mail."""
    settings = {"API_TOKEN": TOKEN, "ACCOUNT_ID": "0123456789abcdef0123456789abcdef", "SPOOL_URL": spool_url}
    with (
        running_sandbox(token=TOKEN) as (sandbox, url),
        running_bridge(directory, sandbox=False, API_BASE_URL=url, **settings) as bridge,
    ):
        yield sandbox, bridge


def sent_by(sandbox: Sandbox) -> dict[str, list[str]]:
    """What the sandbox took, but reports to the sender: recipients by subject."""
    return {
        message.subject: sorted(message.recipients)
        for message in list(sandbox.messages)
        if list(message.recipients) != ["anna@example.com"]
    }


def wait_until_sent(sandbox: Sandbox, expected: dict[str, list[str]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while (sent := sent_by(sandbox)) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sent == expected


BEN, CARL, DORA = "ben@example.org", "carl@example.org", "dora@example.org"


async def test_what_an_earlier_version_wrote_is_sent(earlier: tuple[Backend, str], tmp_path: Path) -> None:
    await restore(*earlier)
    backend, _ = earlier
    running = real_bridge(tmp_path, backend.url)
    sandbox, bridge = await asyncio.to_thread(running.__enter__)
    try:
        command = await backend.open(serve=False)
        async for _ in command.apply(Action.RETRY, Filter(queue_ids=("HALF", "UNANSWERED"))):
            pass  # they may have gone out by themselves
        expected = {"waiting": [BEN], "everything": [BEN, CARL], "half": [CARL], "unanswered": [DORA]}
        await asyncio.to_thread(wait_until_sent, sandbox, expected)
        assert [ids async for ids in command.apply(Action.RELEASE, Filter(queue_ids=("HELD",)))]
        await asyncio.to_thread(wait_until_sent, sandbox, {**expected, "held": [BEN]})
        (duplicate,) = [line for line in bridge.log() if line["event"] == "mail.possible_duplicate"]
        assert duplicate["queue_id"] == "UNANSWERED"
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


# --- later versions

LATER = {
    "sqlite": """
        ALTER TABLE mail ADD COLUMN mood TEXT NOT NULL DEFAULT 'good';
        ALTER TABLE message ADD COLUMN mood TEXT NOT NULL DEFAULT 'good';
        ALTER TABLE memory ADD COLUMN mood TEXT NOT NULL DEFAULT 'good';
        ALTER TABLE checked ADD COLUMN mood TEXT NOT NULL DEFAULT 'good';
        ALTER TABLE clock ADD COLUMN mood TEXT NOT NULL DEFAULT 'good';
        ALTER TABLE reserve ADD COLUMN mood TEXT NOT NULL DEFAULT 'good';
        ALTER TABLE schema ADD COLUMN mood TEXT NOT NULL DEFAULT 'good';
        ALTER TABLE note ADD COLUMN mood TEXT NOT NULL DEFAULT 'good';
        CREATE TABLE journal (mood TEXT);
        CREATE INDEX mail_mood ON mail (mood);
        UPDATE schema SET version = 99;
        """,
    "postgres": """
        ALTER TABLE smtp2cf_mail ADD mood text NOT NULL DEFAULT 'good';
        ALTER TABLE smtp2cf_message ADD mood text NOT NULL DEFAULT 'good';
        ALTER TABLE smtp2cf_memory ADD mood text NOT NULL DEFAULT 'good';
        ALTER TABLE smtp2cf_reserve ADD mood text NOT NULL DEFAULT 'good';
        ALTER TABLE smtp2cf_note ADD mood text NOT NULL DEFAULT 'good';
        ALTER TABLE smtp2cf_spool ADD mood text NOT NULL DEFAULT 'good';
        CREATE TABLE smtp2cf_journal (mood text);
        CREATE INDEX smtp2cf_mail_mood ON smtp2cf_mail (mood);
        UPDATE smtp2cf_spool SET schema_version = 99;
        """,
}
"""What a later version may do to the schema."""


def kind(backend: Backend) -> str:
    return "sqlite" if backend.is_sqlite else "postgres"


def table(backend: Backend) -> str:
    return "mail" if backend.is_sqlite else "smtp2cf_mail"


async def use(spool: Any) -> None:
    """Everything that writes."""
    mail = new_mail()
    await spool.check()
    await spool.recall(b"one")
    spool.remember(b"one", OK)
    assert await spool.amend("note", lambda text, _: (text + "x", True))
    await spool.put(mail, new_mail(attempts=1))
    claimed = {item.queue_id for item in await spool.claim(10)}
    assert mail.envelope.queue_id in claimed
    for queue_id in claimed:
        assert await spool.begin(queue_id)
        assert await spool.confirm(queue_id)
        assert await spool.read(queue_id)
        assert await spool.settle(queue_id, {BEN: OK}, dsns=[new_mail(is_dsn=True)])
    assert [ids async for ids in spool.apply(Action.HOLD, Filter())]
    assert [ids async for ids in spool.apply(Action.RELEASE, Filter())]
    assert [ids async for ids in spool.apply(Action.DELETE, Filter())]
    assert await spool.count() == 0


async def test_a_later_versions_spool_is_used(backend: Backend) -> None:
    spool = await backend.open()
    mail = new_mail(outcomes={BEN: Reply(451, "4.4.1", "later")}, attempts=1)
    await spool.put(mail)
    await spool.check()
    await backend.close(spool)
    await execute(backend, LATER[kind(backend)])
    later_fields = f"""UPDATE {table(backend)} SET
        envelope = replace(envelope, '{{"queue_id"', '{{"mood":"good","queue_id"'),
        outcomes = replace(outcomes, '"later"', '"later","good"')"""
    await execute(backend, later_fields)
    spool = await backend.open(serve=True)
    (item,) = [item async for item in spool.items()]
    assert (item.envelope, item.outcomes) == (mail.envelope, mail.outcomes)
    await use(spool)
    await use_numbers(backend, 99)


async def use_numbers(backend: Backend, version: int) -> None:
    """The version stays what the later one wrote."""
    where = "schema" if backend.is_sqlite else "smtp2cf_spool"
    column = "version" if backend.is_sqlite else "schema_version"
    await execute(backend, f"CREATE TABLE proof AS SELECT 1 / ({column} / {version}) AS is_kept FROM {where}")


async def test_a_replica_goes_on_while_another_brings_the_schema_up_to_date(postgres: Backend) -> None:
    spool = await postgres.open()
    await use(spool)
    await execute(postgres, LATER["postgres"])
    await use(spool)
    await use(await postgres.open())


@pytest.mark.parametrize("opening", ["bridge", "command"])
async def test_an_older_version_starts_as_far_as_min_reader_allows(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, opening: str
) -> None:
    schema: ModuleType = sqlite_schema if backend.is_sqlite else postgres_schema
    await backend.close(await backend.open())
    for known in range(1, len(schema.MIGRATIONS) + 1):
        with monkeypatch.context() as patched:
            patched.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:known])
            if known < schema.MIN_READER:
                with pytest.raises(SpoolError, match=f"it needs schema {schema.MIN_READER}, this one knows"):
                    await open_spool(backend.url, state_dir=backend.state_dir, serve=opening == "bridge")
                continue
            spool = await backend.open(serve=opening == "bridge")
            await use(spool)
            await backend.close(spool)
    await use_numbers(backend, len(schema.MIGRATIONS))


ADDITION = re.compile(
    r"CREATE (TABLE|INDEX) |ALTER TABLE \w+ ADD COLUMN (?!.* NOT NULL$)|INSERT INTO |$", re.DOTALL
)


@pytest.mark.parametrize("schema", [sqlite_schema, postgres_schema])
def test_migrations_that_older_versions_need_not_know_only_add(schema: ModuleType) -> None:
    for migration in schema.MIGRATIONS[schema.MIN_READER :]:
        for statement in migration.split(";"):
            assert ADDITION.match(statement.strip()), f"raise MIN_READER: {statement}"
