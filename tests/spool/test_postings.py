"""What waits to be posted, in both spools: claimed by one at a time, kept until it is done, bounded."""

import asyncio
import sqlite3

import pytest

from smtp2cf.spool import Posting, postings, sqlite_path
from smtp2cf.spool.postings import KEPT_FOR, LEASE, Backlog
from smtp2cf.spool.sqlite_postings import forget
from tests.spool.clocks import Host
from tests.spool.conftest import Backend


def some(*names: str) -> list[Posting]:
    return [Posting(name, f'{{"told": "{name}"}}') for name in names]


def told(claimed: list[Posting]) -> list[tuple[str, str, int]]:
    return [(one.id, one.body, one.attempts) for one in claimed]


async def test_what_is_added_is_claimed_once_oldest_first_and_gone_when_done(backend: Backend) -> None:
    waiting = (await backend.open()).postings
    assert await waiting.backlog() == Backlog(0, None)
    assert await waiting.add(some("a", "b")) == 0
    await waiting.add(some("c"))
    await waiting.add(some("a"))  # again, after an answer of the database that was lost
    assert await waiting.backlog() == Backlog(3, 0.0)
    assert told(await waiting.claim(2)) == [(one.id, one.body, 0) for one in some("a", "b")]
    claims = await asyncio.gather(waiting.claim(2), waiting.claim(2))
    assert [one.id for claimed in claims for one in claimed] == ["c"]
    await waiting.settle(["a", "b"], {"c": 30.0})
    total, due_in = await waiting.backlog()
    assert total == 1
    assert 20 < due_in <= 30
    await waiting.settle(["c", "unknown"], {"a": 1.0})
    assert await waiting.backlog() == Backlog(0, None)


async def test_a_failed_attempt_counts_and_a_lease_that_is_over_leaves_the_id(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, backend)
    waiting = (await backend.open()).postings
    await waiting.add(some("a"))
    assert len(await waiting.claim(5)) == 1
    await waiting.settle([], {"a": 100.0})
    await host.sleep(99)
    assert await waiting.claim(5) == []
    await host.sleep(2)
    (again,) = await waiting.claim(5)
    assert (again.id, again.attempts) == ("a", 1)
    await host.sleep(LEASE - 1)  # whoever has claimed it is dead
    assert await waiting.claim(5) == []
    await host.sleep(2)
    assert told(await waiting.claim(5)) == [(again.id, again.body, 1)]


async def test_two_who_share_a_spool_share_the_work(postgres: Backend) -> None:
    one, other = (await postgres.open(serve=True)).postings, (await postgres.open(serve=True)).postings
    await asyncio.gather(*(who.backlog() for who in (one, other) * 6))  # opens connections
    await one.add(some(*map(str, range(200))))
    claims = await asyncio.gather(*(who.claim(20) for who in (one, other) * 6))
    claims.append(await one.claim(200))
    assert sorted(int(each.id) for claimed in claims for each in claimed) == list(range(200))


async def test_the_oldest_are_dropped_and_counted_where_too_many_wait(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postings, "MOST_POSTINGS", 3)
    waiting = (await backend.open()).postings
    assert await waiting.add(some("a", "b")) == 0
    assert await waiting.add(some("c", "d", "e")) == 2
    assert [one.id for one in await waiting.claim(9)] == ["c", "d", "e"]


async def test_they_outlive_the_process_but_not_their_time(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, backend)
    spool = await backend.open()
    await spool.postings.add(some("a"))
    await backend.close(spool)
    spool = await backend.open()
    assert (await spool.postings.backlog()).total == 1
    await host.sleep(KEPT_FOR + 60)
    await spool.postings.add(some("b"))
    await backend.close(spool)
    await _forget(backend)
    spool = await backend.open()
    assert [one.id for one in await spool.postings.claim(9)] == ["b"]
    assert await spool.postings.expire(60.0) == 0
    await host.sleep(120)
    assert await spool.postings.expire(60.0) == 1


async def _forget(backend: Backend) -> None:
    """What both spools do every now and then."""
    if backend.is_sqlite:
        with sqlite3.connect(sqlite_path(backend.url, backend.state_dir)) as connection:
            (now,) = connection.execute("SELECT max(added) FROM posting").fetchone()
            forget(connection, now, KEPT_FOR)
        connection.close()
    else:
        spool = await backend.open()
        await spool.postings.forget_old()
        await backend.close(spool)
