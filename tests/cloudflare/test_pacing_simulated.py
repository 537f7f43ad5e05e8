"""The pacer against the limiter of Cloudflare's stand-in, with answers that come late and overtake one
another: whoever keeps to what he is told is never refused. No real time passes."""

import asyncio
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.sandbox.limits import Limiter, RateLimit
from tests.cloudflare.virtual_time import run_in_virtual_time


@dataclass
class Simulation:
    """Senders, each with some messages to send one after the other, and an API that counts calls.

    slowest: seconds of the slowest call. headers_of: whether an answer's numbers are those of the time
    the call came, or of the time it was answered. others: calls that somebody else makes, a second.
    """

    limit: RateLimit
    senders: int
    each: int
    slowest: float
    headers_of: str = "answer"
    seed: int = 0

    def __post_init__(self) -> None:
        self.refused = 0
        self.sent = 0
        self.took = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        limiter = Limiter(self.limit, clock=loop.time)
        pacer = Pacer(100, clock=loop.time)
        luck = random.Random(self.seed)
        started = loop.time()

        async def call() -> None:
            turn = await pacer.admit(loop.time() + 1e6)
            try:
                await asyncio.sleep(luck.uniform(0, self.slowest / 2))  # on its way
                wait = limiter.admit()
                headers = limiter.headers()
                await asyncio.sleep(luck.uniform(0, self.slowest / 2))
                if self.headers_of == "answer":
                    headers = limiter.headers()
                if wait:
                    self.refused += 1
                    pacer.block(turn, float(wait))
                else:
                    self.sent += 1
                    pacer.observe(turn, headers["Ratelimit"], headers["Ratelimit-Policy"])
            finally:
                pacer.done(turn)

        async def sender() -> None:
            for _ in range(self.each):
                await call()

        await asyncio.gather(*(sender() for _ in range(self.senders)))
        self.took = loop.time() - started


@settings(max_examples=60)
@given(
    calls=st.integers(20, 100),
    window=st.sampled_from([2.0, 10.0, 60.0]),
    senders=st.integers(1, 20),
    slowest=st.sampled_from([0.0, 0.05, 1.0, 10.0]),
    headers_of=st.sampled_from(["arrival", "answer"]),
    seed=st.integers(0, 1000),
)
def test_whoever_keeps_to_the_headers_is_never_refused(
    calls: int, window: float, senders: int, slowest: float, headers_of: str, seed: int
) -> None:
    limit = RateLimit(calls, window, block=300.0)
    simulation = Simulation(limit, senders, 200 // senders, slowest, headers_of, seed)
    run_in_virtual_time(simulation.run())
    assert simulation.refused == 0
    assert simulation.sent == senders * (200 // senders)


@pytest.mark.parametrize("slowest", [0.1, 5.0])
def test_most_of_what_is_allowed_is_used(slowest: float) -> None:
    """Cloudflare's own limit, 1,200 calls in 5 minutes, with more to send than that for an hour."""
    simulation = Simulation(RateLimit(1200, 300.0, 300.0), senders=100, each=144, slowest=slowest)
    run_in_virtual_time(simulation.run())
    assert simulation.refused == 0
    assert simulation.sent == 12 * 1200
    assert simulation.took < 1.15 * 12 * 300
