"""Direct mode when the API takes longer than the client is asked to wait."""

import asyncio

import pytest
from structlog.testing import capture_logs

from smtp2cf.relay import BouncePolicy, RetryPolicy
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.spooled import AFTER_THE_ANSWER, SpooledMail
from smtp2cf.reply import Reply, SendError
from smtp2cf.spool import Status
from tests.relay.world import AWAY, Api, Call, by_name, delivered, first, world
from tests.spool.conftest import Backend, new_mail


class Gate:
    """An API that answers once it is let."""

    def __init__(self, api: Api, answer=delivered) -> None:
        self.open = asyncio.Event()
        self._answer = answer
        api.answer = self

    async def __call__(self, call: Call):
        await self.open.wait()
        return await self._answer(call)


async def test_direct_mode_answers_what_the_api_said(sqlite: Backend, api: Api) -> None:
    async with world(await sqlite.open(), api) as here:
        assert "delivered, message-id <id@example.com>" in await here.accept()
        assert await here.items() == []


async def test_queue_mode_answers_when_the_mail_is_kept_and_sends_it_then(backend: Backend, api: Api) -> None:
    gate = Gate(api)
    async with world(await backend.open(), api, mode="queue") as here:
        assert (await here.accept()).endswith(" queued")
        await api.wait_for(1)
        assert (await here.items())[0].status is Status.ACTIVE
        gate.open.set()
        await here.until_empty()
        assert len(api.calls) == 1


async def test_a_late_answer_settles_the_kept_mail_without_a_second_call(backend: Backend, api: Api) -> None:
    gate = Gate(api)
    async with world(await backend.open(), api, reply_timeout=0.1) as here:
        assert "kept, Cloudflare has not answered yet" in await here.accept()
        (item,) = await here.items()
        assert (item.status, item.attempts, item.unanswered) == (Status.ACTIVE, 1, True)
        gate.open.set()
        await here.until_empty()
        assert len(api.calls) == 1


async def test_kept_mail_whose_turn_never_came_is_due_as_soon_as_there_is_one(backend: Backend) -> None:
    spool = await backend.open()
    mail = SpooledMail(spool, RetryPolicy(minimum=3600), BouncePolicy(hostname="localhost"))
    new = new_mail(claimed=True, attempts=1)
    await spool.put(new)
    later = Attempt(outcomes={"ben@example.org": Reply(451, "4.7.1", "too many calls")}, retry_after=600.0)
    for called, due in ((False, 1), (True, 0)):
        await mail.settle(new.envelope, new.message, {}, later, AFTER_THE_ANSWER, attempts=1, called=called)
        assert len(await spool.claim(1)) == due


def stall(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loop finds that stood still for so long: its time has passed, and it saw nothing of it."""
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + seconds)


async def test_an_answer_that_came_while_the_loop_stood_still_is_not_late(
    sqlite: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(api)
    async with world(await sqlite.open(), api, reply_timeout=10) as here:
        accepting = asyncio.create_task(here.accept())
        await api.wait_for(1)
        gate.open.set()
        await asyncio.sleep(0)  # the API, in this same loop, has its answer ready to be written
        stall(11, monkeypatch)
        assert "delivered" in await accepting
        assert await here.items() == []


async def test_a_drain_takes_an_answer_that_came_while_the_loop_stood_still(
    sqlite: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(api)
    async with world(await sqlite.open(), api, mode="queue") as here:
        await here.accept()
        await api.wait_for(1)
        draining = asyncio.create_task(here.relay.drain(10))
        await asyncio.sleep(0.05)
        gate.open.set()
        await asyncio.sleep(0)
        stall(11, monkeypatch)
        await draining
    async with world(await sqlite.open(serve=True), api) as again:
        assert await again.items() == []
        assert len(api.calls) == 1


async def test_a_late_failure_is_tried_again(sqlite: Backend, api: Api) -> None:
    gate = Gate(api, first(AWAY))
    async with world(await sqlite.open(), api, reply_timeout=0.1) as here:
        assert "kept" in await here.accept()
        gate.open.set()
        await here.until_empty()
        assert len(api.calls) == 2


async def test_a_late_bounce_is_reported(sqlite: Backend, api: Api) -> None:
    gate = Gate(api, by_name)
    async with world(await sqlite.open(), api, reply_timeout=0.1) as here:
        assert "kept" in await here.accept("bounce@example.org")
        gate.open.set()
        await here.until_empty()
        assert [call.recipients for call in api.calls] == [["bounce@example.org"], ["anna@example.com"]]


async def test_an_answer_at_the_very_moment_of_keeping_is_settled_too(sqlite: Backend, api: Api) -> None:
    gate = Gate(api)
    async with world(await sqlite.open(), api, reply_timeout=0.1) as here:
        put = here.spool.put

        async def answered_meanwhile(*mail) -> None:
            gate.open.set()
            (call,) = [task for task in asyncio.all_tasks() if "Attempts.make" in repr(task.get_coro())]
            await asyncio.wait((call,))
            await put(*mail)

        here.spool.put = answered_meanwhile
        assert "kept" in await here.accept()
        await here.until_empty()
        assert len(api.calls) == 1


async def test_a_process_told_to_stop_leaves_a_call_that_ends_in_time_settled(
    sqlite: Backend, api: Api
) -> None:
    gate = Gate(api)
    async with world(await sqlite.open(), api, reply_timeout=0.1) as here:
        assert "kept" in await here.accept()
        asyncio.get_running_loop().call_later(0.2, gate.open.set)
    async with world(await sqlite.open(serve=True), api) as again:
        assert await again.items() == []
        assert len(api.calls) == 1


async def test_a_call_that_outlives_the_drain_is_a_possible_duplicate(sqlite: Backend, api: Api) -> None:
    Gate(api)
    async with world(await sqlite.open(), api, reply_timeout=0.1) as here:
        assert "kept" in await here.accept()
        await here.relay.drain(0.1)
    api.answer = delivered
    with capture_logs() as lines:
        async with world(await sqlite.open(serve=True), api) as again:
            await again.until_empty()
    assert len(api.calls) == 2
    assert [line["to"] for line in lines if line["event"] == "mail.possible_duplicate"] == [
        ["ben@example.org"]
    ]


async def test_a_client_waits_for_the_true_answer_when_its_mail_cannot_be_kept(
    sqlite: Backend, api: Api
) -> None:
    gate = Gate(api)
    async with world(await sqlite.open(), api, reply_timeout=0.1) as here:

        async def full(*mail) -> None:
            gate.open.set()
            raise no_room()

        here.spool.put = full
        assert "delivered" in await here.accept()


async def test_a_settled_outcome_outlasts_a_spool_that_is_away(
    sqlite: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.relay.spooled.SPOOL_RETRY", 0.05)
    async with world(await sqlite.open(), api, mode="queue") as here:
        settle, left = here.spool.settle, 3

        async def away_at_first(*args, **kwargs) -> bool:
            nonlocal left
            left -= 1
            if left >= 0:
                raise no_room()
            return await settle(*args, **kwargs)

        here.spool.settle = away_at_first
        await here.accept()
        await here.until_empty()
        assert len(api.calls) == 1


@pytest.mark.parametrize("operation", ["read", "begin"])
async def test_a_claim_is_given_back_when_the_spool_fails_before_the_call(
    sqlite: Backend, api: Api, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.setattr("smtp2cf.relay.spooled.SPOOL_RETRY", 0.05)
    async with world(await sqlite.open(), api, mode="queue") as here:
        works, fails = getattr(here.spool, operation), here.spool.give_back

        async def away_once(*args):
            setattr(here.spool, operation, works)
            raise no_room()

        async def give_back_fails_once(*args) -> None:
            here.spool.give_back = fails
            raise no_room()

        setattr(here.spool, operation, away_once)
        here.spool.give_back = give_back_fails_once
        await here.accept()
        await here.until_empty()
        assert len(api.calls) == 1


async def test_large_messages_are_loaded_a_few_at_a_time(sqlite: Backend, api: Api) -> None:
    """Fifty of 5 MB in parallel would be half a gigabyte."""
    gate = Gate(api)
    message = b"Subject: large\r\n\r\n" + b"x" * 998 + b"\r\n" + (b"y" * 98 + b"\r\n") * 50_000
    retry = RetryPolicy(parallel=50)
    async with world(await sqlite.open(), api, retry=retry, mode="queue") as here:
        for number in range(10):
            await here.accept(f"n{number}@example.org", message=message)
        await api.wait_for(6)
        await asyncio.sleep(0.2)
        assert len(api.calls) == 6
        gate.open.set()
        await here.until_empty()
        assert len(api.calls) == 10


def no_room() -> SendError:
    from smtp2cf.spool import SpoolFull

    return SpoolFull("no room")
