"""A client that vanished before its 250 sends the same message again: it is not sent twice.

And nothing else is swallowed: other bytes, or the same ones from somebody who got his answer.
"""

import asyncio

import pytest
from structlog.testing import capture_logs

from smtp2cf.relay import duplicates
from smtp2cf.reply import Reply
from tests.relay.test_deadline import Gate, no_room
from tests.relay.world import AWAY, MESSAGE, Api, World, by_name, first, world
from tests.spool.conftest import Backend
from tests.support.reach import instances, kept_by
from tests.support.waiting import PATIENCE


async def send(here: World, message: bytes = MESSAGE) -> str:
    """As a well-behaved client does."""
    client = await here.connect()
    await client.data(message=message)
    answer = await client.reply()
    await client.quit()
    return answer


async def vanish(here: World, gate: Gate, how: str, *recipients: str, parameters: str = "") -> None:
    """Send the message, hang up while it is being relayed, and let that end."""
    client = await here.connect()
    await client.data(*recipients, parameters=parameters)
    await here.api.wait_for(1)
    getattr(client, how)()
    (session,) = here.server.sessions
    async with asyncio.timeout(PATIENCE):
        while not session.client_ended and session.transport is not None:  # noqa: ASYNC110 - as below
            await asyncio.sleep(0.01)
    gate.open.set()
    async with asyncio.timeout(PATIENCE):
        while here.server.sessions:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_the_same_message_again_gets_its_answer_without_a_second_call(
    backend: Backend, api: Api, how: str
) -> None:
    gate = Gate(api)
    async with world(await backend.open(), api) as here:
        await vanish(here, gate, how)
        assert "delivered" in await send(here)
        assert len(api.calls) == 1
        # That client has its answer now, so a third time is another message.
        await send(here)
        assert len(api.calls) == 2


async def test_other_bytes_are_sent(sqlite: Backend, api: Api) -> None:
    gate = Gate(api)
    async with world(await sqlite.open(), api) as here:
        await vanish(here, gate, "reset")
        assert "delivered" in await send(here, MESSAGE + b"more\r\n")
        assert len(api.calls) == 2


@pytest.mark.parametrize("mode", ["direct", "queue"])
async def test_who_got_an_answer_may_send_the_same_again(backend: Backend, api: Api, mode: str) -> None:
    async with world(await backend.open(), api, mode=mode) as here:
        for _ in range(3):
            await send(here)
        await api.wait_for(3)
        await here.until_empty()
        client = await here.connect()
        for _ in range(2):
            await client.data()
            await client.reply()
        await client.quit()
        await api.wait_for(5)


async def test_a_refusal_that_went_to_some_is_repeated_too(backend: Backend, api: Api) -> None:
    """With PARTIAL_BOUNCE=reject some may have the mail, or wait for it in the spool, behind a 5xx."""
    gate = Gate(api, by_name)
    recipients = ("ok@example.org", "bounce@example.org")
    async with world(await backend.open(), api, partial_bounce="reject") as here:
        await vanish(here, gate, "reset", *recipients)
        for calls in (1, 2):  # whoever has the answer may send it again
            client = await here.connect()
            await client.data(*recipients)
            assert (await client.reply()).startswith("550 5.1.1 ")
            await client.quit()
            assert len(api.calls) == calls


async def test_after_a_restart_too(backend: Backend, api: Api) -> None:
    gate = Gate(api)
    async with world(await backend.open(), api) as here:
        await vanish(here, gate, "reset")
        await send(here, MESSAGE + b"confirmed\r\n")
    async with world(await backend.open(serve=True), api) as again:
        assert "delivered" in await send(again)
        assert len(api.calls) == 2
        await send(again, MESSAGE + b"confirmed\r\n")
        assert len(api.calls) == 3


async def test_after_ten_minutes_it_is_another_message(
    sqlite: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.spool.sqlite_answers.MEMORY", 0.0)
    gate = Gate(api)
    async with world(await sqlite.open(), api) as here:
        await vanish(here, gate, "reset")
        await send(here)
        assert len(api.calls) == 2


async def test_a_failure_is_no_answer_to_repeat(sqlite: Backend, api: Api) -> None:
    gate = Gate(api, first(AWAY))
    async with world(await sqlite.open(), api) as here:

        async def full(*mail) -> None:
            raise no_room()

        put, here.spool.put = here.spool.put, full
        await vanish(here, gate, "reset")
        here.spool.put = put
        assert "delivered" in await send(here)
        assert len(api.calls) == 2


async def test_who_comes_back_while_the_call_is_under_way_waits_for_its_answer(
    backend: Backend, api: Api
) -> None:
    gate = Gate(api)
    async with world(await backend.open(), api) as here:
        client = await here.connect()
        await client.data()
        await api.wait_for(1)
        client.reset()
        again = await here.connect()
        await again.data()
        await asyncio.sleep(0.1)
        gate.open.set()
        assert "delivered" in await again.reply()
        await again.quit()
        assert len(api.calls) == 1


async def test_who_has_an_answer_may_send_the_same_over_another_connection_at_once(
    backend: Backend, api: Api
) -> None:
    """Nobody knows yet that the answer has arrived: the second message waits until somebody does."""
    async with world(await backend.open(), api) as here:
        clients = [await here.connect() for _ in range(3)]
        for client in clients:
            await client.data()
            assert "delivered" in await client.reply()
        assert len(api.calls) == 3
        for client in clients:
            await client.quit()


async def test_who_resets_the_connection_after_its_answer_may_send_the_same_at_once(
    backend: Backend, api: Api
) -> None:
    async with world(await backend.open(), api) as here:
        for _ in range(3):
            client = await here.connect()
            await client.data()
            assert "delivered" in await client.reply()
            client.reset()
        assert len(api.calls) == 3


async def test_two_who_send_the_same_at_once_are_two(sqlite: Backend, api: Api) -> None:
    gate = Gate(api)
    async with world(await sqlite.open(), api) as here:
        answers = [asyncio.create_task(send(here)) for _ in range(2)]
        await api.wait_for(2)
        gate.open.set()
        assert all("delivered" in answer for answer in await asyncio.gather(*answers))


async def test_a_transaction_that_a_dead_process_left_open_is_sent_and_noted(
    backend: Backend, api: Api
) -> None:
    gate = Gate(api)
    async with world(await backend.open(), api) as here:
        client = await here.connect()
        await client.data()
        await api.wait_for(1)
        await here.server.drain(0.0)
        client.close()
    gate.open.set()
    with capture_logs() as lines:
        async with world(await backend.open(serve=True), api) as again:
            await send(again)
    assert len(api.calls) == 2
    assert [line["to"] for line in lines if line["event"] == "mail.possible_duplicate"] == [
        ["ben@example.org"]
    ]


async def test_a_spool_that_cannot_be_asked_stops_no_mail(sqlite: Backend, api: Api) -> None:
    async with world(await sqlite.open(), api) as here:

        async def away(*_, **__) -> None:
            raise no_room()

        here.spool.recall = away
        assert "delivered" in await send(here)


def remembered(here: World, others: list[object]) -> tuple[list[object], list[object]]:
    """Transactions that are remembered, and answers. others: what there was before, of other worlds."""
    transactions = [
        found
        for found in instances(duplicates)
        if not isinstance(found, duplicates.Duplicates) and not any(found is other for other in others)
    ]
    return transactions, [found for found in kept_by(here.spool) if isinstance(found, Reply)]


async def test_nothing_is_remembered_for_ever(sqlite: Backend, api: Api) -> None:
    gate = Gate(api)
    others = instances(duplicates)
    async with world(await sqlite.open(), api) as here:
        await vanish(here, gate, "reset")
        for _ in range(3):
            await send(here)
        assert remembered(here, others) == ([], [])


async def test_dropped_mail_is_not_held_against_the_next(sqlite: Backend, api: Api, tmp_path) -> None:
    from smtp2cf.relay import DropDirectory, DropPolicy
    from tests.sendmail.front_door import front_door

    others = instances(duplicates)
    directory = tmp_path / "drop"
    directory.mkdir()
    async with world(await sqlite.open(), api) as here:
        policy = DropPolicy(
            directory=directory, aside=tmp_path / "aside", max_message_size=10_000, interval=0.05
        )
        drop = DropDirectory(policy, front_door(), here.relay.accept, here.relay.bounce, here.relay.answered)
        running = asyncio.create_task(drop.run())
        head = b'{"version":1,"reverse_path":"a@example.com","forward_paths":["b@example.org"],'
        head += b'"body":"7BIT","size":%d}\n'
        for number in range(2):
            (directory / f"{number}.drop").write_bytes(head % len(MESSAGE) + MESSAGE)
            await api.wait_for(number + 1)
            async with asyncio.timeout(PATIENCE):
                while (directory / f"{number}.drop").exists():  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
        drop.stop()
        await running
        assert remembered(here, others) == ([], [])
