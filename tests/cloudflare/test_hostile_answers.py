"""Answers made to hurt, over real sockets: without end, lying, and whatever JSON can say. Each is a reply,
in time, and costs a bounded amount of memory. Broken, slow and big ones are in test_unanswered."""

import asyncio
import itertools
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf.cloudflare import Client, Sent
from smtp2cf.cloudflare.outcomes import MESSAGE_ID_LIMIT
from smtp2cf.cloudflare.transport import ANSWER_LIMIT
from smtp2cf.reply import ACCEPTED, DELIVERED, UNPRINTABLE, SendError
from tests.cloudflare.assertions import assert_maybe_sent
from tests.cloudflare.conftest import ACCOUNT, RECIPIENT, MakeClient, failed_send, send
from tests.cloudflare.raw_server import Request, Respond, always, http, ok, serving
from tests.support.secret import TOKEN

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GIGABYTE = 10**9


def deflated(wbits: int) -> Iterator[bytes]:
    """A gigabyte of blanks, packed: after a full flush the same octets are the next ten megabytes."""
    packer = zlib.compressobj(wbits=wbits)
    yield packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    packed = packer.compress(b" " * 10**7) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = packer.compress(b" " * 10**7) + packer.flush(zlib.Z_FULL_FLUSH)
    yield from itertools.repeat(packed, GIGABYTE // 10**7)


def endless(*repeated: bytes) -> Iterator[bytes]:
    return itertools.repeat(b"".join(repeated), GIGABYTE // sum(map(len, repeated)))


# Head, and what follows it until a gigabyte has gone out or nobody wants more.
FLOODS: dict[str, tuple[bytes, Any]] = {
    "in chunks": (CHUNKED, lambda: endless(b"10000\r\n", b" " * 65536, b"\r\n")),
    "in chunks of one octet": (CHUNKED, lambda: endless(b"1\r\n \r\n" * 10_000)),
    "a chunk's extension": (CHUNKED + b"1;", lambda: endless(b"x" * 65536)),
    "a chunk's length": (CHUNKED, lambda: endless(b"0" * 65536)),
    "trailers": (CHUNKED + b"0\r\n", lambda: endless(b"X-A: b\r\n" * 8000)),
    "headers": (OK, lambda: endless(b"X-A: b\r\n" * 8000)),
    "one header": (OK + b"X-A: ", lambda: endless(b"a" * 65536)),
    "a folded header": (OK + b"X-A: b\r\n", lambda: endless(b" b\r\n" * 16_000)),
    "a reason": (b"HTTP/1.1 200 ", lambda: endless(b"a" * 65536)),
    "100 Continue": (b"", lambda: endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)),
    "103 Early Hints": (b"", lambda: endless(b"HTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\n" * 1000)),
    "empty lines": (b"", lambda: endless(b"\r\n" * 30_000)),
    "another protocol": (
        b"HTTP/1.1 101 Now\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        lambda: endless(b"x" * 65536),
    ),
    "gzip": (OK + b"Content-Encoding: gzip\r\n\r\n", lambda: deflated(31)),
    "deflate": (OK + b"Content-Encoding: deflate\r\n\r\n", lambda: deflated(15)),
}


def flood(name: str, written: Callable[[int], None] = lambda octets: None) -> Respond:
    """written: told of every block."""
    head, blocks = FLOODS[name]

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for block in blocks():
            writer.write(block)
            written(len(block))
            await writer.drain()

    return respond


@pytest.mark.parametrize("name", FLOODS)
async def test_a_gigabyte_in_any_part_of_an_answer_ends_the_call_in_time(
    make_client: MakeClient, name: str
) -> None:
    late = 0  # octets that the server got rid of when the time was over
    in_time = True

    def written(octets: int) -> None:
        nonlocal late
        late += 0 if in_time else octets

    def time_is_over() -> None:
        nonlocal in_time
        in_time = False

    async with serving(flood(name, written)) as server:
        client = make_client(server.base_url, timeout=0.4)
        asyncio.get_running_loop().call_later(0.4, time_is_over)
        error = await failed_send(client)
        assert late < GIGABYTE / 5, "the call went on reading"
        assert error.reply.transient
        assert error.reply.text.isprintable()
        assert client.pacer.in_flight == 0


async def test_others_are_served_while_one_connection_floods(make_client: MakeClient) -> None:
    floods = flood("100 Continue")
    begun = asyncio.Event()

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.connection == 0:
            begun.set()
            await floods(request, writer)
        else:
            writer.write(ok(RECIPIENT))

    async with serving(respond) as server:
        flooded = asyncio.create_task(failed_send(make_client(server.base_url, timeout=1.0)))
        await begun.wait()
        client = make_client(server.base_url, timeout=10.0)
        assert (await send(client)).outcomes == {RECIPIENT: DELIVERED}
        assert_maybe_sent(await flooded)


MEMORY = """
import asyncio, sys, time
from pathlib import Path
from smtp2cf.reply import SendError
from tests.cloudflare.test_hostile_answers import client_to, flood
from tests.cloudflare.raw_server import serving

def most():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

async def all_at_once(name):
    async with serving(flood(name)) as server, client_to(server.base_url, seconds=0.2) as client:
        async def call():
            try:
                await client.send("a@x", ["b@x"], b"m", time.monotonic() + 5)
            except SendError:
                pass
        await asyncio.gather(*[call() for _ in range(5)])

for name in ("gzip", "gzip", "in chunks", "in chunks of one octet", "headers", "100 Continue"):
    asyncio.run(all_at_once(name))
    if "before" not in globals():  # the first time is to warm up
        before = most()
        Path("/proc/self/clear_refs").write_text("5")
print(most() - before)
"""


@asynccontextmanager
async def client_to(base_url: str, seconds: float) -> AsyncIterator[Client]:
    client = Client(base_url=base_url, account_id=ACCOUNT, token=TOKEN, timeout=seconds, concurrency=10)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.mark.slow
def test_five_gigabytes_at_once_of_any_kind_cost_a_few_megabytes() -> None:
    """Client and server in one process: five calls at a time, each ANSWER_LIMIT and its buffers at most."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=Path(__file__).parents[2], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    grown = int(done.stdout) * 1024
    assert grown < 5 * 8 * ANSWER_LIMIT


# ---- lies

LIES = {
    "fewer octets than promised": OK + b"Content-Length: 3\r\n\r\n{}",
    "a negative length": OK + b"Content-Length: -5\r\n\r\n{}",
    "a length of 400 digits": OK + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n{}",
    "a length in words": OK + b"Content-Length: two\r\n\r\n{}",
    "a length and chunks": OK
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a chunk of 100 digits": CHUNKED + b"f" * 100 + b"\r\n{}",
    "a negative chunk": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "an encoding nobody knows": http("200 OK", b"{}", Content_Encoding="br"),
    "an encoding twice": http("200 OK", b"{}", Content_Encoding="gzip, gzip"),
    "a status of four digits": b"HTTP/1.1 1000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "no status line": b"{}\r\n\r\n",
    "HTTP/2 unasked": b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "headers that are no text": OK + b"Retry-After: \xff\xfe\r\nX-\xff: a\r\nContent-Length: 2\r\n\r\n{}",
    "nothing, which 204 means": b"HTTP/1.1 204 No Content\r\n\r\n",
}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES)
async def test_a_lie_is_no_success_and_the_mail_may_have_been_sent(
    make_client: MakeClient, answer: bytes
) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with serving(respond) as server:
        assert_maybe_sent(await failed_send(make_client(server.base_url)))


async def test_octets_behind_the_answer_are_not_the_next_one(make_client: MakeClient) -> None:
    """A length that is too short, with another answer behind it: response smuggling."""
    smuggled = ok(RECIPIENT) + ok(RECIPIENT, queued=["x@example.net"])
    async with serving(always(smuggled)) as server:
        client = make_client(server.base_url)
        for _ in range(3):
            try:
                await send(client)
            except SendError as error:
                assert_maybe_sent(error)
            await asyncio.sleep(0.01)  # until the rest is there
        assert server.connections == len(server.requests), "such a connection is not used again"


# ---- whatever JSON can say

NASTY_WORDS = [
    *["delivered", "queued", "permanent_bounces", "suppressed_recipients", "message_id", "success", "result"],
    *["errors", "code", "message", "status", "active", "email.sending.error.throttled", RECIPIENT],
    *["\r\n250 2.0.0 OK", "\x1b[2J", "\u202e", "\u2028", "\0", "x" * 2000],
]
words = st.sampled_from(NASTY_WORDS) | st.text(max_size=20)
numbers = st.sampled_from(
    [
        "0",
        "-1",
        "1e999",
        "-1e999",
        "1" * 400,
        "0." + "1" * 400,
        "18446744073709551616",
        "10001",
        "10105",
        "NaN",
    ]
)
scalars = st.one_of(
    words.map(lambda text: orjson.dumps(text).decode()),
    numbers,
    st.sampled_from(
        ["null", "true", "false", '"\\ud800"', '"\\udc00\\ud800"', "Infinity", "undefined", "''"]
    ),
)


def _listed(items: list[str]) -> str:
    return f"[{','.join(items)}]"


def _object(items: list[tuple[str, str]]) -> str:
    """Keys may come twice."""
    return "{" + ",".join(f"{orjson.dumps(key).decode()}:{value}" for key, value in items) + "}"


json_texts = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(_listed) | st.lists(st.tuples(words, inner), max_size=6).map(_object)
    ),
    max_leaves=25,
)
answers = st.one_of(
    json_texts,
    st.builds('{{"success":true,"errors":[],"result":{}}}'.format, json_texts),
    st.builds(
        '{{"success":true,"result":{{"delivered":{},"queued":{},"permanent_bounces":{},"message_id":{}}}}}'.format,
        *[json_texts] * 4,
    ),
    st.builds('{{"success":{},"errors":[{{"code":{},"message":{}}},{}]}}'.format, *[json_texts] * 4),
)


class Answering:
    """A server that answers what it is told, and a client of it, on a loop of their own."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._stack = AsyncExitStack()
        self.status = 200
        self.body = b""

    async def start(self) -> None:
        async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(http(f"{self.status} X", self.body, Content_Type="application/json"))

        server = await self._stack.enter_async_context(serving(respond))
        self.client = await self._stack.enter_async_context(client_to(server.base_url, seconds=10))

    async def stop(self) -> None:
        await self._stack.aclose()

    def sent(self, status: int, body: bytes) -> Sent | SendError:
        self.status, self.body = status, body
        return self._runner.run(self._send())

    async def _send(self) -> Sent | SendError:
        # What it is told about the rate limit is not what is tested here.
        self.client.pacer.__init__(10)  # type: ignore[misc]
        try:
            return await self.client.send("a@x", [RECIPIENT, "c@x"], b"m", time.monotonic())
        except SendError as error:
            return error


@pytest.fixture(scope="module")
def answering() -> Iterator[Answering]:
    with asyncio.Runner() as runner:
        api = Answering(runner)
        runner.run(api.start())
        yield api
        runner.run(api.stop())


@settings(max_examples=150)
@given(status=st.sampled_from([200, 201, 400, 401, 403, 404, 413, 429, 500, 503]), body=answers)
def test_whatever_json_an_answer_is_it_becomes_replies(answering: Answering, status: int, body: str) -> None:
    outcome = answering.sent(status, body.encode())
    if isinstance(outcome, Sent):
        assert status < 300
        assert list(outcome.outcomes) == [RECIPIENT, "c@x"]
        replies = list(outcome.outcomes.values())
        assert len(outcome.message_id) <= MESSAGE_ID_LIMIT
        assert not UNPRINTABLE.search(outcome.message_id)
    else:
        assert outcome.reply.code >= 400
        replies = [outcome.reply]
    for reply in replies:
        assert not UNPRINTABLE.search(reply.text)
        assert reply.wire().count(b"\r\n") == len(reply.wire().splitlines())


DEEP = {
    "lists": b"[" * 10_000 + b"]" * 10_000,
    "lists in a result": b'{"success":true,"result":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "objects": b'{"result":' * 10_000 + b"1" + b"}" * 10_000,
    "lists that never close": b"[" * 500_000,
}


@pytest.mark.parametrize("body", DEEP.values(), ids=DEEP)
def test_nesting_ten_thousand_deep_is_not_followed(answering: Answering, body: bytes) -> None:
    outcome = answering.sent(200, body)
    assert isinstance(outcome, SendError)
    assert_maybe_sent(outcome)


UNKNOWN = ", whose answer names unknown addresses (delivered: ['b@example.net'])"


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (b'{"delivered":["b@example.net"],"delivered":[]}', "250 2.0.0 accepted by Cloudflare"),
        (b'{"queued":[],"delivered":["b@example.net"],"queued":[]}', "250 2.0.0 delivered"),
        (b'{"delivered":{"b@example.net":1}}', "250 2.0.0 delivered"),
        (b'{"delivered":"b@example.net"}', "250 2.0.0 delivered"),
        (b'{"delivered":7,"queued":true}', "250 2.0.0 accepted by Cloudflare"),
        (b'{"delivered":[["b@example.net"]]}', f"250 2.0.0 {ACCEPTED.text}{UNKNOWN}"),
        (b"null", "250 2.0.0 accepted by Cloudflare"),
    ],
)
def test_of_a_success_nothing_is_made_up(answering: Answering, result: bytes, outcome: str) -> None:
    sent = answering.sent(200, b'{"success":true,"result":' + result + b"}")
    assert isinstance(sent, Sent)
    assert str(sent.outcomes[RECIPIENT]) == outcome


@pytest.mark.parametrize(
    "success", [b"1", b'"true"', b"[true]", b'{"x":true}', b"null", b"false", b"true,true"]
)
def test_only_true_is_success(answering: Answering, success: bytes) -> None:
    assert isinstance(answering.sent(200, b'{"success":' + success + b',"result":{}}'), SendError)


MEGABYTES = {
    "a word of a megabyte": b'{"success":false,"errors":[{"message":"' + b"x" * 1_000_000 + b'"}]}',
    "100,000 recipients": b'{"success":true,"result":{"delivered":['
    + b",".join(b'"%d@x"' % number for number in range(90_000))
    + b"]}}",
    "100,000 keys": b'{"success":true,"result":{'
    + b",".join(b'"%d":0' % number for number in range(90_000))
    + b"}}",
    "300,000 lists": b'{"success":true,"result":{"delivered":[' + b",".join([b"[]"] * 300_000) + b"]}}",
    "a message id of a megabyte": b'{"success":true,"result":{"message_id":"' + b"x" * 1_000_000 + b'"}}',
    "a number of a megabyte": b'{"success":true,"result":{"x":' + b"9" * 1_000_000 + b"}}",
}


@pytest.mark.parametrize("body", MEGABYTES.values(), ids=MEGABYTES)
def test_as_much_as_an_answer_may_have_does_not_take_long(answering: Answering, body: bytes) -> None:
    """While an answer is read, nobody else is served."""
    assert len(body) < ANSWER_LIMIT
    assert any(_seconds(answering, body) < 5 for _ in range(3)), "what is quadratic takes minutes"


def _seconds(answering: Answering, body: bytes) -> float:
    """Of work, not of waiting for a busy machine: the server's share is in it."""
    started = time.thread_time()
    answering.sent(200, body)
    return time.thread_time() - started


# ---- numbers in headers

HEADERS = [
    {"Retry_After": "9" * 5000},
    {"Retry_After": "-1"},
    {"Retry_After": "1e9"},
    {"Retry_After": "nan"},
    {"Retry_After": "Fri, 31 Dec 9999 23:59:59 -9999"},
    {"Retry_After": "(" * 5000},
    {"Ratelimit": f'"d";r={"9" * 3000};t={"9" * 3000}'},
    {"Ratelimit": '"d";r=0;t=999999999'},
    {"Ratelimit": '"d";r=-5;t=-5', "Ratelimit_Policy": '"d";q=0;w=0'},
    {"Ratelimit": '"d";r=1;t=1,' * 500},
    {"Ratelimit": '"d";r=5;t=5', "Ratelimit_Policy": f'"d";q={"9" * 3000};w={"9" * 3000}'},
]


@pytest.mark.parametrize("status", ["200 OK", "429 Too Many Requests", "503 Busy"])
@pytest.mark.parametrize("headers", HEADERS, ids=range(len(HEADERS)))
async def test_no_number_in_a_header_does_harm(
    make_client: MakeClient, status: str, headers: dict[str, str]
) -> None:
    body = b'{"success":true,"result":{}}' if status.startswith("200") else b"{}"
    async with serving(always(http(status, body, **headers))) as server:
        client = make_client(server.base_url)
        if not status.startswith("200"):
            error = await failed_send(client, wait=0.0)
            assert error.reply.transient
            told = error.retry_after is not None and "Retry_After" in headers
            # What Retry-After says is believed, however long; a window lasts no longer than an hour.
            assert error.retry_after in (None, 2.0**31) if told else (error.retry_after or 0) <= 3600
        else:
            assert (await send(client)).outcomes
        assert client.pacer.blocked_for <= (2.0**31 + 1 if "Retry_After" in headers else 3602)
