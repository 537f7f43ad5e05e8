"""Calls through the proxy that the environment names."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from smtp2cf.cloudflare.transport import proxy_of
from smtp2cf.reply import DELIVERED
from tests.cloudflare.assertions import assert_maybe_sent, assert_never_sent
from tests.cloudflare.conftest import (
    RECIPIENT,
    TOKEN,
    Certificates,
    MakeClient,
    failed_send,
    send,
)
from tests.cloudflare.raw_server import Request, always, http, ok, read_request, serving
from tests.support.needs import needs
from tests.support.waiting import PATIENCE


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


@needs("openssl")
async def test_half_an_answer_through_a_tunnel_ends_at_the_timeout(
    make_client: MakeClient, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(RECIPIENT)[:-5])
        await asyncio.Event().wait()

    async with serving(respond, certificates.server) as server, tunnelling() as (proxy_port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy_port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
        error = await asyncio.wait_for(failed_send(make_client(server.base_url, timeout=1.5)), PATIENCE)
        assert_maybe_sent(error)
        assert "1.5 s (SMTP2CF_API_TIMEOUT)" in error.reply.text


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
async def test_a_proxy_whose_name_is_unknown_is_named(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", "http://user:secret@proxy.invalid:3128")
    error = await failed_send(make_client(f"{scheme}://api.cloudflare.com/client/v4"))
    assert_never_sent(error)
    assert "cannot reach api.cloudflare.com: the proxy proxy.invalid:3128: " in error.reply.text
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
