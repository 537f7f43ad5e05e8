"""When calls may go out: limits, blocks, order, and that nobody waits for ever. No real time passes."""

import asyncio
import functools
import itertools
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.cloudflare.pacing import BACKOFF, LATENESS, RETRY_AFTER_LIMITS, Pacer, Turn, retry_after_of
from smtp2cf.reply import Scope, SendError
from tests.cloudflare.virtual_time import run_in_virtual_time, settle

FOREVER = 1e6


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


def pacer_of(concurrency: int) -> Pacer:
    return Pacer(concurrency, clock=asyncio.get_running_loop().time)


class Callers:
    """Callers of a pacer, one task each; `went` tells who was let in, in which order and when."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self.went: list[tuple[int, float]] = []
        self.turns: dict[int, Turn] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def ask(self, *names: int, wait: float = FOREVER) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self._call(name, now() + wait))
        await settle()

    async def _call(self, name: int, deadline: float) -> None:
        self.turns[name] = await self.pacer.admit(deadline)
        self.went.append((name, now()))

    @property
    def order(self) -> list[int]:
        return [name for name, _ in self.went]

    async def succeed(self, name: int, ratelimit: str = "", policy: str = "") -> None:
        self.pacer.observe(self.turns[name], ratelimit, policy)
        await self.end(name)

    async def throttle(self, name: int, retry_after: float | None) -> None:
        self.pacer.block(self.turns[name], retry_after)
        await self.end(name)

    async def end(self, name: int) -> None:
        self.pacer.done(self.turns.pop(name))
        await settle()

    async def error_of(self, name: int) -> SendError:
        with pytest.raises(SendError) as caught:
            await self.tasks[name]
        return caught.value


# ---- calls in flight


@in_virtual_time
async def test_no_more_calls_are_in_flight_than_allowed_and_the_next_goes_when_one_ends() -> None:
    callers = Callers(pacer_of(3))
    await callers.ask(*range(5))
    assert callers.order == [0, 1, 2]
    assert (callers.pacer.in_flight, callers.pacer.waiting) == (3, 2)
    await callers.end(1)
    assert callers.order == [0, 1, 2, 3]
    await callers.end(0)
    await callers.end(2)
    assert callers.order == [0, 1, 2, 3, 4]
    assert (callers.pacer.in_flight, callers.pacer.waiting) == (2, 0)


@in_virtual_time
async def test_calls_are_let_in_in_the_order_they_asked() -> None:
    callers = Callers(pacer_of(1))
    await callers.ask(*range(20))
    for name in range(20):
        await callers.end(name)
    assert callers.order == list(range(20))


@in_virtual_time
async def test_who_asks_now_does_not_overtake_those_who_wait() -> None:
    callers = Callers(pacer_of(1))
    await callers.ask(0, 1)
    callers.pacer.done(callers.turns.pop(0))  # 1 is let in, but has not run yet
    assert callers.pacer.in_flight == 1
    await callers.ask(2)
    assert callers.order == [0, 1]


@in_virtual_time
async def test_who_asks_when_the_block_ends_does_not_overtake_those_who_waited_for_that() -> None:
    callers = Callers(pacer_of(8))
    await callers.ask(0)
    await callers.throttle(0, 10)
    await callers.ask(1)
    await asyncio.sleep(callers.pacer.blocked_for + 0.0005)  # before anybody is woken
    await callers.ask(2)
    await asyncio.sleep(1)
    assert callers.order == [0, 1]


@in_virtual_time
async def test_a_caller_that_gives_up_while_waiting_holds_no_place() -> None:
    callers = Callers(pacer_of(1))
    await callers.ask(0, 1, 2)
    callers.tasks[1].cancel()
    await settle()
    assert callers.pacer.waiting == 1
    await callers.end(0)
    assert callers.order == [0, 2]
    await callers.end(2)
    assert callers.pacer.in_flight == 0


@in_virtual_time
async def test_a_caller_that_gives_up_at_the_moment_it_is_let_in_gives_its_turn_back() -> None:
    callers = Callers(pacer_of(1))
    await callers.ask(0, 1, 2)
    callers.pacer.done(callers.turns.pop(0))  # 1 is let in ...
    callers.tasks[1].cancel()  # ... and cancelled before it runs
    await settle()
    assert callers.order == [0, 2]
    assert callers.pacer.in_flight == 1


@in_virtual_time
async def test_when_all_who_wait_give_up_the_next_one_is_let_in_at_once() -> None:
    callers = Callers(pacer_of(2))
    await callers.ask(0, 1)
    await callers.throttle(0, 30)
    await callers.ask(2, 3, 4)
    for name in (2, 3, 4):
        callers.tasks[name].cancel()
    await settle()
    assert callers.pacer.waiting == 0
    await callers.end(1)
    await asyncio.sleep(60)
    await callers.ask(5)
    assert callers.order == [0, 1, 5]


# ---- deadlines


@in_virtual_time
async def test_whose_turn_does_not_come_by_the_deadline_is_told_451_and_what_stands_in_the_way() -> None:
    callers = Callers(pacer_of(1))
    await callers.ask(0)
    started = now()
    await callers.ask(1, wait=30)
    error = await callers.error_of(1)
    assert now() - started == pytest.approx(30)
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.7.1", Scope.ACCOUNT)
    assert "SMTP2CF_API_CONCURRENCY" in error.reply.text
    assert error.retry_after == 1.0
    assert not error.unanswered
    assert (callers.pacer.in_flight, callers.pacer.waiting) == (1, 0)


@in_virtual_time
async def test_who_can_not_go_by_the_deadline_is_told_at_once_for_how_long() -> None:
    callers = Callers(pacer_of(5))
    await callers.ask(0)
    await callers.throttle(0, 300)
    started = now()
    await callers.ask(1, wait=30)
    error = await callers.error_of(1)
    assert now() == started
    assert (error.reply.code, error.reply.status) == (451, "4.7.1")
    assert error.retry_after == pytest.approx(300, abs=1)
    assert "300 s" in error.reply.text
    assert "rate limit" in error.reply.text


@in_virtual_time
async def test_a_deadline_that_has_passed_still_lets_in_who_need_not_wait() -> None:
    callers = Callers(pacer_of(1))
    await callers.ask(0, wait=-1)
    assert callers.order == [0]
    await callers.ask(1, wait=-1)
    assert (await callers.error_of(1)).reply.status == "4.7.1"


# ---- after a 429


@in_virtual_time
async def test_nobody_calls_before_retry_after_then_one_then_more() -> None:
    callers = Callers(pacer_of(8))
    await callers.ask(0)
    await callers.throttle(0, 10)
    blocked_at = now()
    assert callers.pacer.blocked_for == pytest.approx(10 + LATENESS)
    await callers.ask(*range(1, 30))
    await asyncio.sleep(9.9)
    assert callers.order == [0]
    await asyncio.sleep(1)
    assert callers.order == [0, 1], "one at first"
    assert callers.went[1][1] - blocked_at >= 10
    await asyncio.sleep(100)
    assert callers.order == [0, 1], "and no more before its answer"
    await callers.succeed(1)
    assert callers.order == [0, 1, 2, 3]
    await callers.succeed(2)
    assert callers.pacer.in_flight == 4
    await callers.succeed(3)
    assert callers.pacer.in_flight == 8
    await callers.succeed(4)
    assert callers.pacer.in_flight == 8


@in_virtual_time
async def test_answers_to_calls_made_before_the_429_open_nothing() -> None:
    callers = Callers(pacer_of(16))
    await callers.ask(*range(16))
    await callers.throttle(0, 5)
    for name in range(1, 16):
        await callers.succeed(name)
    await callers.ask(*range(16, 40))
    await asyncio.sleep(6)
    assert len(callers.order) == 16 + 1


@in_virtual_time
async def test_calls_still_in_flight_from_before_the_429_do_not_keep_the_next_from_going() -> None:
    callers = Callers(pacer_of(4))
    await callers.ask(*range(4))
    await callers.throttle(0, 5)
    await callers.ask(4, 5)
    await asyncio.sleep(6)
    assert callers.order == [0, 1, 2, 3, 4]
    assert callers.pacer.in_flight == 4
    await callers.succeed(4)
    assert callers.order == [0, 1, 2, 3, 4, 5]


@in_virtual_time
async def test_calls_in_flight_count_against_the_limit_whenever_they_began() -> None:
    callers = Callers(pacer_of(2))
    await callers.ask(0, 1)
    await callers.throttle(0, 5)
    await callers.ask(2, 3, 4)
    await asyncio.sleep(6)
    await callers.succeed(2)
    assert callers.pacer.in_flight == 2
    await callers.end(1)
    assert callers.pacer.in_flight == 2


@in_virtual_time
async def test_of_several_429s_the_longest_counts() -> None:
    callers = Callers(pacer_of(3))
    await callers.ask(0, 1, 2)
    await callers.throttle(0, 20)
    await callers.throttle(1, 60)
    await callers.throttle(2, 5)
    assert callers.pacer.blocked_for == pytest.approx(60, abs=0.1)


@in_virtual_time
async def test_429s_without_retry_after_double_the_wait_once_a_round_and_a_success_ends_that() -> None:
    callers = Callers(pacer_of(10))
    await callers.ask(*range(10))
    for name in range(10):  # ten calls of one moment are one refusal
        await callers.throttle(name, None)
    waits = [callers.pacer.blocked_for]
    for name in range(10, 18):
        await asyncio.sleep(callers.pacer.blocked_for + 0.01)
        await callers.ask(name)
        await callers.throttle(name, None)
        waits.append(callers.pacer.blocked_for)
    least, most = BACKOFF
    assert waits == [pytest.approx(min(least * 2**n, most), abs=0.1) for n in range(9)]
    await asyncio.sleep(most + 1)
    await callers.ask(100)
    await callers.succeed(100)
    await callers.ask(101)
    await callers.throttle(101, None)
    assert callers.pacer.blocked_for == pytest.approx(least, abs=0.1)


@in_virtual_time
async def test_a_failure_of_the_one_call_lets_the_next_try_and_no_more() -> None:
    callers = Callers(pacer_of(8))
    await callers.ask(0)
    await callers.throttle(0, 5)
    await callers.ask(*range(1, 10))
    await asyncio.sleep(6)
    for name in (1, 2, 3):
        assert callers.pacer.in_flight == 1
        await callers.end(name)
    assert callers.order == [0, 1, 2, 3, 4]


# ---- Ratelimit


@in_virtual_time
async def test_when_the_window_is_used_up_nobody_calls_before_it_resets() -> None:
    callers = Callers(pacer_of(8))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=0;t=30', '"default";q=100;w=60')
    told_at = now()
    await callers.ask(1, 2)
    await asyncio.sleep(30)
    assert callers.order == [0]
    await asyncio.sleep(2)
    assert callers.went[1][1] - told_at >= 30
    assert len(callers.order) == 3


@in_virtual_time
async def test_the_calls_that_are_left_are_used_and_not_one_more() -> None:
    callers = Callers(pacer_of(50))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=12;t=30')
    await callers.ask(*range(1, 40))
    await asyncio.sleep(30)
    assert len(callers.order) - 1 == 12


@in_virtual_time
async def test_calls_in_flight_are_taken_as_not_counted_yet() -> None:
    callers = Callers(pacer_of(50))
    await callers.ask(*range(10))
    await callers.succeed(0, '"default";r=15;t=30', '"default";q=20;w=60')
    await callers.ask(*range(10, 40))
    await asyncio.sleep(30)
    assert len(callers.order) == 10 + 15 - 9


@in_virtual_time
async def test_an_answer_that_was_overtaken_gives_no_calls_back() -> None:
    callers = Callers(pacer_of(50))
    await callers.ask(*range(10))
    for name, left in zip(range(1, 10), range(8, -1, -1), strict=True):
        await callers.succeed(name, f'"default";r={left};t=30')
    await callers.succeed(0, '"default";r=9;t=30')  # it was answered first and comes last
    await callers.ask(10)
    await asyncio.sleep(29)
    assert 10 not in callers.order


@in_virtual_time
async def test_a_call_that_ran_alone_tells_the_true_number() -> None:
    callers = Callers(pacer_of(50))
    await callers.ask(*range(10))
    for name in range(10):  # the newest answer came first, and the others in flight counted as not in it
        await callers.succeed(name, f'"default";r={30 + name};t=30')
    await callers.ask(10)
    await callers.succeed(10, '"default";r=29;t=30')
    await callers.ask(*range(11, 60))
    await asyncio.sleep(29)
    assert len(callers.order) == 11 + 29


@in_virtual_time
async def test_others_who_use_the_account_are_noticed() -> None:
    callers = Callers(pacer_of(5))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=1000;t=100')
    await callers.ask(1)
    await callers.succeed(1, '"default";r=0;t=100')
    await callers.ask(2, wait=50)
    assert (await callers.error_of(2)).reply.status == "4.7.1"


@in_virtual_time
async def test_the_last_fifth_of_a_window_is_spread_over_what_is_left_of_it() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=19;t=57', '"default";q=100;w=300')
    await callers.ask(*range(1, 20))
    await asyncio.sleep(57)
    times = [at for _, at in callers.went[1:]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 19
    assert min(gaps) > 2
    assert max(gaps) < 4


@in_virtual_time
async def test_before_the_last_fifth_nobody_waits() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=60;t=57', '"default";q=100;w=300')
    started = now()
    await callers.ask(*range(1, 40))
    assert len(callers.order) == 40
    assert now() == started


@in_virtual_time
async def test_a_new_window_starts_with_a_few_calls() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=50;t=5', '"default";q=50;w=10')
    await asyncio.sleep(7)
    await callers.ask(*range(1, 60))
    assert len(callers.order) == 1 + 10, "a fifth of the 50"
    await callers.succeed(1, '"default";r=49;t=10', '"default";q=50;w=10')
    await callers.succeed(2, '"default";r=48;t=10', '"default";q=50;w=10')
    assert len(callers.order) > 11


@in_virtual_time
async def test_a_new_window_of_unknown_size_starts_with_one_call() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=50;t=5')
    await asyncio.sleep(7)
    await callers.ask(*range(1, 60))
    assert len(callers.order) == 1 + 1


@in_virtual_time
async def test_all_of_a_window_is_used_where_answers_come_in_order() -> None:
    callers = Callers(pacer_of(10))
    await callers.ask(*range(60))
    started = now()
    for name in range(20):
        await callers.tasks[name]
        reset = round(30 - (now() - started))
        await callers.succeed(name, f'"default";r={19 - name};t={reset}', '"default";q=20;w=30')
    assert now() - started < 30
    assert len(callers.order) == 20


@in_virtual_time
async def test_an_answer_from_before_the_newest_one_tells_nothing() -> None:
    """Somebody else has used up the window since."""
    callers = Callers(pacer_of(10))
    await callers.ask(0, 1)
    await callers.succeed(1, '"default";r=50;t=30')
    await callers.ask(2)
    await callers.succeed(2, '"default";r=0;t=30')
    await callers.succeed(0, '"default";r=51;t=30')
    await callers.ask(3)
    assert 3 not in callers.order


@in_virtual_time
async def test_what_was_sent_in_an_earlier_window_does_not_count_in_the_next() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=9;t=5', '"default";q=10;w=50')
    await asyncio.sleep(7)
    await callers.ask(1, 2)
    await callers.end(1)
    await callers.end(2)
    await asyncio.sleep(60)
    for name in range(3, 30):
        await callers.ask(name)
        if name in callers.turns:
            await callers.end(name)
    assert len(callers.order) == 1 + 2 + 8, "the 2 may have been of this one"


@in_virtual_time
async def test_a_window_nobody_told_of_is_not_overdrawn() -> None:
    """What a window holds is known from an earlier one; what was sent since may count in it."""
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=4;t=5', '"default";q=5;w=50')
    await asyncio.sleep(7)
    for name in range(1, 20):
        await callers.ask(name)
        if name in callers.turns:
            await callers.end(name)  # without a word about limits
    assert len(callers.order) == 1 + 4
    await asyncio.sleep(52)
    assert len(callers.order) == 1 + 4 + 1


@in_virtual_time
async def test_calls_in_flight_may_fill_the_next_window_so_it_waits_for_one_of_them() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=2;t=5', '"default";q=3;w=50')
    await callers.ask(1, 2, 3)
    assert callers.order == [0, 1, 2]
    await asyncio.sleep(30)
    assert callers.order == [0, 1, 2]
    await callers.end(1)
    assert callers.order == [0, 1, 2]
    await callers.end(2)
    assert callers.order == [0, 1, 2, 3], "one to see, when none is left whose answer could tell"


@in_virtual_time
async def test_after_a_429_its_retry_after_counts_and_no_window_told_before() -> None:
    callers = Callers(pacer_of(2))
    await callers.ask(0, 1)
    await callers.succeed(0, '"default";r=0;t=1000')
    await callers.throttle(1, 10)
    await callers.ask(2)
    await asyncio.sleep(11)
    assert callers.order == [0, 1, 2]


@in_virtual_time
async def test_of_several_policies_the_fewest_calls_and_the_longest_time_count() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"daily";r=9;t=5', '"daily";q=100;w=500, "burst";q=10;w=2')
    await asyncio.sleep(7)
    await callers.ask(*range(1, 60))
    assert len(callers.order) == 1 + 2, "a fifth of the 10"
    for name in range(1, 60):
        if name in callers.turns:
            await callers.end(name)
    assert len(callers.order) == 1 + 9
    await asyncio.sleep(400)
    assert len(callers.order) == 1 + 9, "nothing is known of a reset before the 500 s are over"


@in_virtual_time
async def test_of_several_windows_the_tightest_counts() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"burst";r=90;t=10, "daily";r=2;t=1000')
    await callers.ask(*range(1, 60))
    await asyncio.sleep(3000)
    assert len(callers.order) == 1 + 2 + 1, "two of the day, and one to see what the next day brings"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "r=",
        "r=x;t=y",
        '"default";r=-1;t=-1',
        '"default";r=5',
        '"default";t=5',
        '"default";r=99999999999999999999;t=1',
        '"default";rr=0;tt=9',
        "\xff\xfe;r=\xb2;t=\xb9",
        "," * 8000,
        '"default";r=' + "9" * 8000 + ";t=1",
    ],
    ids=lambda header: ascii(header[:40]),
)
@in_virtual_time
async def test_headers_that_make_no_sense_stop_nobody(header: str) -> None:
    callers = Callers(pacer_of(4))
    await callers.ask(0)
    await callers.succeed(0, header, header)
    await callers.ask(1, 2, 3)
    assert callers.order == [0, 1, 2, 3]


@pytest.mark.parametrize("seconds", ["999999999", "9" * 8000])
@in_virtual_time
async def test_no_window_is_believed_to_last_longer_than_an_hour(seconds: str) -> None:
    callers = Callers(pacer_of(4))
    await callers.ask(0)
    await callers.succeed(0, f'"default";r=0;t={seconds}')
    await callers.ask(1)
    await asyncio.sleep(3602)
    assert callers.order == [0, 1]


# ---- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 1.0),
        ("1", 1.0),
        ("17", 17.0),
        (" 17 ", 17.0),
        ("300", 300.0),
        ("999999999999", 3600.0),
        ("9" * 5000, 3600.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("\xb2", None),
        ("\u0661", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("1 Jan 1 1:1:1 +9999999999", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after_of(value) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after_of(formatdate(time.time() + 90, usegmt=True)) == pytest.approx(90, abs=2)
    assert retry_after_of(formatdate(time.time() + 90_000, usegmt=True)) == 3600.0


def test_without_retry_after_a_window_that_is_used_up_tells() -> None:
    assert retry_after_of("", '"default";r=0;t=42') == 42.0
    assert retry_after_of("", '"default";r=3;t=42') is None
    assert retry_after_of("7", '"default";r=0;t=42') == 7.0


@settings(deadline=None)
@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,6} [A-Z][a-z]{2} \d{1,6} [\d:]{0,9} [-+A-Z\d]{0,6}"))
def test_any_retry_after_is_none_or_within_the_limits(value: str) -> None:
    seconds = retry_after_of(value)
    least, most = RETRY_AFTER_LIMITS
    assert seconds is None or least <= seconds <= most
