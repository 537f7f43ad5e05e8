"""Several accounts: which one sends which mail, and that none waits for another's trouble."""

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from aiohttp import web

from smtp2cf.access.senders import Senders
from smtp2cf.cloudflare.account import Account
from smtp2cf.cloudflare.budget import Budget
from smtp2cf.cloudflare.tally import Rate
from smtp2cf.envelope import Envelope
from smtp2cf.relay import BouncePolicy, MessagePolicy, Relay, RetryPolicy
from smtp2cf.relay.accounts import Accounts, Outlet, Share
from smtp2cf.relay.lanes import Lane
from smtp2cf.relay.queue import Queue
from smtp2cf.spool import Filter, Spool, SpoolItem, SpoolUnavailable
from tests.relay.world import MESSAGE, Answer, Api, Call, delivered, failure
from tests.spool.conftest import Backend, new_mail
from tests.support.secret import TOKEN
from tests.support.waiting import PATIENCE

WAITING, OTHERS, PARALLEL = 400, 20, 10
THROTTLED = failure(429, 10004, "email.sending.error.throttled", Retry_After="3600")
DEAD = failure(403, 10000, "Authentication error")


async def never(_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is sent here")


def outlet(name: str) -> Outlet:
    return Outlet(never, name)


def share(name: str, domains: str, users: tuple[str, ...] = ()) -> Share:
    return Share(outlet(name), Senders.parse(filter(None, domains.split(","))), users)


SHARES = (
    share("brand", "brand.example,*.shop.brand.example,Anna@example.com", ("shop",)),
    share("deep", "*.brand.example,münchen.example"),
    share("user", "", ("till",)),
)


@pytest.mark.parametrize(
    ("user", "sender", "account", "of_a_dsn"),
    [
        ("", "a@brand.example", "brand", "brand"),
        ("", "a@BRAND.example.", "brand", "brand"),
        ("", "a@x.brand.example", "deep", "deep"),
        ("", "a@x.shop.brand.example", "brand", "brand"),
        ("", "a@shop.brand.example", "deep", "deep"),
        ("", "anna@example.com", "brand", "brand"),
        ("", "ben@example.com", "default", "default"),
        ("", "a@xn--mnchen-3ya.example", "deep", "deep"),
        ("", "a@notbrand.example", "default", "default"),
        ("", "", "default", "default"),
        ("", "root", "default", "default"),
        ("shop", "a@x.brand.example", "brand", "deep"),
        ("till", "a@brand.example", "user", "brand"),
        ("till", "a@elsewhere.example", "user", "user"),
        ("Till", "a@elsewhere.example", "default", "default"),
        ("nobody", "a@brand.example", "brand", "brand"),
    ],
)
def test_by_user_then_by_domain_then_the_default(user: str, sender: str, account: str, of_a_dsn: str) -> None:
    accounts = Accounts(outlet("default"), SHARES)
    assert accounts.for_(user, sender) == outlet(account)
    assert accounts.for_(user, sender, is_dsn=True) == outlet(of_a_dsn)
    without = Accounts(None, SHARES).for_(user, sender)
    assert without == (None if account == "default" else outlet(account))


def test_what_a_changed_file_says_counts_at_once() -> None:
    accounts = Accounts(outlet("default"), SHARES)
    accounts.use((share("brand", "other.example"),))
    assert accounts.for_("shop", "a@brand.example") == outlet("default")
    assert accounts.for_("", "a@other.example") == outlet("brand")


class Paced:
    """A pace that a test sets."""

    waiting, in_flight, line, blocked_for = 0, 0, 1, 0.0


def test_a_lane_has_places_for_as_much_as_its_account_takes() -> None:
    pace = Paced()
    lane = Lane("a", pace, 10)
    assert lane.free == 10
    pace.blocked_for = 3600.0
    assert lane.free == 0
    lane.put_off([*map(str, range(40))])
    assert lane.next_ones() == []
    pace.blocked_for = 0.01
    assert lane.next_ones() == ["0"], "one is to try"
    pace.blocked_for, lane.active = 0.0, 7
    assert lane.next_ones() == ["1", "2", "3"]
    lane.active, pace.waiting, pace.in_flight, pace.line = 5, 2, 3, 4
    assert lane.next_ones() == ["4", "5"], "behind those that stand in line"
    lane.active = 10
    assert lane.next_ones() == []
    assert lane.holds_back


# ---- over sockets


class Bridge(NamedTuple):
    """A relay with the accounts `troubled` and `well`, each for a domain of that name."""

    relay: Relay
    spool: Spool
    troubled: Account
    well: Account
    accounts: Accounts

    async def send(self, name: str, number: int = 0, **fields: Any) -> str:
        envelope = Envelope(
            reverse_path=f"a@{name}.example", forward_paths=(f"new{number}@x.example",), **fields
        )
        return str((await self.relay.accept(envelope, MESSAGE)).reply)


@contextlib.asynccontextmanager
async def bridge(
    spool: Spool, api: Api, rates: Mapping[str, Rate] | None = None, **policy: Any
) -> AsyncIterator[Bridge]:
    account = functools.partial(Account, base_url=api.url, token=TOKEN, timeout=20, concurrency=20)
    budgets = {name: Budget(rate, name) for name, rate in (rates or {}).items()}
    senders = [account(account_id=name, name=name, budget=budgets.get(name)) for name in ("troubled", "well")]
    shares = [
        Share(Outlet(each.client.send, each.name, each), Senders.parse((f"{each.name}.example",)), ())
        for each in senders
    ]
    accounts = Accounts(None, shares)
    relay = Relay(
        accounts,
        MessagePolicy(**policy),
        spool=spool,
        retry=RetryPolicy(minimum=60, parallel=PARALLEL),
        bounce=BouncePolicy(hostname="bridge.example"),
    )
    assert relay.queue is not None
    for each in senders:
        each.health.recovered = functools.partial(relay.queue.retry_all, each.name)
        each.health.changed = relay.queue.wake
    relay.queue.start()
    try:
        yield Bridge(relay, spool, *senders, accounts)
    finally:
        await relay.queue.stop_claiming()
        await relay.drain(1)
        for each in senders:
            await each.aclose()


def in_trouble(answer: Answer) -> Answer:
    """One account gets this answer, the other sends."""

    async def by_account(call: Call) -> web.Response:
        return await (answer if call.account == "troubled" else delivered)(call)

    return by_account


async def fill(spool: Spool) -> None:
    """Hundreds of the one's mails, and behind them a few of the other's."""
    await spool.put(*(new_mail(reverse_path="a@troubled.example") for _ in range(WAITING)))
    await spool.put(*(new_mail(reverse_path="a@well.example") for _ in range(OTHERS)))


async def left(spool: Spool, name: str) -> int:
    return await spool.count(Filter(sender=f"*@{name}.example"))


async def until_sent(spool: Spool, name: str, but: int = 0) -> None:
    async with asyncio.timeout(PATIENCE):
        while await left(spool, name) > but:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("trouble", ["throttled for an hour", "dead token", "no answer"])
async def test_no_mail_waits_for_another_account(sqlite: Backend, api: Api, trouble: str) -> None:
    mended = asyncio.Event()

    async def late(call: Call) -> web.Response:
        await mended.wait()
        return await delivered(call)

    api.answer = in_trouble(
        {"throttled for an hour": THROTTLED, "dead token": DEAD, "no answer": late}[trouble]
    )
    spool = await sqlite.open()
    await fill(spool)
    async with bridge(spool, api, reply_timeout=0.2) as here:
        await until_sent(spool, "well")
        for number in range(3):
            assert (await here.send("troubled", number)).startswith("250 "), "it is kept"
            assert (await here.send("well", number)).startswith("250 2.0.0 ")
        calls = Counter(call.account for call in api.calls)
        assert calls["well"] == OTHERS + 3
        assert calls["troubled"] <= PARALLEL + 3, "at once, until the first is answered"
        assert await left(spool, "troubled") == WAITING + 3
        # And what waits for the other goes out as soon as it can.
        api.answer = delivered
        mended.set()
        if trouble == "dead token":
            here.troubled.use_token(TOKEN + "2")
        if trouble == "throttled for an hour":
            here.troubled.pacer._opens_at = 0.0  # noqa: SLF001 - an hour later
            assert here.relay.queue is not None
            here.relay.queue.wake()
        told_when = calls["troubled"] if trouble == "throttled for an hour" else 0
        await until_sent(spool, "troubled", but=told_when)


async def test_no_mail_stands_in_line_for_another_account(sqlite: Backend, api: Api) -> None:
    """One may make few calls, and has much mail; the other may make as many as it likes."""
    spool = await sqlite.open()
    await fill(spool)
    async with bridge(spool, api, rates={"troubled": Rate(5, 60.0)}) as here:
        await until_sent(spool, "well")
        assert (await here.send("well")).startswith("250 2.0.0 ")
        calls = Counter(call.account for call in api.calls)
        assert calls["well"] == OTHERS + 1
        assert calls["troubled"] <= 5


class Away:
    """The mail of two accounts, claimed, in a spool that goes away once the first is given back."""

    def __init__(self) -> None:
        self.given_back: list[str] = []
        self.retry = RetryPolicy(parallel=1)
        self.spool = self

    async def give_back(self, *queue_ids: str) -> None:
        self.given_back += queue_ids

    async def apply(self, *_: Any, **__: Any) -> AsyncIterator[list[str]]:
        raise SpoolUnavailable("away")
        yield []  # which makes it a generator


async def test_no_claim_is_kept_where_the_spool_goes_away_as_mail_is_put_off() -> None:
    pace = Paced()
    pace.blocked_for = 60.0
    outlets = {name: Outlet(never, name, pace) for name in ("one", "two")}
    accounts = Accounts(None, [Share(each, Senders.parse(()), (name,)) for name, each in outlets.items()])

    async def outlet_of(item: SpoolItem) -> Outlet:
        return outlets[item.queue_id]

    away = Away()
    queue = Queue(cast("Any", away), never, accounts=accounts, outlet_of=outlet_of)
    items = [SimpleNamespace(queue_id=name, expired=False, attempts=0) for name in outlets]
    with pytest.raises(SpoolUnavailable):
        await queue._begin(cast("Any", items))  # noqa: SLF001 - its caller begins again
    assert away.given_back == ["one", "two"]


async def test_waiting_mail_follows_a_changed_file(sqlite: Backend, api: Api) -> None:
    api.answer = in_trouble(DEAD)
    spool = await sqlite.open()
    async with bridge(spool, api) as here:
        assert (await here.send("troubled")).startswith("250 ")
        well = here.accounts.outlets[1]
        here.accounts.use((Share(well, Senders.parse(("troubled.example", "well.example")), ()),))
        assert here.relay.queue is not None
        here.relay.queue.retry_all()
        await until_sent(spool, "troubled")
    assert [call.account for call in api.calls] == ["troubled", "well"]


@pytest.mark.parametrize("mode", ["direct", "queue"])
async def test_what_no_account_sends_is_refused_unless_it_was_kept(
    sqlite: Backend, api: Api, mode: str
) -> None:
    spool = await sqlite.open()
    await spool.put(new_mail(reverse_path="a@unknown.example"))
    async with bridge(spool, api, mode=mode) as here:
        answer = await here.send("unknown")
        assert answer.startswith("550 5.7.1 ")
        assert "[[account]]" in answer
        async with asyncio.timeout(PATIENCE):
            while not (items := [item async for item in spool.items()])[0].outcomes:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (outcome,) = items[0].outcomes.values()
        assert (outcome.code, outcome.status) == (451, "4.3.5")
    assert not api.calls


async def test_a_domain_in_trouble_with_one_account_is_sent_through_another(api: Api) -> None:
    """The user's account does not send for the domain; the domain's own does."""
    refused = failure(403, 10203, "email.sending.error.email.sender_not_configured")
    api.answer = in_trouble(refused)
    account = functools.partial(Account, base_url=api.url, token=TOKEN, timeout=20, concurrency=20)
    troubled, well = (account(account_id=name, name=name) for name in ("troubled", "well"))
    by_user = Share(Outlet(troubled.client.send, "troubled"), Senders(), ("shop",))
    by_domain = Share(Outlet(well.client.send, "well"), Senders.parse(("well.example",)), ())
    relay = Relay(Accounts(None, (by_user, by_domain)), MessagePolicy())

    async def send(user: str) -> str:
        envelope = Envelope(reverse_path="a@well.example", forward_paths=("b@x.example",), auth_user=user)
        return str((await relay.accept(envelope, MESSAGE)).reply)

    assert (await send("shop")).startswith("550 5.7.1 ")
    assert (await send("")).startswith("250 ")
    assert (await send("shop")).startswith(("550 5.7.1 ", "451 4.3.5 "))
    await troubled.aclose()
    await well.aclose()
