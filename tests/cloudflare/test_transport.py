"""Calls over real sockets: what goes out, and on which connections."""

import asyncio
import contextlib
import json

import pytest

from smtp2cf import __version__
from smtp2cf.cloudflare import transport
from smtp2cf.reply import DELIVERED, SendError
from tests.cloudflare.assertions import assert_maybe_sent
from tests.cloudflare.conftest import (
    ACCOUNT,
    MESSAGE,
    RECIPIENT,
    SENDER,
    TOKEN,
    Certificates,
    MakeClient,
    failed_send,
    send,
)
from tests.cloudflare.raw_server import Request, always, http, ok, read_request, serving
from tests.support.needs import needs
from tests.support.waiting import PATIENCE

# ---- what goes out


async def test_a_call_is_what_cloudflare_documents(make_client: MakeClient) -> None:
    async with serving(always(ok(RECIPIENT, message_id="<1@x>"))) as server:
        sent = await send(make_client(server.base_url + "/"))
        assert (sent.outcomes, sent.message_id) == ({RECIPIENT: DELIVERED}, "<1@x>")
        (request,) = server.requests
        assert request.line == f"POST /client/v4/accounts/{ACCOUNT}/email/sending/send_raw HTTP/1.1"
        assert request.header("Host") == f"127.0.0.1:{server.port}"
        assert request.header("Authorization") == f"Bearer {TOKEN}"
        assert request.header("User-Agent") == f"smtp2cf/{__version__}"
        assert request.header("Content-Type") == "application/json"
        assert request.header("Accept") == "application/json"
        assert request.json == {"from": SENDER, "recipients": [RECIPIENT], "mime_message": MESSAGE.decode()}


@pytest.mark.parametrize("size", [0, 1, 100_000, 6_000_000])
async def test_a_body_of_any_size_has_its_length_and_is_never_chunked(
    make_client: MakeClient, size: int
) -> None:
    message = MESSAGE + b"x" * size
    async with serving(always(ok(RECIPIENT))) as server:
        await send(make_client(server.base_url), message=message)
        (request,) = server.requests
        assert request.header("Content-Length") == str(len(request.body))
        assert request.header("Transfer-Encoding") is None
        assert request.header("Expect") is None
        assert request.header("Content-Encoding") is None
        assert request.json["mime_message"].encode() == message


@needs("openssl")
async def test_a_big_body_goes_over_tls_and_keeps_its_connection(
    make_client: MakeClient, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    message = MESSAGE + b"x" * 6_000_000
    async with serving(always(ok(RECIPIENT)), certificates.server) as server:
        client = make_client(server.base_url)
        for _ in range(3):
            await send(client, message=message)
            assert server.requests[-1].json["mime_message"].encode() == message
        assert server.connections == 1


async def test_the_message_arrives_octet_for_octet(make_client: MakeClient) -> None:
    message = (
        bytes(range(128)) + "Grüße, ☕ \U0001d4b3 \u2028 \x85 \ufeff \uffff".encode() + b'\\"\r\n.\r\n\r\n'
    )
    async with serving(always(ok(RECIPIENT))) as server:
        await send(make_client(server.base_url), message=message)
        assert json.loads(server.requests[0].body)["mime_message"].encode() == message


async def test_an_answer_is_not_asked_to_be_compressed(make_client: MakeClient) -> None:
    async with serving(always(ok(RECIPIENT))) as server:
        await send(make_client(server.base_url))
        assert server.requests[0].header("Accept-Encoding") is None


async def test_no_cookie_comes_back(make_client: MakeClient) -> None:
    cookie = b"\r\nSet-Cookie: a=b; Path=/\r\n"
    async with serving(always(ok(RECIPIENT).replace(b"\r\n", cookie, 1))) as server:
        client = make_client(server.base_url.replace("127.0.0.1", "localhost"))  # an address has no cookies
        await send(client)
        await send(client)
        assert [request.header("Cookie") for request in server.requests] == [None, None]


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
async def test_a_redirect_is_not_followed_and_the_token_goes_nowhere(
    make_client: MakeClient, status: str
) -> None:
    async with serving(always(ok(RECIPIENT))) as elsewhere:
        async with serving(always(http(status, b"<html>", Location=elsewhere.base_url))) as server:
            error = await failed_send(make_client(server.base_url))
            assert (error.reply.code, error.reply.status) == (451, "4.3.0")
            assert not error.unanswered
            assert len(server.requests) == 1
        assert elsewhere.connections == 0


# ---- connections


async def test_one_connection_serves_many_calls(make_client: MakeClient) -> None:
    async with serving(always(ok(RECIPIENT))) as server:
        client = make_client(server.base_url)
        for _ in range(20):
            await send(client)
        assert (len(server.requests), server.connections) == (20, 1)


async def test_an_answer_with_an_error_keeps_the_connection_too(make_client: MakeClient) -> None:
    async with serving(always(http("400 Bad Request", b'{"errors": [{"code": 1}]}'))) as server:
        client = make_client(server.base_url)
        for _ in range(5):
            await failed_send(client)
        assert (len(server.requests), server.connections) == (5, 1)


async def test_there_are_no_more_connections_than_calls_may_be_in_flight(make_client: MakeClient) -> None:
    release = asyncio.Event()
    all_there = asyncio.Event()
    asking = 0
    most_asking = 0

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal asking, most_asking
        asking += 1
        most_asking = max(most_asking, asking)
        if asking == 3:
            all_there.set()
        await release.wait()
        asking -= 1
        writer.write(ok(RECIPIENT))

    async with serving(respond) as server:
        client = make_client(server.base_url, concurrency=3)
        calls = [asyncio.create_task(send(client)) for _ in range(12)]
        await all_there.wait()
        assert (client.pacer.in_flight, client.pacer.waiting) == (3, 9)
        release.set()
        for call in calls:
            assert (await call).outcomes == {RECIPIENT: DELIVERED}
        assert (most_asking, server.most_open, server.connections) == (3, 3, 3)
        assert len(server.requests) == 12
        assert (client.pacer.in_flight, client.pacer.waiting) == (0, 0)


async def test_a_connection_that_has_been_idle_for_too_long_is_closed_and_not_used_again(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "KEEP_ALIVE", 0.1)
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader, 0)
        writer.write(ok(RECIPIENT))
        assert await reader.read() == b""
        writer.close()
        closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        client = make_client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/client/v4")
        for _ in range(2):
            closed.clear()
            await send(client)
            await asyncio.wait_for(closed.wait(), PATIENCE)


async def test_a_connection_whose_time_is_up_is_not_used_even_where_nobody_has_closed_it(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(always(ok(RECIPIENT))) as server:
        client = make_client(server.base_url)
        await send(client)
        monkeypatch.setattr(transport, "KEEP_ALIVE", 0.0)  # its timer waits for half a minute
        await send(client)
        assert server.connections == 2


async def test_a_connection_that_the_server_closed_is_not_used_again(make_client: MakeClient) -> None:
    closed = asyncio.Event()

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(RECIPIENT))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with serving(respond) as server:
        client = make_client(server.base_url)
        for _ in range(3):
            closed.clear()
            await send(client)
            await closed.wait()
            await asyncio.sleep(0.01)  # until the FIN, which loopback has delivered, has been read
        assert server.connections == 3


async def test_a_connection_closed_at_the_moment_of_a_call_may_have_sent_it_and_is_not_tried_again(
    make_client: MakeClient,
) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(ok(RECIPIENT))
        else:
            writer.close()

    async with serving(respond) as server:
        client = make_client(server.base_url)
        await send(client)
        assert_maybe_sent(await failed_send(client))
        assert len(server.requests) == 2


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_calls(
    make_client: MakeClient,
) -> None:
    """Whoever can make the edge say more than it was asked must not settle somebody else's mail."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) > 1:
            writer.write(ok(RECIPIENT, message_id="<2@x>"))
            return
        writer.write(ok(RECIPIENT, message_id="<1@x>"))
        await writer.drain()
        await first_answered.wait()
        writer.write(ok(RECIPIENT, message_id="<unasked@x>"))

    first_answered = asyncio.Event()
    async with serving(respond) as server:
        client = make_client(server.base_url)
        assert (await send(client)).message_id == "<1@x>"
        first_answered.set()
        await asyncio.sleep(0.05)  # until loopback has delivered it, which nobody is told of
        assert (await send(client)).message_id == "<2@x>"
        assert (len(server.requests), server.connections) == (2, 2)


async def test_interim_answers_are_passed_over(make_client: MakeClient) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    async with serving(always(interim + ok(RECIPIENT))) as server:
        client = make_client(server.base_url)
        for _ in range(3):
            assert (await send(client)).outcomes == {RECIPIENT: DELIVERED}
        assert server.connections == 1


async def test_a_cancelled_call_closes_its_connection(make_client: MakeClient) -> None:
    asked = asyncio.Event()

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        asked.set()
        if len(server.requests) > 1:
            writer.write(ok(RECIPIENT))

    async with serving(respond) as server:
        client = make_client(server.base_url, concurrency=1)
        call = asyncio.create_task(send(client))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await send(client)).outcomes == {RECIPIENT: DELIVERED}
        assert server.connections == 2


@pytest.mark.parametrize("secure", [False, True])
async def test_a_connection_on_which_a_large_message_was_refused_is_not_used_again(
    make_client: MakeClient, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    """An answer may come before all of the message was sent; over TLS nobody can tell whether it was."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        large = len(request.body) > 65536
        writer.write(http("413 Content Too Large") if large else ok(RECIPIENT))

    async with serving(respond, certificates.server if secure else None) as server:
        client = make_client(server.base_url)
        for message in (b"small\r\n", b"x" * 200_000, b"small\r\n", b"small\r\n"):
            with contextlib.suppress(SendError):
                await send(client, message=message)
        assert [request.connection for request in server.requests] == [0, 0, 1, 1]
