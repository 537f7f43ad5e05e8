"""Health: what shows trouble and its end, what is logged of it, and how many probes an hour of it costs."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from smtp2cf.cloudflare.account import Account
from smtp2cf.cloudflare.client import TokenState
from smtp2cf.cloudflare.errors import TokenRefusedError
from smtp2cf.cloudflare.health import ApiHealth, State
from smtp2cf.reply import Reply, Scope, SendError
from tests.cloudflare.callers import in_virtual_time, now

REFUSED = TokenRefusedError(Reply(451, "4.3.5", "token"), Scope.ACCOUNT)
THROTTLED = SendError(Reply(451, "4.7.1", "429"), Scope.ACCOUNT)
BROKEN = SendError(Reply(451, "4.3.0", "broke"), Scope.ACCOUNT, unanswered=True)
NO_CONNECTION = SendError(Reply(451, "4.4.1", "refused"), Scope.ACCOUNT)
ABOUT_THE_MAIL = SendError(Reply(554, "5.6.0", "invalid"), Scope.MESSAGE)


class World:
    """A health, a clock that moves with every step, and how often each callback was called."""

    def __init__(self) -> None:
        self.time = 0.0
        self.health = ApiHealth(lambda: self.time)
        self.recovered = 0
        self.health.recovered = self._recovered

    def _recovered(self) -> None:
        self.recovered += 1

    def mail(self, error: SendError | None) -> bool:
        """A call with mail, unless it may not be made."""
        self.time += 1
        try:
            self.health.begin()
        except SendError:
            return False
        began = self.health.now()
        self.time += 1
        self.health.ended(began, error)
        return True

    def probe(self, error: SendError | None) -> None:
        self.time += 1
        began = self.health.now()
        self.time += 1
        refused = isinstance(error, TokenRefusedError)
        state = State.TOKEN_REFUSED if refused else State.UNREACHABLE if error else State.UP
        self.health.probed(began, state, error and error.reply)


def mail(error: SendError | None) -> Callable[[World], object]:
    return lambda world: world.mail(error)


def probe(error: SendError | None) -> Callable[[World], object]:
    return lambda world: world.probe(error)


U, T, R, OK = "api.unreachable", "api.token_refused", "api.throttled", "api.recovered"


@pytest.mark.parametrize(
    ("steps", "logged"),
    [
        ([mail(None), probe(None), mail(ABOUT_THE_MAIL)], []),
        ([mail(BROKEN), mail(BROKEN), mail(None), mail(BROKEN)], []),
        ([mail(BROKEN), probe(None), mail(BROKEN), probe(None)], []),
        ([mail(BROKEN)] * 5, [U]),
        ([mail(BROKEN), probe(BROKEN), probe(BROKEN), probe(BROKEN)], [U]),
        ([probe(NO_CONNECTION), probe(NO_CONNECTION)], [U]),
        ([probe(NO_CONNECTION), probe(None)], [U, OK]),
        ([probe(BROKEN), mail(None), probe(BROKEN), mail(None)], []),  # only the probe's page is broken
        ([mail(BROKEN)] * 3 + [probe(None), probe(None)], [U]),  # the probe has always worked
        ([mail(BROKEN)] * 3 + [probe(None), mail(None)], [U, OK]),
        ([mail(BROKEN)] * 3 + [probe(None), mail(ABOUT_THE_MAIL)], [U, OK]),
        ([mail(BROKEN)] * 3 + [probe(BROKEN), mail(BROKEN), probe(None)], [U, OK]),
        ([mail(REFUSED), probe(REFUSED), mail(REFUSED), probe(REFUSED)], [T]),
        ([mail(REFUSED), probe(None), mail(None)], [T, OK]),
        ([probe(REFUSED), mail(None), probe(REFUSED)], [T, OK, T]),
        ([mail(THROTTLED), mail(THROTTLED), mail(None), mail(None)], [R, OK]),
        ([probe(NO_CONNECTION), probe(REFUSED), probe(None)], [U, T, OK]),
    ],
)
def test_each_change_is_logged_once(steps: list[Callable[[World], object]], logged: list[str]) -> None:
    world = World()
    with capture_logs() as lines:
        for step in steps:
            step(world)
    assert [line["event"] for line in lines] == logged
    assert world.recovered == sum(
        event == OK and before != R for before, event in zip(["", *logged], logged, strict=False)
    )


@pytest.mark.parametrize(
    ("shown_by", "probed", "may_try"),
    [
        ([mail(BROKEN)] * 3, None, True),
        ([mail(BROKEN)] * 3, BROKEN, True),
        ([mail(BROKEN)] * 3, NO_CONNECTION, False),
        ([mail(REFUSED)], REFUSED, True),
        ([probe(NO_CONNECTION)], NO_CONNECTION, False),
    ],
)
def test_while_it_is_down_one_call_may_try_after_a_probe_that_connected(
    shown_by: list[Callable[[World], object]], probed: SendError | None, may_try: bool
) -> None:
    world = World()
    for step in shown_by:
        step(world)
    assert world.health.down
    assert not world.mail(None)
    world.probe(probed)
    assert world.mail(BROKEN) is may_try
    assert not world.mail(None)


def test_a_new_token_is_tried_and_told_of_if_it_is_refused_as_well() -> None:
    world = World()
    with capture_logs() as lines:
        world.mail(REFUSED)
        world.health.token_replaced()
        assert world.mail(REFUSED)
        assert not world.mail(REFUSED)
        world.health.token_replaced()
        world.probe(None)
    assert [line["event"] for line in lines] == [T, T, OK]


def test_a_call_that_began_before_the_trouble_does_not_end_it() -> None:
    world = World()
    began = world.health.now()
    world.time = 1.0
    world.probe(NO_CONNECTION)
    world.health.ended(began, None)
    assert world.health.down


# ---- probes


class Probed:
    """What an account asks in place of the API. answer: returns or raises what a probe comes to."""

    def __init__(self, account: Account, answer: Callable[[], TokenState]) -> None:
        self.times: list[float] = []
        self.answer = answer
        account.client.verify_token = self._verify  # type: ignore[method-assign]

    async def _verify(self, **_: Any) -> TokenState:
        self.times.append(now())
        return self.answer()


def raising(error: SendError) -> Callable[[], TokenState]:
    def answer() -> TokenState:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        (lambda: TokenState(True, ""), 1),
        (lambda: TokenState(False, "expired"), 66),
        (raising(NO_CONNECTION), 725),
        (raising(BROKEN), 725),
    ],
    ids=["up", "token refused", "no connection", "no answer"],
)
@in_virtual_time
async def test_probes_of_an_hour(answer: Callable[[], TokenState], most: int) -> None:
    account = Account(base_url="http://127.0.0.1:1/v4", account_id="a", token="t", timeout=1, concurrency=9)
    probed = Probed(account, answer)
    watching = asyncio.create_task(account.watch())
    await asyncio.sleep(3600)
    assert 0 < len(probed.times) <= most
    # Another token doesn't wait for the next of them.
    before = len(probed.times)
    account.use_token("other")
    await asyncio.sleep(0.1)
    assert len(probed.times) == before + 1
    watching.cancel()
    await account.aclose()


@in_virtual_time
async def test_a_probe_that_is_throttled_ends_what_was_away_but_not_that_it_is_throttled() -> None:
    account = Account(base_url="http://127.0.0.1:1/v4", account_id="a", token="t", timeout=1, concurrency=9)
    probed = Probed(account, raising(THROTTLED))
    states = []
    for error in (THROTTLED, REFUSED):
        account.health.ended(account.health.now(), error)
        account.use_token("other")
        watching = asyncio.create_task(account.watch())
        await asyncio.sleep(0.1)
        states.append(account.health.state)
        watching.cancel()
    assert len(probed.times) == 2
    assert states == [State.THROTTLED, State.UP]
    await account.aclose()
