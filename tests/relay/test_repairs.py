"""What Cloudflare calls invalid is tried once more, repaired; what helped is remembered for a day."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope
from smtp2cf.relay import BouncePolicy, repairs
from smtp2cf.relay.attempt import Attempt, Attempts
from smtp2cf.relay.attempt_log import log_attempt
from smtp2cf.relay.calls import NOT_FOUND_OUT, SEARCH_LIMIT
from smtp2cf.relay.repairs import REMEMBERED_FOR, SENDERS_LIMIT, Repairs
from smtp2cf.reply import DELIVERED, SUPPRESSED, Reply, Scope, SendError
from tests.relay.test_attempt import at_once
from tests.relay.world import AWAY, Api, Call, delivered, failure, world
from tests.spool.conftest import Backend

INVALID = Reply(554, "5.6.0", "Cloudflare rejects the message as invalid [HTTP 400: email.invalid]")
MALFORMED = Reply(554, "5.6.0", "Cloudflare rejects an address or the message as malformed")
THROTTLED = Reply(451, "4.7.1", "later")

RECEIVED = b"Received: from a by b\r\n"
SIGNED = b"DKIM-Signature: v=1; b=x\r\n"
COMMA = b"From: Smith, John <a@example.com>\r\n"
QUOTED = b'From: "Smith, John" <a@example.com>\r\n'
REST = b"Subject: x\r\n\r\nReceived: in the body\r\n"
MESSAGE = RECEIVED + SIGNED + COMMA + REST
REPAIRED = QUOTED + REST

ME = "b@example.net"
ODD = "two..dots@example.net"


class Cloudflare:
    """send_raw. refused: what a message must not have in it; odd: recipients it must not have."""

    def __init__(self, *refused: bytes, odd: Collection[str] = (), suppressed: Collection[str] = ()) -> None:
        self.refused = refused
        self.odd, self.suppressed = frozenset(odd), frozenset(suppressed)
        self.calls: list[tuple[list[str], bytes]] = []
        self.taken: list[tuple[str, bytes]] = []
        self.then: Callable[[], SendError | None] = lambda: None

    async def __call__(self, _: str, recipients: Sequence[str], message: bytes, deadline: float) -> Sent:
        del deadline
        self.calls.append((list(recipients), message))
        if any(refused in message.partition(b"\r\n\r\n")[0] + b"\r\n" for refused in self.refused):
            raise SendError(INVALID, Scope.RECIPIENT, invalid=True)
        if self.odd.intersection(recipients):
            raise SendError(INVALID, Scope.RECIPIENT, invalid=True)
        if self.suppressed.intersection(recipients):
            raise SendError(SUPPRESSED, Scope.RECIPIENT)
        if error := self.then():
            raise error
        self.taken += [(who, message) for who in recipients]
        return Sent(dict.fromkeys(recipients, DELIVERED), f"<{len(self.calls)}@cf>")


class Account:
    """The way out to a Cloudflare, which a test may replace."""

    def __init__(self, cloudflare: Cloudflare, *, repair: bool = True) -> None:
        self.cloudflare = cloudflare
        self._attempts = Attempts(self._send, "", BouncePolicy(hostname="localhost"), repair=repair)

    async def _send(self, *args: Any, **fields: Any) -> Sent:
        return await self.cloudflare(*args, **fields)

    async def send(
        self,
        *recipients: str,
        message: bytes = MESSAGE,
        sender: str = "a@example.com",
        taken: bool = False,
    ) -> Attempt:
        """One attempt; its calls are counted from 0. taken: for others, before."""
        self.cloudflare.calls.clear()
        to = recipients or (ME,)
        self.envelope = Envelope(reverse_path=sender, forward_paths=to)
        return await self._attempts.make(self.envelope, to, message, patience=1.0, taken=taken)

    def sent(self) -> list[bytes]:
        """The message of each call of the last attempt."""
        return [message for _, message in self.cloudflare.calls]


def statuses(attempt: Attempt) -> dict[str, str]:
    return {who: reply.status for who, reply in attempt.outcomes.items()}


# ---- one message, one recipient


async def test_a_message_that_needs_no_repair_goes_out_as_it_is() -> None:
    account = Account(Cloudflare())
    attempt = await account.send()
    assert account.sent()[0] is MESSAGE
    assert (len(account.sent()), attempt.repaired) == (1, ())


@pytest.mark.parametrize(
    ("refused", "changed"),
    [(RECEIVED, "Received"), (SIGNED, "DKIM-Signature"), (COMMA, "From")],
    ids=["Received", "DKIM-Signature", "From"],
)
async def test_an_invalid_message_costs_one_more_call_and_the_next_none(refused: bytes, changed: str) -> None:
    account = Account(Cloudflare(refused))
    attempt = await account.send()
    assert account.sent() == [MESSAGE, REPAIRED]
    assert attempt.outcomes == {ME: DELIVERED}
    assert attempt.message_ids == {ME: "<2@cf>"}
    assert changed in attempt.repaired == ("Received", "DKIM-Signature", "From")
    again = await account.send()
    assert (account.sent(), again.outcomes, again.repaired) == ([REPAIRED], {ME: DELIVERED}, attempt.repaired)


async def test_what_is_remembered_is_of_one_sender_and_kind() -> None:
    account = Account(Cloudflare(RECEIVED))
    await account.send(message=RECEIVED + REST)
    await account.send(message=RECEIVED + COMMA + REST)
    assert account.sent() == [COMMA + REST], "a From that nobody refused stays"
    await account.send(message=RECEIVED + REST, sender="other@example.com")
    assert account.sent() == [RECEIVED + REST, REST]
    await account.send(message=COMMA + REST)
    assert account.sent() == [COMMA + REST], "there is nothing to repair in it"


async def test_a_new_kind_is_one_more_call_again() -> None:
    account = Account(Cloudflare(RECEIVED, COMMA))
    await account.send(message=RECEIVED + REST)
    await account.send()
    assert account.sent() == [SIGNED + COMMA + REST, REPAIRED]
    await account.send()
    assert account.sent() == [REPAIRED]


async def test_a_message_with_nothing_to_repair_is_tried_once() -> None:
    account = Account(Cloudflare(b"Subject"))
    attempt = await account.send(message=REST)
    assert (account.sent(), statuses(attempt)) == ([REST], {ME: "5.6.0"})


async def test_refused_in_both_forms_names_the_causes_and_is_not_remembered() -> None:
    account = Account(Cloudflare(b"Subject"))
    for _ in range(2):
        attempt = await account.send()
        assert account.sent() == [MESSAGE, REPAIRED]
        (reply,) = attempt.outcomes.values()
        assert (reply.code, reply.status, attempt.repaired) == (554, "5.6.0", ())
        assert reply.text.startswith(INVALID.text)
        for cause in ("domain", "not set up", "pending", "dot", r"\r\n"):
            assert cause in reply.text
        assert "ON_INVALID" not in reply.text


async def test_reject_makes_no_other_call_and_names_the_setting_too() -> None:
    account = Account(Cloudflare(RECEIVED), repair=False)
    attempt = await account.send()
    assert account.sent() == [MESSAGE]
    (reply,) = attempt.outcomes.values()
    assert (reply.code, reply.status) == (554, "5.6.0")
    for cause in (
        "domain",
        "pending",
        "dot",
        r"\r\n",
        "Received",
        "comma",
        "parentheses",
        "SMTP2CF_ON_INVALID",
    ):
        assert cause in reply.text


async def test_no_other_refusal_is_taken_for_an_invalid_message() -> None:
    cloudflare = Cloudflare()
    cloudflare.then = lambda: SendError(MALFORMED, Scope.RECIPIENT)
    account = Account(cloudflare)
    attempt = await account.send()
    assert (account.sent(), attempt.outcomes) == ([MESSAGE], {ME: MALFORMED})


@pytest.mark.parametrize(
    "error",
    [
        SendError(THROTTLED, Scope.ACCOUNT, 7.0),
        SendError(THROTTLED, Scope.SENDER),
        SendError(THROTTLED, Scope.ACCOUNT, unanswered=True),
    ],
    ids=["throttled", "sender", "unanswered"],
)
async def test_what_ends_the_repaired_call_defers_the_mail_and_nothing_is_remembered(
    error: SendError,
) -> None:
    cloudflare = Cloudflare(RECEIVED)
    cloudflare.then = lambda: error
    account = Account(cloudflare)
    attempt = await account.send()
    assert attempt.outcomes == {ME: THROTTLED}
    assert (attempt.retry_after, attempt.unanswered) == (error.retry_after, [ME] if error.unanswered else [])
    cloudflare.then = lambda: None
    await account.send()
    assert account.sent() == [MESSAGE, REPAIRED]


# ---- several recipients


async def test_one_more_call_for_all_of_a_group() -> None:
    account = Account(Cloudflare(COMMA))
    people = [f"r{number}@example.net" for number in range(120)]
    attempt = await account.send(*people)
    assert [len(who) for who, _ in account.cloudflare.calls] == [50, 50, 50, 20]
    assert account.sent() == [MESSAGE, REPAIRED, REPAIRED, REPAIRED]
    assert attempt.outcomes == dict.fromkeys(people, DELIVERED)


async def test_a_bad_address_among_good_ones_repairs_nothing() -> None:
    account = Account(Cloudflare(odd={ODD}))
    attempt = await account.send(ME, ODD, "c@example.net")
    assert statuses(attempt) == {ME: "2.0.0", ODD: "5.1.3", "c@example.net": "2.0.0"}
    assert {message for _, message in account.cloudflare.taken} == {MESSAGE}
    assert attempt.repaired == ()
    await account.send()
    assert account.sent() == [MESSAGE]


async def test_a_bad_address_and_a_message_that_needs_repair() -> None:
    account = Account(Cloudflare(RECEIVED, odd={ODD}))
    attempt = await account.send(ME, ODD, "c@example.net")
    assert statuses(attempt) == {ME: "2.0.0", ODD: "5.1.3", "c@example.net": "2.0.0"}
    assert sorted(account.cloudflare.taken) == [(ME, REPAIRED), ("c@example.net", REPAIRED)]
    await account.send()
    assert account.sent() == [REPAIRED]


async def test_the_last_one_left_gets_the_message_repaired_after_a_restart() -> None:
    """The others have it already; nobody remembers in which form."""
    account = Account(Cloudflare(RECEIVED))
    attempt = await account.send(ME, taken=True)
    assert (account.sent(), attempt.outcomes) == ([MESSAGE, REPAIRED], {ME: DELIVERED})


async def test_a_suppressed_recipient_shows_that_the_repair_was_right() -> None:
    account = Account(Cloudflare(RECEIVED, suppressed={"s@example.net"}))
    attempt = await account.send(ME, "s@example.net", "c@example.net", "d@example.net")
    assert attempt.outcomes["s@example.net"] == SUPPRESSED
    assert {who for who, _ in account.cloudflare.taken} == {ME, "c@example.net", "d@example.net"}
    assert account.sent()[2:] == [REPAIRED] * len(account.sent()[2:]), "not tried as it came again"


@pytest.mark.parametrize("count", [1, 2, 3, 10, 50, 60, 1000])
async def test_a_domain_that_is_not_set_up_costs_a_few_calls(count: int) -> None:
    """Everything is invalid, in both forms and for everybody."""
    account = Account(Cloudflare(b"Subject"))
    people = [f"r{number}@example.net" for number in range(count)]
    attempt = await account.send(*people)
    assert set(statuses(attempt).values()) == {"5.6.0"}
    assert len(account.sent()) <= -(-count // 50) + 11


@settings(max_examples=200)
@given(st.data())
def test_everybody_good_gets_it_once_in_the_right_form(data: st.DataObject) -> None:
    people = [f"r{number}@example.net" for number in range(data.draw(st.integers(1, 50), "count"))]
    draw = st.sets(st.sampled_from(people), max_size=data.draw(st.integers(0, len(people))))
    odd, suppressed = data.draw(draw, "odd"), data.draw(draw, "suppressed")
    needs_repair = data.draw(st.booleans(), "needs repair")
    account = Account(Cloudflare(*([COMMA] if needs_repair else []), odd=odd, suppressed=suppressed))
    attempt = at_once(account.send(*people, taken=data.draw(st.booleans(), "taken")))
    calls, taken = account.cloudflare.calls, account.cloudflare.taken
    assert len(calls) <= -(-len(people) // 50) + SEARCH_LIMIT
    assert {message for _, message in taken} <= {REPAIRED if needs_repair else MESSAGE}
    assert max(Counter(who for who, _ in taken).values(), default=0) <= 1
    assert {who for who, _ in taken} == {who for who, out in attempt.outcomes.items() if out.success}
    for who in set(people) - odd - suppressed:
        out = attempt.outcomes[who]
        assert out.success or out == NOT_FOUND_OUT or not taken, "refused though others got it"
        halves = [call for call, _ in calls if who in call and len(call) <= (len(people) + 1) // 2]
        assert not out.permanent or halves, "refused by guesswork"
    assert bool(attempt.repaired) == (needs_repair and bool(taken))


# ---- memory and log


def test_it_is_forgotten_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Repairs()
    memory.remember("a@b", ["Received"])
    assert memory.at_once("a@b", MESSAGE).changed == ("Received",)
    now = time.monotonic()
    monkeypatch.setattr(repairs.time, "monotonic", lambda: now + REMEMBERED_FOR - 60)
    assert memory.at_once("a@b", MESSAGE).changed == ("Received",), "it is not asked for again"
    memory.remember("a@b", ["From"])
    monkeypatch.setattr(repairs.time, "monotonic", lambda: now + REMEMBERED_FOR + 1)
    assert memory.at_once("a@b", MESSAGE).changed == ("From",)
    monkeypatch.setattr(repairs.time, "monotonic", lambda: now + 3 * REMEMBERED_FOR)
    assert memory.at_once("a@b", MESSAGE)[0] is MESSAGE
    assert not memory.by_sender


def test_the_memory_is_bounded() -> None:
    memory = Repairs()
    for number, kind in itertools.product(range(SENDERS_LIMIT + 5), ("Received", "From")):
        memory.remember(f"{number}@b", [kind])
    assert len(memory.by_sender) == SENDERS_LIMIT
    assert "4@b" not in memory.by_sender
    assert memory.by_sender[f"{SENDERS_LIMIT}@b"].keys() == {"Received", "From"}


async def test_the_log_names_what_changed() -> None:
    account = Account(Cloudflare(RECEIVED))
    for _ in range(2):
        attempt = await account.send()
        with capture_logs() as lines:
            log_attempt(account.envelope, attempt, MESSAGE)
        (line,) = (line for line in lines if line["event"] == "mail.repaired")
        assert line["changed"] == ["Received", "DKIM-Signature", "From"]
        assert (line["from"], line["queue_id"]) == ("a@example.com", account.envelope.queue_id)


# ---- mail that waits


INVALID_NOW = failure(400, 10202, "email.sending.error.email.invalid")


async def test_mail_from_the_spool_is_repaired_too_and_waits_as_it_came(sqlite: Backend, api: Api) -> None:
    gone = asyncio.Event()

    async def answer(call: Call) -> Any:
        if not gone.is_set():
            return await AWAY(call)
        return await (INVALID_NOW if b"Received: from" in call.message else delivered)(call)

    api.answer = answer
    async with world(await sqlite.open(), api) as here:
        assert "kept" in await here.accept(message=MESSAGE)
        (item,) = await here.items()
        assert await here.spool.read(item.queue_id) == MESSAGE
        gone.set()
        await here.until_empty()
    assert [call.message for call in api.calls[-2:]] == [MESSAGE, REPAIRED]


async def test_a_message_that_nobody_got_is_to_blame_when_the_last_one_is_tried(
    sqlite: Backend, api: Api
) -> None:
    """The others were refused for themselves, which says nothing for the message."""

    async def answer(call: Call) -> Any:
        if call.sender.startswith("mailer-daemon@"):
            return await delivered(call)
        if "bounced@example.org" in call.recipients:
            return await failure(400, 10300, "a recipient is suppressed")(call)
        return await (AWAY if len(api.calls) < 4 else INVALID_NOW)(call)

    api.answer = answer
    async with world(await sqlite.open(), api) as here:
        await here.accept("bounced@example.org", "late@example.org", message=REPAIRED)
        await here.until_empty()
    reports = [call.message for call in api.calls if call.sender.startswith("mailer-daemon@")]
    assert any(b"late@example.org" in report and b"Status: 5.6.0" in report for report in reports)
    assert not any(b"the address is refused" in report for report in reports)
