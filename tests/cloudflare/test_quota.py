"""The quota: what `/limits` says, and what a bridge does when it is used up."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import structlog

from smtp2cf.cloudflare.api import Api
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.cloudflare.quota import ASK_EVERY, Quota, QuotaWatch, ask_quota, read_quota
from smtp2cf.reply import SendError
from tests.cloudflare.conftest import ACCOUNT
from tests.cloudflare.virtual_time import run_in_virtual_time
from tests.support.each import each
from tests.support.news import heard
from tests.support.secret import TOKEN

MIDNIGHT = 1_795_737_600.0
"""2026-11-27 00:00 UTC."""

ANSWERS: list[tuple[object, Quota | None]] = [
    (
        {
            "quota": {"unit": "day", "value": 1000},
            "usage": {"sent": 5, "over_quota": False, "resets_at": "2026-11-27T00:00:00Z"},
        },
        Quota("day", 1000, 5, used_up=False, resets_at=MIDNIGHT),
    ),
    (
        {
            "quota": {"unit": "hour", "value": 20},
            "usage": {"sent": 20, "over_quota": True, "resets_at": "2026-11-27T01:00:00.000+01:00"},
        },
        Quota("hour", 20, 20, used_up=True, resets_at=MIDNIGHT),
    ),
    (
        {"quota": {"value": 200.0}, "usage": {"sent": 200, "resets_at": MIDNIGHT * 1000}},
        Quota("day", 200, 200, used_up=True, resets_at=MIDNIGHT),
    ),
    (
        {"quota": {"unit": 1, "value": 200}, "usage": {"sent": 1, "resets_at": MIDNIGHT}},
        Quota("day", 200, 1, used_up=False, resets_at=MIDNIGHT),
    ),
    (
        {"quota": {"value": 200}, "usage": {"sent": 1, "resets_at": "2026-11-27T00:00:00"}},
        Quota("day", 200, 1, used_up=False, resets_at=MIDNIGHT),
    ),
    (
        {"quota": {"value": 200}, "usage": {"sent": 1, "resets_at": "soon"}},
        Quota("day", 200, 1, used_up=False, resets_at=None),
    ),
    (
        {"quota": {"value": 200}, "usage": {"sent": 1, "resets_at": 1e300}},
        Quota("day", 200, 1, used_up=False, resets_at=None),
    ),
    (
        {"quota": {"value": 200}, "usage": {"sent": 1, "resets_at": "9999-12-31T23:59:59-14:00"}},
        Quota("day", 200, 1, used_up=False, resets_at=None),
    ),
    ({"quota": None, "usage": None}, None),
    ({"quota": {"unit": "day", "value": 1000}, "usage": None}, None),
    ({"quota": {"value": "many"}, "usage": {"sent": 1}}, None),
    ({"quota": {"value": True}, "usage": {"sent": 1}}, None),
    ({"quota": {"value": 1}, "usage": {"sent": -1}}, None),
    ({}, None),
    (None, None),
    ([1], None),
]


@each(("result", "quota"), ANSWERS)
def test_whatever_limits_says_is_read_or_unknown(result: object, quota: Quota | None) -> None:
    assert read_quota(result) == quota


class World:
    """One account whose `/limits` answers as told, in virtual time; the clock of the day is the loop's."""

    def __init__(self, *, sent: int = 0, value: int | None = 100) -> None:
        self.sent, self.value = sent, value
        self.status = 200
        self.resets_in = 7200.0
        self.asked: list[float] = []
        self.during: Callable[[], None] = lambda: None
        loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = loop.time
        self.resets_at = loop.time() + self.resets_in
        self.pacer = Pacer(10, self.now)
        api = Api(
            base_url=httpx.URL("http://api.test/client/v4"),
            account_id=ACCOUNT,
            token=TOKEN,
            timeout=5.0,
            transport=httpx.MockTransport(self._answer),
            pacer=self.pacer,
        )
        self.api = api
        self.watch = QuotaWatch(api, self.pacer, self.now)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == f"/client/v4/accounts/{ACCOUNT}/email/sending/limits"
        self.asked.append(self.now())
        during, self.during = self.during, lambda: None
        during()
        if self.status != 200:
            return httpx.Response(self.status, json={"success": False, "errors": [{"code": 10000}]})
        if self.value is None:
            return httpx.Response(200, json={"success": True, "result": {"quota": None, "usage": None}})
        usage = {"sent": self.sent, "over_quota": self.sent >= self.value, "resets_at": self.resets_at}
        quota = {"unit": "day", "value": self.value}
        return httpx.Response(200, json={"success": True, "result": {"quota": quota, "usage": usage}})

    def refuse(self, retry_after: float | None = None) -> None:
        """A call gets a 429."""
        turn = self.pacer.probe()
        self.pacer.block(turn, retry_after)
        self.pacer.done(turn)


def watched(story: Callable[[World], Any], **options: Any) -> list[str]:
    """Run a story beside the watch; the events that were logged, all of which are told of as well."""

    async def run() -> None:
        world = World(**options)
        watch = asyncio.ensure_future(world.watch.watch())
        await asyncio.sleep(10)
        await story(world)
        watch.cancel()

    with structlog.testing.capture_logs() as lines, heard() as told:
        run_in_virtual_time(run())
    logged = [line["event"] for line in lines if line["event"].startswith("api.")]
    assert [one.kind for one in told] == logged
    return logged


def test_a_used_up_quota_is_waited_for_with_one_line_and_few_questions() -> None:
    async def story(world: World) -> None:
        assert len(world.asked) == 1
        world.refuse()
        await asyncio.sleep(1)
        with pytest.raises(SendError) as caught:
            await world.pacer.admit(world.now() + 60)
        assert "used up: 100 of 100 recipients today" in caught.value.reply.text
        assert caught.value.reply.status == "4.7.1"
        assert caught.value.retry_after == pytest.approx(world.resets_at - world.now(), abs=3)
        await asyncio.sleep(world.resets_at - world.now() - 5)
        assert world.pacer.blocked_for > 4
        assert len(world.asked) < 12
        world.sent, world.resets_at = 0, world.resets_at + 86400
        await asyncio.sleep(10)
        assert world.pacer.blocked_for == 0
        assert world.watch.quota is not None
        assert not world.watch.quota.used_up

    assert watched(story, sent=100) == ["api.quota_low", "api.quota_used_up", "api.quota_available"]


def test_a_quota_that_is_raised_ends_the_wait() -> None:
    async def story(world: World) -> None:
        world.refuse()
        await asyncio.sleep(10)
        assert world.pacer.blocked_for > 7000
        world.value = 1000
        await asyncio.sleep(ASK_EVERY)
        assert world.pacer.blocked_for == 0

    watched(story, sent=100)


@pytest.mark.parametrize(("value", "status"), [(100, 200), (None, 200), (100, 403), (100, 404), (100, 500)])
def test_after_a_burst_and_where_the_quota_is_unknown_calls_stop_for_seconds(
    value: int | None, status: int
) -> None:
    async def story(world: World) -> None:
        world.status = status
        world.refuse()
        await asyncio.sleep(1)
        assert len(world.asked) == 2
        assert 0 < world.pacer.blocked_for < 5
        await asyncio.sleep(600)
        assert len(world.asked) < 15

    assert watched(story, value=value) == []


def test_a_question_that_is_refused_as_well_is_not_repeated_every_few_seconds() -> None:
    async def story(world: World) -> None:
        world.status = 429
        world.refuse()
        await asyncio.sleep(300)
        assert len(world.asked) < 8

    watched(story)


def test_another_token_is_asked_with_soon() -> None:
    async def story(world: World) -> None:
        world.value = 100
        world.watch.ask_soon()
        await asyncio.sleep(6)
        assert world.watch.quota is not None

    watched(story, value=None)


def test_a_token_that_is_replaced_during_a_question_is_asked_with_soon() -> None:
    async def story(world: World) -> None:
        world.during = world.watch.ask_soon
        world.watch.ask_soon()
        await asyncio.sleep(12)
        assert len(world.asked) == 3

    watched(story)


def test_a_429_that_says_for_how_long_asks_nothing() -> None:
    async def story(world: World) -> None:
        world.refuse(30.0)
        await asyncio.sleep(20)
        assert len(world.asked) == 1

    assert watched(story, sent=10) == []


def test_mail_outside_of_a_used_up_quota_is_not_held_up() -> None:
    """Mail to verified addresses is free: only a refused call shows that it is in the way."""

    async def story(world: World) -> None:
        assert world.pacer.blocked_for == 0

    watched(story, sent=100)


def test_there_is_one_warning_at_80_percent_until_it_resets() -> None:
    async def story(world: World) -> None:
        for sent in (79, 80, 95, 99):
            world.sent = sent
            await asyncio.sleep(ASK_EVERY)
        world.sent, world.resets_at = 0, world.resets_at + 86400
        await asyncio.sleep(ASK_EVERY)
        world.sent = 80
        await asyncio.sleep(ASK_EVERY)

    assert watched(story) == ["api.quota_low"] * 2


@pytest.mark.parametrize("status", [403, 404])
async def test_where_it_may_not_be_asked_it_is_unknown(status: int) -> None:
    world = World()
    world.status = status
    quota, why = await ask_quota(world.api)
    assert quota is None
    assert why.startswith("Cloudflare does not say")
