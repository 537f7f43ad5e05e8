"""Time has one owner: no clock that is wrong, or is set, makes mail early, late or old."""

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.reply import Reply
from smtp2cf.spool import Action, Filter, Memory, Status
from smtp2cf.spool import clock as spool_clock
from tests.spool.clocks import DAY, HOUR, JUMPS, Host
from tests.spool.conftest import Backend
from tests.spool.inside import abandon
from tests.spool.test_contract import do, only, put_one
from tests.support.waiting import PATIENCE

OK = Reply(250, "2.0.0", "sent")
FIXTURES = Path(__file__).with_name("fixtures")
"""Spools of earlier versions."""


@pytest.fixture
def host(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch, backend)


async def restarted(backend: Backend, spool: Any, how: str, host: Host) -> Any:
    """The spool after its process ended, or did not."""
    if how == "goes on":
        return spool
    if how == "is killed":
        await abandon(spool)
        return await backend.open(serve=True)
    await backend.close(spool)
    if how == "is rebooted":
        host.reboot()
    return await backend.open()


async def until_written(backend: Backend, digest: bytes) -> None:
    """Until what a spool was told to remember is in the database; it is written in the background."""
    if backend.is_sqlite:
        await backend.opened[-1].check()  # its writer does one thing after the other
        return
    other = await backend.open()
    async with asyncio.timeout(PATIENCE):
        while await other.recall(digest, begin=False) != Memory(OK):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


ENDS = ["goes on", "is restarted", "is killed", "is rebooted"]


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("end", ENDS)
async def test_a_clock_that_is_set_makes_nothing_early_late_or_old(
    backend: Backend, host: Host, jump: float, end: str
) -> None:
    spool = await backend.open()
    await put_one(spool, attempts=1, delay=1800, expires_in=5 * DAY)
    new = await put_one(spool, expires_in=5 * DAY)
    host.jump += jump
    spool = await restarted(backend, spool, end, host)
    assert [item.queue_id for item in await spool.claim(10)] == [new]
    assert await spool.settle(new, {"ben@example.org": OK}, retry_in=1800)
    for _ in range(3):
        await host.sleep(1790)
        assert await spool.claim(10) == []
        await host.sleep(20)
        items = await spool.claim(10)
        assert [(item.due, item.expired) for item in items] == [(True, False)] * 2
        for item in items:
            assert await spool.settle(item.queue_id, {}, retry_in=1800)
    await host.sleep(5 * DAY - 4 * HOUR)
    assert {item.expired for item in await spool.claim(10)} == {False}
    await host.sleep(4 * HOUR)
    assert {item.expired for item in [item async for item in spool.items()]} == {True}


@pytest.mark.parametrize("jump", JUMPS)
async def test_ages_and_times_for_people_follow_their_clock(
    backend: Backend, host: Host, jump: float
) -> None:
    spool = await backend.open()
    queue_id = await put_one(spool, attempts=1, delay=1800, received_at=time.time())
    await host.sleep(HOUR / 2)
    host.jump += jump
    await put_one(spool, received_at=time.time())
    assert await do(spool, Action.HOLD, Filter(older_than=HOUR / 4)) == [queue_id]
    item = next(item for item in [item async for item in spool.items()] if item.queue_id == queue_id)
    assert item.age == pytest.approx(HOUR / 2, abs=20)
    assert item.next_attempt == pytest.approx(time.time(), abs=20)
    assert item.expires == pytest.approx(time.time() + HOUR / 2, abs=20)
    assert (await spool.totals())[Status.HELD].oldest == pytest.approx(time.time() - HOUR / 2, abs=20)


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_lease_is_as_long_as_it_is(backend: Backend, host: Host, jump: float) -> None:
    if backend.is_sqlite:
        pytest.skip("it has one owner")
    owner, other = await backend.open(lease=60), await backend.open(lease=60)
    queue_id = await put_one(owner)
    assert len(await owner.claim(1)) == 1
    host.jump += jump
    await host.sleep(50)
    assert await other.claim(1) == []
    await host.sleep(20)
    assert [item.queue_id for item in await other.claim(1)] == [queue_id]


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("end", ENDS)
async def test_a_lost_answer_is_remembered_for_ten_minutes(
    backend: Backend, host: Host, jump: float, end: str
) -> None:
    spool = await backend.open()
    await spool.recall(b"x")
    spool.remember(b"x", OK)
    await until_written(backend, b"x")
    host.jump += jump
    spool = await restarted(backend, spool, end, host)
    await host.sleep(500)
    assert await spool.recall(b"x", begin=False) == Memory(OK)
    await host.sleep(700)
    assert await spool.recall(b"x", begin=False) is None


async def test_time_off_counts_while_the_host_was_on(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, sqlite)
    spool = await sqlite.open()
    await put_one(spool, attempts=1, delay=1800, expires_in=5 * DAY)
    await sqlite.close(spool)
    await host.sleep(6 * DAY)
    spool = await sqlite.open()
    assert [(item.due, item.expired) for item in await spool.claim(10)] == [(True, True)]


async def test_a_command_has_the_clock_of_the_bridge(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, sqlite)
    spool = await sqlite.open()
    queue_id = await put_one(spool, attempts=1, delay=1800)
    host.jump -= DAY
    await host.sleep(60)
    command = await sqlite.open()
    assert (await only(command)).next_attempt - time.time() == pytest.approx(1740, abs=20)
    assert await do(command, Action.RETRY) == [queue_id]
    assert [item.queue_id for item in await spool.claim(1)] == [queue_id]


@pytest.mark.parametrize("since", [-DAY, 60.0, 1900.0])
async def test_a_spool_of_an_earlier_version_goes_on(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch, since: float
) -> None:
    """Made at 1764000000. since: seconds later by a host's clock, which may have been set back meanwhile."""
    host = Host(monkeypatch, sqlite)
    host.jump = 1_764_000_000.0 + since - time.time()
    shutil.copy(FIXTURES / "sqlite-at-1764000000.sqlite3", sqlite.state_dir / "spool.sqlite3")
    spool = await sqlite.open()
    claimed = {item.queue_id: item for item in await spool.claim(10)}
    ready = {"OLDNEW", "OLDSENT"} | ({"OLDDEFERRED"} if since > 1800 else set())
    assert claimed.keys() == ready
    assert claimed["OLDSENT"].unanswered
    assert await spool.recall(b"digest" * 4, begin=False) == (Memory(OK) if since < 600 else None)
    await host.sleep(1800)
    assert len(await spool.claim(10)) == 3 - len(ready)
    assert not any([item.expired async for item in spool.items()])
    assert await spool.read("OLDNEW") == b"Subject: old\r\n\r\nhello\r\n"


def test_what_has_passed_is_told_where_a_host_has_no_such_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert spool_clock.passed() == pytest.approx(time.monotonic(), abs=5)
    monkeypatch.setattr(spool_clock, "BOOT_ID", Path("/nonexistent"))
    assert spool_clock.boot() == ""
    mark = spool_clock.Clock(1000.0).mark()
    assert spool_clock.Clock.resume(mark).now() == pytest.approx(1000, abs=5)


@pytest.mark.parametrize(
    ("passed", "expected"),
    [(100.0, 5000.0), (40.0, 5000.0), (160.0, 5060.0), (600_100.0, 605_000.0)],
)
def test_a_clock_goes_on_with_what_has_passed(
    monkeypatch: pytest.MonkeyPatch, passed: float, expected: float
) -> None:
    monkeypatch.setattr(spool_clock, "boot", lambda: "this")
    monkeypatch.setattr(spool_clock, "passed", lambda: passed)
    mark = spool_clock.Mark("this", 100.0, 5000.0)
    assert spool_clock.Clock.resume(mark).now() == pytest.approx(expected)
    assert spool_clock.Clock.resume(mark._replace(boot="another")).now() == pytest.approx(5000.0)
