"""Events: what their bodies say, whatever they hold, and the queue they are pulled from."""

import base64
import json
from typing import Any

import pytest

from smtp2cf.cloudflare.events import FAILURES, Event, EventQueue, read_event, read_message
from smtp2cf.listen.endpoint import Endpoint, listen
from smtp2cf.reply import SendError
from smtp2cf.sandbox import Sandbox
from tests.cloudflare.conftest import MakeClient, send
from tests.support.each import each

QUEUE = "events"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def body(kind: str = "bounced", **payload: Any) -> dict[str, Any]:
    """An event as Cloudflare documents it, with changes to its payload."""
    return {
        "type": f"cf.email.sending.message.{kind}",
        "source": {"type": "email.sending", "zoneId": "z", "domain": "example.com"},
        "payload": {
            "eventId": "e1",
            "messageId": "<m1@example.com>",
            "sender": "a@example.com",
            "recipient": "b@example.net",
            "subject": "hello",
            "terminal": True,
        }
        | payload,
        "metadata": {"eventSchemaVersion": 1, "eventTimestamp": "2026-11-26T12:00:00.000Z"},
    }


def delivery(code: str | None, enhanced: str | None, text: str) -> dict[str, Any]:
    return {"smtpStatusCode": code, "smtpEnhancedStatusCode": enhanced, "smtpResponse": text}


def read(document: object) -> Event:
    event = read_event(document)
    assert event is not None
    return event


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: base64.b64encode(text.encode()).decode(),
        json.loads,
        lambda text: f"\n {text}",
    ],
    ids=["text", "base64", "json", "blanks"],
)
def test_a_body_is_read_in_each_form_it_comes_in(wrap: Any) -> None:
    event = read(wrap(json.dumps(body())))
    assert (event.id, event.kind, event.sender) == ("e1", "bounced", "a@example.com")
    assert (event.message_id, event.recipient, event.subject) == ("m1@example.com", "b@example.net", "hello")
    assert event.at == 1_795_694_400.0


REPLIES = [
    (
        ("bounced", {"delivery": delivery("550", "5.1.1", "550 5.1.1 no such user")}),
        "550 5.1.1 the recipient's server said: no such user",
    ),
    (
        ("bounced", {"delivery": delivery("552", "5.2.2", "552-5.2.2 full")}),
        "552 5.2.2 the recipient's server said: full",
    ),
    (
        ("bounced", {"delivery": delivery("550", None, "550 no")}),
        "550 5.1.1 the recipient's server said: no",
    ),
    (
        ("bounced", {"delivery": delivery("451", "4.2.0", "451 4.2.0 later")}),
        "550 5.4.7 Cloudflare gave up: later",
    ),
    (
        ("bounced", {"bounce": {"type": "soft", "reason": "greylisted"}}),
        "550 5.4.7 Cloudflare gave up: greylisted",
    ),
    (("bounced", {}), "550 5.4.7 Cloudflare gave up: no reason given"),
    # Digits that are not ASCII, which no DSN may have.
    (
        ("bounced", {"delivery": delivery("550", "5.\u0661.1", "550 no")}),
        "550 5.1.1 the recipient's server said: no",
    ),
    (
        ("bounced", {"delivery": delivery("55\u0660", None, "no")}),
        "550 5.4.7 Cloudflare gave up: no",
    ),
    (
        ("failed", {"failure": {"reason": "no MX"}}),
        "550 5.4.4 Cloudflare could not deliver it: no MX",
    ),
    (
        ("rejected", {"rejection": {"reason": "suppressed", "detail": "hard bounce"}}),
        "550 5.7.1 Cloudflare refused to deliver it: suppressed: hard bounce",
    ),
    (
        ("deferred", {"bounce": {"reason": "greylisted"}}),
        "451 4.4.0 Cloudflare tries again: greylisted",
    ),
    (("delivered", {"delivery": delivery("250", "2.0.0", "250 2.0.0 OK")}), "250 2.0.0 delivered: OK"),
    (("complained", {}), "250 2.0.0 the recipient reported it as spam"),
    (("opened", {}), "250 2.0.0 event opened"),
]


@each(("given", "expected"), REPLIES)
def test_what_an_event_says_becomes_a_reply(given: tuple[str, dict[str, Any]], expected: str) -> None:
    kind, payload = given
    event = read(body(kind, **payload))
    assert str(event.reply) == expected
    assert event.reply.permanent == (kind in FAILURES)


HOSTILE: list[object] = [None, 0, [], "", "not base64!", "e30=", "{", "[" * 100_000, {"type": 1}, b"x"]
HOSTILE_PAYLOADS = [
    None,
    [],
    "x",
    {"messageId": 5},
    {"messageId": "<>", "recipient": "b@x"},
    {"messageId": "m"},
]


def test_a_body_that_is_no_event_is_none() -> None:
    for document in HOSTILE:
        assert read_event(document) is None
    for payload in HOSTILE_PAYLOADS:
        assert read_event({**body(), "payload": payload}) is None
    assert read_event({**body(), "type": "cf.r2.object.created"}) is None
    assert read_message({"body": body()}) is None
    assert read_message(None) is None


def test_fields_of_wrong_kinds_cost_only_themselves() -> None:
    odd = body("bounced", subject=["x"], sender=7, delivery="x", bounce=[1], terminal="yes")
    event = read({**odd, "metadata": {"eventTimestamp": "9999-99-99"}})
    assert (event.subject, event.sender, event.at) == (None, "", 0.0)
    assert str(event.reply) == "550 5.4.7 Cloudflare gave up: no reason given"
    controls = read(body("failed", failure={"reason": "a\r\nRCPT TO:<x>\x00\u202e" + "y" * 9999}))
    assert controls.reply.text.isprintable()
    assert len(controls.reply.text) < 600


async def test_the_stand_in_publishes_what_becomes_of_each_recipient(make_client: MakeClient) -> None:
    clock = Clock()
    sandbox = Sandbox(token=None, events=QUEUE)
    sandbox.event_queues.queues[QUEUE].clock = clock
    sockets = listen(Endpoint("127.0.0.1", 0))
    await sandbox.start(sockets)
    try:
        base = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/client/v4"
        client = make_client(base)
        queue = EventQueue(client.api, QUEUE)
        names = ("anna", "queued", "later-bounce", "complain", "deferred-then-bounce", "unlisted")
        sent = await send(client, *(f"{name}@example.net" for name in names))
        assert all(reply.success for reply in sent.outcomes.values())
        assert await queue.pull() == []  # not yet

        clock.now += 1.5
        first = await queue.pull()
        clock.now += 1.0
        second = await queue.pull()
        told: dict[str, list[str]] = {}
        for pulled in (*first, *second):
            assert pulled.event is not None
            assert pulled.event.message_id == sent.message_id.strip("<>")
            assert pulled.attempts == 1
            told.setdefault(pulled.event.recipient.partition("@")[0], []).append(pulled.event.kind)
        assert told == {
            "anna": ["delivered"],
            "queued": ["delivered"],
            "later-bounce": ["bounced"],
            "complain": ["delivered", "complained"],
            "deferred-then-bounce": ["deferred", "bounced"],
            "unlisted": ["delivered"],
        }

        back = first[0].lease
        await queue.settle([each.lease for each in first[1:]], {back: 30.0})
        clock.now += 29.0
        assert await queue.pull() == []
        clock.now += 100.0  # handed back, and the leases of the second pull are over
        assert sorted(each.attempts for each in await queue.pull()) == [2] * (1 + len(second))
        with pytest.raises(SendError, match="404"):
            await EventQueue(client.api, "another").pull()

        sandbox.lacking = {"queues"}
        own = client.api_with("another", {"SMTP2CF_API_TOKEN": "SMTP2CF_EVENTS_API_TOKEN"})
        with pytest.raises(SendError, match=r"permission Queues: Edit.*\(SMTP2CF_EVENTS_API_TOKEN\)"):
            await EventQueue(own, QUEUE).pull()
    finally:
        await sandbox.stop()


async def test_a_call_that_is_cut_off_was_accepted_or_never_came(make_client: MakeClient) -> None:
    sandbox = Sandbox(token=None, events=QUEUE)
    sockets = listen(Endpoint("127.0.0.1", 0))
    await sandbox.start(sockets)
    try:
        client = make_client(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/client/v4")
        for where, accepted in (("before", 0), ("after", 1)):
            sandbox.cut_off = "before" if where == "before" else "after"
            with pytest.raises(SendError) as caught:
                await send(client, f"{where}@example.net")
            assert caught.value.unanswered
            assert len(sandbox.messages) == accepted
        sandbox.cut_off = ""
        with pytest.raises(SendError):
            await send(client, "unanswered@example.net")
        assert len(sandbox.event_queues.queues[QUEUE].events) == 2
    finally:
        await sandbox.stop()
