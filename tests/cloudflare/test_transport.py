"""Calls over real sockets: what goes out, on which connections, and what becomes of a call when the
network does what it likes."""

import asyncio
import contextlib
import gzip
import json
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from smtp2cf import __version__
from smtp2cf.cloudflare.transport import ANSWER_LIMIT, Transport, proxy_of
from smtp2cf.reply import DELIVERED, Scope, SendError
from tests.cloudflare.conftest import (
    ACCOUNT,
    MESSAGE,
    RECIPIENT,
    SENDER,
    TOKEN,
    Certificates,
    MakeClient,
    failed_send,
    make_certificates,
    send,
)
from tests.cloudflare.raw_server import Request, always, http, ok, read_request, serving
from tests.support.needs import needs


def assert_never_sent(error: SendError) -> None:
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.4.1", Scope.ACCOUNT)
    assert not error.unanswered
    assert error.reply.text.isprintable()


def assert_maybe_sent(error: SendError) -> None:
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.3.0", Scope.ACCOUNT)
    assert error.unanswered
    assert error.reply.text.isprintable()


# ---- what goes out


async def test_a_call_is_what_cloudflare_documents(make_client: MakeClient) -> None:
    async with serving(always(ok(RECIPIENT, message_id="<1@x>"))) as server:
        sent = await send(make_client(server.base_url + "/"))
        assert sent == ({RECIPIENT: DELIVERED}, "<1@x>")
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


async def test_the_transport_opens_no_more_connections_whoever_asks() -> None:
    two_there = asyncio.Event()

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 2:
            two_there.set()
        await two_there.wait()
        writer.write(ok(RECIPIENT))

    async with serving(respond) as server:
        url = httpx.URL(server.base_url)
        transport = Transport(url, timeout=10.0, connections=2)
        calls = [
            asyncio.create_task(transport.handle_async_request(httpx.Request("GET", url))) for _ in range(6)
        ]
        for call in calls:
            assert (await call).status_code == 200
        await transport.aclose()
        assert (server.most_open, len(server.requests)) == (2, 6)


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


# ---- no connection


async def test_a_refused_connection(make_client: MakeClient) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await failed_send(make_client(f"http://127.0.0.1:{port}/client/v4"))
    assert_never_sent(error)
    assert "127.0.0.1" in error.reply.text
    assert "refused" in error.reply.text or "111" in error.reply.text


async def test_a_name_that_does_not_exist(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await failed_send(make_client("http://api.nowhere.invalid/client/v4"))
    assert_never_sent(error)
    assert "api.nowhere.invalid: Name or service not known" in error.reply.text.replace("[Errno -2] ", "")


@pytest.mark.parametrize("base_url", ["http://a..b/client/v4", f"http://{'a' * 300}/x", "ftp://a.example/x"])
async def test_a_name_that_can_not_be_one(make_client: MakeClient, base_url: str) -> None:
    assert_never_sent(await failed_send(make_client(base_url)))


async def test_a_name_server_that_does_not_answer(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent, whatever time-out it is that passes."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(0.6))
    error = await failed_send(make_client("http://api.nowhere.invalid/client/v4", timeout=0.3))
    assert_never_sent(error)
    assert "no connection in time" in error.reply.text


async def test_a_tls_handshake_that_does_not_end(make_client: MakeClient) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert_never_sent(await failed_send(make_client(f"https://127.0.0.1:{port}/client/v4", timeout=0.3)))


async def test_a_server_that_speaks_no_tls(make_client: MakeClient) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(http("400 Bad Request", b"<html>"))
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await failed_send(make_client(f"https://127.0.0.1:{port}/client/v4"))
        assert_never_sent(error)
        assert "SSL" in error.reply.text


@needs("openssl")
async def test_a_certificate_nobody_vouches_for_is_refused(
    make_client: MakeClient, certificates: Certificates
) -> None:
    async with serving(always(ok(RECIPIENT)), certificates.server) as server:
        error = await failed_send(make_client(server.base_url))
        assert_never_sent(error)
        assert "certificate is not trusted" in error.reply.text
        assert "self-signed" in error.reply.text
        assert "SSL_CERT_FILE" in error.reply.text
        assert not server.requests, "the token went to a stranger"


@needs("openssl")
async def test_a_certificate_of_ones_own_is_accepted_where_it_is_named(
    make_client: MakeClient, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    async with serving(always(ok(RECIPIENT)), certificates.server) as server:
        assert (await send(make_client(server.base_url))).outcomes == {RECIPIENT: DELIVERED}


@needs("openssl")
async def test_a_certificate_for_another_name_is_refused(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path, "DNS:api.cloudflare.com")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    async with serving(always(ok(RECIPIENT)), certificates.server) as server:
        assert_never_sent(await failed_send(make_client(server.base_url)))
        assert not server.requests


# ---- no answer, or half of one

WHOLE = ok(RECIPIENT)
HALVES = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "half the headers": WHOLE[:30],
    "headers alone": WHOLE[: WHOLE.index(b"\r\n\r\n") + 4],
    "half the body": WHOLE[:-20],
    "all but one octet": WHOLE[:-1],
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\n{",
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "half a gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    "no HTTP": b"220 mail.example.com ESMTP\r\n",
    "binary": bytes(range(256)) * 10,
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n" + WHOLE.partition(b"\r\n\r\n")[2][:-20],
}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
async def test_an_answer_that_is_cut_off_or_none_may_hide_that_the_mail_was_sent(
    make_client: MakeClient, half: bytes
) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(half)
        await writer.drain()
        writer.close()

    async with serving(respond) as server:
        client = make_client(server.base_url)
        assert_maybe_sent(await failed_send(client))
        assert len(server.requests) == 1, "a call that may have sent mail must not be repeated here"
        assert client.pacer.in_flight == 0


async def test_a_reset_after_the_call(make_client: MakeClient) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with serving(respond) as server:
        assert_maybe_sent(await failed_send(make_client(server.base_url)))


async def test_after_a_broken_answer_the_next_call_is_as_good_as_new(make_client: MakeClient) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) % 2:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}}" + WHOLE)
        else:
            writer.write(WHOLE)

    async with serving(respond) as server:
        client = make_client(server.base_url)
        for _ in range(3):
            assert_maybe_sent(await failed_send(client))
            assert (await send(client)).outcomes == {RECIPIENT: DELIVERED}


# ---- slow

SLOW = {
    "no answer at all": b"",
    "an answer octet by octet": WHOLE,
    "headers octet by octet": b"HTTP/1.1 200 OK\r\n" + b"X-A: a\r\n" * 1000,
}


@pytest.mark.parametrize("octets", SLOW.values(), ids=SLOW)
async def test_a_slow_answer_is_cut_off_at_the_timeout_and_may_have_sent_the_mail(
    make_client: MakeClient, octets: bytes
) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        for octet in octets:
            writer.write(bytes([octet]))
            await asyncio.sleep(0.01)
        await asyncio.Event().wait()

    async with serving(respond) as server:
        client = make_client(server.base_url, timeout=0.3)
        started = time.monotonic()
        error = await failed_send(client)
        assert time.monotonic() - started < 2
        assert_maybe_sent(error)
        assert "0.3 s (SMTP2CF_API_TIMEOUT)" in error.reply.text
        assert client.pacer.in_flight == 0


async def test_a_server_that_does_not_read_is_given_up_at_the_timeout(make_client: MakeClient) -> None:
    done = asyncio.Event()
    closed = asyncio.Event()

    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.transport.abort()
        closed.set()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = make_client(f"http://127.0.0.1:{port}/client/v4", timeout=0.3)
        assert_maybe_sent(await failed_send(client, message=MESSAGE + b"x" * 20_000_000))
        done.set()
        await closed.wait()
        await asyncio.sleep(0.05)  # until the client's side has seen the reset, which nobody is told of


# ---- big

ENDLESS = {
    "a length of a gigabyte": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n",
    "an error": b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000000\r\n\r\n",
}


@pytest.mark.parametrize("head", ENDLESS.values(), ids=ENDLESS)
async def test_an_answer_that_does_not_end_is_not_read_to_its_end(
    make_client: MakeClient, head: bytes
) -> None:
    written = 0

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(head)
        while written < 1_000_000_000:
            writer.write(b" " * 65536)
            await writer.drain()
            written += 65536

    async with serving(respond) as server:
        error = await failed_send(make_client(server.base_url))
        assert_maybe_sent(error)
        assert str(ANSWER_LIMIT) in error.reply.text
    assert written < 32 * ANSWER_LIMIT, "more than the kernel's buffers hold beyond the limit"


async def test_an_answer_up_to_the_limit_is_read(make_client: MakeClient) -> None:
    room = ANSWER_LIMIT - len(ok(RECIPIENT, pad=""))
    async with serving(always(ok(RECIPIENT, pad="x" * room))) as server:
        assert (await send(make_client(server.base_url))).outcomes == {RECIPIENT: DELIVERED}


async def test_a_compressed_answer_nobody_asked_for_is_understood(make_client: MakeClient) -> None:
    body = gzip.compress(WHOLE.partition(b"\r\n\r\n")[2])
    async with serving(always(http("200 OK", body, Content_Encoding="gzip"))) as server:
        assert (await send(make_client(server.base_url))).outcomes == {RECIPIENT: DELIVERED}


async def test_a_compressed_answer_that_unfolds_without_end_is_not_held(make_client: MakeClient) -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(b" " * 1_000_000) for _ in range(300)) + packer.flush()
    async with serving(always(http("200 OK", bomb, Content_Encoding="gzip"))) as server:
        assert_maybe_sent(await failed_send(make_client(server.base_url)))


async def test_a_refusal_in_the_middle_of_a_big_body_is_heard(make_client: MakeClient) -> None:
    """A proxy or the edge says 413 as soon as it has seen the length."""

    read_all = asyncio.Event()

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader, 0, body=False)
        writer.write(http("413 Payload Too Large", b"<html>"))
        while await reader.read(65536):
            pass
        writer.close()
        read_all.set()

    server = await asyncio.start_server(hasty, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = make_client(f"http://127.0.0.1:{port}/client/v4")
        error = await failed_send(client, message=MESSAGE + b"x" * 20_000_000)
        assert (error.reply.code, error.reply.status, error.scope) == (552, "5.3.4", Scope.MESSAGE)
        await read_all.wait()


# ---- proxies


async def test_calls_go_through_the_proxy_that_the_environment_names(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(always(ok(RECIPIENT))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
        client = make_client("http://api.nowhere.invalid/client/v4")
        assert (await send(client)).outcomes == {RECIPIENT: DELIVERED}
        (request,) = proxy.requests
        assert request.line.startswith("POST http://api.nowhere.invalid/client/v4/accounts/")
        assert request.header("Host") == "api.nowhere.invalid"
        assert request.header("Proxy-Authorization") is None


async def test_the_proxy_gets_the_credentials_that_are_meant_for_it(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(always(ok(RECIPIENT))) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        await send(make_client("http://api.nowhere.invalid/client/v4"))
        assert proxy.requests[0].header("Proxy-Authorization") == "Basic dXNlcjpwQHNz"
        assert proxy.requests[0].header("Authorization") == f"Bearer {TOKEN}"


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "example.com,127.0.0.1:{port}"])
async def test_no_proxy_is_heeded(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    async with serving(always(ok(RECIPIENT))) as proxy, serving(always(ok(RECIPIENT))) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", no_proxy.format(port=server.port))
        await send(make_client(server.base_url))
        assert (proxy.connections, len(server.requests)) == (0, 1)


@contextlib.asynccontextmanager
async def tunnelling() -> AsyncIterator[tuple[int, list[Request]]]:
    """A proxy for HTTPS, CONNECT and then octets in both directions: its port, and what it was asked."""
    requests: list[Request] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while octets := await source.read(65536):
            sink.write(octets)
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        requests.append(await read_request(reader, 0))
        host, _, port = requests[-1].line.split()[1].rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        for end in (writer, far_writer):
            end.close()
            with contextlib.suppress(ConnectionError):
                await end.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.1)  # aiohttp closes TLS in a tunnel without saying when that is done


@needs("openssl")
async def test_https_goes_through_the_proxy_in_a_tunnel_that_does_not_show_the_token(
    make_client: MakeClient, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serving(always(ok(RECIPIENT)), certificates.server) as server,
        tunnelling() as (proxy_port, requests),
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{proxy_port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
        client = make_client(server.base_url)
        for _ in range(3):
            assert (await send(client)).outcomes == {RECIPIENT: DELIVERED}
        await client.aclose()
        (connect,) = requests
        assert connect.line == f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"
        assert connect.header("Proxy-Authorization") == "Basic dXNlcjpzZWNyZXQ="
        assert TOKEN not in str(connect)
        assert server.requests[0].header("Proxy-Authorization") is None
        assert server.requests[0].header("Authorization") == f"Bearer {TOKEN}"


async def test_a_proxy_that_does_not_answer_is_named(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{port}")
        error = await failed_send(make_client("https://api.nowhere.invalid/client/v4"))
    assert_never_sent(error)
    assert f"proxy 127.0.0.1:{port}" in error.reply.text
    assert "HTTPS_PROXY" in error.reply.text
    assert "secret" not in error.reply.text


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_us_shows_no_password(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    async with serving(always(http("407 Proxy Authentication Required", b"<html>"))) as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:secret@127.0.0.1:{proxy.port}")
        error = await failed_send(make_client(f"{scheme}://api.nowhere.invalid/client/v4"))
        assert_never_sent(error)
        assert "407" in error.reply.text
        assert "HTTPS_PROXY" in error.reply.text
        assert "secret" not in error.reply.text


@pytest.mark.parametrize(
    "url", ["socks5://127.0.0.1:1080", "ftp://127.0.0.1", "http://", "http://[::", "http://x:y"]
)
def test_a_proxy_that_can_not_be_used_stops_the_start(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ALL_PROXY", url)
    with pytest.raises(ValueError, match="proxy"):
        proxy_of(httpx.URL("https://api.cloudflare.com"))
