"""Out of file descriptors: clients are told, the log says it once, and some are kept for those who look."""

import asyncio
import contextlib
import socket
from collections.abc import MutableMapping
from typing import Any

import pytest

from smtp2cf.smtpd.descriptors import Files
from smtp2cf.smtpd.outgoing import SEND_BUFFER
from tests.smtpd.conftest import Start
from tests.smtpd.dialog import until
from tests.support.certificates import Certificates
from tests.support.waiting import PATIENCE

Lines = list[MutableMapping[str, Any]]


@pytest.mark.parametrize(
    ("limit", "usable", "backlog"), [(1024, 896, 32), (65536, 57344, 2048), (64, 48, 4), (1, 1, 4)]
)
def test_some_are_kept_back(limit: int, usable: int, backlog: int) -> None:
    files = Files(limit)
    assert (files.usable, files.backlog) == (usable, backlog)


def test_the_log_says_it_once(logged: Lines) -> None:
    files = Files(64)
    assert [files.are_short(number) for number in (3, 47, 48, 63, 47, 50)] == [
        False, False, True, True, False, True,
    ]  # fmt: skip
    assert [line["event"] for line in logged] == ["session.no_files"]


@pytest.mark.parametrize("unix", [False, True])
async def test_who_comes_when_files_are_short_is_told_so(start: Start, unix: bool, logged: Lines) -> None:
    service = await start(unix=unix)
    first = await service.greeted()
    service.server.sessions.files.usable = 1
    refused = [await service.connect() for _ in range(3)]
    for client in refused:
        assert (await client.everything()).startswith("421 4.3.1 no file descriptors left")
    assert [line["event"] for line in logged if line["event"] == "session.no_files"] == ["session.no_files"]
    assert (await first.ask("NOOP")).startswith("250")
    service.server.sessions.files.usable = 1 << 20
    await service.greeted()


async def test_with_tls_they_are_hung_up_on_at_once(
    start: Start, certificates: Certificates, logged: Lines
) -> None:
    service = await start(protocol="smtps", tls=certificates.server)
    service.server.sessions.files.usable = 1
    client = await service.connect()
    assert await client.everything() == ""
    assert "session.no_files" in [line["event"] for line in logged]


# ---- those who wait to be accepted


@pytest.mark.parametrize("early", [False, True])
async def test_who_waits_to_be_accepted_when_the_server_stops_is_told_so(start: Start, early: bool) -> None:
    """early: it has spoken before the greeting, which must not cost it the reply."""
    service = await start()
    waiting = []
    for _ in range(20):  # no await in between: the loop accepts none of them
        sock = socket.create_connection(("127.0.0.1", service.port))
        if early:
            sock.sendall(b"EHLO client.example\r\n")
        waiting.append(sock)
    await service.server.drain(1)
    for sock in waiting:
        sock.settimeout(PATIENCE)
        with sock:
            assert (await asyncio.to_thread(sock.recv, 1000)).startswith(b"421 4.3.2 shutting down")
            assert await asyncio.to_thread(sock.recv, 1000) == b""
    await asyncio.sleep(1.1)  # what was told is closed by then, and nothing is left open


async def test_who_waits_at_a_shared_socket_waits_for_the_next_server(start: Start) -> None:
    service = await start()
    kept = socket.create_server(("127.0.0.1", 0))
    kept.setblocking(False)
    with contextlib.closing(kept):
        await service.listen([kept.dup()], shared=True)
        waiting = socket.create_connection(kept.getsockname())
        await service.server.drain(1)
        await asyncio.sleep(0)
        with waiting, contextlib.suppress(BlockingIOError):
            waiting.setblocking(False)
            assert waiting.recv(100) == b"220", "neither a greeting nor a goodbye"


# ---- what the kernel holds for a client


@pytest.mark.parametrize("kind", ["TCP", "too late", "unix"])
async def test_every_connection_has_the_small_buffer(start: Start, kind: str) -> None:
    """too late: it was connected before anybody could set the listening socket's, as with systemd."""
    service = await start(unix=kind == "unix")
    if kind == "too late":
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        early = socket.create_connection(listener.getsockname())
        await service.listen([listener])
    else:
        early = await service.connect()
    await until(lambda: bool(service.server.sessions))
    (session,) = service.server.sessions
    assert session.transport is not None
    found = session.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert found <= 2 * SEND_BUFFER
    if isinstance(early, socket.socket):
        early.close()
