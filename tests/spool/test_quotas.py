"""Quotas where it is counted what was sent: memory, an SQLite spool, a PostgreSQL that bridges share."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from smtp2cf.access import limit, shared_counts
from smtp2cf.access.charge import Charge
from smtp2cf.access.counts import Counts
from smtp2cf.access.limit import Named
from smtp2cf.access.quotas import Allowance, Quotas, ruling
from smtp2cf.access.shared_counts import Judged, SharedCounts
from smtp2cf.journal import quotas as journal
from smtp2cf.reply import Reply
from smtp2cf.spool import SpoolUnavailable
from smtp2cf.spool.clock import passed
from tests.spool.conftest import Backend

CLIENT, USER, SENDER = "192.0.2.1", "anna", "shop@example.com"
Ask = Callable[..., Awaitable[Reply | None]]


def quotas_in(counts: Counts | SharedCounts, **texts: str) -> Quotas:
    """Quotas by their settings' names in lower case."""
    return Quotas(
        Allowance(
            **{
                kind: ruling(*(Named(one, f"SMTP2CF_{kind.upper()}_QUOTA") for one in limit.parse(text)))
                for kind, text in texts.items()
            }
        ),
        counts,
    )


async def ask(quotas: Quotas, what: str = "message", *keys: str) -> Reply | None:
    found: Any = getattr(quotas, what)(*(keys or (CLIENT, USER, SENDER)))
    return await found if inspect.isawaitable(found) else found


async def let_through(quotas: Quotas, what: str = "message", *keys: str, at_most: int = 50) -> int:
    for number in range(at_most):
        if await ask(quotas, what, *keys) is not None:
            return number
    return at_most


class Place:
    """Somewhere to count; `open` is what a start of a bridge does, `stop` what its end does."""

    def __init__(self, spools: Backend | None) -> None:
        self.spools = spools

    @property
    def is_shared(self) -> bool:
        return self.spools is not None and not self.spools.is_sqlite

    async def open(self) -> Counts | SharedCounts:
        if self.spools is None:
            return Counts()
        spool = await self.spools.open()
        if self.is_shared:
            return SharedCounts(spool)
        counts = Counts(spool, clock=passed)
        await counts.read()
        return counts

    async def stop(self, counts: Counts | SharedCounts) -> None:
        if isinstance(counts, Counts):
            await counts.write()
        if self.spools is not None:
            await self.spools.close_all()
            self.spools.opened.clear()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(None if request.param == "memory" else request.getfixturevalue(request.param))


async def test_all_limits_hold_wherever_it_is_counted(place: Place) -> None:
    quotas = quotas_in(
        await place.open(),
        client="3 messages/1m, 9 recipients/1d",
        user="4 messages/1h",
        sender="5 recipients/1m",
    )
    assert await let_through(quotas) == 3
    assert await let_through(quotas, "message", "192.0.2.2", USER, "") == 1
    assert await let_through(quotas, "message", "192.0.2.2", "bert", "") == 2, "its refusals did not count"
    assert await let_through(quotas, "recipient") == 5
    refusal = await ask(quotas, "recipient")
    assert refusal is not None
    assert (refusal.code, refusal.status) == (450, "4.7.1")
    assert "(SMTP2CF_SENDER_QUOTA=5 recipients/1m): try again after " in refusal.text
    assert await let_through(quotas, "recipient", CLIENT, USER, "") == 4


async def test_many_at_once_get_no_more_than_the_limit(place: Place) -> None:
    quotas = quotas_in(await place.open(), client="70 messages/1d", sender="100 messages/1d")
    answers = await asyncio.gather(*(ask(quotas) for _ in range(300)))
    assert sum(answer is None for answer in answers) == 70


async def test_who_nears_a_limit_is_named_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "said", journal.Said())
    quotas = quotas_in(await place.open(), client="10 messages/1h")
    with capture_logs() as lines:
        assert await let_through(quotas) == 10
    (line,) = (one for one in lines if one["event"] == "quota.scarce")
    assert (line["who"], line["used"], line["setting"]) == (CLIENT, 8, "SMTP2CF_CLIENT_QUOTA")


async def test_counts_outlive_a_restart(place: Place) -> None:
    texts = {"client": "5 messages/1d", "sender": "7 recipients/1h"}
    counts = await place.open()
    quotas = quotas_in(counts, **texts)
    assert [await ask(quotas, what) for what in ("message", "recipient", "message")] == [None] * 3
    await place.stop(counts)
    quotas = quotas_in(await place.open(), **texts)
    kept = place.spools is not None
    assert await let_through(quotas) == (3 if kept else 5)
    assert await let_through(quotas, "recipient") == (6 if kept else 7)


async def test_a_killed_bridge_has_lost_the_last_second_at_most(
    sqlite: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smtp2cf.access.counts.EVERY", 0.0)
    spool = await sqlite.open()
    written = asyncio.Event()
    recount = spool.recount

    async def noticed(*arguments: Any) -> None:
        await recount(*arguments)
        written.set()

    monkeypatch.setattr(spool, "recount", noticed)
    counts = Counts(spool, clock=passed)
    await counts.read()
    keeping = asyncio.create_task(counts.keep())
    assert await ask(quotas_in(counts, client="5 messages/1d")) is None
    async with asyncio.timeout(30):
        await written.wait()
    keeping.cancel()
    again = Counts(spool, clock=passed)
    await again.read()
    assert await let_through(quotas_in(again, client="5 messages/1d")) == 4


async def test_two_replicas_together_never_exceed_a_limit(postgres: Backend) -> None:
    replicas = [SharedCounts(await postgres.open(serve=True)) for _ in range(2)]
    one, other = (quotas_in(counts, client="20 messages/1m", sender="30 messages/1m") for counts in replicas)
    answers = await asyncio.gather(*(ask(quotas) for _ in range(40) for quotas in (one, other)))
    assert sum(answer is None for answer in answers) == 20
    more = [ask(quotas, "message", "192.0.2.2", "", SENDER) for _ in range(20) for quotas in (one, other)]
    assert sum(answer is None for answer in await asyncio.gather(*more)) == 10


class Failing:
    """A spool that is away, but for what it had."""

    def __init__(self, kept: dict[str, str] | None = None) -> None:
        self.kept = kept
        self.written: list[dict[str, Any]] = []

    async def counts(self) -> tuple[dict[str, str], float]:
        if self.kept is None:
            raise SpoolUnavailable("gone")
        return self.kept, 2e9

    async def recount(self, names: Any, change: Any) -> Any:
        kept, judged = change(dict.fromkeys(names, ""), 2e9)
        if self.kept is None:
            raise SpoolUnavailable("gone")
        self.written.append(kept)
        return judged


async def test_without_the_shared_counts_mail_is_told_to_come_back() -> None:
    refusal = await ask(quotas_in(SharedCounts(Failing()), client="5 messages/1d"))
    assert refusal == Reply(451, "4.3.0", "the spool can't be reached: gone")


async def test_what_could_not_be_written_is_written_later() -> None:
    store = Failing({})
    counts = Counts(store)
    await counts.read()
    store.kept = None
    assert await ask(quotas_in(counts, client="5 messages/1d")) is None
    await counts.write()
    assert store.written == []
    store.kept = {}
    await counts.write()
    (kept,) = store.written
    assert list(kept) == ["client//messages/86400/192.0.2.1"]
    await counts.write()
    assert len(store.written) == 1


async def test_counts_that_could_not_be_read_are_not_overwritten() -> None:
    store = Failing()
    counts = Counts(store)
    with capture_logs() as lines:
        await counts.read()
    assert [line["event"] for line in lines] == ["quota.not_read"]
    store.kept = {}
    assert await let_through(quotas_in(counts, client="5 messages/1d")) == 5
    await counts.write()
    assert store.written == []


WISHES = st.lists(
    st.tuples(st.floats(0, 30), st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3)),
    max_size=60,
)


@given(WISHES, st.integers(1, 5))
@settings(max_examples=60)
def test_shared_counts_never_exceed_a_limit_in_any_window(
    wishes: list[tuple[float, list[str]]], most: int
) -> None:
    texts: dict[str, str] = {}
    taken: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    now = 1e9
    for pause, who in wishes:
        now += pause
        wanted = [
            [Charge(f"client//messages/60/{one}", one, Named(limit.parse(f"{most} messages/1m")[0], "S"))]
            for one in who
        ]
        names = {charge[0].name for charge in wanted}
        kept, judged = shared_counts.judge(wanted, {name: texts.get(name, "") for name in names}, now)
        texts.update((name, one.text) for name, one in kept.items())
        assert isinstance(judged, Judged)
        for one, refused in zip(who, judged.refused, strict=True):
            if refused is None:
                taken[one].append(now)
                assert sum(now - at < 59.9999 for at in taken[one]) <= most
            else:
                assert sum(now - at <= 61.0001 for at in taken[one]) >= most
