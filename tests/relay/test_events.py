"""Events: what becomes of mail after Cloudflare's answer, told once, whatever happens meanwhile."""

import asyncio
import random
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from email.parser import BytesParser
from typing import Any

import pytest
import structlog

from smtp2cf.cloudflare import Sent
from smtp2cf.cloudflare.events import Event, Pulled
from smtp2cf.envelope import Envelope
from smtp2cf.relay import BouncePolicy, MessagePolicy, Relay
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.events import FOREIGN_LIMIT, LAST_TRY, MANY, PULL_EVERY, SOON, LaterOutcomes
from smtp2cf.relay.followed import followed_by
from smtp2cf.reply import QUEUED, Reply, SendError
from smtp2cf.spool import Followed, Following, NewMail, Spool
from tests.spool.conftest import Backend

BOUNCE = BouncePolicy(hostname="relay.example.com", postmaster="postmaster@example.com")
GONE = Reply(550, "5.1.1", "the recipient's server said: no such user")
MESSAGE = b"Message-ID: <1@local>\r\nSubject: hello\r\n\r\nhello\r\n"


class Queue:
    """A queue of events that hands each out as often as it likes."""

    def __init__(self, *events: Event, times: int = 1) -> None:
        self.waiting: dict[str, tuple[Event, int]] = {
            f"{number}-{copy}": (event, 0) for number, event in enumerate(events) for copy in range(times)
        }
        self.failing = False

    async def pull(self) -> list[Pulled]:
        if self.failing:
            raise SendError(Reply(451, "4.4.1", "away"), scope=None)  # type: ignore[arg-type]
        some = random.Random(len(self.waiting)).sample([*self.waiting], min(20, len(self.waiting)))
        for lease in some:
            event, attempts = self.waiting[lease]
            self.waiting[lease] = (event, attempts + 1)
        return [Pulled(lease, self.waiting[lease][1], self.waiting[lease][0]) for lease in some]

    async def settle(self, done: Iterable[str], later: Mapping[str, float]) -> None:
        assert all(delay > 0 for delay in later.values())
        for lease in done:
            self.waiting.pop(lease, None)


def event(kind: str = "bounced", number: int = 0, **fields: Any) -> Event:
    values: dict[str, Any] = {
        "id": f"e{number}",
        "message_id": f"m{number}@cf",
        "sender": "anna@example.com",
        "recipient": f"b{number}@example.net",
        "subject": "hello",
        "at": 0.0,
        "terminal": kind != "deferred",
        "reply": GONE if kind in ("bounced", "failed", "rejected") else Reply(250, "2.0.0", kind),
    }
    return Event(kind=kind, **(values | fields))


async def send(spool: Any, numbers: Iterable[int], **fields: Any) -> None:
    """Send messages that Cloudflare queues, through a relay that hears events."""

    async def send_raw(_: str, recipients: list[str], **__: Any) -> Sent:
        number = recipients[0].partition("@")[0][1:]
        return Sent(dict.fromkeys(recipients, QUEUED), f"<m{number}@cf>")

    relay = Relay(send_raw, MessagePolicy(), spool=spool, bounce=BOUNCE, following=spool.following)
    for number in numbers:
        who = f"b{number}@example.net"
        envelope = Envelope(**({"reverse_path": "anna@example.com", "forward_paths": (who,)} | fields))
        verdict = await relay.accept(envelope, MESSAGE + b"%d" % number)
        assert verdict.reply.success
        relay.answered(envelope, True)
    await spool.following.add()  # until all before it are written


async def dsns(spool: Spool) -> list[bytes]:
    kept = [await spool.read(item.queue_id) async for item in spool.items()]
    return [message for message in kept if message is not None]


async def step_until_empty(queue: Queue, *hearing: LaterOutcomes) -> None:
    for _ in range(2000):
        if not queue.waiting:
            return
        for each in hearing:
            await each.step()
    raise AssertionError(f"{len(queue.waiting)} events are left")


async def test_a_later_bounce_is_reported_as_an_immediate_one_would_have_been(backend: Backend) -> None:
    spool = await backend.open()
    asked = {"b0@example.net": "FAILURE"}
    await send(spool, [0], notify=asked, orcpt={"b0@example.net": "rfc822;ben"}, envid="e1")
    queue = Queue(event())
    with structlog.testing.capture_logs() as lines:
        await step_until_empty(queue, LaterOutcomes(queue, spool.following, BOUNCE))
    (dsn,) = await dsns(spool)
    parsed = BytesParser().parsebytes(dsn)
    text = dsn.decode()
    assert parsed["To"] == "anna@example.com"
    assert parsed["In-Reply-To"] == "<1@local>"
    for line in ("Original-Envelope-Id: e1", "Original-Recipient: rfc822; ben", "Status: 5.1.1"):
        assert line in text
    assert '("hello", received' in text
    (line,) = [each for each in lines if each["event"] == "mail.event"]
    assert line["to"] == ["b0@example.net"]
    assert line["original_message_id"] == "<1@local>"
    assert (line["status"], line["message_id"]) == ("bounced", "m0@cf")
    assert await spool.following.find("m0@cf", "b0@example.net") is None


async def test_a_recipient_is_told_of_as_the_mail_names_it_however_cloudflare_spells_it(
    sqlite: Backend,
) -> None:
    spool = await sqlite.open()
    await send(spool, [0], forward_paths=("b0@Example.net",))
    queue = Queue(event(recipient="B0@example.net"))
    with structlog.testing.capture_logs() as lines:
        await step_until_empty(queue, LaterOutcomes(queue, spool.following, BOUNCE))
    assert [line["to"] for line in lines if line["event"] == "mail.event"] == [["b0@Example.net"]]


def test_mail_that_another_was_sent_as_is_followed_as_it_was_sent() -> None:
    """So a later bounce is reported where an immediate one would have been."""
    envelope = Envelope(reverse_path="root@web07.internal", forward_paths=("b@x",))
    attempt = Attempt({"b@x": QUEUED}, {"b@x": "<m@cf>"}, sent_as="noreply@example.com")
    (followed,) = followed_by(envelope, attempt, MESSAGE)
    assert followed.envelope.reverse_path == "noreply@example.com"
    assert BOUNCE.whom_to_tell(followed.envelope) == "postmaster@example.com"


@pytest.mark.parametrize(
    ("kind", "fields", "followed", "told"),
    [
        ("bounced", {"notify": {"b0@example.net": "NEVER"}}, False, 0),
        ("bounced", {"reverse_path": ""}, False, 0),
        ("failed", {}, False, 1),
        ("rejected", {}, False, 1),
        ("delivered", {}, False, 0),
        ("deferred", {}, True, 0),
    ],
)
async def test_each_kind_of_event_ends_what_it_ends(
    sqlite: Backend, kind: str, fields: dict[str, Any], followed: bool, told: int
) -> None:
    spool = await sqlite.open()
    relay_fields = {"reverse_path": "anna@example.com"} | fields
    if not relay_fields["reverse_path"]:
        relay_fields["reverse_path"] = "null@example.com"
    await send(spool, [0], **relay_fields)
    if fields.get("reverse_path") == "":
        one = await spool.following.find("m0@cf", "b0@example.net")
        assert one is not None
        await spool.following.add(one._replace(envelope=replace(one.envelope, reverse_path="")))
    queue = Queue(event(kind))
    await step_until_empty(queue, LaterOutcomes(queue, spool.following, BOUNCE))
    assert (await spool.following.find("m0@cf", "b0@example.net") is not None) is followed
    assert len(await dsns(spool)) == told


async def test_an_event_that_matches_nothing_goes_back_twice_and_many_are_worth_a_warning(
    sqlite: Backend,
) -> None:
    spool = await sqlite.open()
    queue = Queue(*(event(number=number) for number in range(FOREIGN_LIMIT)))
    hearing = LaterOutcomes(queue, spool.following, BOUNCE)
    with structlog.testing.capture_logs() as lines:
        for _ in range(LAST_TRY - 1):
            assert await hearing.step()
        assert len(queue.waiting) == FOREIGN_LIMIT
        await step_until_empty(queue, hearing)
    assert [line["event"] for line in lines] == ["events.foreign"]
    complaint = Queue(event("complained"))
    assert await LaterOutcomes(complaint, spool.following, BOUNCE).step()
    assert not complaint.waiting  # it comes after the end, and is logged at once


class Batches:
    """A queue that hands out batches of so many messages, whatever was acknowledged, and then is away."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = [*sizes]

    async def pull(self) -> list[Pulled]:
        if not self.sizes:
            raise asyncio.CancelledError
        return [Pulled("lease", 1, None)] * self.sizes.pop(0)

    async def settle(self, done: Iterable[str], later: Mapping[str, float]) -> None:
        pass


async def test_pulls_leave_most_calls_to_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where much is sent, a few events come all the time; and a queue may hand out the same for ever."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("smtp2cf.relay.events.asyncio.sleep", pause)
    with pytest.raises(asyncio.CancelledError):
        await LaterOutcomes(Batches(100, MANY, MANY - 1, 1, 0), Cut(None, 0), BOUNCE).run()  # type: ignore[arg-type]
    assert pauses == [SOON, SOON, PULL_EVERY, PULL_EVERY, PULL_EVERY]


async def test_nothing_is_acknowledged_that_could_not_be_written(sqlite: Backend) -> None:
    spool = await sqlite.open()
    await send(spool, [0])
    queue = Queue(event())
    hearing = LaterOutcomes(queue, spool.following, BOUNCE)
    await sqlite.close(spool)
    await hearing.step()
    assert queue.waiting
    spool = await sqlite.open(serve=True)
    await step_until_empty(queue, LaterOutcomes(queue, spool.following, BOUNCE))
    assert len(await dsns(spool)) == 1


class Cut:
    """Who is followed, for bridges that are stopped after so many looks and changes."""

    def __init__(self, following: Following, left: int) -> None:
        self._following = following
        self._left = left
        self.bridges: list[asyncio.Task[None]] = []

    def add(self, *recipients: Followed) -> Awaitable[None]:
        return self._following.add(*recipients)

    async def find(self, message_id: str, recipient: str) -> Followed | None:
        self._count()
        return await self._following.find(message_id, recipient)

    async def end(self, followed: Followed, *dsns: NewMail) -> bool:
        ended = await self._following.end(followed, *dsns)
        self._count()
        return ended

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            for bridge in self.bridges:
                bridge.cancel()


async def hear(hearing: LaterOutcomes) -> None:
    while await hearing.step():
        pass


async def test_a_thousand_messages_of_which_a_hundred_bounce_later_are_told_of_once(
    backend: Backend,
) -> None:
    """Each event comes three times, to two bridges, which are stopped in the middle of it again and again."""
    spool = await backend.open()
    many = 1000 if backend.is_sqlite else 200  # a round trip each
    await send(spool, range(many))
    queue = Queue(*(event("bounced" if n % 10 == 0 else "delivered", n) for n in range(many)), times=3)
    draw = random.Random(7)
    while queue.waiting:
        cut = Cut(spool.following, draw.randrange(5, 250))
        hearing = [LaterOutcomes(queue, cut, BOUNCE) for _ in range(2)]
        cut.bridges = [asyncio.create_task(hear(each)) for each in hearing]
        await asyncio.gather(*cut.bridges, return_exceptions=True)
    sent = [BytesParser().parsebytes(dsn).get_payload(1).as_string() for dsn in await dsns(spool)]  # type: ignore[union-attr]
    assert len(sent) == many // 10
    assert len({one.partition("Final-Recipient:")[2].split()[1] for one in sent}) == many // 10
