"""Counts in the spool: changed by all who share it, all of some or none, and forgotten when they are over."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from smtp2cf.reply import SendError
from smtp2cf.spool import postgres_counts, postgres_database, sqlite_counts
from tests.spool.conftest import Backend
from tests.spool.inside import renew

HOUR = 3600.0


def add(*names: str, lasts: float = HOUR) -> Callable[[Mapping[str, str], float], Any]:
    """One more of each; returns how many there were."""

    def change(texts: Mapping[str, str], now: float) -> Any:
        assert now > 1e9
        before = {name: int(texts[name] or 0) for name in names}
        return {name: (str(before[name] + 1), lasts) for name in names}, before

    return change


async def test_counts_of_several_processes_lose_nothing(backend: Backend) -> None:
    spools = [await backend.open(serve=number == 0) for number in range(3)]
    both = [spool.recount(["a", "b"], add("a", "b")) for _ in range(10) for spool in spools]
    other = [spool.recount(["b", "c"], add("b", "c")) for _ in range(10) for spool in spools]
    found = await asyncio.gather(*both, *other)
    assert sorted(one["b"] for one in found) == list(range(60))
    assert sorted(one["a"] for one in found[:30]) == list(range(30))
    assert all(one["b"] >= one.get("a", one.get("c")) for one in found), "all of them or none"
    kept, now = await spools[1].counts()
    assert kept == {"a": "30", "b": "60", "c": "30"}
    assert now > 1e9
    await backend.close_all()
    again = await backend.open(serve=True)
    assert (await again.counts())[0] == kept


async def test_what_is_only_read_is_not_written(spool: Any) -> None:
    assert await spool.recount(["a"], lambda texts, _: ({}, texts)) == {"a": ""}
    assert (await spool.counts())[0] == {}


async def test_a_change_of_counts_that_fails_changes_none(
    spool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spool.recount(["a"], add("a"))
    with monkeypatch.context() as patch:
        patch.setattr(postgres_database, "PATIENCE", 0.2)
        with pytest.raises((ZeroDivisionError, SendError)):
            await spool.recount(["a", "b"], lambda _, __: ({"a": ("9", HOUR)}, 1 // 0))
    assert (await spool.counts())[0] == {"a": "1"}


async def test_a_name_may_be_anything_that_a_client_can_say(spool: Any) -> None:
    name = "sender//messages/60/" + "ü'\"%\\" * 100 + "@example.com"
    await spool.recount([name], add(name))
    assert (await spool.counts())[0] == {name: "1"}


async def test_counts_that_are_over_are_forgotten_and_of_too_many_those_that_end_first(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await backend.open()
    await spool.recount(["gone"], add("gone", lasts=0.0))
    names = [f"n{number}" for number in range(5)]
    for number, name in enumerate(names):
        await spool.recount([name], add(name, lasts=HOUR - number))
    assert set((await spool.counts())[0]) == set(names), "what is over is not told"
    monkeypatch.setattr(sqlite_counts, "MOST_COUNTS", 3)
    monkeypatch.setattr(postgres_counts, "FORGET", postgres_counts.FORGET.replace("100000", "3"))
    await renew(spool)
    assert set((await spool.counts())[0]) == {"n0", "n1", "n2"}
    assert await spool.recount(["gone"], add("gone")) == {"gone": 0}
