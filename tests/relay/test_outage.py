"""What is away comes back: the API, the disk, the database. Everything arrives, once, within the limit."""

import asyncio
import itertools

import pytest

from smtp2cf.listen.endpoint import Endpoint, bound, listen
from smtp2cf.relay import RetryPolicy
from smtp2cf.sandbox import Sandbox
from smtp2cf.sandbox.limits import RateLimit
from smtp2cf.spool import postgres_database
from tests.relay.world import Api, Call, delivered, world
from tests.spool.conftest import Backend, new_mail
from tests.spool.inside import ask_writer
from tests.support.waiting import PATIENCE

RETRY = RetryPolicy(minimum=0.2, maximum=0.5, expire_after=3600)


async def test_after_an_outage_everything_arrives_once(backend: Backend, api: Api) -> None:
    await api.stop()
    async with world(await backend.open(), api, retry=RETRY) as here:
        for number in range(30):
            assert "kept for another attempt" in await here.accept(f"n{number}@example.org")
        assert {str(item.last_reply)[:9] for item in await here.items()} == {"451 4.4.1"}
        await api.start()
        await here.until_empty()
    assert sorted(call.recipients[0] for call in api.calls) == sorted(f"n{n}@example.org" for n in range(30))


async def test_an_api_that_answers_half_gets_no_mail_twice_that_it_took(sqlite: Backend, api: Api) -> None:
    """Every third call breaks before the mail is taken, and its connection with it."""
    taken: list[str] = []
    turns = itertools.count()

    async def half(call: Call):
        if next(turns) % 3 == 0:
            raise ConnectionResetError
        taken.extend(call.recipients)
        return await delivered(call)

    api.answer = half
    async with world(await sqlite.open(), api, retry=RETRY, mode="queue") as here:
        for number in range(30):
            await here.accept(f"n{number}@example.org")
        await here.until_empty()
    assert sorted(taken) == sorted(f"n{number}@example.org" for number in range(30))


async def test_the_queue_drains_in_order_and_within_the_limit(sqlite: Backend, api: Api) -> None:
    sandbox = Sandbox(token=None, rate_limit=RateLimit(calls=20, window=2.0, block=2.0), keep=1000)
    sockets = listen(Endpoint("127.0.0.1", 0))
    await sandbox.start(sockets)
    api.url = f"http://{bound(sockets, Endpoint('127.0.0.1', 0))}/client/v4"
    try:
        async with world(await sqlite.open(), api, retry=RETRY, mode="queue", reply_timeout=10) as here:
            await here.spool.put(
                *(new_mail(forward_paths=(f"n{number}@example.org",)) for number in range(50))
            )
            await here.until_empty()
        came = [int(message.recipients[0][1:].partition("@")[0]) for message in sandbox.messages]
        assert sorted(came) == list(range(50))
        assert all(abs(place - number) < 30 for place, number in enumerate(came)), "not upside down"
        # A call may come late, and find the window full that had room when it went out.
        assert [call.status for call in sandbox.calls].count(429) <= 10
    finally:
        await sandbox.stop()


async def test_new_mail_does_not_wait_behind_the_old(sqlite: Backend, api: Api) -> None:
    may_end = asyncio.Semaphore(0)

    async def slow(call: Call):
        if call.recipients[0].startswith("old"):
            await may_end.acquire()
        return await delivered(call)

    api.answer = slow
    async with world(await sqlite.open(), api, retry=RetryPolicy(parallel=5)) as here:
        old = [new_mail(forward_paths=(f"old{number}@example.org",), attempts=1) for number in range(300)]
        await here.spool.put(*old)
        await api.wait_for(5)
        assert "delivered" in await here.accept("new@example.org")
        assert await here.spool.count() == 300
        await here.spool.put(new_mail(forward_paths=("put@example.org",)))
        ended = 0
        while not any(call.recipients == ["put@example.org"] for call in api.calls):
            may_end.release()
            ended += 1
            await api.wait_for(6 + ended)
        assert ended <= 10
        for _ in old:
            may_end.release()


async def test_a_full_disk_is_452_and_passes(sqlite: Backend, api: Api) -> None:
    spool = await sqlite.open()
    async with world(spool, api, mode="queue") as here:
        pages = await ask_writer(spool, "PRAGMA max_page_count = 1")
        large = b"x" * 2_000_000 + b"\r\n"
        assert (await here.accept(message=large)).startswith("452 4.3.1 the spool takes no more mail")
        assert await here.items() == []
        await ask_writer(spool, f"PRAGMA max_page_count = {pages + 10_000}")
        # Other mail: the same would wait to hear whether the client has its 452, which nothing here says.
        assert (await here.accept(message=b"y" + large)).startswith("250")
        await here.until_empty()
        assert len(api.calls) == 1


async def test_a_database_that_is_away_is_451_and_passes(
    postgres: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_database, "PATIENCE", 0.2)
    async with world(await postgres.open(), api, mode="queue") as here:
        await asyncio.to_thread(postgres.server.stop)
        try:
            assert (await here.accept()).startswith("451 4.3.0 the spool can't be reached")
        finally:
            await asyncio.to_thread(postgres.server.start)
        async with asyncio.timeout(PATIENCE):
            while not (await here.accept()).startswith("250"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await here.until_empty()
    assert len(api.calls) == 1


async def test_in_direct_mode_mail_goes_out_while_the_database_is_away(
    postgres: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_database, "PATIENCE", 0.2)
    async with world(await postgres.open(), api) as here:
        await asyncio.to_thread(postgres.server.stop)
        try:
            assert "delivered" in await here.accept()
        finally:
            await asyncio.to_thread(postgres.server.start)
