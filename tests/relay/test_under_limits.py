"""The relay and an API that means its limits: everything goes out, once, and nobody calls while calls are
refused. Where time has to pass it is virtual; the rest is over real sockets, from SMTP sessions."""

import asyncio
import contextlib
import ipaddress
import itertools
import re
import smtplib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from unittest import mock

import httpx
import orjson
import pytest

from smtp2cf.cloudflare import Client
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.listen.endpoint import Endpoint, bound, listen
from smtp2cf.relay import MessagePolicy, Relay
from smtp2cf.reply import SUPPRESSED
from smtp2cf.sandbox import RateLimit, Sandbox
from smtp2cf.sandbox.limits import Limiter
from smtp2cf.smtpd import Capacity, Listener, Policy, Rules, Server
from tests.cloudflare.callers import in_virtual_time, now
from tests.support.secret import TOKEN

LOOPBACK = Endpoint("127.0.0.1", 0)
MESSAGE = b"Subject: number %d\r\n\r\nhello\r\n"
SESSIONS, EACH = 10, 10
ON_ITS_WAY = 0.01
"""Seconds of a call to the API, and of its answer back."""


@contextlib.asynccontextmanager
async def running_sandbox(**options: Any) -> AsyncIterator[tuple[Sandbox, str]]:
    sockets = listen(LOOPBACK)
    sandbox = Sandbox(token=None, **options)
    await sandbox.start(sockets)
    try:
        yield sandbox, f"http://{bound(sockets, LOOPBACK)}/client/v4"
    finally:
        await sandbox.stop()


class Bridge(NamedTuple):
    """A relay to an API, and where it takes mail."""

    relay: Relay
    client: Client
    port: int

    def send(self, numbers: range) -> list[int]:
        """Send messages in one session, one after the other: the codes of their answers. Blocks."""
        codes = []
        with smtplib.SMTP("127.0.0.1", self.port, timeout=120) as smtp:
            smtp.ehlo()
            for number in numbers:
                smtp.mail("a@example.com")
                smtp.rcpt(f"r{number}@example.net")
                codes.append(smtp.data(MESSAGE % number)[0])
        return codes

    async def send_from_sessions(self) -> list[int]:
        """SESSIONS sessions at once, each with EACH messages: the codes of all answers."""
        shares = [range(start, start + EACH) for start in range(0, SESSIONS * EACH, EACH)]
        return [
            code
            for codes in await asyncio.gather(*(asyncio.to_thread(self.send, share) for share in shares))
            for code in codes
        ]


@contextlib.asynccontextmanager
async def bridge_to(base_url: str, *, wait: float = 100.0) -> AsyncIterator[Bridge]:
    client = Client(base_url=base_url, account_id="1", token=TOKEN, timeout=30.0, concurrency=100)
    relay = Relay(client.send, MessagePolicy(reply_timeout=wait))
    policy = Policy(
        hostname="bridge.example.com",
        allow_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        max_message_size=2**20,
        max_recipients=1000,
        session_timeout=120.0,
    )
    server = Server(relay.accept, Capacity(100))
    sockets = listen(LOOPBACK)
    await server.start(Listener(rules=Rules(policy), sockets=sockets))
    try:
        yield Bridge(relay, client, sockets[0].getsockname()[1])
    finally:
        await server.drain(5)
        await client.aclose()


def number_of(message: bytes) -> int:
    found = re.search(rb"number (\d+)", message)
    assert found is not None
    return int(found[1])


class Limited(httpx.AsyncBaseTransport):
    """An API that means its limits, in place of a socket. announced: its answers tell of them before.

    seen: (when, status) of each call. numbers: those of the messages it took.
    """

    def __init__(self, limit: RateLimit, *, announced: bool) -> None:
        self._limiter = Limiter(limit, clock=now)
        self._announced = announced
        self.seen: list[tuple[float, int]] = []
        self.numbers: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(await request.aread())
        await asyncio.sleep(ON_ITS_WAY)
        wait = self._limiter.admit()
        self.seen.append((now(), 429 if wait else 200))
        await asyncio.sleep(ON_ITS_WAY)
        headers = self._limiter.headers() if self._announced else {}
        if wait:
            return httpx.Response(429, headers={**headers, "Retry-After": str(wait)})
        self.numbers.append(number_of(body["mime_message"].encode()))
        lists = {"delivered": body["recipients"], "permanent_bounces": [], "queued": []}
        return httpx.Response(200, headers=headers, json={"success": True, "result": lists})


async def all_relayed(api: Limited) -> list[int]:
    """SESSIONS at once, each with EACH messages one after the other: the codes of all answers."""
    client = Client(
        base_url="https://api.example/v4",
        account_id="1",
        token=TOKEN,
        timeout=30.0,
        concurrency=100,
        transport=api,
    )
    client.pacer = Pacer(100, clock=now)
    relay = Relay(client.send, MessagePolicy(reply_timeout=100.0))

    async def session(start: int) -> list[int]:
        codes = []
        for number in range(start, start + EACH):
            envelope = Envelope(reverse_path="a@example.com", forward_paths=(f"r{number}@example.net",))
            codes.append((await relay.accept(envelope, MESSAGE % number)).reply.code)
        return codes

    with mock.patch("time.monotonic", now):
        answers = await asyncio.gather(*(session(number * EACH) for number in range(SESSIONS)))
    await client.aclose()
    return list(itertools.chain(*answers))


@in_virtual_time
async def test_100_messages_of_10_sessions_go_out_within_the_limit_and_once_each() -> None:
    """20 calls in 2 s, and 5 s without any for whoever makes one more."""
    api = Limited(RateLimit(calls=20, window=2.0, block=5.0), announced=True)
    started = now()
    assert await all_relayed(api) == [250] * 100
    assert Counter(api.numbers) == Counter(range(100)), "exactly once each"
    assert [status for _, status in api.seen] == [200] * 100, "no call was ever refused"
    assert now() - started < 30.0, "five windows of 2 s are the least, told in whole seconds"


@in_virtual_time
async def test_without_ratelimit_headers_nobody_calls_before_retry_after_and_then_one_at_first() -> None:
    limit = RateLimit(calls=20, window=1.0, block=2.0)
    api = Limited(limit, announced=False)
    assert await all_relayed(api) == [250] * 100
    assert Counter(api.numbers) == Counter(range(100)), "exactly once each"
    rounds = list(rounds_of(api.seen))
    assert len(rounds) > 1
    for refused, (first, *rest) in rounds:
        # Those that were on their way at the first refusal were refused as well, and nobody else.
        assert len(refused) <= SESSIONS
        assert refused[-1] - refused[0] < limit.block
        assert first - refused[0] >= limit.block
        assert all(at >= first + ON_ITS_WAY for at in rest), "one call at first, until it was answered"


def rounds_of(seen: list[tuple[float, int]]) -> Any:
    """For each time calls were refused: when they were, and when those came that were taken after it."""
    groups = [
        (status, [at for at, _ in group]) for status, group in itertools.groupby(seen, lambda call: call[1])
    ]
    for (status, refused), (_, accepted) in itertools.pairwise(groups):
        if status == 429:
            yield refused, accepted


async def test_a_block_longer_than_clients_wait_defers_at_once_and_calls_nobody() -> None:
    async with (
        running_sandbox(rate_limit=RateLimit(calls=1, window=300.0, block=300.0)) as (sandbox, url),
        bridge_to(url, wait=100.0) as bridge,
    ):
        started = time.monotonic()
        codes = await bridge.send_from_sessions()
        assert time.monotonic() - started < 100, "nobody waited"
        # Ten at once before anything is known; then nobody.
        assert codes.count(250) == 1
        assert set(codes) == {250, 451}
        assert len(sandbox.calls) <= SESSIONS


async def accept(bridge: Bridge, *recipients: str) -> Verdict:
    envelope = Envelope(reverse_path="a@example.com", forward_paths=recipients)
    return await bridge.relay.accept(envelope, MESSAGE % 1)


@pytest.mark.parametrize("positions", [(0, 1, 2), (0, 24, 49), (12, 31, 44), (24, 25, 26)], ids=str)
async def test_three_suppressed_of_50_cost_the_others_nothing(positions: tuple[int, ...]) -> None:
    recipients = [f"r{number}@example.net" for number in range(50)]
    for position in positions:
        recipients[position] = f"r{position}+suppressed@example.net"
    bad = {recipients[position] for position in positions}
    async with running_sandbox() as (sandbox, url), bridge_to(url) as bridge:
        verdict = await accept(bridge, *recipients)
    reached = Counter(who for message in sandbox.messages for who in message.recipients)
    assert reached == Counter(set(recipients) - bad), "47, once each"
    assert {
        who for who, reply in verdict.outcomes.items() if (reply.code, reply.status) == (550, "5.7.1")
    } == bad
    assert len(sandbox.calls) <= 32 + 1, "and one for the DSN"
    assert verdict.reply.code == 250
    assert all(f"<{who}>" in verdict.reply.text for who in bad)
    assert "suppressed" in verdict.reply.text


async def test_ten_malformed_recipients_ahead_cost_the_490_others_nothing() -> None:
    bad = [f"r{number} x@example.net" for number in range(10)]
    good = [f"r{number}@example.net" for number in range(490)]
    async with running_sandbox() as (sandbox, url), bridge_to(url) as bridge:
        verdict = await accept(bridge, *bad, *good)
        reached = Counter(
            who for message in sandbox.messages for who in message.recipients if who != "a@example.com"
        )
    assert reached == Counter(good)
    assert verdict.reply.code == 250
    assert {verdict.outcomes[who][:2] for who in bad} == {(553, "5.1.3")}
    assert {verdict.outcomes[who].code for who in good} == {250}


async def test_a_single_suppressed_recipient_is_told_so() -> None:
    async with running_sandbox() as (_, url), bridge_to(url) as bridge:
        verdict = await accept(bridge, "suppressed@example.net")
    assert (verdict.reply.code, verdict.reply.status) == SUPPRESSED[:2]
    assert "suppressed" in verdict.reply.text


async def test_120_recipients_are_three_calls() -> None:
    recipients = [f"r{number}@example.net" for number in range(120)]
    async with running_sandbox() as (sandbox, url), bridge_to(url) as bridge:
        verdict = await accept(bridge, *recipients)
    assert sorted(len(call.recipients) for call in sandbox.calls) == [20, 50, 50]
    assert Counter(who for message in sandbox.messages for who in message.recipients) == Counter(recipients)
    assert verdict.reply.code == 250
