"""One attempt: chunks, bisection, and what each kind of error leaves to whom."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.cloudflare import Sent
from smtp2cf.relay.deliver import MALFORMED_LIMIT, PARALLEL_CALLS, Attempt, deliver
from smtp2cf.reply import ACCEPTED, DELIVERED, SUPPRESSED, Reply, Scope, SendError

T = TypeVar("T")

MALFORMED = Reply(554, "5.6.0", "Cloudflare finds an address or the message malformed")
TOO_BIG = Reply(552, "5.3.4", "too big")
THROTTLED = Reply(451, "4.7.1", "later")
NO_ANSWER = Reply(451, "4.3.0", "no answer")

Fate = Callable[[Sequence[str]], SendError | None]


def recipient_error(reply: Reply = SUPPRESSED) -> SendError:
    return SendError(reply, Scope.RECIPIENT)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, without an event loop."""
    try:
        work.send(None)
    except StopIteration as result:
        return result.value
    raise AssertionError("it waits")


class Api:
    """Refuses calls as `fate` says, and delivers the others."""

    def __init__(self, fate: Fate = lambda _: None) -> None:
        self.fate = fate
        self.calls: list[list[str]] = []
        self.delivered: Counter[str] = Counter()

    async def __call__(self, recipients: Sequence[str]) -> Sent:
        self.calls.append(list(recipients))
        error = self.fate(recipients)
        if error is not None:
            raise error
        self.delivered.update(recipients)
        return Sent(dict.fromkeys(recipients, DELIVERED), f"<{len(self.calls)}@cf>")


def suppressing(suppressed: Iterable[str], reply: Reply = SUPPRESSED) -> Api:
    """Refuses every call that names one of these."""
    bad = frozenset(suppressed)
    return Api(lambda recipients: recipient_error(reply) if bad.intersection(recipients) else None)


def people(count: int) -> list[str]:
    return [f"r{number}@example.net" for number in range(count)]


# ---- calls and their sizes


async def test_up_to_50_recipients_are_one_call() -> None:
    for count in (1, 2, 49, 50):
        api = Api()
        attempt = await deliver(api, people(count))
        assert api.calls == [people(count)]
        assert attempt.outcomes == dict.fromkeys(people(count), DELIVERED)
        assert attempt.message_ids == ["<1@cf>"]


@pytest.mark.parametrize(
    ("count", "sizes"), [(51, [50, 1]), (100, [50, 50]), (120, [50, 50, 20]), (1000, [50] * 20)]
)
async def test_more_recipients_are_calls_of_at_most_50(count: int, sizes: list[int]) -> None:
    api = Api()
    attempt = await deliver(api, people(count))
    assert sorted(map(len, api.calls), reverse=True) == sizes
    assert api.delivered == Counter(people(count))
    assert list(attempt.outcomes) == people(count), "in the order of RCPT"
    assert len(attempt.message_ids) == len(sizes)


async def test_the_first_call_goes_alone_and_then_a_few_at_a_time() -> None:
    waiting: list[asyncio.Future[None]] = []
    sizes: list[int] = []

    async def send(recipients: Sequence[str]) -> Sent:
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        await turn
        return Sent(dict.fromkeys(recipients, DELIVERED), "")

    work = asyncio.ensure_future(deliver(send, people(500)))
    while not work.done():
        for _ in range(10):
            await asyncio.sleep(0)
        sizes.append(len(waiting))
        for turn in waiting:
            turn.set_result(None)
        waiting.clear()
    assert sizes[0] == 1
    assert max(sizes) == PARALLEL_CALLS
    assert sum(sizes) == 10


async def test_a_call_without_a_message_id_adds_none() -> None:
    async def send(recipients: Sequence[str]) -> Sent:
        return Sent(dict.fromkeys(recipients, ACCEPTED), "")

    assert (await deliver(send, people(60))).message_ids == []


# ---- who is to blame


@pytest.mark.parametrize(
    "suppressed", [[0, 1, 2], [47, 48, 49], [0, 25, 49], [12, 25, 37], [6, 31, 44]], ids=str
)
async def test_three_suppressed_of_50_cost_the_others_nothing(suppressed: list[int]) -> None:
    recipients = people(50)
    bad = {recipients[number] for number in suppressed}
    api = suppressing(bad)
    attempt = await deliver(api, recipients)
    assert len(api.calls) <= 32
    assert api.delivered == Counter(set(recipients) - bad), "each of the others exactly once"
    assert {who for who, reply in attempt.outcomes.items() if reply == SUPPRESSED} == bad
    assert len(attempt.outcomes) == 50


def test_any_three_suppressed_of_50() -> None:
    """All 19,600 ways to choose them."""
    recipients = people(50)
    most = 0
    for bad in itertools.combinations(recipients, 3):
        api = suppressing(bad)
        outcomes = at_once(deliver(api, recipients)).outcomes
        assert len(api.delivered) == sum(api.delivered.values()) == 47
        assert [who for who in recipients if outcomes[who] is SUPPRESSED] == list(bad)
        most = max(most, len(api.calls))
    assert most <= 32


@settings(deadline=None)
@given(st.data())
def test_however_many_are_suppressed_each_of_the_others_gets_it_once(data: st.DataObject) -> None:
    recipients = people(data.draw(st.integers(1, 50), "count"))
    bad = data.draw(st.sets(st.sampled_from(recipients)), "suppressed")
    api = suppressing(bad)
    outcomes = at_once(deliver(api, recipients)).outcomes
    assert api.delivered == Counter(set(recipients) - bad)
    assert outcomes == {who: SUPPRESSED if who in bad else DELIVERED for who in recipients}
    assert len(api.calls) <= max(1, 2 * len(recipients) - 1)


async def test_suppressed_recipients_of_several_calls() -> None:
    recipients = people(170)
    bad = {recipients[number] for number in (0, 49, 50, 51, 149, 150, 169)}
    api = suppressing(bad)
    attempt = await deliver(api, recipients)
    assert api.delivered == Counter(set(recipients) - bad)
    assert {who for who, reply in attempt.outcomes.items() if reply == SUPPRESSED} == bad


async def test_a_single_recipient_is_not_asked_about_twice() -> None:
    api = suppressing(people(1))
    assert (await deliver(api, people(1))).outcomes == {people(1)[0]: SUPPRESSED}
    assert len(api.calls) == 1


async def test_a_malformed_address_among_several_is_refused_as_an_address() -> None:
    recipients = people(20)
    attempt = await deliver(suppressing(recipients[7:9], MALFORMED), recipients)
    refused = {who: reply for who, reply in attempt.outcomes.items() if not reply.success}
    assert list(refused) == recipients[7:9]
    assert {(reply.code, reply.status, reply.text) for reply in refused.values()} == {
        (553, "5.1.3", MALFORMED.text)
    }


async def test_a_malformed_address_that_has_a_call_of_its_own_is_refused_as_an_address_too() -> None:
    recipients = people(51)
    attempt = await deliver(suppressing(recipients[50:], MALFORMED), recipients)
    assert attempt.outcomes[recipients[50]].status == "5.1.3"


async def test_for_one_recipient_the_message_is_to_blame() -> None:
    attempt = await deliver(suppressing(people(1), MALFORMED), people(1))
    assert attempt.outcomes == {people(1)[0]: MALFORMED}


async def test_a_malformed_message_does_not_cost_two_calls_a_recipient() -> None:
    recipients = people(1000)
    api = suppressing(recipients, MALFORMED)
    attempt = await deliver(api, recipients)
    assert len(api.calls) < 30
    assert attempt.outcomes == dict.fromkeys(recipients, MALFORMED), (
        "the message is to blame, not the addresses"
    )


async def test_many_malformed_addresses_cost_the_others_nothing_once_somebody_was_taken() -> None:
    recipients = people(50)
    bad = recipients[1:40]
    api = suppressing(bad, MALFORMED)
    attempt = await deliver(api, recipients)
    assert api.delivered == Counter(set(recipients) - set(bad))
    assert {attempt.outcomes[who].status for who in bad} == {"5.1.3"}


async def test_suppressed_recipients_never_blame_the_message() -> None:
    recipients = people(MALFORMED_LIMIT * 3)
    api = suppressing(recipients[:-1])
    await deliver(api, recipients)
    assert api.delivered == Counter(recipients[-1:])


# ---- errors that end it


def failing_at(number: int, error: SendError) -> Api:
    """The call of this number fails, counted from 1; those after it must not be made."""
    api = Api(lambda _: error if len(api.calls) == number else None)
    return api


@pytest.mark.parametrize(("reply", "scope"), [(TOO_BIG, Scope.MESSAGE), (THROTTLED, Scope.ACCOUNT)])
async def test_an_error_of_the_first_call_ends_it_for_everybody(reply: Reply, scope: Scope) -> None:
    api = failing_at(1, SendError(reply, scope))
    attempt = await deliver(api, people(300))
    assert len(api.calls) == 1
    assert attempt.outcomes == dict.fromkeys(people(300), reply)


async def test_an_account_error_later_on_leaves_sent_what_is_sent_and_calls_nobody_again() -> None:
    recipients = people(500)
    api = Api(lambda _: SendError(THROTTLED, Scope.ACCOUNT, 7.0) if len(api.calls) >= 3 else None)
    attempt = await deliver(api, recipients)
    sent = [who for who, reply in attempt.outcomes.items() if reply == DELIVERED]
    assert api.delivered == Counter(sent)
    assert len(sent) == 100
    assert all(reply == THROTTLED for who, reply in attempt.outcomes.items() if who not in sent)
    assert len(api.calls) == 3
    assert attempt.retry_after == 7.0


async def test_a_message_error_while_bisecting_leaves_nobody_unanswered() -> None:
    recipients = people(50)

    def fate(_: Sequence[str]) -> SendError | None:
        return {1: recipient_error(), 3: SendError(TOO_BIG, Scope.MESSAGE)}.get(len(api.calls))

    api = Api(fate)
    attempt = await deliver(api, recipients)
    assert [len(call) for call in api.calls] == [50, 25, 25]
    assert attempt.outcomes == {who: DELIVERED if who in recipients[:25] else TOO_BIG for who in recipients}


async def test_outcomes_are_in_the_order_of_rcpt_whichever_call_ends_first() -> None:
    recipients = people(150)
    last_ended = asyncio.Event()

    async def send(part: Sequence[str]) -> Sent:
        if part[0] == recipients[50]:
            await last_ended.wait()
        elif part[0] == recipients[100]:
            last_ended.set()
        return Sent(dict.fromkeys(part, DELIVERED), "")

    assert list((await deliver(send, recipients)).outcomes) == recipients


async def test_a_call_in_flight_when_another_fails_keeps_its_own_outcome() -> None:
    recipients = people(150)
    failed = asyncio.Event()

    async def send(part: Sequence[str]) -> Sent:
        if part[0] == recipients[50]:
            await failed.wait()
        elif part[0] == recipients[100]:
            failed.set()
            raise SendError(THROTTLED, Scope.ACCOUNT)
        return Sent(dict.fromkeys(part, DELIVERED), "")

    attempt = await deliver(send, recipients)
    assert attempt.outcomes == {
        who: THROTTLED if who in recipients[100:] else DELIVERED for who in recipients
    }


# ---- what else an attempt tells


async def test_the_recipients_of_calls_without_an_answer_are_named_and_nobody_else() -> None:
    recipients = people(120)
    api = Api(lambda _: SendError(NO_ANSWER, Scope.ACCOUNT, unanswered=True) if len(api.calls) == 2 else None)
    attempt = await deliver(api, recipients)
    assert attempt.unanswered == api.calls[1]
    assert (await deliver(Api(), recipients)).unanswered == []
    refused = failing_at(1, SendError(THROTTLED, Scope.ACCOUNT))
    assert (await deliver(refused, recipients)).unanswered == []


async def test_of_several_retry_afters_the_longest_is_handed_on() -> None:
    async def send(part: Sequence[str]) -> Sent:
        number = int(part[0][1:].partition("@")[0])
        await asyncio.sleep(0)
        if number == 0:
            return Sent(dict.fromkeys(part, DELIVERED), "")
        raise SendError(THROTTLED, Scope.ACCOUNT, {50: 90.0, 100: 3.0}.get(number))

    assert (await deliver(send, people(200))).retry_after == 90.0


fates = st.sampled_from(
    [
        None,
        recipient_error(),
        recipient_error(MALFORMED),
        SendError(TOO_BIG, Scope.MESSAGE),
        SendError(THROTTLED, Scope.ACCOUNT),
        SendError(NO_ANSWER, Scope.ACCOUNT, unanswered=True),
    ]
)


@settings(deadline=None)
@given(count=st.integers(1, 50), script=st.lists(fates, max_size=30), rest=fates)
def test_whatever_each_call_comes_to_everybody_has_one_outcome_and_nobody_gets_it_twice(
    count: int, script: list[SendError | None], rest: SendError | None
) -> None:
    recipients = people(count)
    api = Api(lambda _: script[len(api.calls) - 1] if len(api.calls) <= len(script) else rest)
    attempt: Attempt = at_once(deliver(api, recipients))
    assert set(attempt.outcomes) == set(recipients)
    assert all(times == 1 for times in api.delivered.values())
    assert {who for who, reply in attempt.outcomes.items() if reply.success} == set(api.delivered)
