"""What one client can do to the admin's HTTP server: not much, and not to the others."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from smtp2cf.journal.readiness import Readiness
from smtp2cf.listen.endpoint import Endpoint, listen
from smtp2cf.web import Admin
from smtp2cf.web import app as admin_app
from smtp2cf.web.connections import REQUEST_LIMIT, Connections
from tests.support.waiting import PATIENCE
from tests.web.raw_http import parsed, read_to_end, request

Queue = Callable[[], AsyncIterator[Mapping[str, object]]]


def ready() -> Readiness:
    return Readiness(True, "")


@contextlib.asynccontextmanager
async def admin(
    monkeypatch: pytest.MonkeyPatch, queue: Queue | None = None, **limits: Any
) -> AsyncIterator[int]:
    """An admin's port; its connections have these limits."""
    unlimited = {"head_timeout": 3600.0, "answer_timeout": 3600.0}
    monkeypatch.setattr(admin_app, "Connections", lambda make: Connections(make, **unlimited | limits))
    sockets = listen(Endpoint("127.0.0.1", 0))
    running = Admin(ready, ready, dict, queue)
    await running.start(sockets)
    try:
        yield sockets[0].getsockname()[1]
    finally:
        await running.stop()


async def answer_of(port: int, octets: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(octets)
    try:
        return await read_to_end(reader)
    finally:
        writer.transport.abort()


async def test_one_connection_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async with admin(monkeypatch) as port:
        both = request("/livez").replace(b"Connection: close\r\n", b"") * 2
        answer = await answer_of(port, both)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert parsed(answer).headers["connection"] == "close"


@pytest.mark.parametrize(
    "octets", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: "], ids=["silent", "half a head"]
)
async def test_who_sends_no_request_in_time_is_gone(monkeypatch: pytest.MonkeyPatch, octets: bytes) -> None:
    async with admin(monkeypatch, head_timeout=0.1) as port, asyncio.timeout(PATIENCE):
        assert await answer_of(port, octets) == b""


async def test_who_sends_it_octet_by_octet_gets_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with admin(monkeypatch, head_timeout=0.2) as port, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ended = asyncio.create_task(read_to_end(reader))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ")
        while not ended.done():
            writer.write(b"G")
            await asyncio.wait((ended,), timeout=0.02)
        writer.transport.abort()
        assert await ended == b""


async def test_who_does_not_read_the_answer_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncIterator[Mapping[str, object]]:
        try:
            while True:
                yield {"x": "x" * 60_000}
        finally:
            ended.set()

    async with admin(monkeypatch, endless, answer_timeout=0.2) as port, asyncio.timeout(PATIENCE):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(request("/queue"))
        await ended.wait()
        writer.transport.abort()


async def test_where_all_places_are_taken_the_oldest_silent_one_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with admin(monkeypatch, limit=5) as port, asyncio.timeout(PATIENCE):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _ in range(10):
            assert parsed(await answer_of(port, request("/livez"))).status == 200
        assert await read_to_end(idle[0][0]) == b""
        for _, writer in idle:
            writer.transport.abort()


async def test_who_waits_for_an_answer_does_not_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    release = asyncio.Event()
    asked = asyncio.Semaphore(0)

    async def slow() -> AsyncIterator[Mapping[str, object]]:
        asked.release()
        await release.wait()
        yield {"queue_id": "1"}

    async with admin(monkeypatch, slow, limit=2) as port, asyncio.timeout(PATIENCE):
        waiting = [asyncio.create_task(answer_of(port, request("/queue"))) for _ in range(2)]
        for _ in waiting:
            await asked.acquire()
        assert await answer_of(port, request("/livez")) == b"", "there is no place for a third"
        release.set()
        assert [b'"queue_id"' in await answer for answer in waiting] == [True, True]
        assert parsed(await answer_of(port, request("/livez"))).status == 200


@pytest.mark.parametrize(
    "octets",
    [
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"a" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1_000_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"EHLO x\r\nMAIL FROM:<a@x>\r\n",
    ],
    ids=["a long path", "a long header", "no end", "a million headers", "TLS", "SMTP"],
)
async def test_what_is_no_sane_request_costs_nobody_else_anything(
    monkeypatch: pytest.MonkeyPatch, octets: bytes
) -> None:
    async with admin(monkeypatch, head_timeout=1.0) as port, asyncio.timeout(PATIENCE):
        answer = await answer_of(port, octets)
        assert not answer or parsed(answer).status == 400
        assert parsed(await answer_of(port, request("/livez"))).status == 200


async def test_a_body_is_neither_taken_nor_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with admin(monkeypatch) as port, asyncio.timeout(PATIENCE):
        for header in ("Content-Length: 1000000000", "Transfer-Encoding: chunked"):
            assert parsed(await answer_of(port, request("/livez", header))).status == 413


async def test_a_body_that_is_sent_nevertheless_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with admin(monkeypatch) as port, asyncio.timeout(PATIENCE):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, request("/livez", "Content-Length: 1000000000"))
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 200_000_000:
                    await loop.sock_sendall(sock, b"x" * 65536)
                    sent += 65536
        assert sent < 200_000_000, f"it takes more than {REQUEST_LIMIT} and the kernel's buffers"
