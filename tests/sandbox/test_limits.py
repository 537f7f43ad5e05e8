"""Rate limits: what is counted, what is announced, and who is refused for how long."""

import cloudflare
import pytest

from smtp2cf.sandbox import RateLimit
from smtp2cf.sandbox.limits import Limiter

from .conftest import ACCOUNT, Start


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limiter(clock: Clock, calls: int = 3, window: float = 10.0, block: float = 25.0) -> Limiter:
    return Limiter(RateLimit(calls, window, block), clock)


def announced(limiter: Limiter) -> str:
    return limiter.headers()["Ratelimit"]


def test_calls_left_and_the_reset_are_announced_exactly(clock: Clock) -> None:
    limit = limiter(clock)
    assert announced(limit) == '"default";r=3;t=10'
    assert limit.admit() == 0
    assert announced(limit) == '"default";r=2;t=10'
    clock.now += 4.5
    assert limit.admit() == 0
    assert announced(limit) == '"default";r=1;t=6'
    assert limit.headers()["Ratelimit-Policy"] == '"default";q=3;w=10'


def test_a_new_window_begins_with_the_first_call_after_the_old_one(clock: Clock) -> None:
    limit = limiter(clock)
    for _ in range(3):
        assert limit.admit() == 0
    clock.now += 10
    assert announced(limit) == '"default";r=3;t=10'
    clock.now += 7
    assert limit.admit() == 0
    assert announced(limit) == '"default";r=2;t=10'


def test_one_call_too_many_blocks_all_and_calls_meanwhile_do_not_prolong_it(clock: Clock) -> None:
    limit = limiter(clock)
    assert [limit.admit() for _ in range(4)] == [0, 0, 0, 25]
    clock.now += 24.5
    assert limit.admit() == 1
    assert announced(limit) == '"default";r=0;t=1'
    clock.now += 0.5
    assert limit.admit() == 0
    assert announced(limit) == '"default";r=2;t=10'


def test_a_block_shorter_than_the_window_lasts_until_the_window_ends(clock: Clock) -> None:
    limit = limiter(clock, block=0)
    assert [limit.admit() for _ in range(4)] == [0, 0, 0, 10]
    clock.now += 9.9
    assert limit.admit() == 1
    clock.now += 0.1
    assert limit.admit() == 0


async def test_the_limit_refuses_and_blocks_over_the_wire(start: Start) -> None:
    running = await start(rate_limit=RateLimit(calls=3, window=60, block=120))
    answers = [await running.post() for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["Ratelimit"] for answer in answers] == [
        '"default";r=2;t=60',
        '"default";r=1;t=60',
        '"default";r=0;t=60',
        '"default";r=0;t=120',
        '"default";r=0;t=120',
    ]
    assert {answer.headers["Ratelimit-Policy"] for answer in answers} == {'"default";q=3;w=60'}
    assert [answer.headers.get("Retry-After") for answer in answers] == [None, None, None, "120", "120"]
    assert [call.status for call in running.sandbox.calls] == [200, 200, 200, 429, 429]
    assert len(running.sandbox.messages) == 3


async def test_a_refused_call_is_the_sdks_rate_limit_error(start: Start) -> None:
    running = await start(rate_limit=RateLimit(calls=1, window=60, block=60))
    await running.send("b@example.net")
    with pytest.raises(cloudflare.RateLimitError) as refused:
        await running.send("b@example.net")
    assert [(error.code, error.message) for error in refused.value.errors] == [
        (10004, "email.sending.error.throttled")
    ]
    assert refused.value.response.headers["Retry-After"] == "60"


async def test_every_call_of_the_api_counts_and_the_pages_for_people_do_not(start: Start) -> None:
    running = await start(rate_limit=RateLimit(calls=10, window=60, block=60))
    await running.cloudflare.user.tokens.verify()
    await running.cloudflare.email_sending.suppressions.list(account_id=ACCOUNT)
    await running.http.get("/client/v4/nowhere")
    await running.post(recipients=["auth@example.net"])
    pages = [await running.http.get("/messages"), await running.http.get("/")]
    assert all("Ratelimit" not in page.headers for page in pages)
    assert (await running.post()).headers["Ratelimit"].startswith('"default";r=5;')


async def test_calls_are_taken_again_when_retry_after_has_passed(start: Start) -> None:
    running = await start(rate_limit=RateLimit(calls=1, window=0.2, block=0.3))
    await running.send("b@example.net")
    refused = await running.post()
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    # The SDK, its retries on, waits for as long as Retry-After says.
    client = running.cloudflare.with_options(max_retries=1)
    assert await client.user.tokens.verify() is not None


async def test_without_a_limit_nothing_is_announced(start: Start) -> None:
    running = await start()
    assert "Ratelimit" not in (await running.post()).headers
