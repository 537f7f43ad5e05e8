"""When calls may go out: in which order, until when, and after a 429; nobody waits for ever. No real time
passes."""

import asyncio

import pytest

from smtp2cf.cloudflare.pacing import BACKOFF, LATENESS
from smtp2cf.reply import Scope, SendError
from tests.cloudflare.callers import Callers, in_virtual_time, now, pacer_of
from tests.cloudflare.virtual_time import settle

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


@in_virtual_time
async def test_at_the_end_waiting_mail_is_put_back_and_new_mail_waits_on() -> None:
    pacer = pacer_of(1)
    turn = await pacer.admit(now() + 60)
    waited = asyncio.create_task(pacer.admit(now() + 60, waited=True))
    new = asyncio.create_task(pacer.admit(now() + 60))
    await settle()
    pacer.stop_waiting()
    for refused in (waited, pacer.admit(now() + 60, waited=True)):
        with pytest.raises(SendError, match=r"451 4\.7\.1 .*SMTP2CF_API_CONCURRENCY"):
            await refused
    pacer.done(turn)
    pacer.done(await new)
    pacer.done(await pacer.admit(now() + 60, waited=True))
    assert (pacer.in_flight, pacer.waiting) == (0, 0)
