"""What API_RATE promises, with one bridge and with several that share a store: against an API that counts the
calls in any window, says nothing of it, and blocks whoever exceeds it. No real time passes."""

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.cloudflare.budget import ALONE, FEW_BRIDGES, PER_SECOND, Budget, MemoryNotes, Notes
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.cloudflare.tally import Ask, Rate, exchange
from smtp2cf.reply import Reply, Scope, SendError
from tests.cloudflare.virtual_time import run_in_virtual_time
from tests.support.each import each

T = TypeVar("T")

SMALL = Rate(40, 10.0)
REAL = Rate(1200, 300.0)


def clock() -> float:
    return asyncio.get_running_loop().time()


class Store:
    """Notes that many share; every answer takes `delay` seconds, and none comes while it is away."""

    def __init__(self, delay: float = 0.0, notes: MemoryNotes | None = None) -> None:
        self.delay = delay
        self.away = self.broken = False
        self.patience = 0.0
        self.asked = 0
        self.notes = notes or MemoryNotes(clock)

    async def amend(self, name: str, change: Callable[[str, float], tuple[str, T]]) -> T:
        self.asked += 1
        await asyncio.sleep(self.delay)
        if self.broken:
            raise RuntimeError("a mistake of ours")
        if self.away:
            await asyncio.sleep(self.patience)
            raise SendError(Reply(451, "4.3.0", "the store is away"), Scope.ACCOUNT)
        result = await self.notes.amend(name, change)
        await asyncio.sleep(self.delay)
        return result


class Api:
    """Counts the calls in the last `window`; a call counts at any time while it is under way."""

    def __init__(self, rate: Rate, slowest: float = 0.1, seed: int = 0) -> None:
        self._rate = rate
        self._slowest = slowest
        self._luck = random.Random(seed)
        self.arrived: list[float] = []

    async def call(self) -> None:
        await asyncio.sleep(self._luck.uniform(0, self._slowest / 2))
        self.arrived.append(clock())
        await asyncio.sleep(self._luck.uniform(0, self._slowest / 2))

    @property
    def most(self) -> int:
        """The most calls in any window."""
        times = sorted(self.arrived)
        first = most = 0
        for last, at in enumerate(times):
            while times[first] <= at - self._rate.seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


class Bridge:
    def __init__(self, api: Api, rate: Rate, notes: Notes | None) -> None:
        self.budget = Budget(rate, "account", notes, clock)
        self.pacer = Pacer(100, clock, self.budget)
        self.api = api
        self.waits: list[float] = []

    async def call(self, *, waited: bool = False) -> None:
        asked = clock()
        turn = await self.pacer.admit(asked + 1e6, waited=waited)
        self.waits.append(clock() - asked)
        try:
            await self.api.call()
        finally:
            self.pacer.done(turn)

    async def sender(self, jobs: "itertools.count[int]", total: int, *, waited: bool) -> None:
        while next(jobs) < total:
            await self.call(waited=waited)


async def send(bridges: list[Bridge], total: int, *, waited: bool, senders: int = 10) -> float:
    """Send `total` messages from all bridges; returns how long that took."""
    jobs = itertools.count()
    began = clock()
    await asyncio.gather(
        *(bridge.sender(jobs, total, waited=waited) for bridge in bridges for _ in range(senders))
    )
    return clock() - began


def virtually(test: Coroutine[Any, Any, T]) -> T:
    return run_in_virtual_time(test)


@pytest.mark.parametrize("bridges", [1, 3])
@pytest.mark.parametrize("waited", [False, True])
@pytest.mark.parametrize("delay", [0.0, 0.01])
def test_all_that_is_allowed_is_used_and_not_one_call_more(bridges: int, waited: bool, delay: float) -> None:
    async def run() -> None:
        api, store = Api(SMALL), Store(delay)
        took = await send([Bridge(api, SMALL, store) for _ in range(bridges)], 400, waited=waited)
        assert api.most <= 40
        assert took <= 400 / (0.95 * 4)

    virtually(run())


@pytest.mark.parametrize("bridges", [1, 3])
@pytest.mark.parametrize("waited", [False, True])
def test_cloudflares_own_rate_is_used_up_for_a_while(bridges: int, waited: bool) -> None:
    async def run() -> None:
        api, store = Api(REAL, slowest=2.0), Store(0.01)
        took = await send([Bridge(api, REAL, store) for _ in range(bridges)], 4000, waited=waited)
        assert api.most <= 1200
        assert took <= 4000 / (0.95 * 4)
        assert store.asked < 4 * bridges * took

    virtually(run())


@settings(deadline=None, max_examples=15)
@given(
    rate=st.sampled_from([Rate(40, 10.0), Rate(7, 2.0), Rate(1, 5.0), Rate(300, 60.0)]),
    bridges=st.integers(1, 4),
    senders=st.integers(1, 30),
    slowness=st.sampled_from([0.0, 0.5, 2.0]),
    delay=st.sampled_from([0.0, 0.01, 0.3]),
    seed=st.integers(0, 1000),
)
def test_no_window_ever_holds_more_calls_than_allowed(
    rate: Rate, bridges: int, senders: int, slowness: float, delay: float, seed: int
) -> None:
    async def run() -> None:
        luck = random.Random(seed)
        api, store = Api(rate, slowness * rate.arrival, seed), Store(delay)
        some = [Bridge(api, rate, store) for _ in range(bridges)]
        jobs = itertools.count()

        async def sender(bridge: Bridge) -> None:
            while next(jobs) < min(150, 10 * rate.calls):
                await asyncio.sleep(luck.choice([0.0, 0.0, rate.seconds / 3]))
                await bridge.call(waited=luck.random() < 0.5)

        await asyncio.gather(*(sender(bridge) for bridge in some for _ in range(senders)))
        assert api.most <= rate.usable

    virtually(run())


@pytest.mark.parametrize("bridges", [1, 3])
@pytest.mark.parametrize("rate", [SMALL, REAL])
def test_new_mail_goes_ahead_of_ten_thousand_that_wait(bridges: int, rate: Rate) -> None:
    async def run() -> None:
        api, store = Api(rate, 0.5), Store(0.005)
        some = [Bridge(api, rate, store) for _ in range(bridges)]
        old = [asyncio.ensure_future(send([bridge], 10_000, waited=True)) for bridge in some]
        await asyncio.sleep(2 * rate.seconds)  # the window is full of what is old
        waits = []
        luck = random.Random(1)
        for bridge in some:
            bridge.waits.clear()

        async def one(bridge: Bridge) -> None:
            asked = clock()
            await bridge.call()
            waits.append(clock() - asked - 0.5)

        new = []
        for _ in range(400):
            await asyncio.sleep(luck.expovariate(2.0))
            new.append(asyncio.ensure_future(one(luck.choice(some))))
        await asyncio.gather(*new)
        for task in old:
            task.cancel()
        assert sorted(waits)[380] < 1.0
        assert len(api.arrived) / clock_since(api) > 0.9 * rate.usable / rate.seconds, "old mail went on"
        assert api.most <= rate.calls

    def clock_since(api: Api) -> float:
        return clock() - min(api.arrived)

    virtually(run())


def test_waiting_mail_is_spread_evenly() -> None:
    async def run() -> None:
        api = Api(REAL, 0.0)
        await send([Bridge(api, REAL, Store())], 1000, waited=True)
        in_each_ten = [0] * (int(max(api.arrived) - api.arrived[0]) // 10 + 1)
        for at in api.arrived:
            in_each_ten[int(at - api.arrived[0]) // 10] += 1
        assert max(in_each_ten) <= 50
        assert min(in_each_ten[:-1]) >= 34

    virtually(run())


def test_no_more_go_out_in_a_second_than_one_address_may_send() -> None:
    async def run() -> None:
        api = Api(Rate(1, 1.0), 0.0)
        await send([Bridge(api, REAL, None)], 800, waited=False, senders=200)
        assert api.most <= PER_SECOND + 1

    virtually(run())


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_restart_forgets_nothing(how: str) -> None:
    async def run() -> None:
        api, store = Api(SMALL, 0.01), Store()
        before = Bridge(api, SMALL, store)
        await send([before], 30, waited=False)
        if how == "stopped":
            await before.budget.aclose()
        else:
            store.away = True  # for this one, which says no more
        after = Bridge(api, SMALL, Store(notes=store.notes))
        await send([after], 50, waited=False)
        assert api.most <= SMALL.usable
        first_window = [at for at in api.arrived if at < api.arrived[0] + SMALL.seconds]
        assert len(first_window) == (SMALL.usable if how == "stopped" else pytest.approx(SMALL.usable, abs=4))

    virtually(run())


def test_a_call_seldom_waits_for_the_store() -> None:
    async def run() -> None:
        bridge = Bridge(Api(REAL, 0.0), REAL, store := Store(0.2))
        await bridge.call()
        bridge.waits.clear()
        for _ in range(500):
            await asyncio.sleep(0.05)
            await bridge.call()
        assert sum(wait > 0 for wait in bridge.waits) < 5
        assert store.asked < 100

    virtually(run())


@pytest.mark.parametrize("patience", [0.0, 25.0])
def test_while_the_store_is_away_each_bridge_uses_its_share(patience: float) -> None:
    async def run() -> None:
        api, store = Api(REAL, 0.1), Store()
        store.patience = patience
        some = [Bridge(api, REAL, store) for _ in range(3)]
        await asyncio.gather(*(send([bridge], 100, waited=False) for bridge in some))
        store.away = True
        sending = [asyncio.ensure_future(send([bridge], 4000, waited=False)) for bridge in some]
        await asyncio.sleep(900)
        assert api.most <= REAL.usable
        assert len(api.arrived) > 0.65 * 3 * REAL.usable
        store.away = False
        await asyncio.sleep(900)
        assert api.most <= REAL.usable
        assert len(api.arrived) > 0.8 * 6 * REAL.usable
        for task in sending:
            task.cancel()

    virtually(run())


def test_a_mistake_of_ours_stops_no_mail() -> None:
    async def run() -> None:
        store = Store()
        store.broken = True
        await send([Bridge(Api(REAL), REAL, store)], 50, waited=False)

    virtually(run())


def test_a_store_that_never_answered_leaves_a_small_share() -> None:
    async def run() -> None:
        api, store = Api(REAL, 0.1), Store()
        store.away = True
        sending = asyncio.ensure_future(send([Bridge(api, REAL, store)], 4000, waited=False))
        await asyncio.sleep(REAL.seconds)
        assert len(api.arrived) == pytest.approx(ALONE * REAL.usable // FEW_BRIDGES, rel=0.05)
        sending.cancel()

    virtually(run())


def test_when_one_is_blocked_all_stop_and_a_restart_does_not_end_it() -> None:
    async def run() -> None:
        api, store = Api(REAL, 0.1), Store()
        some = [Bridge(api, REAL, store) for _ in range(3)]
        sending = [asyncio.ensure_future(send([bridge], 4000, waited=True)) for bridge in some]
        await asyncio.sleep(20)
        some[0].pacer.block(some[0].pacer.probe(), 200_000.0)
        await asyncio.sleep(1.5)
        calls = len(api.arrived)
        await asyncio.sleep(100_000)
        some.append(Bridge(api, REAL, store))
        sending.append(asyncio.ensure_future(send([some[-1]], 10, waited=False)))
        await asyncio.sleep(90_000)
        assert len(api.arrived) == calls
        assert all(bridge.pacer.wait().seconds == pytest.approx(10_000, abs=5) for bridge in some)
        await asyncio.sleep(10_100)
        assert len(api.arrived) > calls + 100
        for task in sending:
            task.cancel()

    virtually(run())


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"ended": 1}'])
def test_a_note_that_can_not_be_read_is_a_new_one(text: str) -> None:
    _, standing = exchange(text, 1e9, SMALL, Ask("a", new=50))
    assert standing.new == SMALL.usable


@each("back", [1.0, 3600.0, 86400.0])
def test_a_block_gets_no_longer_when_the_clock_of_the_store_is_set_back(back: float) -> None:
    text, _ = exchange("", 1e9, SMALL, Ask("a", blocked_for=60.0))
    text, standing = exchange(text, 1e9 + 10 - back, SMALL, Ask("b"))
    assert standing.blocked_for <= 60.0
    _, standing = exchange(text, 1e9 + 20 - back, SMALL, Ask("b"))
    assert standing.blocked_for <= 50.0


def test_a_wait_that_is_known_to_be_long_is_told_at_once() -> None:
    async def run() -> None:
        bridge = Bridge(Api(REAL, 0.0), Rate(1, 300.0), None)
        await bridge.call()
        await asyncio.sleep(2)
        began = clock()
        for waited, patience in ((False, 1.0), (False, math.inf), (True, math.inf)):
            deadline = began + (10 if patience == math.inf else 1000)
            with pytest.raises(SendError) as caught:
                await bridge.pacer.admit(deadline, waited=waited, known_wait=patience)
            assert "(SMTP2CF_API_RATE=1/300)" in caught.value.reply.text
            assert caught.value.retry_after == pytest.approx(300, abs=5)
        assert clock() == began

    virtually(run())


def test_a_probe_and_a_question_at_the_start_keep_to_what_the_last_process_left() -> None:
    async def run() -> None:
        store = Store(0.01)
        await send([Bridge(Api(SMALL), SMALL, store)], SMALL.usable, waited=False)
        after = Bridge(Api(SMALL), SMALL, store)
        await after.budget.ready()
        assert after.pacer.blocked_for > 9

    virtually(run())
