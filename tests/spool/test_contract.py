"""What protocol.Spool promises, on both backends."""

import asyncio
import itertools
import os
import time
from typing import Any

import pytest

from smtp2cf.reply import Reply, Scope, SendError
from smtp2cf.spool import (
    MEMORY,
    Action,
    Answer,
    Filter,
    Memory,
    NewMail,
    Period,
    SpoolItem,
    SpoolUnavailable,
    Status,
    postgres_database,
)
from tests.spool.clocks import Host
from tests.spool.conftest import Backend, new_mail
from tests.spool.inside import renew
from tests.support.waiting import PATIENCE

OK = Reply(250, "2.0.0", "sent")
LATER = Reply(451, "4.3.0", "later")
NEVER = Reply(550, "5.1.1", "nobody of that name")


async def items(spool: Any, which: Filter = Filter()) -> list[SpoolItem]:  # noqa: B008 - frozen
    return [item async for item in spool.items(which)]


async def only(spool: Any) -> SpoolItem:
    (item,) = await items(spool)
    return item


async def do(spool: Any, action: Action, which: Filter = Filter(), reason: str = "") -> list[str]:  # noqa: B008
    return [queue_id async for page in spool.apply(action, which, reason) for queue_id in page]


async def put_one(spool: Any, **fields: Any) -> str:
    mail = new_mail(**fields)
    await spool.put(mail)
    return mail.envelope.queue_id


# --- putting and reading


async def test_what_is_put_comes_back_as_it_was(spool: Any) -> None:
    mail = new_mail(
        b"\x00\xff.\r\n..\r\n",
        reverse_path="",
        forward_paths=("a@example.org", '"b c"@example.org', "d@example.org"),
        body="8BITMIME",
        smtputf8=True,
        ret="HDRS",
        envid="QQ+2B314159",
        notify={"a@example.org": "SUCCESS,DELAY"},
        orcpt={"d@example.org": "rfc822;dora@example.net"},
        auth_user="app",
        client="192.0.2.7",
        helo="host.example",
        per_recipient=True,
        outcomes={"a@example.org": OK, "d@example.org": LATER},
        attempts=1,
        delay=60,
        is_dsn=True,
    )
    await spool.put(mail)
    item = await only(spool)
    assert item.envelope == mail.envelope
    assert item.outcomes == mail.outcomes
    assert item.unresolved == ('"b c"@example.org', "d@example.org")
    assert item.last_reply == LATER
    assert (item.status, item.attempts, item.is_dsn, item.size) == (Status.DEFERRED, 1, True, 9)
    assert item.expires == pytest.approx(time.time() + mail.expires_in, abs=10)
    assert item.next_attempt == pytest.approx(time.time() + 60, abs=10)
    assert not item.unanswered
    assert await spool.read(item.queue_id) == mail.message


async def test_a_message_of_five_megabytes(spool: Any) -> None:
    message = os.urandom(5 * 2**20)
    queue_id = await put_one(spool, message=message)
    assert await spool.read(queue_id) == message
    assert (await only(spool)).size == len(message)


async def test_several_are_put_together_or_not_at_all(spool: Any) -> None:
    whole = new_mail()
    broken = NewMail(envelope=new_mail().envelope, message=["no bytes"], expires_in=0.0)  # type: ignore[arg-type]
    with pytest.raises(Exception):  # noqa: B017 - whatever the driver says
        await spool.put(whole, broken)
    assert await items(spool) == []


async def test_one_that_cannot_be_put_takes_nobody_with_it(spool: Any) -> None:
    broken = NewMail(envelope=new_mail().envelope, message=["no bytes"], expires_in=0.0)  # type: ignore[arg-type]
    results = await asyncio.gather(
        *(spool.put(new_mail()) for _ in range(5)),
        spool.put(broken),
        *(spool.put(new_mail()) for _ in range(5)),
        return_exceptions=True,
    )
    assert [isinstance(result, Exception) for result in results] == [False] * 5 + [True] + [False] * 5
    assert await spool.count() == 10


async def test_the_same_mail_put_again_is_kept_once(spool: Any) -> None:
    mail, another = new_mail(), new_mail()
    await spool.put(mail)
    await asyncio.gather(spool.put(mail, another), spool.put(another), spool.put(new_mail()))
    assert await spool.count() == 3
    assert await spool.read(another.envelope.queue_id) == another.message


async def test_many_at_once_are_all_kept(spool: Any) -> None:
    letters = [new_mail(message=b"%d" % number) for number in range(333)]
    await asyncio.gather(*map(spool.put, letters))
    assert [item.queue_id for item in await items(spool)] == [mail.envelope.queue_id for mail in letters]
    assert await spool.read(letters[250].envelope.queue_id) == b"250"


async def test_the_bytes_of_mail_that_is_gone(spool: Any) -> None:
    assert await spool.read("NOSUCHMAIL") is None


# --- claiming


async def test_a_claim_is_for_one_alone(backend: Backend) -> None:
    ours, theirs = await backend.open(), await backend.open()
    await asyncio.gather(*(ours.put(new_mail()) for _ in range(200)))

    async def take_all(spool: Any) -> list[str]:
        taken: list[str] = []
        while batch := await spool.claim(7):
            taken += [item.queue_id for item in batch]
        return taken

    takers = [take_all(spool) for spool in (ours, theirs) for _ in range(3)]
    taken = [queue_id for batch in await asyncio.gather(*takers) for queue_id in batch]
    # Rows that a concurrent claim had locked are skipped, so a last look is needed.
    taken += await take_all(ours)
    assert len(taken) == 200
    assert len(set(taken)) == 200


async def test_a_claimed_item_says_so(spool: Any) -> None:
    await put_one(spool)
    (item,) = await spool.claim(10)
    assert (item.status, item.attempts, item.unanswered) == (Status.ACTIVE, 0, False)
    assert item.owner
    assert await spool.claim(10) == []


async def test_mail_that_is_not_due_is_not_claimed(spool: Any) -> None:
    await put_one(spool, delay=60, attempts=1)
    assert await spool.claim(10) == []


async def test_mail_is_due_when_it_expires(spool: Any) -> None:
    queue_id = await put_one(spool, attempts=1, delay=3600, expires_in=-1)
    await put_one(spool, attempts=1, delay=3600)
    (item,) = await spool.claim(10)
    assert (item.queue_id, item.due, item.expired) == (queue_id, False, True)


async def test_mail_that_was_never_tried_is_not_due_because_it_expires(spool: Any) -> None:
    await put_one(spool, delay=3600, expires_in=-1)
    assert await spool.claim(10) == []


async def test_what_has_expired_can_be_claimed_alone(spool: Any) -> None:
    ids = [await put_one(spool, attempts=1, expires_in=-1) for _ in range(3)]
    await put_one(spool, attempts=1, delay=3600)
    due, new = await put_one(spool, attempts=1), await put_one(spool, expires_in=-1)
    assert [item.queue_id for item in await spool.claim(2, expired=True)] == ids[:2]
    assert [item.queue_id for item in await spool.claim(2, expired=True)] == ids[2:]
    assert await spool.claim(2, expired=True) == []
    assert sorted(item.queue_id for item in await spool.claim(10)) == sorted([due, new])


async def test_the_oldest_go_first(spool: Any) -> None:
    waiting = [await put_one(spool, attempts=1) for _ in range(6)]
    assert [item.queue_id for item in await spool.claim(4)] == waiting[:4]
    assert [item.queue_id for item in await spool.claim(4)] == waiting[4:]


async def test_new_mail_is_not_starved_by_a_backlog(spool: Any) -> None:
    backlog = [await put_one(spool, attempts=1) for _ in range(20)]
    new = [await put_one(spool) for _ in range(3)]
    claimed = [item.queue_id for item in await spool.claim(10)]
    assert sorted(claimed) == sorted(backlog[:7] + new)


async def test_a_backlog_is_not_starved_by_new_mail(spool: Any) -> None:
    new = [await put_one(spool) for _ in range(20)]
    backlog = [await put_one(spool, attempts=1) for _ in range(3)]
    claimed = [item.queue_id for item in await spool.claim(10)]
    assert sorted(claimed) == sorted(backlog + new[:7])


async def test_one_place_is_shared_in_turn(spool: Any) -> None:
    for _ in range(4):
        await put_one(spool)
        await put_one(spool, attempts=1)
    claimed = [(await spool.claim(1))[0] for _ in range(4)]
    assert sorted(item.attempts for item in claimed) == [0, 0, 1, 1]


async def test_mail_can_be_put_in_claimed(spool: Any) -> None:
    """The deadline: the call goes on while the message is kept, its late answer settles it."""
    queue_id = await put_one(spool, claimed=True, attempts=1)
    item = await only(spool)
    assert (item.status, item.attempts, item.unanswered) == (Status.ACTIVE, 1, True)
    assert await spool.claim(10) == []
    assert await spool.settle(queue_id, {"ben@example.org": OK})
    assert await items(spool) == []


# --- attempts


async def test_an_attempt_that_succeeds_ends_it(spool: Any) -> None:
    queue_id = await put_one(spool)
    await spool.claim(1)
    assert await spool.begin(queue_id)
    begun = await only(spool)
    assert (begun.attempts, begun.unanswered) == (1, True)
    assert await spool.settle(queue_id, {"ben@example.org": OK})
    assert await items(spool) == []
    assert await spool.read(queue_id) is None


async def test_an_attempt_that_half_succeeds_leaves_the_rest(spool: Any) -> None:
    to = ("a@example.org", "b@example.org", "c@example.org")
    queue_id = await put_one(spool, forward_paths=to)
    await spool.claim(1)
    await spool.begin(queue_id)
    known = {to[0]: OK, to[1]: LATER, to[2]: NEVER}
    assert await spool.settle(queue_id, known, retry_in=60)
    item = await only(spool)
    assert (item.status, item.attempts, item.unanswered) == (Status.DEFERRED, 1, False)
    assert item.outcomes == known
    assert item.unresolved == (to[1],)
    assert item.next_attempt == pytest.approx(time.time() + 60, abs=10)
    assert await spool.claim(10) == []


async def test_a_retry_comes_when_it_is_due(spool: Any) -> None:
    queue_id = await put_one(spool)
    await spool.claim(1)
    await spool.settle(queue_id, {"ben@example.org": LATER}, retry_in=0.2)
    assert await spool.claim(1) == []
    started = time.monotonic()
    await asyncio.wait_for(spool.wait_due(3600), PATIENCE)
    assert time.monotonic() - started > 0.05
    assert [item.outcomes for item in await spool.claim(1)] == [{"ben@example.org": LATER}]


async def test_mail_that_makes_the_program_fail_can_be_counted_and_held(spool: Any) -> None:
    queue_id = await put_one(spool)
    for failures in (1, 2):
        await spool.claim(1)
        await spool.settle(queue_id, {}, retry_in=0, failures=failures)
    (item,) = await spool.claim(1)
    assert item.failures == 2
    assert await spool.settle(queue_id, {}, hold="ValueError: no\nheader", failures=3)
    item = await only(spool)
    assert (item.status, item.failures, item.hold_reason) == (Status.HELD, 3, "ValueError: no?header")
    assert await spool.claim(1) == []


async def test_a_dsn_goes_in_with_what_it_is_about(spool: Any) -> None:
    queue_id = await put_one(spool)
    await spool.claim(1)
    dsn = new_mail(b"DSN", reverse_path="", forward_paths=("anna@example.com",), is_dsn=True)
    assert await spool.settle(queue_id, {"ben@example.org": NEVER}, dsns=[dsn])
    item = await only(spool)
    assert (item.envelope, item.is_dsn, item.status) == (dsn.envelope, True, Status.QUEUED)
    assert await spool.read(item.queue_id) == b"DSN"


async def test_a_dsn_for_a_part_of_the_recipients(spool: Any) -> None:
    queue_id = await put_one(spool, forward_paths=("a@example.org", "b@example.org"))
    await spool.claim(1)
    await spool.begin(queue_id)
    known = {"a@example.org": NEVER, "b@example.org": LATER}
    assert await spool.settle(queue_id, known, retry_in=60, dsns=[new_mail(is_dsn=True)])
    assert {item.is_dsn: item.status for item in await items(spool)} == {
        False: Status.DEFERRED,
        True: Status.QUEUED,
    }


@pytest.mark.parametrize("end", [{}, {"retry_in": 5}, {"hold": "why"}])
async def test_what_is_not_ours_cannot_be_settled(spool: Any, end: dict[str, Any]) -> None:
    queue_id = await put_one(spool)
    before = await only(spool)
    assert not await spool.begin(queue_id)
    assert not await spool.settle(queue_id, {"ben@example.org": NEVER}, **end, dsns=[new_mail(is_dsn=True)])
    assert await items(spool) == [before]


async def test_what_was_begun_without_a_call_was_no_attempt(spool: Any) -> None:
    """Else mail could expire that nobody ever tried to send."""
    queue_id = await put_one(spool, expires_in=-1)
    (item,) = await spool.claim(1)
    assert await spool.begin(queue_id)
    assert await spool.settle(queue_id, {"ben@example.org": LATER}, retry_in=60, untried=True)
    item = await only(spool)
    assert (item.status, item.attempts, item.unanswered) == (Status.QUEUED, 0, False)
    assert await spool.claim(1) == []
    assert await spool.claim(1, expired=True) == []


# --- leases


async def test_a_claim_holds_until_a_third_of_its_lease_is_left(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, backend)
    spool = await backend.open(lease=60)
    claimed, kept = await put_one(spool), await put_one(spool, attempts=1, claimed=True)
    assert not spool.holds(claimed)
    await spool.claim(1)
    for queue_id in (claimed, kept):
        assert spool.holds(queue_id)
    await host.sleep(30)
    await spool.begin(claimed)
    await host.sleep(30)
    assert (spool.holds(claimed), spool.holds(kept)) == (True, False)
    assert await spool.confirm(kept)
    assert spool.holds(kept)
    await spool.settle(kept, {})
    assert not spool.holds(kept)
    assert not await spool.confirm(kept)
    await do(spool, Action.DELETE)
    assert not await spool.confirm(claimed)
    assert not spool.holds(claimed)


@pytest.mark.parametrize("told_by", ["what has passed", "the host's clock"])
async def test_a_host_that_stood_still_learns_it_from_either_clock(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    host = Host(monkeypatch, backend)
    spool = await backend.open(lease=60)
    queue_id = await put_one(spool)
    await spool.claim(1)
    if told_by == "the host's clock":
        host.jump += 50
    else:
        await host.sleep(50)
        host.jump -= 100
    assert not spool.holds(queue_id)
    assert await spool.confirm(queue_id)
    assert spool.holds(queue_id)


async def test_a_claim_that_another_has_is_not_confirmed(
    postgres: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, postgres)
    paused, other = await postgres.open(lease=60), await postgres.open(lease=60)
    queue_id = await put_one(paused)
    await paused.claim(1)
    await host.sleep(61)
    assert [item.queue_id for item in await other.claim(1)] == [queue_id]
    assert not paused.holds(queue_id)
    assert not await paused.confirm(queue_id)
    assert other.holds(queue_id)


async def test_a_dead_process_loses_its_mail_when_the_lease_is_over(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, backend)
    dead, alive = await backend.open(lease=600), await backend.open()
    begun, untouched = await put_one(dead), await put_one(dead)
    await dead.claim(2)
    await dead.begin(begun)
    assert await alive.claim(10) == []
    await host.sleep(599)
    assert await alive.claim(10) == []
    await host.sleep(1)
    await asyncio.wait_for(alive.wait_due(3600), PATIENCE)
    taken = {item.queue_id: item for item in await alive.claim(10)}
    assert (taken[begun].unanswered, taken[begun].attempts) == (True, 1)
    assert not taken[untouched].unanswered
    assert not await dead.begin(untouched)
    assert not await dead.settle(begun, {"ben@example.org": OK})
    assert await alive.settle(begun, {"ben@example.org": OK})


async def test_a_living_process_keeps_its_mail_beyond_the_lease(backend: Backend) -> None:
    busy, other = await backend.open(lease=3), await backend.open()
    queue_id = await put_one(busy)
    await busy.put(new_mail(claimed=True, attempts=1))
    await busy.claim(1)
    await other.wait_due(4)
    assert await other.claim(10) == []
    assert await busy.settle(queue_id, {"ben@example.org": OK})


async def test_who_was_stopped_for_longer_than_the_lease_does_not_get_its_own_mail_twice(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, backend)
    spool = await backend.open(lease=600)
    queue_id = await put_one(spool)
    await spool.claim(1)
    await host.sleep(601)
    await asyncio.wait_for(spool.wait_due(3600), PATIENCE)
    assert await spool.claim(10) == []
    assert await spool.begin(queue_id)


async def test_what_is_given_back_waits_as_before(spool: Any) -> None:
    queue_id = await put_one(spool)
    before = await only(spool)
    await spool.claim(1)
    await spool.give_back(queue_id)
    assert await only(spool) == before


async def test_a_begun_attempt_that_is_given_back_is_a_possible_duplicate(spool: Any) -> None:
    queue_id = await put_one(spool)
    await spool.claim(1)
    await spool.begin(queue_id)
    await spool.give_back(queue_id)
    (item,) = await spool.claim(1)
    assert (item.attempts, item.unanswered) == (1, True)


async def test_closing_gives_everything_back_at_once(backend: Backend) -> None:
    spool = await backend.open()
    await put_one(spool)
    await spool.put(new_mail(claimed=True, attempts=1))
    await spool.claim(1)
    await backend.close(spool)
    again = await backend.open()
    assert sorted(item.attempts for item in await again.claim(10)) == [0, 1]


async def test_after_closing_everything_is_refused(backend: Backend) -> None:
    spool = await backend.open()
    await backend.close(spool)
    for call in (spool.put(new_mail()), spool.claim(1), spool.count(), spool.check()):
        with pytest.raises(SpoolUnavailable):
            await call


# --- waiting


async def test_new_mail_wakes_who_waits(spool: Any) -> None:
    waiting = asyncio.create_task(spool.wait_due(3600))
    await asyncio.sleep(0)
    await spool.put(new_mail())
    await asyncio.wait_for(waiting, PATIENCE)


@pytest.mark.parametrize("action", [Action.RETRY, Action.RELEASE])
async def test_what_another_process_makes_due_wakes_who_waits(backend: Backend, action: Action) -> None:
    spool, command = await backend.open(), await backend.open()
    await put_one(spool, attempts=1, delay=600)
    if action is Action.RELEASE:
        await do(command, Action.HOLD)
    waiting = asyncio.create_task(spool.wait_due(3600))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await do(command, action)
    await asyncio.wait_for(waiting, PATIENCE)
    assert len(await spool.claim(1)) == 1


async def test_waiting_ends_without_any_mail(spool: Any) -> None:
    await asyncio.wait_for(spool.wait_due(0.1), PATIENCE)


# --- the operator


@pytest.mark.parametrize(
    ("which", "found"),
    [
        (Filter(), "abcd"),
        (Filter(sender="anna@example.com"), "a"),
        (Filter(sender="ANNA@Example.COM"), "a"),
        (Filter(sender="*@example.com"), "ab"),
        (Filter(sender="example.com"), ""),
        (Filter(sender=""), "d"),
        (Filter(sender="*"), "abcd"),
        (Filter(recipient="x@one.example"), "a"),
        (Filter(recipient="y@two.example"), "ab"),
        (Filter(recipient="x*two.example"), ""),
        (Filter(recipient="*.example"), "abcd"),
        (Filter(recipient="q.r+s@four.example"), "d"),
        (Filter(recipient="qar+s@four.example"), ""),
        (Filter(statuses=(Status.DEFERRED,)), "c"),
        (Filter(statuses=(Status.HELD, Status.DEFERRED)), "bc"),
        (Filter(older_than=3600), "b"),
        (Filter(older_than=86400), ""),
        (Filter(sender="*@example.com", statuses=(Status.HELD,)), "b"),
    ],
)
async def test_filters(spool: Any, which: Filter, found: str) -> None:
    ids = {
        await put_one(
            spool, reverse_path="anna@example.com", forward_paths=("x@one.example", "y@two.example")
        ): "a",
        await put_one(
            spool,
            reverse_path="Bea@EXAMPLE.com",
            forward_paths=("y@Two.example",),
            received_at=time.time() - 7200,
        ): "b",
        await put_one(spool, reverse_path="c@example.net", forward_paths=("c@c.example",), attempts=1): "c",
        await put_one(spool, reverse_path="", forward_paths=("q.r+s@four.example",)): "d",
    }
    await do(spool, Action.HOLD, Filter(sender="bea@example.com"))
    assert "".join(sorted(ids[item.queue_id] for item in await items(spool, which))) == found
    assert await spool.count(which) == len(found)


async def test_by_queue_id(spool: Any) -> None:
    ids = [await put_one(spool) for _ in range(3)]
    assert [item.queue_id for item in await items(spool, Filter(queue_ids=(ids[2], ids[0], "NONE")))] == [
        ids[0],
        ids[2],
    ]


async def test_hold_and_release(spool: Any) -> None:
    new, tried = await put_one(spool), await put_one(spool, attempts=1, delay=600)
    assert await do(spool, Action.HOLD, reason="look at it") == [new, tried]
    assert {(item.status, item.hold_reason) for item in await items(spool)} == {(Status.HELD, "look at it")}
    assert await spool.claim(10) == []
    assert await do(spool, Action.HOLD) == []
    assert await do(spool, Action.RETRY) == []
    assert await do(spool, Action.RELEASE) == [new, tried]
    assert [(item.status, item.hold_reason) for item in await items(spool)] == [
        (Status.QUEUED, ""),
        (Status.DEFERRED, ""),
    ]
    assert len(await spool.claim(10)) == 2


async def test_retry_makes_it_due(spool: Any) -> None:
    queue_id = await put_one(spool, attempts=1, delay=600)
    assert await do(spool, Action.RETRY, Filter(queue_ids=(queue_id,))) == [queue_id]
    assert [item.queue_id for item in await spool.claim(1)] == [queue_id]


async def test_a_retry_within_some_time_spreads_the_mail_evenly(spool: Any) -> None:
    """What comes due sooner is put off as well, but mail that was tried is not put off beyond its expiry."""
    mail = [new_mail(attempts=number % 2, delay=200 * (number % 3)) for number in range(600)]
    expiring = new_mail(attempts=1, expires_in=-1.0)
    await spool.put(*mail, expiring)
    now = time.time()
    pages = [page async for page in spool.apply(Action.RETRY, Filter(), within=Period(100, 160))]
    assert sum(map(len, pages)) == 601
    after = sorted(item.next_attempt - now for item in await items(spool))
    assert after[0] >= 100
    assert after[-1] <= 160 + time.time() - now + 1
    assert max(later - sooner for sooner, later in itertools.pairwise(after)) < 2
    assert [item.queue_id for item in await spool.claim(10)] == [expiring.envelope.queue_id]


async def test_after_a_retry_of_everything_the_oldest_go_first(spool: Any) -> None:
    ids = [await put_one(spool, attempts=1, delay=600 - number) for number in range(5)]
    await do(spool, Action.RETRY)
    assert [item.queue_id for item in await spool.claim(5)] == ids


async def test_delete(spool: Any) -> None:
    ids = [await put_one(spool) for _ in range(3)]
    assert await do(spool, Action.DELETE, Filter(queue_ids=(ids[1],))) == [ids[1]]
    assert [item.queue_id for item in await items(spool)] == [ids[0], ids[2]]
    assert await spool.read(ids[1]) is None


async def test_mail_that_is_being_sent_is_held_afterwards(backend: Backend) -> None:
    spool, command = await backend.open(), await backend.open()
    queue_id = await put_one(spool)
    await spool.claim(1)
    await spool.begin(queue_id)
    assert await do(command, Action.HOLD) == [queue_id]
    assert (await only(command)).status is Status.ACTIVE
    assert await spool.settle(queue_id, {"ben@example.org": LATER}, retry_in=0)
    assert (await only(command)).status is Status.HELD
    assert await spool.claim(1) == []


@pytest.mark.parametrize("changed_mind", [False, True])
async def test_mail_that_is_given_back_is_held_if_it_was_asked(spool: Any, changed_mind: bool) -> None:
    queue_id = await put_one(spool)
    await spool.claim(1)
    await do(spool, Action.HOLD)
    if changed_mind:
        await do(spool, Action.RELEASE)
    await spool.give_back(queue_id)
    assert (await only(spool)).status is (Status.QUEUED if changed_mind else Status.HELD)
    assert len(await spool.claim(1)) == changed_mind


async def test_mail_that_is_held_while_it_goes_out_is_gone(spool: Any) -> None:
    queue_id = await put_one(spool)
    await spool.claim(1)
    await do(spool, Action.HOLD)
    assert await spool.settle(queue_id, {"ben@example.org": OK})
    assert await items(spool) == []


async def test_mail_that_is_deleted_while_it_is_sent(backend: Backend) -> None:
    spool, command = await backend.open(), await backend.open()
    claimed, begun = await put_one(spool), await put_one(spool)
    await spool.claim(2)
    await spool.begin(begun)
    await do(command, Action.DELETE)
    assert not await spool.begin(claimed)
    assert not await spool.settle(begun, {"ben@example.org": LATER}, retry_in=5, dsns=[new_mail()])
    assert await items(spool) == []


async def test_more_than_a_page(spool: Any) -> None:
    batch = [new_mail(attempts=1, delay=600) for _ in range(1203)]
    ids = [mail.envelope.queue_id for mail in batch]
    await spool.put(*batch)
    assert [item.queue_id for item in await items(spool)] == ids
    pages = [page async for page in spool.apply(Action.HOLD, Filter())]
    assert [len(page) for page in pages] == [500, 500, 203]
    assert [queue_id for page in pages for queue_id in page] == ids
    assert await do(spool, Action.DELETE) == ids
    assert await spool.count() == 0


async def test_the_queue_can_change_while_it_is_listed(spool: Any) -> None:
    batch = [new_mail() for _ in range(1100)]
    await spool.put(*batch)
    seen = []
    async for item in spool.items():
        seen.append(item.queue_id)
        if len(seen) == 10:
            await do(
                spool, Action.DELETE, Filter(queue_ids=tuple(mail.envelope.queue_id for mail in batch[600:]))
            )
    assert seen[:500] == [mail.envelope.queue_id for mail in batch[:500]]
    assert len(seen) == 600


async def test_totals(spool: Any) -> None:
    await put_one(spool, message=b"123", received_at=1000.0)
    await put_one(spool, message=b"12345", received_at=2000.0)
    await put_one(spool, message=b"1", attempts=1, received_at=3000.0)
    held = await put_one(spool, message=b"12")
    await do(spool, Action.HOLD, Filter(queue_ids=(held,)))
    totals = await spool.totals()
    assert set(totals) == {Status.QUEUED, Status.DEFERRED, Status.HELD}
    assert totals[Status.QUEUED] == (2, 8, pytest.approx(1000, abs=10))
    assert totals[Status.DEFERRED] == (1, 1, pytest.approx(3000, abs=10))
    await spool.check()


# --- the memory of lost replies


async def test_an_unconfirmed_transaction_is_remembered(backend: Backend) -> None:
    spool = await backend.open()
    assert await spool.recall(b"answered") is None
    assert await spool.recall(b"cut off") is None
    assert await spool.recall(b"confirmed") is None
    spool.remember(b"answered", OK)
    spool.remember(b"confirmed", OK)
    spool.forget(b"confirmed")
    await backend.close(spool)
    again = await backend.open()
    assert await again.recall(b"answered") == Memory(OK)
    assert await again.recall(b"cut off") == Memory(None)
    assert await again.recall(b"confirmed") is None


async def test_the_memory_fades(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, backend)
    spool = await backend.open()
    assert await spool.recall(b"x") is None
    spool.remember(b"x", OK)
    assert await spool.recall(b"x") == Memory(OK)
    await host.sleep(MEMORY + 1)
    await renew(spool)
    assert await spool.recall(b"x") is None


# --- errors


def test_errors_say_it_in_smtp() -> None:
    from smtp2cf.spool import SpoolFull

    for error, start in ((SpoolFull("x"), "452 4.3.1"), (SpoolUnavailable("x"), "451 4.3.0")):
        assert isinstance(error, SendError)
        assert str(error.reply).startswith(start)
        assert error.scope is Scope.ACCOUNT


async def test_an_answer_is_remembered_with_the_mail_it_is_for_or_not_at_all(backend: Backend) -> None:
    spool = await backend.open()
    assert await spool.recall(b"kept", begin=False) is None
    await spool.put(new_mail(answer=Answer(b"kept", OK)), new_mail(answer=Answer(b"kept", OK)), new_mail())
    assert await spool.recall(b"kept", begin=False) == Memory(OK)
    unwritable = new_mail(b"x", answer=Answer(b"lost", OK), expires_in=None)
    with pytest.raises(Exception, match=r"."):
        await spool.put(unwritable)
    await backend.close(spool)
    again = await backend.open(serve=True)
    assert await again.recall(b"kept", begin=False) == Memory(OK)
    assert await again.recall(b"lost", begin=False) is None


async def test_mail_is_kept_that_has_only_begun_or_is_meant_to_be_kept_again(spool: Any) -> None:
    begun, twin, again = (OK._replace(text=text) for text in ("begun", "twin", "again"))
    await spool.recall(b"x")
    assert await spool.put(new_mail(answer=Answer(b"x", begun, unless_noted=True))) is None
    assert await spool.put(new_mail(answer=Answer(b"x", twin))) is None
    assert await spool.recall(b"x") == Memory(twin)
    spool.forget(b"x")
    assert await spool.put(new_mail(answer=Answer(b"x", again, unless_noted=True))) is None
    assert await spool.recall(b"x") == Memory(again)
    assert await spool.count() == 3


async def test_what_was_forgotten_before_takes_no_later_answer_away(backend: Backend) -> None:
    """A client that got its answer sends the same again on purpose, and vanishes before the second answer."""
    spool = await backend.open()
    digests = [b"digest-%d" % number for number in range(20)]
    for digest in digests:
        await spool.put(new_mail(answer=Answer(digest, OK)))
    for digest in digests:
        spool.forget(digest)
    assert [await spool.recall(digest, begin=False) for digest in digests[:1]] == [None]
    await asyncio.gather(*(spool.put(new_mail(answer=Answer(digest, OK))) for digest in digests))
    await backend.close(spool)
    again = await backend.open(serve=True)
    assert [await again.recall(digest, begin=False) for digest in digests] == [Memory(OK)] * len(digests)


async def test_a_transaction_that_was_only_looked_for_has_not_begun(backend: Backend) -> None:
    spool = await backend.open()
    assert await spool.recall(b"x", begin=False) is None
    assert await spool.recall(b"x") is None
    assert await spool.recall(b"x", begin=False) == Memory(None)


# --- notes


async def test_a_note_keeps_every_change_whoever_makes_it(backend: Backend) -> None:
    spools = [await backend.open() for _ in range(3)]

    def count(text: str, now: float) -> tuple[str, int]:
        assert now > 1e9
        return str(int(text or 0) + 1), int(text or 0)

    counted = await asyncio.gather(*(spool.amend("counter", count) for _ in range(10) for spool in spools))
    assert sorted(counted) == list(range(30))
    await backend.close_all()
    again = await backend.open(serve=True)
    assert await again.amend("counter", count) == 30
    assert await again.amend("another", count) == 0


async def test_a_change_that_fails_changes_nothing(spool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await spool.amend("note", lambda _, __: ("first", None))
    with monkeypatch.context() as patch:
        patch.setattr(postgres_database, "PATIENCE", 0.2)
        with pytest.raises((ZeroDivisionError, SendError)):
            await spool.amend("note", lambda _, __: ("second", 1 // 0))
    assert await spool.amend("note", lambda text, _: (text, text)) == "first"
