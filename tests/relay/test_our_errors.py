"""Our own code fails after a call: its outcome is written down all the same, and nothing goes twice."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from smtp2cf.cloudflare import Client, Sent
from smtp2cf.envelope import Envelope
from smtp2cf.journal import maillog
from smtp2cf.message import dsn
from smtp2cf.relay import MessagePolicy, Relay, RetryPolicy, calls
from smtp2cf.relay.spooled import SpooledMail
from smtp2cf.reply import BOUNCED, DELIVERED
from smtp2cf.spool import Action, Filter, SpoolUnavailable, Status
from smtp2cf.spool.claims import Claims
from smtp2cf.spool.health import SpoolHealth
from tests.relay.one_attempt import attempt_to_send
from tests.relay.test_deadline import Gate
from tests.relay.world import AWAY, MESSAGE, Api, by_name, delivered, first, world
from tests.spool.conftest import Backend, new_mail
from tests.support.waiting import PATIENCE

RETRY = RetryPolicy(minimum=0.05, maximum=0.2, expire_after=3600)


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with capture_logs() as captured:
        yield captured


def events(lines: list[Any], event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


class Bug(Exception):  # noqa: N818 - what it stands for
    """In our own code."""


def failing(*_: Any, **__: Any) -> Any:
    raise Bug("a bug")


# ---- after a call, before the answer to the client


async def test_a_dsn_that_can_t_be_built_sends_nothing_twice(
    backend: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsn, "build", failing)
    api.answer = by_name
    async with world(await backend.open(), api, retry=RETRY) as here:
        answer = await here.accept("bounce@example.org", "ok@example.org")
        assert answer.startswith("250 ")
        assert "not sent to <bounce@example.org>" in answer
        held = await here.until(lambda item: item.status is Status.HELD)
        assert held.hold_reason == "Bug: a bug"
        assert held.outcomes == {"bounce@example.org": BOUNCED, "ok@example.org": DELIVERED}
        # A person who lets it go on sends nothing again.
        async for _ in here.spool.apply(Action.RELEASE, Filter()):
            pass
        await here.until_empty()
    assert [call.recipients for call in api.calls] == [["bounce@example.org", "ok@example.org"]]


async def test_mail_to_be_held_that_was_kept_though_the_spool_says_it_failed(
    backend: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsn, "build", failing)
    api.answer = by_name
    spool = await backend.open(lease=600)
    Doubtful(spool, monkeypatch, claimed=True)
    async with world(spool, api, retry=RETRY) as here:
        assert "not sent to <bounce@example.org>" in await here.accept("bounce@example.org", "ok@example.org")
        await here.until(lambda item: item.status is Status.HELD)
    assert len(api.calls) == 1


async def test_without_a_spool_the_answer_names_who_bounced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsn, "build", failing)

    async def send(_: str, recipients: Any, **__: Any) -> Sent:
        return Sent({who: BOUNCED if who.startswith("bounce") else DELIVERED for who in recipients}, "<1@cf>")

    relay = Relay(send, MessagePolicy())
    mail = Envelope(reverse_path="a@example.com", forward_paths=("bounce@example.org", "ok@example.org"))
    reply = (await relay.accept(mail, MESSAGE)).reply
    assert reply.code == 250
    assert "not sent to <bounce@example.org>" in reply.text


async def test_a_log_that_fails_sends_nothing_twice(
    backend: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maillog, "attempted", failing)
    async with world(await backend.open(), api, retry=RETRY) as here:
        assert (await here.accept()).startswith("250 ")
        await here.spool.put(new_mail())
        held = await here.until(lambda item: item.status is Status.HELD)
        assert held.outcomes == {"ben@example.org": DELIVERED}
    assert len(api.calls) == 2


# ---- one of several groups


def group_of(recipients: Any) -> int:
    return int(recipients[0].partition("@")[0][1:]) // 50


async def test_one_group_that_fails_takes_nothing_from_the_others(lines: list[Any]) -> None:
    async def send(recipients: Any) -> Sent:
        if group_of(recipients) == 1:
            raise Bug("a bug")
        await asyncio.sleep(0.01)
        return Sent(dict.fromkeys(recipients, DELIVERED), "<1@cf>")

    recipients = [f"r{number}@example.net" for number in range(200)]
    done = await attempt_to_send(send, recipients)
    failed = recipients[50:100]
    assert list(done.outcomes) == recipients
    assert [who for who, reply in done.outcomes.items() if reply == calls.INTERNAL_ERROR] == failed
    assert [who for who, reply in done.outcomes.items() if reply == DELIVERED] == [
        who for who in recipients if who not in failed
    ]
    assert done.unanswered == failed
    assert isinstance(done.error, Bug)
    assert [str(line["exc_info"]) for line in events(lines, "relay.error")] == ["a bug"]


async def test_a_group_that_keeps_failing_is_held_and_the_others_are_sent_once(
    backend: Backend, api: Api, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Client.send

    async def half(self: Client, sender: str, recipients: Any, *others: Any, **submission: Any) -> Sent:
        if group_of(recipients) == 1:
            raise Bug("a bug")
        return await send(self, sender, recipients, *others, **submission)

    monkeypatch.setattr(Client, "send", half)
    async with world(await backend.open(), api, retry=RETRY) as here:
        recipients = [f"r{number}@example.org" for number in range(100)]
        assert "kept for another attempt" in await here.accept(*recipients)
        held = await here.until(lambda item: item.status is Status.HELD)
        assert held.failures == 3
        assert held.unresolved == tuple(recipients[50:])
    assert [call.recipients for call in api.calls] == [recipients[:50]]
    named = {who for line in events(lines, "mail.possible_duplicate") for who in line["to"]}
    assert named >= set(recipients[50:55])


# ---- the spool


async def test_an_outcome_is_written_down_however_the_spool_fails(
    backend: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.relay.spooled.SPOOL_RETRY", 0.01)
    spool = await backend.open()
    settle, errors = spool.settle, [Bug("one"), SpoolUnavailable("away"), KeyError("two"), Bug("three")]

    async def flaky(*args: Any, **options: Any) -> bool:
        if errors:
            raise errors.pop()
        settled: bool = await settle(*args, **options)
        return settled

    monkeypatch.setattr(spool, "settle", flaky)
    async with world(spool, api, retry=RETRY, mode="queue") as here:
        assert (await here.accept()).endswith(" queued")
        await here.until_empty()
    assert not errors
    assert len(api.calls) == 1


async def test_no_claim_outlives_the_work_on_it(
    backend: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work on a message ends with an error that nobody foresaw: its claim ends too."""
    spool = await backend.open()
    read, failures = spool.read, [Bug("one"), Bug("two")]

    async def flaky(queue_id: str) -> Any:
        if failures:
            raise failures.pop()
        return await read(queue_id)

    async def fails(*_: Any, **__: Any) -> None:
        raise Bug("where the first is dealt with")

    monkeypatch.setattr(spool, "read", flaky)
    monkeypatch.setattr(SpooledMail, "fail", fails)
    async with world(spool, api, retry=RETRY, mode="queue") as here:
        await here.accept()
        await here.until_empty()
    assert not failures
    assert len(api.calls) == 1


class Doubtful:
    """Puts mail into the spool and loses the answer. which: whose, of mail that is claimed or that is not."""

    def __init__(self, spool: Any, monkeypatch: pytest.MonkeyPatch, *, claimed: bool) -> None:
        self._put = spool.put
        self._claimed = claimed
        self.lost = asyncio.Event()
        monkeypatch.setattr(spool, "put", self)

    async def __call__(self, *mail: Any) -> None:
        await self._put(*mail)
        if any(letter.claimed is self._claimed for letter in mail):
            self.lost.set()
            raise SpoolUnavailable("the connection was lost", unanswered=True)


@pytest.mark.parametrize(
    ("answer", "reply", "calls"),
    [
        (lambda: delivered, "delivered", [("ok",)]),
        (lambda: first(AWAY), "kept for another attempt", [("bounce", "ok")] * 2),
        (lambda: by_name, "1 of 2 recipients delivered", [("bounce", "ok"), ("anna",)]),
    ],
    ids=["sent", "later", "bounced"],
)
async def test_mail_that_was_kept_though_the_spool_says_it_failed(
    backend: Backend,
    api: Api,
    lines: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    reply: str,
    calls: list[tuple[str, ...]],
) -> None:
    gate = Gate(api, answer())
    spool = await backend.open(lease=600)
    doubtful = Doubtful(spool, monkeypatch, claimed=True)
    async with world(spool, api, retry=RETRY, reply_timeout=0.05) as here:
        recipients = [f"{name}@example.org" for name in calls[0]]
        accepting = asyncio.create_task(here.accept(*recipients))
        await doubtful.lost.wait()
        gate.open.set()
        assert reply in await accepting
        await here.until_empty()
    made = [tuple(who.partition("@")[0] for who in call.recipients) for call in api.calls]
    assert made == calls
    assert not events(lines, "mail.possible_duplicate")


async def test_a_client_that_was_told_451_for_mail_that_is_kept_does_not_send_it_twice(
    backend: Backend, api: Api, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await backend.open()
    Doubtful(spool, monkeypatch, claimed=False)
    async with world(spool, api, retry=RETRY, mode="queue") as here:
        answers = []
        for _ in range(2):
            mail = Envelope(reverse_path="anna@example.com", forward_paths=("ben@example.org",))
            answers.append(str((await here.relay.accept(mail, MESSAGE)).reply))
            here.relay.answered(mail, received=True)
        assert answers[0].startswith("451 4.3.0 the spool can't be reached")
        assert answers[1].endswith(" queued")
        await here.until_empty()
    assert len(api.calls) == 1
    # It could not know: if the client had sent other bytes, they would have gone out.
    assert [line["to"] for line in events(lines, "mail.possible_duplicate")] == [["ben@example.org"]]


# ---- what goes on by itself


async def test_leases_are_renewed_whatever_fails(lines: list[Any]) -> None:
    renewed = asyncio.Event()
    errors: list[Exception] = [Bug("a bug"), KeyError("another"), SpoolUnavailable("away")]

    async def renew(_: Any) -> tuple[str, ...]:
        if errors:
            raise errors.pop()
        renewed.set()
        return ()

    claims = Claims(0.03, renew)
    await asyncio.wait_for(renewed.wait(), PATIENCE)
    await claims.close()
    assert [line["event"] for line in lines] == [
        "spool.unavailable",
        "spool.renewal_failed",
        "spool.renewal_failed",
        "spool.available",
    ]


async def test_readiness_is_never_stale(sqlite: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = await sqlite.open()
    waiting = SpoolHealth(spool, 3600)
    assert not waiting.readiness().ready
    await waiting.look()
    assert waiting.readiness().ready
    with monkeypatch.context() as patch:
        patch.setattr(spool, "check", failing)
        await waiting.look()
        assert waiting.readiness() == (False, "the spool fails: Bug: a bug")
    await waiting.look()
    assert waiting.readiness().ready
