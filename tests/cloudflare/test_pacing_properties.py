"""The pacer against callers and an API that do anything, in any order: Hypothesis looks for the order
in which a call goes out that must not, or one that could go waits for ever."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from smtp2cf.cloudflare.pacing import Pacer, Turn
from smtp2cf.reply import SendError
from tests.cloudflare.virtual_time import VirtualTimeLoop, settle

T = TypeVar("T")


class Caller:
    """One call: waiting, then let in, or told off, or cancelled."""

    def __init__(self, number: int, deadline: float) -> None:
        self.number = number
        self.deadline = deadline
        self.turn: Turn | None = None
        self.task: asyncio.Task[None] | None = None


class PacedCalls(RuleBasedStateMachine):
    """A pacer, its callers, and what the API told it."""

    callers = Bundle("callers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.concurrency = 1
        self.pacer = Pacer(1)
        self.asked = 0
        self.in_line: deque[int] = deque()
        self.in_flight: dict[int, Caller] = {}
        self.blocked_until = 0.0
        self.one_at_a_time = False
        self.era = 0
        self.violations: list[str] = []

    def teardown(self) -> None:
        async def cancel_all() -> None:
            pending = asyncio.all_tasks() - {asyncio.current_task()}
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

        self.run(cancel_all())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def call(self, caller: Caller) -> None:
        try:
            turn = await self.pacer.admit(caller.deadline)
        except (SendError, asyncio.CancelledError):
            self.in_line.remove(caller.number)
            return
        if self.in_line.popleft() != caller.number:
            self.violations.append("let in before somebody who asked earlier")
        if self.loop.now < self.blocked_until:
            self.violations.append("let in while blocked")
        of_era = [other for other in self.in_flight.values() if other.turn and other.turn.era == turn.era]
        if self.one_at_a_time and of_era:
            self.violations.append("let in before the first call after a block was answered")
        caller.turn = turn
        self.in_flight[caller.number] = caller

    @initialize(concurrency=st.integers(1, 5))
    def begin(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.pacer = Pacer(concurrency, clock=self.loop.time)

    @rule(target=callers, count=st.integers(1, 4), wait=st.sampled_from([-1.0, 0.0, 3.0, 60.0, 1e6]))
    def ask(self, count: int, wait: float) -> object:
        async def ask() -> list[Caller]:
            asked = []
            for _ in range(count):
                caller = Caller(self.asked, self.loop.now + wait)
                self.asked += 1
                self.in_line.append(caller.number)
                caller.task = asyncio.ensure_future(self.call(caller))
                asked.append(caller)
            await settle()
            return asked

        return multiple(*self.run(ask()))

    @rule(seconds=st.sampled_from([0.01, 1.0, 2.5, 10.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(caller=consumes(callers), also_end=st.booleans())
    def give_up(self, caller: Caller, also_end: bool) -> None:
        async def give_up() -> None:
            # Ending a call at the same moment may let this caller in just before it is cancelled.
            if also_end and (others := [other for other in self.in_flight.values() if other is not caller]):
                self.end(others[0])
            if not caller.task.done():
                caller.task.cancel()
            await settle()

        self.run(give_up())
        if caller.number in self.in_flight:
            self.end_now(caller)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), left=st.none() | st.integers(0, 12), reset=st.integers(0, 20), size=st.booleans())
    def succeed(self, data: st.DataObject, left: int | None, reset: int, size: bool) -> None:
        caller = data.draw(st.sampled_from(list(self.in_flight.values())), "caller")
        ratelimit = "" if left is None else f'"default";r={left};t={reset}'
        self.answer(caller, ratelimit, '"default";q=12;w=20' if size else "")

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), retry_after=st.none() | st.sampled_from([1.0, 5.0, 30.0]))
    def throttle(self, data: st.DataObject, retry_after: float | None) -> None:
        caller = data.draw(st.sampled_from(list(self.in_flight.values())), "caller")
        is_new = caller.turn.era == self.era
        self.pacer.block(caller.turn, retry_after)
        if is_new:
            self.era += 1
            self.one_at_a_time = True
        if retry_after is not None:
            self.blocked_until = max(self.blocked_until, self.loop.now + retry_after)
        elif is_new:
            self.blocked_until = max(self.blocked_until, self.loop.now + 5.0)
        self.end_now(caller)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.end_now(data.draw(st.sampled_from(list(self.in_flight.values())), "caller"))

    def answer(self, caller: Caller, ratelimit: str, policy: str) -> None:
        self.pacer.observe(caller.turn, ratelimit, policy)
        if caller.turn.era == self.era:
            self.one_at_a_time = False
        self.end_now(caller)

    def end(self, caller: Caller) -> None:
        del self.in_flight[caller.number]
        self.pacer.done(caller.turn)

    def end_now(self, caller: Caller) -> None:
        async def end() -> None:
            self.end(caller)
            await settle()

        self.run(end())

    @invariant()
    def nobody_was_let_in_who_must_not(self) -> None:
        assert not self.violations

    @invariant()
    def every_call_in_flight_is_counted_and_none_is_too_many(self) -> None:
        assert self.pacer.in_flight == len(self.in_flight) <= self.concurrency
        assert self.pacer.waiting == len(self.in_line)

    @invariant()
    def nobody_is_kept_past_the_deadline(self) -> None:
        assert self.pacer.blocked_for <= 3700

    @rule()
    def all_who_wait_get_their_turn_when_the_api_answers(self) -> None:
        """However it came to this: from here on every call succeeds, and everybody is through in time."""
        rounds = 0
        while self.in_flight or self.in_line:
            for caller in list(self.in_flight.values()):
                self.answer(caller, "", "")
            self.run(asyncio.sleep(10))
            rounds += 1
            assert rounds < 1000, "somebody waits for ever"


PacedCalls.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestPacedCalls = PacedCalls.TestCase
