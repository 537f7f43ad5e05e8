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
from smtp2cf.relay.calls import (
    NOT_FOUND_OUT,
    PARALLEL_CALLS,
    PROBE_ROUNDS,
    PROBES,
    SEARCH_LIMIT,
    Attempt,
)
from smtp2cf.relay.groups import halves, probes
from smtp2cf.reply import ACCEPTED, BOUNCED, DELIVERED, SUPPRESSED, Reply, Scope, SendError
from tests.relay.one_attempt import attempt_to_send

T = TypeVar("T")

MALFORMED = Reply(554, "5.6.0", "Cloudflare rejects an address or the message as malformed")
INVALID = Reply(554, "5.6.0", "Cloudflare rejects the message as invalid")
REFUSED = Reply(554, "5.5.0", "Cloudflare refuses the message")
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
        attempt = await attempt_to_send(api, people(count))
        assert api.calls == [people(count)]
        assert attempt.outcomes == dict.fromkeys(people(count), DELIVERED)
        assert attempt.message_ids == dict.fromkeys(people(count), "<1@cf>")


@pytest.mark.parametrize(
    ("count", "sizes"), [(51, [50, 1]), (100, [50, 50]), (120, [50, 50, 20]), (1000, [50] * 20)]
)
async def test_more_recipients_are_calls_of_at_most_50(count: int, sizes: list[int]) -> None:
    api = Api()
    attempt = await attempt_to_send(api, people(count))
    assert sorted(map(len, api.calls), reverse=True) == sizes
    assert api.delivered == Counter(people(count))
    assert list(attempt.outcomes) == people(count), "in the order of RCPT"
    assert sorted(Counter(attempt.message_ids.values()).values(), reverse=True) == sizes


async def test_the_first_call_goes_alone_and_then_a_few_at_a_time() -> None:
    waiting: list[asyncio.Future[None]] = []
    sizes: list[int] = []

    async def send(recipients: Sequence[str]) -> Sent:
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        await turn
        return Sent(dict.fromkeys(recipients, DELIVERED), "")

    work = asyncio.ensure_future(attempt_to_send(send, people(500)))
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

    assert (await attempt_to_send(send, people(60))).message_ids == {}


async def test_only_a_call_that_took_it_for_somebody_has_an_id_that_counts() -> None:
    gone, first = people(120)[:50], people(120)[50]

    async def send(recipients: Sequence[str]) -> Sent:
        refused = {who: BOUNCED for who in recipients if who in gone or who == first}
        return Sent(dict.fromkeys(recipients, DELIVERED) | refused, f"<{recipients[0]}>")

    message_ids = (await attempt_to_send(send, people(120))).message_ids
    assert message_ids.keys() == set(people(120)) - set(gone)
    assert set(message_ids.values()) == {f"<{first}>", f"<{people(120)[100]}>"}


# ---- who is to blame


@pytest.mark.parametrize(
    "suppressed", [[0, 1, 2], [47, 48, 49], [0, 25, 49], [12, 25, 37], [6, 31, 44]], ids=str
)
async def test_three_suppressed_of_50_cost_the_others_nothing(suppressed: list[int]) -> None:
    recipients = people(50)
    bad = {recipients[number] for number in suppressed}
    api = suppressing(bad)
    attempt = await attempt_to_send(api, recipients)
    assert len(api.calls) <= 32
    assert api.delivered == Counter(set(recipients) - bad), "each of the others exactly once"
    assert {who for who, reply in attempt.outcomes.items() if reply == SUPPRESSED} == bad
    assert len(attempt.outcomes) == 50


def test_any_three_suppressed_of_50() -> None:
    """Of 19,600 ways to choose them every seventh."""
    recipients = people(50)
    most = 0
    for bad in itertools.islice(itertools.combinations(recipients, 3), 0, None, 7):
        api = suppressing(bad)
        outcomes = at_once(attempt_to_send(api, recipients)).outcomes
        assert len(api.delivered) == sum(api.delivered.values()) == 47
        assert [who for who in recipients if outcomes[who] is SUPPRESSED] == list(bad)
        most = max(most, len(api.calls))
    assert most <= 32


@given(st.data())
def test_however_many_are_suppressed_each_of_the_others_gets_it_once(data: st.DataObject) -> None:
    recipients = people(data.draw(st.integers(1, 50), "count"))
    bad = data.draw(st.sets(st.sampled_from(recipients)), "suppressed")
    api = suppressing(bad)
    outcomes = at_once(attempt_to_send(api, recipients)).outcomes
    assert api.delivered == Counter(set(recipients) - bad)
    assert outcomes == {who: SUPPRESSED if who in bad else DELIVERED for who in recipients}
    assert len(api.calls) <= max(1, 2 * len(recipients) - 1)


async def test_suppressed_recipients_of_several_calls() -> None:
    recipients = people(170)
    bad = {recipients[number] for number in (0, 49, 50, 51, 149, 150, 169)}
    api = suppressing(bad)
    attempt = await attempt_to_send(api, recipients)
    assert api.delivered == Counter(set(recipients) - bad)
    assert {who for who, reply in attempt.outcomes.items() if reply == SUPPRESSED} == bad


async def test_a_single_recipient_is_not_asked_about_twice() -> None:
    api = suppressing(people(1))
    assert (await attempt_to_send(api, people(1))).outcomes == {people(1)[0]: SUPPRESSED}
    assert len(api.calls) == 1


# ---- a recipient, or the message


UNCLEAR = [MALFORMED, INVALID, REFUSED]


@pytest.mark.parametrize("reply", UNCLEAR, ids=str)
async def test_a_refused_address_among_several_is_refused_as_an_address(reply: Reply) -> None:
    recipients = people(20)
    attempt = await attempt_to_send(suppressing(recipients[7:9], reply), recipients)
    refused = {who: out for who, out in attempt.outcomes.items() if not out.success}
    assert list(refused) == recipients[7:9]
    assert set(refused.values()) == {Reply(553, "5.1.3", f"the address is refused: {reply.text}")}


async def test_a_malformed_address_that_has_a_call_of_its_own_is_refused_as_an_address_too() -> None:
    recipients = people(51)
    attempt = await attempt_to_send(suppressing(recipients[50:], MALFORMED), recipients)
    assert attempt.outcomes[recipients[50]].status == "5.1.3"


async def test_for_one_recipient_the_message_is_to_blame() -> None:
    attempt = await attempt_to_send(suppressing(people(1), MALFORMED), people(1))
    assert attempt.outcomes == {people(1)[0]: MALFORMED}


async def test_the_last_one_left_of_several_is_refused_as_an_address() -> None:
    attempt = await attempt_to_send(suppressing(people(1), MALFORMED), people(1), taken=True)
    assert attempt.outcomes[people(1)[0]].status == "5.1.3"


@pytest.mark.parametrize("reply", UNCLEAR, ids=str)
@pytest.mark.parametrize(
    ("count", "calls"),
    [(1, 1), (2, 3), (3, 5), (10, 7), (50, 7), (51, 8), (60, 8), (100, 6), (500, 14), (1000, 24)],
)
async def test_an_invalid_message_costs_a_few_calls_however_many_its_recipients(
    reply: Reply, count: int, calls: int
) -> None:
    """One for each group, its halves where there is one group, and a few recipients on their own."""
    api = suppressing(people(count), reply)
    attempt = await attempt_to_send(api, people(count))
    assert attempt.outcomes == dict.fromkeys(people(count), reply), (
        "the message is to blame, not the addresses"
    )
    assert len(api.calls) == calls


def spread(bad: int, count: int) -> list[int]:
    return [number * count // bad for number in range(bad)]


# Recipients, how many are refused, and where these are; the calls of each attempt until all are known about,
# where the refusal names the recipient (suppressed), and where it may be about the message.
SEARCHES = [
    (50, 1, "ahead", [13], [13]),
    (50, 1, "last", [11], [11]),
    (50, 2, "ahead", [13], [13]),
    (50, 2, "spread", [23], [17]),
    (50, 10, "ahead", [25], [25]),
    (50, 10, "spread", [67], [65]),
    (50, 25, "ahead", [51], [51]),
    (50, 25, "spread", [99], [93]),
    (50, 50, "ahead", [99], None),
    (500, 1, "ahead", [22], [22]),
    (500, 1, "last", [20], [20]),
    (500, 2, "ahead", [22], [22]),
    (500, 2, "spread", [34], [34]),
    (500, 10, "ahead", [34], [34]),
    (500, 10, "spread", [110, 26], [110, 13]),
    (500, 25, "ahead", [60], [60]),
    (500, 25, "spread", [110, 106, 52], [110, 106, 40]),
    (500, 50, "ahead", [108], [108]),
    (500, 50, "spread", [110, 108, 106, 104, 33], [110, 108, 106, 103, 3]),
]


@pytest.mark.parametrize("reply", [SUPPRESSED, *UNCLEAR], ids=str)
@pytest.mark.parametrize(("count", "bad", "where", "clear", "unclear"), SEARCHES)
async def test_the_calls_it_takes_to_find_those_who_are_refused(
    count: int, bad: int, where: str, clear: list[int], unclear: list[int] | None, reply: Reply
) -> None:
    """Everybody else gets it, once. Who is not known about when the calls are used up, waits."""
    calls = clear if reply is SUPPRESSED else unclear
    if calls is None:
        return  # the message is to blame where all are refused, see above
    recipients = people(count)
    places = {"ahead": list(range(bad)), "last": [count - 1], "spread": spread(bad, count)}[where]
    refused = {recipients[place] for place in places}
    api = suppressing(refused, reply)
    left, made = recipients, []
    while left:
        before = len(api.calls)
        attempt = await attempt_to_send(api, left, taken=left is not recipients)
        made.append(len(api.calls) - before)
        assert made[-1] <= -(-len(left) // 50) + SEARCH_LIMIT
        assert list(attempt.outcomes) == left
        permanent = {who for who, out in attempt.outcomes.items() if out.permanent}
        assert permanent <= refused, "nobody is refused by guesswork"
        assert all([who] in api.calls for who in permanent)
        left = [who for who, out in attempt.outcomes.items() if out == NOT_FOUND_OUT]
        assert {who for who, out in attempt.outcomes.items() if out.transient} == set(left)
    assert api.delivered == Counter(set(recipients) - refused)
    assert made == calls


async def test_malformed_recipients_ahead_cost_the_others_nothing() -> None:
    recipients = people(500)
    api = suppressing(recipients[:10], MALFORMED)
    attempt = await attempt_to_send(api, recipients)
    assert api.delivered == Counter(recipients[10:])
    assert {who for who, out in attempt.outcomes.items() if out.permanent} == set(recipients[:10])


@given(st.data())
def test_where_one_plain_address_is_good_the_message_is_not_to_blame(data: st.DataObject) -> None:
    """Whoever is refused for the form of the address: the others get the message, and it alone tells."""
    count = data.draw(st.integers(2, 50), "count")
    odd = [f"{number}..odd@example.net" for number in range(count - 1)]
    recipients = list(odd)
    recipients.insert(data.draw(st.integers(0, len(odd)), "where the good one is"), "good@example.net")
    api = suppressing(odd, INVALID)
    outcomes = at_once(attempt_to_send(api, recipients)).outcomes
    permanent = {who for who, out in outcomes.items() if out.permanent}
    assert "good@example.net" not in permanent or ["good@example.net"] in api.calls


@settings(max_examples=300)
@given(st.data())
def test_nobody_is_refused_for_good_who_was_not_in_a_call_with_half_of_them_at_most(
    data: st.DataObject,
) -> None:
    recipients = people(data.draw(st.integers(2, 50), "count"))
    bad = data.draw(st.sets(st.sampled_from(recipients)), "refused")
    suppressed = data.draw(st.sets(st.sampled_from(recipients)), "suppressed")

    def fate(part: Sequence[str]) -> SendError | None:
        if suppressed.intersection(part):
            return recipient_error()
        return recipient_error(INVALID) if bad.intersection(part) else None

    api = Api(fate)
    outcomes = at_once(attempt_to_send(api, recipients)).outcomes
    half = (len(recipients) + 1) // 2
    for who, out in outcomes.items():
        assert not out.permanent or any(who in call and len(call) <= half for call in api.calls)
        if api.delivered and out.permanent:
            assert [who] in api.calls
            assert who in bad | suppressed
    assert set(api.delivered) <= set(recipients) - bad - suppressed
    assert all(times == 1 for times in api.delivered.values())


async def test_one_who_gets_the_message_late_clears_it_for_all() -> None:
    """Nearly all are refused, on their own too; one of the few others stands beside a suppressed one."""
    recipients = people(60)
    good = {recipients[place] for place in (4, 5, 8, 41)}
    suppressed = {recipients[6]}

    def fate(part: Sequence[str]) -> SendError | None:
        if suppressed.intersection(part):
            return recipient_error()
        return None if good.issuperset(part) else recipient_error(INVALID)

    api = Api(fate)
    left, outcomes = recipients, {}
    while left:
        outcomes |= (await attempt_to_send(api, left, taken=left is not recipients)).outcomes
        left = [who for who, out in outcomes.items() if out == NOT_FOUND_OUT]
    assert api.delivered == Counter(good)
    assert {who for who, out in outcomes.items() if out.success} == good
    assert all([who] in api.calls for who, out in outcomes.items() if out.permanent)


async def test_suppressed_recipients_never_blame_the_message() -> None:
    recipients = people(50)
    api = suppressing(recipients[:-1])
    attempt = await attempt_to_send(api, recipients)
    assert api.delivered == Counter(recipients[-1:])
    assert {attempt.outcomes[who] for who in recipients[:-1]} == {SUPPRESSED}


def tried_alone(recipients: Sequence[str], rounds: int = PROBE_ROUNDS) -> set[str]:
    """On whom the message is tried, if they are all refused for themselves."""
    tried: set[str] = set()
    for _ in range(rounds):
        tried.update(probes([who for who in recipients if who not in tried], PROBES))
    return tried


async def test_a_message_that_was_tried_only_on_suppressed_recipients_is_not_to_blame() -> None:
    recipients = people(50)
    suppressed = tried_alone(recipients)
    invalid = {next(who for who in half if who not in suppressed) for half in halves(recipients)}

    def fate(part: Sequence[str]) -> SendError | None:
        if invalid.intersection(part):
            return recipient_error(INVALID)
        return recipient_error() if suppressed.intersection(part) else None

    api = Api(fate)
    attempt = await attempt_to_send(api, recipients)
    assert len(suppressed) == PROBE_ROUNDS * PROBES
    assert api.delivered == Counter(set(recipients) - invalid - suppressed)
    assert {who for who, out in attempt.outcomes.items() if out == SUPPRESSED} == suppressed
    assert {who for who, out in attempt.outcomes.items() if out.status == "5.1.3"} == invalid


@pytest.mark.parametrize("rounds", range(1, PROBE_ROUNDS))
async def test_others_take_the_places_of_suppressed_recipients_on_whom_it_was_tried(rounds: int) -> None:
    """So a message that is to blame costs a few calls, and not one for each recipient."""
    recipients = people(50)
    suppressed = tried_alone(recipients, rounds)
    api = Api(lambda part: recipient_error(SUPPRESSED if suppressed.issuperset(part) else INVALID))
    attempt = await attempt_to_send(api, recipients)
    assert len(api.calls) == 1 + 2 + (rounds + 1) * PROBES, "for all, for each half, for those tried alone"
    assert {who for who, out in attempt.outcomes.items() if out == SUPPRESSED} == suppressed
    assert {who for who, out in attempt.outcomes.items() if out == INVALID} == set(recipients) - suppressed


async def test_a_good_recipient_among_others_clears_the_message() -> None:
    recipients = people(50)
    invalid = {recipients[place] for place in (0, 49)}
    suppressed = {recipients[place] for place in (16, 32, 17, 33)}

    def fate(part: Sequence[str]) -> SendError | None:
        if invalid.intersection(part):
            return recipient_error(INVALID)
        return recipient_error() if suppressed.intersection(part) else None

    api = Api(fate)
    attempt = await attempt_to_send(api, recipients)
    assert api.delivered == Counter(set(recipients) - invalid - suppressed)
    assert {who for who, out in attempt.outcomes.items() if out == SUPPRESSED} == suppressed


async def test_the_account_may_fail_while_the_message_is_judged() -> None:
    recipients = people(50)

    def fate(_: Sequence[str]) -> SendError:
        if len(api.calls) > 4:
            return SendError(THROTTLED, Scope.ACCOUNT, 7.0)
        return recipient_error(INVALID)

    api = Api(fate)
    attempt = await attempt_to_send(api, recipients)
    assert len(api.calls) == 5
    assert Counter(attempt.outcomes.values()) == {THROTTLED: 49, INVALID: 1}
    assert attempt.retry_after == 7.0


# ---- errors that end it


def failing_at(number: int, error: SendError) -> Api:
    """The call of this number fails, counted from 1; those after it must not be made."""
    api = Api(lambda _: error if len(api.calls) == number else None)
    return api


@pytest.mark.parametrize(
    ("reply", "scope"), [(TOO_BIG, Scope.MESSAGE), (THROTTLED, Scope.ACCOUNT), (NO_ANSWER, Scope.SENDER)]
)
async def test_an_error_of_the_first_call_ends_it_for_everybody(reply: Reply, scope: Scope) -> None:
    api = failing_at(1, SendError(reply, scope))
    attempt = await attempt_to_send(api, people(300))
    assert len(api.calls) == 1
    assert attempt.outcomes == dict.fromkeys(people(300), reply)


async def test_an_account_error_later_on_leaves_sent_what_is_sent_and_calls_nobody_again() -> None:
    recipients = people(500)
    api = Api(lambda _: SendError(THROTTLED, Scope.ACCOUNT, 7.0) if len(api.calls) >= 3 else None)
    attempt = await attempt_to_send(api, recipients)
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
    attempt = await attempt_to_send(api, recipients)
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

    assert list((await attempt_to_send(send, recipients)).outcomes) == recipients


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

    attempt = await attempt_to_send(send, recipients)
    assert attempt.outcomes == {
        who: THROTTLED if who in recipients[100:] else DELIVERED for who in recipients
    }


# ---- what else an attempt tells


async def test_the_recipients_of_calls_without_an_answer_are_named_and_nobody_else() -> None:
    recipients = people(120)
    api = Api(lambda _: SendError(NO_ANSWER, Scope.ACCOUNT, unanswered=True) if len(api.calls) == 2 else None)
    attempt = await attempt_to_send(api, recipients)
    assert attempt.unanswered == api.calls[1]
    assert (await attempt_to_send(Api(), recipients)).unanswered == []
    refused = failing_at(1, SendError(THROTTLED, Scope.ACCOUNT))
    assert (await attempt_to_send(refused, recipients)).unanswered == []


async def test_of_several_retry_afters_the_longest_is_handed_on() -> None:
    async def send(part: Sequence[str]) -> Sent:
        number = int(part[0][1:].partition("@")[0])
        await asyncio.sleep(0)
        if number == 0:
            return Sent(dict.fromkeys(part, DELIVERED), "")
        raise SendError(THROTTLED, Scope.ACCOUNT, {50: 90.0, 100: 3.0}.get(number))

    assert (await attempt_to_send(send, people(200))).retry_after == 90.0


fates = st.sampled_from(
    [
        None,
        recipient_error(),
        recipient_error(MALFORMED),
        recipient_error(INVALID),
        SendError(TOO_BIG, Scope.MESSAGE),
        SendError(THROTTLED, Scope.ACCOUNT),
        SendError(NO_ANSWER, Scope.ACCOUNT, unanswered=True),
    ]
)


@given(count=st.integers(1, 50), script=st.lists(fates, max_size=30), rest=fates)
def test_whatever_each_call_comes_to_everybody_has_one_outcome_and_nobody_gets_it_twice(
    count: int, script: list[SendError | None], rest: SendError | None
) -> None:
    recipients = people(count)
    api = Api(lambda _: script[len(api.calls) - 1] if len(api.calls) <= len(script) else rest)
    attempt: Attempt = at_once(attempt_to_send(api, recipients))
    assert set(attempt.outcomes) == set(recipients)
    assert all(times == 1 for times in api.delivered.values())
    assert {who for who, reply in attempt.outcomes.items() if reply.success} == set(api.delivered)
