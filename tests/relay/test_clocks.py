"""What a clock that is wrong, or a bridge that was off, must not do: send in a rush, or give up untried."""

import asyncio
from typing import Any

import pytest

from smtp2cf.relay import BouncePolicy, RetryPolicy
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.queue import Queue
from smtp2cf.relay.spooled import SpooledMail
from smtp2cf.reply import Reply
from smtp2cf.spool import Action, Filter, SpoolItem
from tests.relay.world import AWAY, Api, World, first, world
from tests.spool.clocks import DAY, JUMPS, Host
from tests.spool.conftest import Backend, new_mail
from tests.support.waiting import PATIENCE

SENT, LATER = Reply(250, "2.0.0", "sent"), Reply(451, "4.3.0", "later")


def calls_for(api: Api, *recipients: str) -> int:
    return sum(call.recipients == list(recipients or ("ben@example.org",)) for call in api.calls)


async def until_given_up(here: World, api: Api) -> None:
    """Until the DSN about it is there, and nothing more."""
    await here.until(lambda item: item.is_dsn and item.attempts == 1 and not item.owner)
    assert calls_for(api, "anna@example.com") == 1


@pytest.mark.parametrize("skew", JUMPS)
async def test_expired_mail_is_given_up_once_whatever_the_bridges_clock_shows(
    backend: Backend, api: Api, skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock 5 s behind the database's it was sent 368 times in those 5 s."""
    host = Host(monkeypatch, backend)
    host.jump = skew
    api.answer = AWAY
    retry = RetryPolicy(minimum=60, maximum=60, expire_after=0.3)
    async with world(await backend.open(), api, retry=retry) as here:
        assert "kept" in await here.accept()
        await until_given_up(here, api)
        assert calls_for(api) == 1


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_clock_that_is_set_while_mail_waits_sends_nothing_early_and_gives_nothing_up(
    backend: Backend, api: Api, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, backend)
    api.answer = first(AWAY)
    retry = RetryPolicy(minimum=1800, maximum=1800, expire_after=5 * DAY)
    async with world(await backend.open(), api, retry=retry) as here:
        assert "kept" in await here.accept()
        host.jump = jump
        await here.accept("new@example.org")
        await here.spool.wait_due(0.1)
        (item,) = await here.items()
        assert (item.attempts, item.due, item.expired) == (1, False, False)
        await host.sleep(2000)
        # Real time, in which the queue would wake by itself, has not passed.
        await here.spool.put(new_mail(forward_paths=("other@example.org",)))
        await here.until_empty()
        assert calls_for(api) == 2
        assert calls_for(api, "anna@example.com") == 0


@pytest.mark.parametrize("age", [0.0, 6 * DAY, 20_000 * DAY])
async def test_every_message_has_one_attempt_before_it_expires(
    backend: Backend, api: Api, age: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge was off for six days, a Pi had no clock when it took the mail."""
    spool = await backend.open()
    await spool.put(new_mail(expires_in=-age, received_at=1000.0))
    async with world(spool, api, retry=RetryPolicy(minimum=60)) as here:
        await here.until_empty()
    assert calls_for(api) == 1
    assert len(api.calls) == 1


async def test_the_one_attempt_of_old_mail_that_fails_is_its_last(backend: Backend, api: Api) -> None:
    api.answer = AWAY
    spool = await backend.open()
    await spool.put(new_mail(expires_in=-6 * DAY))
    async with world(spool, api, retry=RetryPolicy(minimum=60)) as here:
        await until_given_up(here, api)
        assert calls_for(api) == 1
        report = next(call for call in api.calls if call.recipients == ["anna@example.com"])
        assert b"4.4.7" in report.message
        assert b"the last answer was: 451 4.3.0" in report.message.replace(b"\r\n ", b" ")


async def test_old_mail_that_is_released_has_an_attempt(backend: Backend, api: Api) -> None:
    spool = await backend.open()
    await spool.put(new_mail(attempts=3, delay=60, expires_in=-DAY))
    for action in (Action.HOLD, Action.RELEASE):
        async for _ in spool.apply(action, Filter()):
            pass
    async with world(spool, api) as here:
        await here.until_empty()
    assert calls_for(api) == len(api.calls) == 1


class Blocked:
    """An account that may not be used for a week."""

    waiting = 0
    blocked_for = 7 * DAY


async def test_while_the_account_is_blocked_mail_that_was_tried_expires_and_other_mail_does_not(
    backend: Backend,
) -> None:
    tried: list[str] = []

    async def attempt(envelope: Any, recipients: Any, *_: Any, **__: Any) -> Attempt:
        tried.append(recipients[0])
        return Attempt(outcomes=dict.fromkeys(recipients, SENT))

    spool = await backend.open()
    old, due, untried = (
        new_mail(attempts=2, delay=60, expires_in=-1, outcomes={"ben@example.org": LATER}),
        new_mail(attempts=2, expires_in=-1),
        new_mail(expires_in=-1),
    )
    await spool.put(old, due, untried)
    queue = Queue(SpooledMail(spool, RetryPolicy(), BouncePolicy(hostname="h")), attempt, Blocked())
    queue.start()

    async def rest() -> list[SpoolItem]:
        return [item async for item in spool.items()]

    async with asyncio.timeout(PATIENCE):
        while sum(item.is_dsn for item in await rest()) < 2:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)
    await queue.drain(1)
    left = [item.queue_id for item in await rest() if not item.is_dsn]
    assert left == [untried.envelope.queue_id]
    assert tried == []
