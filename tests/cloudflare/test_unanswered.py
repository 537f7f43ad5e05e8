"""Calls over real sockets that get no answer: whether their mail may have been sent, and how soon it is
known. No connection, half an answer, a slow one, one without end."""

import asyncio
import gzip
import socket
import struct
import time
import zlib
from pathlib import Path

import aiohttp
import pytest

from smtp2cf.cloudflare.transport import ANSWER_LIMIT, in_words
from smtp2cf.reply import DELIVERED, Scope
from tests.cloudflare.assertions import assert_maybe_sent, assert_never_sent
from tests.cloudflare.conftest import (
    MESSAGE,
    RECIPIENT,
    Certificates,
    MakeClient,
    failed_send,
    make_certificates,
    send,
)
from tests.cloudflare.raw_server import Request, always, http, ok, read_request, serving
from tests.support.needs import needs

# ---- no connection


async def test_a_refused_connection(make_client: MakeClient) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await failed_send(make_client(f"http://127.0.0.1:{port}/client/v4"))
    assert_never_sent(error)
    assert error.reply.text == "cannot reach 127.0.0.1: connection refused"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('::1', 1, 0, 0)"), "connection refused"),
        (OSError(113, "Connect call failed ('192.0.2.1', 443)"), "no route to host"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1'), [Errno 101] Network …"),
            "connection refused, network is unreachable",
        ),
        (ConnectionResetError(104, "Connection reset by peer"), "connection reset by peer"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "temporary failure in name resolution"),
        (OSError("anything"), "anything"),
    ],
)
def test_what_the_system_says_reads_like_a_sentence(error: OSError, words: str) -> None:
    assert in_words(error) == words


async def test_a_name_that_does_not_exist(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await failed_send(make_client("http://api.nowhere.invalid/client/v4"))
    assert_never_sent(error)
    assert error.reply.text == "cannot reach api.nowhere.invalid: name or service not known"


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
        client = make_client(server.base_url, timeout=1.0)
        started = time.monotonic()
        error = await failed_send(client)
        assert time.monotonic() - started < 30
        assert_maybe_sent(error)
        assert "1 s (SMTP2CF_API_TIMEOUT)" in error.reply.text
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
        client = make_client(f"http://127.0.0.1:{port}/client/v4", timeout=1.0)
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


async def test_a_compressed_answer_that_is_cut_off_while_it_unfolds(make_client: MakeClient) -> None:
    packer = zlib.compressobj(wbits=31)
    half = b"".join(packer.compress(b" " * 1_000_000) for _ in range(3)) + packer.flush(zlib.Z_SYNC_FLUSH)

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 90000\r\n\r\n" + half)
        await writer.drain()
        writer.close()

    async with serving(respond) as server:
        client = make_client(server.base_url)
        assert_maybe_sent(await failed_send(client))
        assert client.pacer.in_flight == 0


async def test_a_connection_that_aiohttp_finds_closed_while_reading(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so with RuntimeError, where more of an answer had come than it had unfolded."""

    async def closed(_: object) -> bytes:
        raise RuntimeError("Connection closed.")

    monkeypatch.setattr(aiohttp.StreamReader, "readany", closed)
    async with serving(always(WHOLE[:-1])) as server:
        assert_maybe_sent(await failed_send(make_client(server.base_url)))


async def test_an_answer_without_a_length_that_does_not_end_in_time_is_none(make_client: MakeClient) -> None:
    """What was cut off by us must not be read as all of it: a 400 would bounce the mail."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n{")
        await asyncio.Event().wait()

    async with serving(respond) as server:
        error = await failed_send(make_client(server.base_url, timeout=1.0))
        assert_maybe_sent(error)
        assert "SMTP2CF_API_TIMEOUT" in error.reply.text


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
