"""Calls whose answers are lost: events show that they went through, and anything less proves nothing."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from smtp2cf.cloudflare import Sent
from smtp2cf.cloudflare.events import Event
from smtp2cf.envelope import Envelope
from smtp2cf.relay import BouncePolicy, MessagePolicy, Relay
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.events import LAST_TRY, LaterOutcomes
from smtp2cf.relay.lost_answers import Call, LostAnswers, Unanswered, chosen_by, key_of
from smtp2cf.relay.retry import RetryPolicy
from smtp2cf.relay.waits_for_events import wait_for
from smtp2cf.reply import QUEUED, Reply, Scope, SendError
from smtp2cf.spool import Followed, NewMail
from smtp2cf.spool.following import alone
from tests.relay.test_events import Queue, dsns, event
from tests.spool.clocks import Host
from tests.spool.conftest import Backend
from tests.support.waiting import PATIENCE

BOUNCE = BouncePolicy(hostname="relay.example.com", postmaster="postmaster@example.com")
NO_ANSWER = Reply(451, "4.4.1", "no answer")
SUBJECT = "Disk full"
WAIT = 150.0


def told(message_id: str = "m1@cf", at: float = 200.0, **fields: Any) -> Event:
    known = {"recipient": "b@example.net", "subject": SUBJECT, "message_id": message_id, "at": at}
    return event(**{"kind": "delivered", **known, **fields})


# ---- the rule, with plain values


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ({}, ""),
        ({"A:0": Call(("b",), 100.0)}, "A:0"),
        ({"A:0": Call(("b",), 200.0)}, ""),  # it is not later than the call's start
        ({"A:0": Call(("b",), 300.0)}, ""),
        ({"A:0": Call(("b",), 100.0), "B:0": Call(("b",), 100.0)}, ""),
        ({"A:0": Call(("b",), 100.0), "A:1": Call(("b",), 150.0)}, ""),
        ({"A:0": Call(("b",), 100.0), "B:0": Call(("b",), 300.0)}, ""),  # clocks may differ
        ({"A:0": Call(("b",), 100.0, over=True), "B:0": Call(("b",), 100.0)}, ""),
        ({"A:0": Call(("b",), 100.0, message_id="m0@cf"), "B:0": Call(("b",), 100.0)}, "B:0"),
    ],
)
def test_an_event_shows_that_the_only_call_went_through_that_it_can_be_about(
    calls: dict[str, Call], expected: str
) -> None:
    assert chosen_by(told(), calls) == expected


SAME = [
    ("anna@example.com", "b@example.net", "Disk full"),
    ("Anna@Example.com", "B@EXAMPLE.NET", " Disk   full "),
    ("anna@example.com.", "b@example.net.", "Disk\r\n full"),
    ("anna@example.com", "b@example.net", "=?utf-8?q?Disk?= full"),
]
OTHER = [
    ("ann@example.com", "b@example.net", "Disk full"),
    ("anna@example.com", "c@example.net", "Disk full"),
    ("anna@example.com", "b@example.net", "disk full"),
    ("anna@example.com", "b@example.net", ""),
]


def test_what_is_matched_is_the_sender_the_recipient_and_the_words_of_the_subject() -> None:
    assert len({key_of("", *each) for each in SAME}) == 1
    assert len({key_of("", *each) for each in (SAME[0], *OTHER)}) == 1 + len(OTHER)
    assert key_of("shop", *SAME[0]) != key_of("", *SAME[0])


# ---- what is kept, on both databases


def unanswered(
    queue_id: str = "Q1", to: Sequence[str] = ("b@example.net",), began: float = 100.0
) -> Unanswered:
    return Unanswered(queue_id, "", "anna@example.com", SUBJECT, [(to, began)])


async def lost_in(backend: Backend) -> tuple[Any, LostAnswers]:
    spool = await backend.open()
    return spool, LostAnswers(spool, spool.following, WAIT)


async def test_a_proof_covers_all_recipients_of_the_call(backend: Backend) -> None:
    _, lost = await lost_in(backend)
    await lost.add(unanswered(to=("b@example.net", "C@example.net")))
    proof = await lost.prove(told(), "")
    assert proof is not None
    assert (proof.queue_id, proof.to, proof.late) == ("Q1", ("b@example.net", "C@example.net"), False)
    look = await lost.look("Q1")
    assert (look.remaining, look.given_up) == (0, ())
    (call,) = look.proven
    assert (call.message_id, {*call.said}) == ("m1@cf", {"b@example.net"})
    # What is said of the other comes under the same id, and what was said comes again.
    for again in (told(recipient="c@example.net", kind="bounced"), told()):
        assert (await lost.prove(again, "")) is not None
    (call,) = (await lost.look("Q1")).proven
    assert {who: said.kind for who, said in call.said.items()} == {
        "b@example.net": "delivered",
        "c@example.net": "bounced",
    }


async def test_an_id_that_belongs_to_another_call_proves_nothing(backend: Backend) -> None:
    """Two identical messages, of which only the first went through."""
    spool, lost = await lost_in(backend)
    envelope = Envelope(reverse_path="anna@example.com", forward_paths=("b@example.net", "c@example.net"))
    first = [Followed(name, alone(envelope, "c@example.net"), "") for name in ("m1@cf", "m2@cf")]
    await spool.following.add(*first)
    assert await spool.following.end(first[1])
    await lost.add(unanswered())
    for name in ("m1@cf", "m2@cf"):
        assert await lost.prove(told(name), "") is None
    assert (await lost.look("Q1")).remaining > WAIT - 60
    assert await lost.prove(told("m3@cf"), "") is not None
    # And what has proven one call proves no other.
    await lost.add(unanswered("Q2"))
    assert (await lost.prove(told("m3@cf"), "")).queue_id == "Q1"  # type: ignore[union-attr]
    assert (await lost.look("Q2")).proven == []


async def test_an_id_that_could_be_several_calls_proves_none_later_either(backend: Backend) -> None:
    _, lost = await lost_in(backend)
    await lost.add(unanswered("Q1"))
    await lost.add(unanswered("Q2"))
    assert await lost.prove(told("m1@cf"), "") is None
    other = Unanswered("Q3", "", "anna@example.com", "another", [(("b@example.net",), 100.0)])
    await lost.add(other)
    await lost.disregard(told("m2@cf"))
    for name in ("m1@cf", "m2@cf"):
        assert await lost.prove(told(name, subject="another"), "") is None
    assert await lost.prove(told("m4@cf", subject="another"), "shop") is None, "another account's"
    assert await lost.prove(told("m4@cf", subject="another"), "") is not None


async def test_what_was_waited_for_long_enough_is_over_but_still_could_be_meant(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, sqlite)
    _, lost = await lost_in(sqlite)
    await lost.add(unanswered())
    await host.sleep(WAIT - 10)
    assert 0 < (await lost.look("Q1")).remaining <= 10
    await host.sleep(20)
    assert (await lost.look("Q1"))[::2] == (0, ["b@example.net"])
    assert (await lost.look("Q1"))[::2] == (0, ()), "said once"
    await lost.add(unanswered("Q2"))
    assert await lost.prove(told("m1@cf"), "") is None, "the first may be meant"
    other = Unanswered("Q1", "", "anna@example.com", "another", [(("b@example.net",), 100.0)])
    await lost.add(other)
    await host.sleep(WAIT + 10)
    await lost.look("Q1")
    assert (await lost.prove(told("m5@cf", subject="another"), "")).late  # type: ignore[union-attr]
    await host.sleep(4000)
    await lost.add(unanswered("Q6"))
    assert (await lost.prove(told("m6@cf"), "")).queue_id == "Q6"  # type: ignore[union-attr]


# ---- a relay


class Api:
    """send_raw, of which some answers are lost; and the queue of events about what it took."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.calls = 0
        self.queue = Queue()
        self.fail: str = ""
        self.numbers = itertools.count()
        self.fate = "delivered"

    async def send_raw(
        self, sender: str, recipients: Sequence[str], *, message: bytes, lease: Any, **_: Any
    ) -> Sent:
        await lease.confirm()
        self.calls += 1
        message_id = f"m{next(self.numbers)}@cf"
        if self.fail != "before":
            for who in recipients:
                self.taken.append(who)
                subject = message.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()
                self.publish(sender, who, subject, message_id)
        if self.fail:
            raise SendError(NO_ANSWER, Scope.ACCOUNT, unanswered=True)
        return Sent(dict.fromkeys(recipients, QUEUED), f"<{message_id}>")

    def publish(self, sender: str, who: str, subject: str, message_id: str) -> None:
        about = {"sender": sender, "recipient": who, "subject": subject, "message_id": message_id}
        fate = "bounced" if who.startswith("gone") else self.fate
        self.queue.waiting[f"{message_id}-{who}"] = event(fate, at=time.time() + 1, **about), 0


class Place:
    """A relay with a spool, and what hears its events."""

    def __init__(self, spool: Any, api: Api, *, events: bool = True, wait: float = WAIT) -> None:
        self.spool, self.api = spool, api
        self.lost = LostAnswers(spool, spool.following, wait) if events else None
        self.relay = Relay(
            api.send_raw,
            MessagePolicy(),
            spool=spool,
            bounce=BOUNCE,
            retry=RetryPolicy(minimum=0.1, maximum=0.1),
            following=spool.following if events else None,
            lost=self.lost,
        )
        self.hearing = LaterOutcomes(api.queue, spool.following, BOUNCE, self.lost)
        assert self.relay.queue is not None
        self.queue = self.relay.queue

    async def send(self, *recipients: str, subject: str = SUBJECT, body: str = "") -> Envelope:
        envelope = Envelope(reverse_path="anna@example.com", forward_paths=recipients)
        text = f"Message-ID: <{time.monotonic_ns()}@local>\r\nSubject: {subject}\r\n\r\n{body}\r\n"
        verdict = await self.relay.accept(envelope, text.encode())
        assert verdict.reply.code == 250
        self.relay.answered(envelope, True)
        return envelope

    async def hear(self, times: int = LAST_TRY) -> None:
        for _ in range(times):
            while any(attempts < LAST_TRY for _, attempts in self.api.queue.waiting.values()):
                await self.hearing.step()

    async def until_empty(self) -> None:
        async def empty() -> bool:
            return await self.spool.count() == 0

        self.queue.start()
        await until(empty)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():  # noqa: ASYNC110 - a spool has no event for it
            await asyncio.sleep(0.01)


def named(lines: Iterable[Any], name: str) -> list[Any]:
    return [line for line in lines if line["event"] == name]


@pytest.mark.parametrize("events", [True, False])
async def test_two_hundred_lost_answers_are_no_duplicates_where_events_are_heard(
    sqlite: Backend, events: bool
) -> None:
    api = Api()
    place = Place(await sqlite.open(), api, events=events, wait=WAIT if events else 0.0)
    api.fail = "after"
    recipients = [f"b{number}@example.net" for number in range(200)]
    with capture_logs() as lines:
        await asyncio.gather(*(place.send(who) for who in recipients))
        assert sorted(api.taken) == sorted(recipients)
        api.fail = ""
        if events:
            await place.hear()
        await place.until_empty()
    twice = [who for who in recipients if api.taken.count(who) > 1]
    assert {*api.taken} == {*recipients}
    assert len(twice) == (0 if events else 200)
    assert len(named(lines, "mail.possible_duplicate")) == (0 if events else 200)
    assert len(named(lines, "mail.unanswered")) == (200 if events else 0)
    assert not api.queue.waiting or not events
    await place.queue.drain(5)


async def test_a_call_of_which_no_event_tells_is_repeated_and_logged(sqlite: Backend) -> None:
    api = Api()
    place = Place(await sqlite.open(), api, wait=0.4)
    api.fail = "before"
    with capture_logs() as lines:
        await place.send("b@example.net")
        api.fail = ""
        place.queue.retry_all()  # as if the account were open again: it waits all the same
        began = time.monotonic()
        await place.until_empty()
        assert time.monotonic() - began > 0.2
    assert api.taken == ["b@example.net"]
    assert api.calls == 2
    assert len(named(lines, "mail.possible_duplicate")) == 1
    await place.queue.drain(5)


async def test_two_identical_messages_of_which_only_the_first_went_through_both_arrive(
    backend: Backend,
) -> None:
    api = Api()
    place = Place(await backend.open(), api, wait=0.5)
    await place.send("b@example.net", body="one")
    api.fail = "before"
    await place.send("b@example.net", body="one")
    api.fail = ""
    await place.hear()  # of the first, again and again
    await place.until_empty()
    assert api.taken == ["b@example.net"] * 2
    await place.queue.drain(5)


async def test_a_bounce_that_shows_that_the_call_went_through_is_reported_once(backend: Backend) -> None:
    api = Api()
    place = Place(await backend.open(), api)
    api.fail = "after"
    with capture_logs() as lines:
        envelope = await place.send("gone@example.net", "b@example.net")
        await place.hear()
        api.fail = "before"  # for the DSN
        place.queue.start()

        async def settled() -> bool:
            return not [item async for item in place.spool.items() if item.queue_id == envelope.queue_id]

        await until(settled)
    (report,) = [message for message in await dsns(place.spool) if b"report-type=delivery-status" in message]
    assert b"gone@example.net" in report
    assert b"Status: 5.1.1" in report
    (bounced,) = [line for line in named(lines, "mail.attempt") if line["status"] == "bounced"]
    assert bounced["to"] == ["gone@example.net"]
    assert [line["to"] for line in named(lines, "mail.event")] == [["b@example.net"]]
    (sent,) = [line for line in named(lines, "mail.attempt") if line["status"] == "sent"]
    assert (sent["to"], "an event shows it" in sent["reply"]) == (["b@example.net"], True)
    assert api.taken == ["gone@example.net", "b@example.net"]
    await place.queue.drain(5)


async def test_mail_that_a_killed_bridge_had_begun_to_send_waits_for_events_too(backend: Backend) -> None:
    api = Api()
    spool = await backend.open()
    place = Place(spool, api)
    envelope = Envelope(reverse_path="anna@example.com", forward_paths=("b@example.net",))
    message = f"Subject: =?utf-8?q?Disk_full?=\r\n\r\n{0}\r\n".encode()
    await spool.put(NewMail(envelope=envelope, message=message, expires_in=3600))
    (item,) = await spool.claim(1)
    await spool.begin(item.queue_id)
    await spool.give_back(item.queue_id)
    with capture_logs() as lines:
        place.queue.start()

        async def waits() -> bool:
            return bool(named(lines, "mail.unanswered"))

        await until(waits)
        api.publish("anna@example.com", "b@example.net", SUBJECT, "m9@cf")
        await place.hear()
        await place.until_empty()
    assert api.calls == 0
    assert not named(lines, "mail.possible_duplicate")
    await place.queue.drain(5)


async def test_it_survives_a_restart_and_the_event_may_come_to_another_bridge(backend: Backend) -> None:
    api = Api()
    spool = await backend.open()
    place = Place(spool, api)
    api.fail = "after"
    await place.send("b@example.net")
    await place.queue.drain(5)
    await backend.close(spool)
    there = Place(await backend.open(serve=True), api)
    assert there.lost is not None
    assert not there.lost.is_waiting
    await there.lost.resume()
    assert there.lost.is_waiting, "so that it pulls as often as the one before"
    api.fail = "before"
    await there.hear()
    await there.until_empty()
    assert api.taken == ["b@example.net"]
    await there.queue.drain(5)


async def test_an_event_is_not_believed_while_the_call_it_is_about_may_be_under_way(sqlite: Backend) -> None:
    """Its call has the same sender, recipient and subject as a lost one, and its answer is only late."""
    api = Api()
    place = Place(await sqlite.open(), api)
    assert place.lost is not None
    await place.lost.add(unanswered(began=0.0))
    api.publish("anna@example.com", "b@example.net", SUBJECT, "m1@cf")
    await place.hearing.step()
    envelope = Envelope(reverse_path="anna@example.com", forward_paths=("b@example.net",))
    await place.spool.following.add(Followed("m1@cf", envelope, ""))  # now it has its answer
    await place.hear()
    assert not api.queue.waiting
    assert (await place.lost.look("Q1")).proven == []


async def test_an_event_that_matched_nothing_proves_nothing_later_either(sqlite: Backend) -> None:
    api = Api()
    place = Place(await sqlite.open(), api)
    assert place.lost is not None
    api.publish("anna@example.com", "b@example.net", SUBJECT, "m1@cf")
    await place.hear()
    await place.lost.add(unanswered(began=0.0))
    api.publish("anna@example.com", "b@example.net", SUBJECT, "m1@cf")
    await place.hear()
    assert (await place.lost.look("Q1")).proven == []


async def test_the_others_are_sent_to_when_some_are_shown_to_have_it(sqlite: Backend) -> None:
    api = Api()
    place = Place(await sqlite.open(), api)
    assert place.lost is not None
    envelope = Envelope(reverse_path="anna@example.com", forward_paths=("b@example.net", "c@example.net"))
    later = dict.fromkeys(envelope.forward_paths, NO_ANSWER)
    mail = NewMail(envelope=envelope, message=b"\r\n", expires_in=3600, outcomes=later, attempts=1)
    await place.spool.put(mail)
    await place.lost.add(unanswered(envelope.queue_id))
    assert await place.lost.prove(told(), "") is not None
    await place.until_empty()
    assert api.taken == ["c@example.net"]
    await place.queue.drain(5)


async def test_nobody_waits_for_events_of_an_account_that_has_none(sqlite: Backend) -> None:
    spool = await sqlite.open()
    lost = LostAnswers(spool, spool.following, WAIT, ["shop"])
    envelope = Envelope(reverse_path="anna@example.com", forward_paths=("b@example.net",))
    for account, wait in (("shop", WAIT), ("other", 0.0)):
        attempt = Attempt(
            unanswered=["b@example.net"], together=[["b@example.net"]], called_at=1.0, account=account
        )
        assert await wait_for(lost, envelope, attempt, b"Subject: x\r\n\r\n") == wait


async def test_mail_that_cannot_be_kept_waits_for_no_event(
    sqlite: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client sends it again, so that it may go out twice."""

    async def full(*_: Any, **__: Any) -> None:
        raise SendError(Reply(452, "4.3.1", "full"), Scope.ACCOUNT)

    api = Api()
    place = Place(await sqlite.open(), api)
    api.fail = "after"
    monkeypatch.setattr(place.spool, "put", full)
    envelope = Envelope(reverse_path="anna@example.com", forward_paths=("b@example.net",))
    with capture_logs() as lines:
        verdict = await place.relay.accept(envelope, b"Subject: x\r\n\r\n")
    assert verdict.reply.transient
    assert len(named(lines, "mail.possible_duplicate")) == 1
    await place.queue.drain(5)
