"""What outlives a kill -9, and what outlives a database that goes away."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smtp2cf.reply import Reply, SendError
from smtp2cf.spool import SpoolUnavailable
from smtp2cf.spool import postgres_database as database
from tests.spool.conftest import Backend, new_mail
from tests.spool.inside import renew
from tests.spool.victim import message_of
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def victim(mode: str, backend: Backend) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.spool.victim", mode, backend.url, backend.state_dir),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    words = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().split()
    assert words
    return words


@pytest.mark.parametrize("acknowledged", [1, 100, 777])
async def test_every_acknowledged_put_survives_whole(backend: Backend, acknowledged: int) -> None:
    async with victim("put", backend) as process:
        ids = [(await line(process))[0] for _ in range(acknowledged)]
        process.kill()
        rest, _ = await process.communicate()
    # What was printed before the kill counts; a last line that was cut off does not.
    ids += rest.decode().split("\n")[:-1]
    spool = await backend.open()
    kept = [item async for item in spool.items()]
    assert set(ids) <= {item.queue_id for item in kept}
    for item in kept:
        assert await spool.read(item.queue_id) == message_of(item.queue_id)
        assert item.size == len(message_of(item.queue_id))


async def test_who_is_killed_gives_up_its_mail_and_leaves_word_of_its_call(backend: Backend) -> None:
    before = await backend.open()
    await before.put(new_mail(), new_mail())
    await backend.close(before)
    async with victim("claim", backend) as process:
        begun, untouched = await line(process)
        process.kill()
        await process.wait()
        after = await backend.open()
        claimed = {item.queue_id: item for item in await after.claim(10)}
        # Who has SQLite's lock knows that the other is dead; with PostgreSQL the lease has to be over.
        assert len(claimed) == (2 if backend.is_sqlite else 0)
        while len(claimed) < 2:
            await after.wait_due(10)
            claimed |= {item.queue_id: item for item in await after.claim(10)}
    assert (claimed[begun].unanswered, claimed[begun].attempts) == (True, 1)
    assert (claimed[untouched].unanswered, claimed[untouched].attempts) == (False, 0)


async def test_a_restart_of_the_database_is_a_pause(postgres: Backend) -> None:
    spool = await postgres.open()
    queue_ids = []
    restarted = asyncio.Event()

    async def put_until_restarted() -> None:
        last = False
        while not last:
            last = restarted.is_set()
            mail = new_mail()
            await spool.put(mail)
            queue_ids.append(mail.envelope.queue_id)

    putting = [asyncio.create_task(put_until_restarted()) for _ in range(5)]
    await asyncio.sleep(0.1)
    await asyncio.to_thread(postgres.server.stop, "immediate")
    await asyncio.to_thread(postgres.server.start)
    restarted.set()
    await asyncio.gather(*putting)
    assert [item.queue_id async for item in spool.items()] == sorted(queue_ids)
    claimed = []
    while batch := await spool.claim(50):
        claimed += [item.queue_id for item in batch]
    assert sorted(claimed) == sorted(queue_ids)


async def test_wake_ups_come_again_after_a_restart(postgres: Backend) -> None:
    waiter, other = await postgres.open(), await postgres.open()
    await asyncio.to_thread(postgres.server.stop)
    await asyncio.to_thread(postgres.server.start)
    waiting = asyncio.create_task(waiter.wait_due(3600))
    await other.put(new_mail())
    await asyncio.wait_for(waiting, PATIENCE)
    assert len(await waiter.claim(5)) == 1


async def test_a_database_that_stays_away_is_an_error_and_then_no_more(
    postgres: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    spool = await postgres.open()
    await spool.put(new_mail(claimed=True, attempts=1))
    (item,) = [item async for item in spool.items()]
    await asyncio.to_thread(postgres.server.stop)
    try:
        mail = new_mail()
        for call in (spool.put(mail), spool.settle(item.queue_id, {}), spool.check(), spool.claim(1)):
            with pytest.raises(SpoolUnavailable) as raised:
                await call
            assert raised.value.reply.code == 451
    finally:
        await asyncio.to_thread(postgres.server.start)
    monkeypatch.undo()
    await spool.put(mail)
    assert await spool.settle(item.queue_id, {"ben@example.org": Reply(250, "2.0.0", "sent")})
    assert [item.queue_id async for item in spool.items()] == [mail.envelope.queue_id]
    assert not [record for record in caplog.records if record.exc_info]  # the driver's own tracebacks


async def test_leases_are_renewed_again_after_an_outage(postgres: Backend) -> None:
    spool, other = await postgres.open(lease=3), await postgres.open()
    await spool.put(new_mail(claimed=True, attempts=1))
    await asyncio.to_thread(postgres.server.stop)
    await asyncio.to_thread(postgres.server.start)
    with contextlib.suppress(SendError):
        await renew(spool)
    await other.wait_due(4)
    assert await other.claim(1) == []
