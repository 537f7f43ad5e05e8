"""What smtp2cf/cloudflare/transport.py takes for granted about the aiohttp that is installed.

Not all of it is documented, so a new aiohttp may change it. These tests say so by name, instead of a call
that goes wrong in one case out of many.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from yarl import URL

from tests.cloudflare.raw_server import RawServer, Request, always, http, serving
from tests.support.waiting import PATIENCE

CONNECTING = aiohttp.ClientTimeout(connect=5)


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with serving(always(http("200 OK", b"hello"))) as running:
        yield running


@pytest.fixture
async def connector() -> AsyncIterator[aiohttp.TCPConnector]:
    made = aiohttp.TCPConnector(limit=0)
    yield made
    await made.close()


def target(server: RawServer) -> aiohttp.ClientRequest:
    return aiohttp.ClientRequest("POST", URL(server.base_url), loop=asyncio.get_running_loop())


async def ask(connection: Connection) -> tuple[int, bytes]:
    """One small request and its answer, as the transport does it."""
    protocol = connection.protocol
    protocol.set_response_params(read_until_eof=True)
    connection.transport.writelines((b"GET / HTTP/1.1\r\n", b"Host: x\r\n\r\n"))
    message, content = await protocol.read()
    blocks = []
    while not content.at_eof():
        blocks.append(await content.readany())
    return message.code, b"".join(blocks)


def takes(function: Callable[..., object], *args: object, **kwargs: object) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


USED = {
    "a ClientRequest can no longer be made by hand, of a method, a URL, a proxy and a loop": lambda: takes(
        aiohttp.ClientRequest, "POST", URL("http://x"), proxy=None, loop=None
    ),
    "connect() of a connector no longer takes a request, traces and a timeout": lambda: takes(
        aiohttp.TCPConnector.connect, None, None, [], CONNECTING
    ),
    "a connection no longer names its protocol and its transport": lambda: all(
        isinstance(getattr(Connection, name, None), property) for name in ("protocol", "transport")
    ),
    "set_response_params() of a protocol no longer takes read_until_eof alone": lambda: takes(
        ResponseHandler.set_response_params, None, read_until_eof=True
    ),
    "read() of a protocol no longer waits for the next answer": lambda: (
        takes(ResponseHandler.read, None) and inspect.iscoroutinefunction(ResponseHandler.read)
    ),
    "should_close of a protocol no longer says that it is spent": lambda: isinstance(
        getattr(ResponseHandler, "should_close", None), property
    ),
    "an answer's content no longer has readany() and at_eof()": lambda: (
        takes(aiohttp.StreamReader.readany, None) and takes(aiohttp.StreamReader.at_eof, None)
    ),
    "an answer no longer has its code and headers": lambda: all(
        hasattr(RawResponseMessage, name) for name in ("code", "headers")
    ),
}


def test_what_a_newer_aiohttp_broke_is_said_in_one_sentence() -> None:
    """Its bound in pyproject.toml is raised when this and the tests below hold."""
    broken = [sentence for sentence, holds in USED.items() if not holds()]
    assert not broken, f"with aiohttp {aiohttp.__version__}, {'; '.join(broken)}"


async def test_one_request_object_says_for_all_connections_whom_to_connect_to(
    server: RawServer, connector: aiohttp.TCPConnector
) -> None:
    whom = target(server)
    before = dict(whom.headers)
    first = await connector.connect(whom, [], CONNECTING)
    second = await connector.connect(whom, [], CONNECTING)
    assert server.connections == 2
    assert [await ask(first), await ask(second)] == [(200, b"hello")] * 2
    first.close()
    second.close()
    assert dict(whom.headers) == before
    assert "Authorization" not in whom.headers


async def test_a_connection_is_ready_for_the_next_request_when_an_answer_was_read(
    server: RawServer, connector: aiohttp.TCPConnector
) -> None:
    connection = await connector.connect(target(server), [], CONNECTING)
    assert isinstance(connection.protocol, ResponseHandler)
    for _ in range(3):
        assert connection.transport is connection.protocol.transport
        assert not connection.protocol.should_close
        assert await ask(connection) == (200, b"hello")
    assert server.connections == 1
    connection.close()
    assert connection.protocol is None


async def test_without_a_limit_nobody_waits_for_a_connection_that_is_kept(server: RawServer) -> None:
    unlimited = aiohttp.TCPConnector(limit=0)
    whom = target(server)
    kept = [await unlimited.connect(whom, [], CONNECTING) for _ in range(101)]
    assert server.connections == len(kept)
    for connection in kept:
        connection.close()
    await unlimited.close()


async def test_octets_that_nobody_asked_for_mark_a_connection_as_spent(
    connector: aiohttp.TCPConnector,
) -> None:
    said = asyncio.Event()

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(http("200 OK", b"hello") + http("200 OK", b"more"))
        await writer.drain()
        said.set()

    async with serving(respond) as talkative:
        connection = await connector.connect(target(talkative), [], CONNECTING)
        assert await ask(connection) == (200, b"hello")
        await said.wait()
        assert connection.protocol.should_close
        connection.close()


async def test_who_waits_for_an_answer_is_woken_when_the_transport_is_aborted(
    connector: aiohttp.TCPConnector,
) -> None:
    """Its own deadline aborts it, in whatever the exchange is waiting."""
    for said in (b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhell"):
        async with serving(always(said)) as half:
            connection = await connector.connect(target(half), [], CONNECTING)
            asyncio.get_running_loop().call_later(0.05, connection.transport.abort)
            with pytest.raises(aiohttp.ClientError):
                await asyncio.wait_for(ask(connection), PATIENCE)
            connection.close()


async def test_what_is_no_http_is_told_by_name(connector: aiohttp.TCPConnector) -> None:
    async with serving(always(b"220 mail.example.com ESMTP\r\n")) as other:
        connection = await connector.connect(target(other), [], CONNECTING)
        with pytest.raises(HttpProcessingError) as caught:
            await ask(connection)
        assert caught.value.message
        connection.close()


async def test_headers_are_found_in_any_letter_case(connector: aiohttp.TCPConnector) -> None:
    async with serving(always(http("200 OK", b"", RATELIMIT="r=1"))) as server:
        connection = await connector.connect(target(server), [], CONNECTING)
        connection.protocol.set_response_params(read_until_eof=True)
        connection.transport.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        message, _ = await connection.protocol.read()
        assert message.headers.get("Ratelimit") == "r=1"
        assert message.headers.get("Retry-After", "") == ""
        connection.close()
