"""What only the PostgreSQL spool has: a server that refuses, a schema that others made, several replicas."""

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.spool import Action, Filter, SpoolError, SpoolFull, open_spool, postgres_schema
from tests.spool.conftest import Backend, new_mail
from tests.support.waiting import PATIENCE


async def execute(backend: Backend, statement: str) -> Any:
    asyncpg = pytest.importorskip("asyncpg", reason="not installed: asyncpg")
    connection = await asyncpg.connect(backend.url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def refused(url: str, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(SpoolError) as raised:
        await open_spool(url, state_dir=tmp_path, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


async def test_without_asyncpg_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("asyncpg", "smtp2cf.spool.postgres", "smtp2cf.spool.postgres_database"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    message = await refused("postgresql://localhost/mail", tmp_path)
    assert message == "a PostgreSQL spool needs asyncpg: pip install 'smtp2cf[postgres]'"


async def test_a_server_that_is_not_there_is_waited_for_by_who_serves_alone(tmp_path: Path) -> None:
    message = await refused(f"postgresql://mail:secret@/mail?host={tmp_path}", tmp_path, serve=False)
    assert message.startswith("cannot open the spool postgresql://mail:***@/mail")
    assert "secret" not in message


async def test_a_newer_schema_is_refused(postgres: Backend, tmp_path: Path) -> None:
    await postgres.close(await postgres.open())
    await execute(postgres, "UPDATE smtp2cf_spool SET version = 99")
    message = await refused(postgres.url, tmp_path)
    knows = f"it needs schema 99, this one knows {len(postgres_schema.MIGRATIONS)}"
    assert f"written by a newer smtp2cf ({knows})" in message


async def test_an_older_schema_is_migrated(postgres: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = await postgres.open()
    mail = new_mail()
    await spool.put(mail)
    await postgres.close(spool)
    newer = (*postgres_schema.MIGRATIONS, "ALTER TABLE smtp2cf_mail ADD mood text NOT NULL DEFAULT 'good'")
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", newer)
    spool = await postgres.open()
    assert [item.envelope async for item in spool.items()] == [mail.envelope]
    assert [tuple(row) for row in await execute(postgres, "SELECT mood FROM smtp2cf_mail")] == [("good",)]


async def test_several_that_open_a_new_spool_at_once(postgres: Backend) -> None:
    opened = await asyncio.gather(*(postgres.open() for _ in range(4)))
    await opened[0].put(new_mail())
    assert await opened[3].count() == 1


async def test_a_full_disk_refuses_mail_until_there_is_room(postgres: Backend) -> None:
    spool = await postgres.open()
    await execute(
        postgres,
        """CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'could not extend file: disk full' USING ERRCODE = '53100'; END $$""",
    )
    await execute(
        postgres,
        "CREATE TRIGGER disk_full BEFORE INSERT ON smtp2cf_message FOR EACH ROW EXECUTE FUNCTION disk_full()",
    )
    with pytest.raises(SpoolFull) as raised:
        await spool.put(new_mail())
    assert str(raised.value.reply).startswith("452 4.3.1 the spool takes no more mail: could not extend")
    assert await spool.count() == 0
    await execute(postgres, "DROP TRIGGER disk_full ON smtp2cf_message")
    await spool.put(new_mail())


async def test_leases_go_by_the_clock_of_the_database(
    postgres: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await postgres.open()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400)
    await spool.put(new_mail())
    assert len(await spool.claim(1)) == 1


async def test_replicas_share_the_work_and_nothing_is_done_twice(postgres: Backend) -> None:
    replicas = [await postgres.open() for _ in range(3)]
    letters = [new_mail() for _ in range(600)]
    await asyncio.gather(*(replicas[number % 3].put(mail) for number, mail in enumerate(letters)))
    sent: Counter[str] = Counter()

    async def send_all(spool: Any) -> None:
        while await spool.count():
            for item in await spool.claim(10):
                if await spool.begin(item.queue_id):
                    sent[item.queue_id] += 1
                    assert await spool.settle(item.queue_id, {})

    await asyncio.gather(*map(send_all, replicas))
    assert sent == Counter(mail.envelope.queue_id for mail in letters)


async def test_who_waits_is_woken_by_another_replica(postgres: Backend) -> None:
    waiter, other = await postgres.open(), await postgres.open()
    await waiter.wait_due(0.5)  # by then it listens
    waiting = asyncio.create_task(waiter.wait_due(3600))
    await other.put(new_mail(attempts=1, delay=600))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    async for _ in other.apply(Action.RETRY, Filter()):
        pass
    await asyncio.wait_for(waiting, PATIENCE)
    await waiter.claim(1)
    waiting = asyncio.create_task(waiter.wait_due(3600))
    await other.put(new_mail())
    await asyncio.wait_for(waiting, PATIENCE)


async def test_the_memory_is_shared(postgres: Backend) -> None:
    from smtp2cf.reply import Reply
    from smtp2cf.spool import Memory

    here, there = await postgres.open(), await postgres.open()
    assert await here.recall(b"digest") is None
    here.remember(b"digest", Reply(250, "2.0.0", "sent"))
    await postgres.close(here)
    assert await there.recall(b"digest") == Memory(Reply(250, "2.0.0", "sent"))
