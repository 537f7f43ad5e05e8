"""What waits is tried again: whom, when, how often, and what happens in the end."""

import asyncio
import itertools
import time

import pytest

from smtp2cf.relay import RetryPolicy
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.queue import RUSH_PAUSE, Queue
from smtp2cf.relay.spooled import SpooledMail
from smtp2cf.reply import Reply
from smtp2cf.spool import Status
from tests.relay.world import AWAY, Api, Call, delivered, failure, first, sorted_into, world
from tests.spool.conftest import Backend, new_mail
from tests.support.waiting import PATIENCE


async def test_only_those_who_have_no_outcome_yet_are_tried_again(backend: Backend, api: Api) -> None:
    later = first(AWAY)

    async def answer(call: Call):
        if len(call.recipients) > 1:
            return await failure(400, 10001, "email.sending.error.invalid_request_schema")(call)
        return await (later if call.recipients == ["later@example.org"] else delivered)(call)

    api.answer = answer
    async with world(await backend.open(), api) as here:
        reply = await here.accept(
            "ben@example.org", "cleo@example.org", "dan@example.org", "later@example.org"
        )
        assert reply.startswith("250 2.0.0 ")
        assert "3 of 4 recipients delivered" in reply
        assert "kept for another attempt to <later@example.org>" in reply
        await here.until_empty()
        came = [call.recipients[0] for call in api.calls if len(call.recipients) == 1]
        assert came.count("later@example.org") >= 2
        assert all(
            came.count(name) == 1 for name in ("ben@example.org", "cleo@example.org", "dan@example.org")
        )


async def test_other_spellings_of_a_recipient_share_its_outcome(sqlite: Backend, api: Api) -> None:
    api.answer = first(AWAY)
    async with world(await sqlite.open(), api) as here:
        await here.accept("ben@example.org", "ben@EXAMPLE.org", "ben@example.org")
        await here.until_empty()
        assert [call.recipients for call in api.calls] == [["ben@example.org"]] * 2


async def test_retry_after_is_respected(sqlite: Backend, api: Api) -> None:
    api.answer = first(failure(429, 10004, "email.sending.error.throttled", Retry_After="2"))
    async with world(await sqlite.open(), api, reply_timeout=0.2) as here:
        started, began = time.monotonic(), time.time()
        assert "kept" in await here.accept()
        (item,) = await here.items()
        assert began + 1.9 <= item.next_attempt <= time.time() + 2.1
        await here.until_empty()
        assert time.monotonic() - started >= 2
        assert len(api.calls) == 2


async def test_no_client_waits_for_the_end_of_a_block_that_is_known(sqlite: Backend, api: Api) -> None:
    """Neither the one whose call shows it nor the next, and the queue sends theirs when it ends."""
    api.answer = first(failure(429, 10004, "email.sending.error.throttled", Retry_After="2"))
    async with world(await sqlite.open(), api, reply_timeout=60) as here:
        for name in ("first", "second"):
            assert (await here.accept(f"{name}@example.org")).startswith("250 ")
            assert len(api.calls) == 1
        second = (await here.items())[1]
        assert (second.attempts, second.due) == (0, True)
        assert here.client.pacer.blocked_for > 0
        await here.until_empty()
    assert sorted(call.recipients[0][:5] for call in api.calls) == ["first", "first", "secon"]


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (8, 3600), (5000, 3600)]
)
def test_delays_double_up_to_the_maximum(attempts: int, seconds: float) -> None:
    delays = [RetryPolicy(minimum=60, maximum=3600).delay(attempts) for _ in range(200)]
    assert all(0.9 * seconds <= delay <= 1.1 * seconds for delay in delays)
    assert max(delays) - min(delays) > 0.1 * seconds


def test_retry_after_outlasts_a_shorter_delay_and_shortens_none() -> None:
    policy = RetryPolicy(minimum=60, maximum=3600)
    assert policy.delay(1, 300.0) == 300.0
    assert policy.delay(7, 300.0) >= 3240


async def test_mail_that_makes_the_code_fail_is_held_after_three_tries_and_stops_nobody(
    backend: Backend,
) -> None:
    tried: list[str] = []

    async def attempt(envelope, recipients, message, **_) -> Attempt:
        tried.append(recipients[0])
        if recipients[0] == "poison@example.org":
            raise ZeroDivisionError("of ours")
        return Attempt(outcomes=dict.fromkeys(recipients, Reply(250, "2.0.0", "delivered")))

    from smtp2cf.relay import BouncePolicy

    spool = await backend.open()
    await spool.put(*(new_mail(forward_paths=(f"{name}@example.org",)) for name in ("poison", "a", "b")))
    retry = RetryPolicy(minimum=0.01, maximum=0.02)
    queue = Queue(SpooledMail(spool, retry, BouncePolicy(hostname="h")), attempt)
    queue.start()
    async with asyncio.timeout(PATIENCE):
        while [item.status async for item in spool.items()] != [Status.HELD]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await queue.drain(1)
    (item,) = [item async for item in spool.items()]
    assert item.hold_reason == "ZeroDivisionError: of ours"
    assert tried.count("poison@example.org") == 3
    assert sorted(set(tried) - {"poison@example.org"}) == ["a@example.org", "b@example.org"]


async def test_what_a_failing_report_is_about_is_held_and_not_sent_again(
    sqlite: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(call: Call):
        return sorted_into(permanent_bounces=call.recipients[:1], delivered=call.recipients[1:])

    def broken(*_, **__):
        raise ValueError("no report can be made of this")

    api.answer = answer
    monkeypatch.setattr("smtp2cf.relay.bounces.dsns_for", broken)
    async with world(await sqlite.open(), api, mode="queue") as here:
        await here.accept("bounce@example.org", "ben@example.org")
        item = await here.until(lambda item: item.status is Status.HELD)
        assert "no report can be made" in item.hold_reason
        assert item.outcomes["ben@example.org"].success
        assert item.outcomes["bounce@example.org"].permanent
        assert len(api.calls) == 1


async def test_a_queue_whose_claims_fail_goes_on(
    sqlite: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.relay.spooled.SPOOL_RETRY", 0.05)
    spool = await sqlite.open()
    claim = spool.claim

    async def fails_once(limit: int):
        spool.claim = claim
        raise RuntimeError("of ours")

    spool.claim = fails_once
    async with world(spool, api, mode="queue") as here:
        await here.accept()
        await here.until_empty()


async def test_while_the_account_is_blocked_nothing_is_tried(sqlite: Backend, api: Api) -> None:
    api.answer = first(failure(429, 10004, "email.sending.error.throttled", Retry_After="120"))
    async with world(await sqlite.open(), api, mode="queue") as here:
        await here.accept("first@example.org")
        await api.wait_for(1)
        async with asyncio.timeout(PATIENCE):
            while not here.client.pacer.blocked_for:  # noqa: ASYNC110 - it has no event for this
                await asyncio.sleep(0.01)
        for number in range(20):
            await here.accept(f"n{number}@example.org")
        await asyncio.sleep(0.5)
        waiting = [
            item for item in await here.items() if "first@example.org" not in item.envelope.forward_paths
        ]
        assert [item.attempts for item in waiting] == [0] * 20
        assert len(api.calls) == 1


async def test_during_a_rush_mail_is_taken_in_first_and_still_sent(sqlite: Backend, api: Api) -> None:
    async with world(await sqlite.open(), api, mode="queue") as here:
        put, claim, rush_over = here.spool.put, here.spool.claim, asyncio.Event()
        claims: list[tuple[int, float]] = []

        async def noted_claim(limit: int):
            claims.append((limit, time.monotonic()))
            return await claim(limit)

        async def slow_put(*mail) -> None:
            await rush_over.wait()
            await put(*mail)

        await put(*(new_mail(forward_paths=(f"n{number}@example.org",)) for number in range(200)))
        here.spool.put = slow_put
        arriving = [asyncio.create_task(here.accept()) for _ in range(5)]
        await asyncio.sleep(0.1)
        here.spool.claim = noted_claim
        await api.wait_for(len(api.calls) + 20)
        rush_over.set()
        assert {limit for limit, _ in claims} == {1}
        pauses = [after - before for (_, before), (_, after) in itertools.pairwise(claims)]
        assert min(pauses) >= 0.9 * RUSH_PAUSE
        await asyncio.gather(*arriving)
        await here.until_empty()
