"""What only the SQLite spool has: a file, its modes, its lock, a disk that is full."""

import asyncio
import os
import resource
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.spool import (
    Action,
    Filter,
    SpoolError,
    SpoolFull,
    SpoolUnavailable,
    open_spool,
    sqlite_file,
    sqlite_schema,
)
from tests.spool.conftest import Backend, new_mail
from tests.spool.inside import renew
from tests.spool.test_survival import line, victim
from tests.support.waiting import PATIENCE


def file_of(backend: Backend) -> Path:
    return backend.state_dir / "spool.sqlite3"


# --- the file


async def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "var" / "state"
    before = os.umask(0)
    try:
        spool = await open_spool("", state_dir=directory)
        await spool.put(new_mail())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes.pop("spool.sqlite3-shm") == 0o600
    assert modes == dict.fromkeys(
        (
            "spool.sqlite3",
            "spool.sqlite3-wal",
            "spool.sqlite3.lock",
            "spool.sqlite3.notes",
            "spool.sqlite3.reserve",
        ),
        0o600,
    )
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    await spool.close()


@pytest.mark.parametrize("slashes", ["sqlite://", "sqlite:///"])
async def test_the_url_names_the_file(tmp_path: Path, slashes: str) -> None:
    spool = await open_spool(f"{slashes}{tmp_path}/mail.db", state_dir=tmp_path / "elsewhere")
    await spool.close()
    assert (tmp_path / "mail.db").exists()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("url", ["mysql://host/db", "none", "/var/lib/spool"])
async def test_any_other_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SpoolError, match=r"invalid spool URL .*: use sqlite:///path or postgresql://"):
        await open_spool(url, state_dir=tmp_path)


async def refused(backend: Backend) -> str:
    with pytest.raises(SpoolError) as raised:
        await backend.open()
    assert "\n" not in str(raised.value)
    return str(raised.value)


async def test_a_newer_schema_is_refused(sqlite: Backend) -> None:
    await sqlite.close(await sqlite.open())
    with sqlite3.connect(file_of(sqlite)) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    knows = f"it needs schema 99, this one knows {len(sqlite_schema.MIGRATIONS)}"
    assert f"written by a newer smtp2cf ({knows})" in await refused(sqlite)


async def test_an_older_schema_is_migrated(sqlite: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = await sqlite.open()
    mail = new_mail()
    await spool.put(mail)
    await sqlite.close(spool)
    newer = (*sqlite_schema.MIGRATIONS, "ALTER TABLE mail ADD COLUMN mood TEXT NOT NULL DEFAULT 'good'")
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", newer)
    spool = await sqlite.open()
    assert [item.envelope async for item in spool.items()] == [mail.envelope]
    await spool.put(new_mail())
    with sqlite3.connect(file_of(sqlite)) as connection:
        assert connection.execute("SELECT mood FROM mail").fetchall() == [("good",), ("good",)]
        assert connection.execute("SELECT version FROM schema").fetchone() == (len(newer),)
    connection.close()


async def test_a_migration_that_fails_changes_nothing(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sqlite.close(await sqlite.open())
    newer = (
        *sqlite_schema.MIGRATIONS,
        "ALTER TABLE mail ADD COLUMN mood TEXT; ALTER TABLE mial ADD COLUMN x TEXT",
    )
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", newer)
    assert "no such table: mial" in await refused(sqlite)
    monkeypatch.undo()
    await (await sqlite.open()).put(new_mail())


async def test_a_file_that_is_no_database_is_refused(sqlite: Backend) -> None:
    file_of(sqlite).write_bytes(b"From MAILER-DAEMON\n" * 1000)
    assert "file is not a database" in await refused(sqlite)


async def test_a_damaged_file_is_refused(sqlite: Backend) -> None:
    await sqlite.close(await sqlite.open())
    with file_of(sqlite).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)
    assert str(file_of(sqlite)) in await refused(sqlite)


async def test_the_database_of_something_else_is_refused_and_left_alone(sqlite: Backend) -> None:
    with sqlite3.connect(file_of(sqlite)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = file_of(sqlite).read_bytes()
    assert "is another program's database" in await refused(sqlite)
    assert file_of(sqlite).read_bytes() == before


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="cannot create the spool's directory"):
        await open_spool("", state_dir=tmp_path / "file" / "state")


async def test_a_command_makes_no_spool_and_migrates_none(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpoolError, match="there is no spool at"):
        await sqlite.open(serve=False)
    assert list(sqlite.state_dir.iterdir()) == []
    await sqlite.close(await sqlite.open())
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, "CREATE TABLE x (y)"))
    with pytest.raises(SpoolError, match="has an older schema: start 'smtp2cf serve' to update it"):
        await sqlite.open(serve=False)


# --- the lock


async def test_a_second_one_that_serves_is_told_who_does(sqlite: Backend) -> None:
    async with victim("serve", sqlite) as first:
        await line(first)
        message = await refused(sqlite)
        assert f"in use by pid {first.pid} on {os.uname().nodename} since 2" in message
        assert str(file_of(sqlite)) + ".lock" in message
        first.kill()
        await first.wait()
        await sqlite.open()


async def test_commands_need_no_lock(sqlite: Backend) -> None:
    async with victim("serve", sqlite) as first:
        await line(first)
        command = await sqlite.open(serve=False)
        assert await command.count() == 0


async def test_a_command_does_not_take_what_is_claimed(sqlite: Backend) -> None:
    serving = await sqlite.open()
    await serving.put(new_mail(claimed=True, attempts=1))
    command = await sqlite.open(serve=False)
    (item,) = [item async for item in command.items()]
    await sqlite.close(command)
    assert await serving.settle(item.queue_id, {})


async def test_closing_lets_the_lock_go(sqlite: Backend) -> None:
    await sqlite.close(await sqlite.open())
    await sqlite.open(serve=True)


# --- a disk that is full, or gone


async def test_a_full_disk_refuses_mail_until_there_is_room(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite_file.connect_writer

    def small_disk(path: Path, **options: Any) -> sqlite3.Connection:
        connection = connect(path, **options)
        connection.execute("PRAGMA max_page_count = 600")
        return connection

    monkeypatch.setattr(sqlite_file, "connect_writer", small_disk)
    spool = await sqlite.open()
    small, large = new_mail(b"x" * 100_000), new_mail(b"x" * 2_000_000)
    results = await asyncio.gather(spool.put(small), spool.put(large), return_exceptions=True)
    assert results[0] is None
    assert isinstance(results[1], SpoolFull)
    assert str(results[1].reply) == "452 4.3.1 the spool takes no more mail: database or disk is full"
    more = [new_mail(b"x" * 100_000) for _ in range(20)]
    results = await asyncio.gather(*map(spool.put, more), return_exceptions=True)
    assert {type(result) for result in results} == {type(None), SpoolFull}
    await spool.check()
    assert {len(await spool.read(item.queue_id)) async for item in spool.items()} == {100_000}
    async for _ in spool.apply(Action.DELETE, Filter()):
        pass
    await spool.put(new_mail(b"x" * 500_000))


async def test_a_file_that_may_not_grow_refuses_mail_until_it_may(sqlite: Backend) -> None:
    spool = await sqlite.open()
    first, second = new_mail(b"x" * 1000), new_mail(b"y" * 3_000_000)
    await spool.put(first)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(SpoolFull):
            await spool.put(second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [item.queue_id async for item in spool.items()] == [first.envelope.queue_id]
    await spool.put(second)
    assert await spool.read(second.envelope.queue_id) == second.message


async def test_another_writer_that_does_not_end_is_an_error(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.1)
    spool = await sqlite.open()
    connection = sqlite3.connect(file_of(sqlite), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(*(spool.put(new_mail()) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [SpoolUnavailable] * 5
    connection.close()
    await spool.put(new_mail())


# --- speed and size


async def test_due_mail_is_found_by_index(sqlite: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []
    monkeypatch.setattr(sqlite_file, "connect_writer", _spied(sqlite_file.connect_writer, statements))
    spool = await sqlite.open()
    await spool.put(new_mail())
    assert len(await spool.claim(10)) == 1
    lookups = [statement for statement in statements if statement.startswith("SELECT id FROM mail")]
    assert len(lookups) == 2
    with sqlite3.connect(file_of(sqlite)) as connection:
        for statement in lookups:
            plan = " ".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement))
            assert plan.startswith("SEARCH mail USING INDEX mail_due_"), plan
            assert "TEMP B-TREE" not in plan
    connection.close()


def _spied(connected: Any, statements: list[str]) -> Any:
    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connected(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    return connect


async def test_claiming_and_listing_read_no_message(sqlite: Backend) -> None:
    spool = await sqlite.open()
    await spool.put(new_mail())
    await sqlite.close(spool)
    with sqlite3.connect(file_of(sqlite)) as connection:
        connection.execute("DROP TABLE message")
    connection.close()
    spool = await sqlite.open()
    assert len([item async for item in spool.items()]) == 1
    assert len(await spool.claim(1)) == 1
    assert await spool.totals()


async def test_the_file_does_not_grow_for_ever(sqlite: Backend) -> None:
    spool = await sqlite.open()
    sizes = []
    for _ in range(10):
        await asyncio.gather(*(spool.put(new_mail(b"x" * 20_000)) for _ in range(200)))
        while claimed := await spool.claim(50):
            await asyncio.gather(*(spool.settle(item.queue_id, {}) for item in claimed))
        sizes.append(sum(path.stat().st_size for path in sqlite.state_dir.iterdir()))
    # The log has its full size, 16 MB, after four rounds of 4 MB.
    assert max(sizes[5:]) < 1.1 * sizes[4]


async def test_room_is_given_back_to_the_disk(sqlite: Backend) -> None:
    spool = await sqlite.open()
    for _ in range(12):
        await spool.put(new_mail(b"x" * 4_000_000))
    async for _ in spool.apply(Action.DELETE, Filter()):
        pass
    await renew(spool)
    await sqlite.close(spool)
    assert file_of(sqlite).stat().st_size < 20_000_000


async def test_a_file_that_gives_no_room_back_is_left_in_peace(sqlite: Backend) -> None:
    """One that a DBA rebuilt without auto_vacuum, and without the write-ahead log."""
    await sqlite.close(await sqlite.open())
    with sqlite3.connect(file_of(sqlite), isolation_level=None) as connection:
        for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA auto_vacuum = NONE", "VACUUM"):
            connection.execute(statement)
    connection.close()
    spool = await sqlite.open()
    await spool.put(*(new_mail(b"x" * 4_000_000) for _ in range(5)))
    assert file_of(sqlite).with_name("spool.sqlite3-wal").exists()
    async for _ in spool.apply(Action.DELETE, Filter()):
        pass
    await asyncio.wait_for(renew(spool), PATIENCE)


async def test_memory_does_not_grow_with_the_queue(sqlite: Backend) -> None:
    script = """
import asyncio, resource, sys
from pathlib import Path
from smtp2cf.spool import open_spool
from tests.spool.conftest import new_mail
async def main():
    spool = await open_spool("", state_dir=Path(sys.argv[1]))
    async def put(count):
        for _ in range(count):
            await spool.put(new_mail(b"x" * 16384))
    async def most():
        await asyncio.gather(*(put(20) for _ in range(20)))
        [item.queue_id async for item in spool.items()]
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = await most()
    for _ in range(9):
        after = await most()
    print(after - before)
    await spool.close()
asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, str(sqlite.state_dir)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert int(done.stdout) < 20_000  # KiB, for 3,600 messages more, which have 59 MB


async def test_a_queue_id_that_other_mail_has_is_no_250(sqlite: Backend) -> None:
    spool = await sqlite.open()
    first, innocent = new_mail(b"Subject: first\r\n\r\n"), new_mail()
    same = new_mail(b"Subject: second\r\n\r\n", queue_id=first.envelope.queue_id)
    await spool.put(first)
    refused, with_it, kept, again = await asyncio.gather(
        spool.put(same),
        spool.put(new_mail(), same),
        spool.put(innocent),
        spool.put(first),
        return_exceptions=True,
    )
    for error in (refused, with_it):
        assert isinstance(error, SpoolUnavailable)
        assert "belongs to other mail" in error.reply.text
    assert (kept, again) == (None, None)
    assert [item.envelope async for item in spool.items()] == [first.envelope, innocent.envelope]
    assert await spool.read(first.envelope.queue_id) == first.message
