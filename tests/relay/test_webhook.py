"""The webhook: what is told and how, how often it is tried again, and what is given up."""

import ast
import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import smtp2cf
from smtp2cf.journal import news
from smtp2cf.journal.news import News
from smtp2cf.message.notice import TOPICS
from smtp2cf.relay import webhook
from smtp2cf.relay.webhook import LONGEST_RETRY_AFTER, SCHEDULE, WIDTH, Webhook
from smtp2cf.relay.webhook_body import MOST_RECIPIENTS, postings
from smtp2cf.relay.webhook_call import Result
from smtp2cf.spool import Posting, SpoolUnavailable
from smtp2cf.spool.postings import Backlog
from tests.journal.test_log_page import listed
from tests.support.secret import WEBHOOK_SECRET

CODE = Path(smtp2cf.__file__).parent
PAGE = (CODE.parent / "docs" / "webhook.md").read_text(encoding="utf-8")
HELD = News("mail.held", 1_795_731_667.157, "mail waits", {"queue_id": "Q", "to": ["anna@example.net"]})


class Waiting:
    """What waits, as in a spool. due: seconds until each is due. expired: so many are too old now."""

    def __init__(self, *waiting: Posting) -> None:
        self.waiting = {one.id: one for one in waiting}
        self.due = dict.fromkeys(self.waiting, 0.0)
        self.claims: list[int] = []
        self.away = False
        self.dropped = self.expired = 0

    async def add(self, new: Sequence[Posting]) -> int:
        if self.away:
            raise SpoolUnavailable("away")
        self.waiting |= {one.id: one for one in new}
        self.due |= dict.fromkeys((one.id for one in new), 0.0)
        return self.dropped

    async def claim(self, limit: int) -> list[Posting]:
        self.claims.append(limit)
        claimed = [one for id_, one in self.waiting.items() if not self.due[id_]][:limit]
        self.due |= dict.fromkeys((one.id for one in claimed), 60.0)
        return claimed

    async def settle(self, done: Sequence[str], later: Mapping[str, float]) -> None:
        for id_ in done:
            del self.waiting[id_]
        self.due |= later

    async def expire(self, age: float) -> int:
        return self.expired

    async def backlog(self) -> Backlog:
        return Backlog(len(self.waiting), 7.0 if self.waiting else None)


class Receiver:
    """Answers as it is told, in this order; then it takes everything."""

    host = "hooks.example.com"

    def __init__(self, *results: Result) -> None:
        self.results = list(results)
        self.got: list[Posting] = []

    async def post(self, posting: Posting) -> Result:
        self.got.append(posting)
        return self.results.pop(0) if self.results else Result()


def some(count: int, attempts: int = 0) -> list[Posting]:
    return [Posting(f"msg_{number}", '{"type":"mail.held"}', attempts) for number in range(count)]


def told(waiting: Waiting, receiver: Receiver, *kinds: str) -> Webhook:
    return Webhook(waiting, receiver, kinds or ("mail.held",), "relay.example.com")


async def run(
    monkeypatch: pytest.MonkeyPatch, waiting: Waiting, receiver: Receiver, rounds: int
) -> list[float]:
    """Let so many rounds of calls go by; returns the seconds that were waited after each."""
    waits: list[float] = []

    async def rest(_: Webhook, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) >= rounds:
            raise asyncio.CancelledError

    monkeypatch.setattr(Webhook, "_rest", rest)
    with contextlib.suppress(asyncio.CancelledError):
        await told(waiting, receiver).deliver()
    return waits


# ---- what is told


def test_an_event_is_told_in_the_form_of_the_specification() -> None:
    (posting,) = postings(HELD, "relay.example.com")
    assert re.fullmatch("msg_[0-9a-f]{32}", posting.id)
    assert json.loads(posting.body) == {
        "type": "mail.held",
        "timestamp": "2026-11-26T22:21:07.157Z",
        "data": {
            "hostname": "relay.example.com",
            "text": "mail waits",
            "queue_id": "Q",
            "to": ["anna@example.net"],
        },
    }


@given(count=st.integers(0, 300), text=st.text(st.characters(), max_size=5000))
def test_no_event_is_large_and_every_recipient_is_told_of_once(count: int, text: str) -> None:
    to = [f"{number}@example.net" for number in range(count)]
    told = list(postings(News("mail.held", 0.0, text, {"to": to, "reason": text}), "h"))
    bodies = [json.loads(one.body) for one in told]
    assert [who for body in bodies for who in body["data"]["to"]] == to
    assert all(len(body["data"]["to"]) <= MOST_RECIPIENTS for body in bodies)
    assert max(len(one.body.encode()) for one in told) < 20_000
    assert len({one.id for one in told}) == len(told)


async def test_only_what_is_wanted_is_noted_and_no_more_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhook, "MOST_NOTED", 2)
    waiting = Waiting()
    waiting.away = True
    hook = told(waiting, Receiver())
    dropped = webhook.POSTINGS.counted["dropped"]
    with capture_logs() as logs:
        for number in range(5):
            hook.hear(HELD._replace(text=str(number)))
            hook.hear(HELD._replace(kind="mail.delivered"))
    assert webhook.POSTINGS.counted["dropped"] - dropped == 3
    assert [(line["event"], line["count"]) for line in logs] == [("webhook.dropped", 1)]
    with pytest.raises(SpoolUnavailable):
        await hook.write()
    waiting.away = False
    await hook.write()
    assert [json.loads(one.body)["data"]["text"] for one in waiting.waiting.values()] == ["3", "4"]


def test_every_kind_that_the_code_tells_is_known() -> None:
    tells = [
        node.args[0]
        for path in CODE.rglob("*.py")
        if "tell(" in (text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and node.args and re.search(r"\b_?tell$", ast.unparse(node.func))
    ]
    named = {arg.value for arg in tells if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    kinds = {name for name in named if re.fullmatch(r"[a-z]+\.[a-z_]+", name)}
    made = {"api.unreachable", "api.throttled", "api.token_refused", "mail.complained"}
    made |= {"sender.not_configured", "sender.failing"}
    assert kinds | made == set(news.KINDS)
    assert set(TOPICS) <= set(news.KINDS)


# ---- when it is tried again


async def test_what_is_taken_goes_and_many_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, receiver = Waiting(*some(WIDTH + 1)), Receiver()
    assert await run(monkeypatch, waiting, receiver, 3) == [0.0, 0.0, webhook.LOOK_EVERY]
    assert [one.id for one in receiver.got] == [one.id for one in some(WIDTH + 1)]
    assert not waiting.waiting


@pytest.mark.parametrize("attempts", range(len(SCHEDULE)))
async def test_each_attempt_that_fails_puts_off_the_next_as_the_specification_suggests(
    monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    waiting = Waiting(*some(1, attempts))
    await run(monkeypatch, waiting, Receiver(Result("it answers 500")), 1)
    assert 0.9 <= waiting.due["msg_0"] / SCHEDULE[attempts] <= 1.1


async def test_after_the_last_attempt_an_event_is_given_up_with_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = Waiting(*some(1, len(SCHEDULE)))
    waiting.expired = 3
    with capture_logs() as logs:
        await run(monkeypatch, waiting, Receiver(Result("it answers 500")), 1)
    assert not waiting.waiting
    line = next(line for line in logs if line["event"] == "webhook.given_up")
    assert (line["webhook_id"], line["kind"], line["attempts"]) == ("msg_0", "mail.held", 10)
    assert next(line for line in logs if line["event"] == "webhook.expired")["count"] == 3


async def test_while_calls_fail_there_is_one_at_a_time_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = Waiting(*some(30))
    receiver = Receiver(*[Result("it answers 500")] * (WIDTH + 9))
    with capture_logs() as logs:
        waits = await run(monkeypatch, waiting, receiver, 11)
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0, 0.0]
    assert waiting.claims == [WIDTH] + [1] * 10
    assert [(line["event"], line["host"]) for line in logs] == [
        ("webhook.failing", receiver.host),
        ("webhook.recovered", receiver.host),
    ]


@pytest.mark.parametrize(
    ("asked", "wait", "later"), [(600.0, 600.0, 600.0), (2.0**31, LONGEST_RETRY_AFTER, LONGEST_RETRY_AFTER)]
)
async def test_no_call_is_made_before_retry_after(
    monkeypatch: pytest.MonkeyPatch, asked: float, wait: float, later: float
) -> None:
    waiting = Waiting(*some(2))
    busy = Result("it answers 429", retry_after=asked)
    assert await run(monkeypatch, waiting, Receiver(busy, busy), 1) == [wait]
    assert waiting.due["msg_0"] == later


async def test_an_event_that_the_receiver_refuses_is_in_no_others_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = Waiting(*some(2 * WIDTH))
    refused = [Result("it answers 400", about_event=True)] * WIDTH
    assert await run(monkeypatch, waiting, Receiver(*refused), 2) == [0.0, 0.0]
    assert len(waiting.waiting) == WIDTH


async def test_a_receiver_that_is_gone_is_called_no_more_and_what_waits_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting, receiver = Waiting(*some(1)), Receiver(Result("it answers 410", gone=True))
    with capture_logs() as logs:
        await run(monkeypatch, waiting, receiver, 5)
    assert len(receiver.got) == 1
    assert list(waiting.waiting) == ["msg_0"]
    assert [line["event"] for line in logs] == ["webhook.gone"]


# ---- docs/webhook.md


def examples() -> Iterator[Any]:
    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL):
        yield from map(json.loads, block.splitlines())


def test_the_page_has_an_example_of_every_kind_with_fields_of_the_log() -> None:
    assert sorted(one["type"] for one in examples()) == sorted(news.KINDS)
    fields = listed()
    in_log = dict.fromkeys(("mail.bounced", "mail.delivered"), "mail.attempt")
    in_log["mail.complained"] = "mail.event"
    for one in examples():
        data = one["data"]
        assert {"hostname", "text"} <= data.keys()
        if one["type"].startswith(("mail.", "sender.", "quota.")):
            assert data.keys() - {"hostname", "text", "to"} <= fields[in_log.get(one["type"], one["type"])]


def test_the_pages_function_takes_what_is_signed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import UTC, datetime

    from standardwebhooks import Webhook as Signer

    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    page: dict[str, Any] = {}
    exec(code, page)
    event_in: Callable[..., Any] = page["event_in"]
    (posting,) = postings(HELD, "h")
    now = datetime.now(UTC)
    signature = Signer(WEBHOOK_SECRET).sign(posting.id, now, posting.body)
    other = Signer(b"another").sign(posting.id, now, posting.body)
    headers = {
        "webhook-id": posting.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": f"{other} {signature}",
    }
    body = posting.body.encode()
    assert event_in(headers, body, WEBHOOK_SECRET)["type"] == "mail.held"
    for forged in (
        (headers, body + b" ", WEBHOOK_SECRET),
        ({**headers, "webhook-id": "msg_2"}, body, WEBHOOK_SECRET),
        ({**headers, "webhook-signature": other}, body, WEBHOOK_SECRET),
        ({**headers, "webhook-signature": "v1,ü "}, body, WEBHOOK_SECRET),
    ):
        with pytest.raises(ValueError, match="forged or old"):
            event_in(*forged)
    old = int(now.timestamp()) + 301
    monkeypatch.setattr(page["time"], "time", lambda: old)
    with pytest.raises(ValueError, match="forged or old"):
        event_in(headers, body, WEBHOOK_SECRET)
