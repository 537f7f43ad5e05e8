"""Clients that hold a session by sending an octet now and then: in commands, in AUTH, in messages, in TLS."""

import asyncio
import contextlib
import socket
import time
from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.smtpd.conftest import Service, Start, pass_time, turns
from tests.smtpd.dialog import Client, dotted, until
from tests.support.certificates import Certificates

Lines = list[MutableMapping[str, Any]]
TIMEOUT = 0.4
PACE = 0.05
"""Seconds between two octets: a client that is never silent."""
PATIENCE = 30.0
"""Seconds after which a session that should be over has been held; one that is held is held for ever."""
UNHURRIED = 100.0
"""The limit for a client that keeps to it, on a clock that the test turns."""

SILENT = "421 4.4.2 nothing heard for too long"
SLOW = "421 4.4.2 the message comes too slowly"
BEGUN_HELLO = b"\x16\x03\x01\x40\x00"
BEGUN_RECORD = b"\x17\x03\x03\x40\x00"
"""Records of TLS that say they are 16 KiB long."""
TO_RCPT = b"EHLO a\r\nMAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.net>\r\n"


async def _drip(client: Client, octet: bytes = b"x") -> None:
    with contextlib.suppress(OSError, RuntimeError):  # uvloop's, for a transport that is closed
        while True:
            await client.send(octet)
            await asyncio.sleep(PACE)


async def _goodbye(client: Client, octet: bytes = b"x") -> str:
    """What a client that drips is told in the end, and that it does not take too long."""
    dripping = asyncio.ensure_future(_drip(client, octet))
    begin = time.monotonic()
    heard = b""
    with contextlib.suppress(ConnectionResetError):  # its last octet came when nobody was there any more
        async with asyncio.timeout(60):
            while octets := await client.reader.read(65536):
                heard += octets
    last = heard.decode().splitlines()[-1]
    dripping.cancel()
    assert TIMEOUT / 2 < time.monotonic() - begin < PATIENCE
    return last


@pytest.mark.parametrize(
    ("ahead", "goodbye"),
    [
        (b"", SILENT),
        (b"EHLO a\r\nMAIL FROM:<", SILENT),
        (b"EHLO a\r\nAUTH PLAIN\r\n", SILENT),
        (b"EHLO a\r\nAUTH LOGIN\r\nYW5uYQ==\r\n", SILENT),
        (TO_RCPT + b"DATA\r\n", SLOW),
        (TO_RCPT + b"DATA\r\nSubject: x\r\n\r\n", SLOW),
        (TO_RCPT + b"BDAT 100000 LAST\r\n", SLOW),
        (TO_RCPT + b"BDAT 10\r\n0123456789BDAT 1000000\r\n", SLOW),
        (b"BDAT 100000\r\n", SLOW),
    ],
    ids=lambda value: value[-20:].decode() if isinstance(value, bytes) else "",
)
async def test_an_octet_now_and_then_holds_no_session(
    start: Start, logged: Lines, ahead: bytes, goodbye: str
) -> None:
    service = await start(session_timeout=TIMEOUT, auth_without_tls=True, authenticate=_nobody)
    client = await service.connect()
    await client.send(ahead)
    assert (await _goodbye(client)).startswith(goodbye)
    await until(lambda: not service.server.sessions)
    assert [line["event"] for line in logged if line["event"] == "session.timeout"] == ["session.timeout"]
    assert service.taken == []


async def _nobody(client: str, name: str, password: str) -> None:
    raise AssertionError("no exchange was whole")


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_large_message_may_take_its_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await start(session_timeout=UNHURRIED)
    client = await service.connect()
    await client.start_message()
    block = (b"x" * 998 + b"\r\n") * 50
    for _ in range(5):
        pass_time(monkeypatch, 0.8 * UNHURRIED)
        await client.send(block)
        await turns()
    assert (await client.ask(".")).startswith("250")
    assert len(service.message) % len(block) == 0


async def test_what_came_fast_buys_no_pause(start: Start) -> None:
    service = await start(session_timeout=TIMEOUT)
    client = await service.connect()
    await client.start_message()
    await client.send(b"x" * 100_000)  # at the slowest pace, 200 seconds' worth
    begin = time.monotonic()
    assert (await client.everything()).startswith(SILENT)
    assert time.monotonic() - begin < PATIENCE


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_chunks_that_each_come_in_time_may_be_many(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start(session_timeout=UNHURRIED)
    client = await service.greeted()
    for command in ("MAIL FROM:<anna@example.com>", "RCPT TO:<bert@example.net>"):
        await client.ask(command)
    for _ in range(5):
        pass_time(monkeypatch, 0.8 * UNHURRIED)
        assert (await client.ask(b"BDAT 5\r\nabc")).startswith("250 2.0.0 5 octets")
    assert (await client.ask(b"BDAT 0 LAST")).startswith("250 2.0.0 taken")


async def test_an_octet_now_and_then_holds_no_session_in_the_handshake(
    start: Start, certificates: Certificates
) -> None:
    service = await start(session_timeout=TIMEOUT, tls=certificates.server)
    client = await service.greeted()
    assert (await client.ask("STARTTLS")).startswith("220")
    begin = time.monotonic()
    await client.send(BEGUN_HELLO)
    dripping = asyncio.ensure_future(_drip(client))
    await until(lambda: not service.server.sessions)
    dripping.cancel()
    assert time.monotonic() - begin < PATIENCE


async def test_an_octet_now_and_then_holds_no_session_in_tls(
    start: Start, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.time_limits.LINGER", 0.2)
    service = await start(session_timeout=TIMEOUT, tls=certificates.server)
    begin = time.monotonic()
    raw = await asyncio.to_thread(_secured, service.port, certificates)
    with raw, contextlib.suppress(OSError):
        raw.send(BEGUN_RECORD)
        while service.server.sessions:
            raw.send(b"x")
            await asyncio.sleep(PACE)
    assert time.monotonic() - begin < PATIENCE
    await until(lambda: not service.server.sessions)


def _secured(port: int, certificates: Certificates) -> socket.socket:
    """A connection in TLS, as the plain socket that it is below."""
    plain = socket.create_connection(("127.0.0.1", port))
    plain.recv(512)
    plain.sendall(b"STARTTLS\r\n")
    plain.recv(512)
    secured = certificates.client.wrap_socket(plain, server_hostname="127.0.0.1")
    secured.sendall(b"EHLO a\r\n")
    assert secured.recv(512).startswith(b"250")
    return socket.socket(fileno=secured.detach())


async def test_a_reader_of_nothing_that_goes_on_sending_is_hung_up_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.time_limits.LINGER", 0.2)
    service: Service = await start(session_timeout=TIMEOUT, send_buffer=4096)
    client = await service.connect(receive_buffer=4096)
    client.writer.transport.pause_reading()
    client.writer.write(b"VRFY x\r\n" * 20_000)
    await until(lambda: any(session.stalled for session in service.server.sessions))
    dripping = asyncio.ensure_future(_drip(client))
    await until(lambda: not service.server.sessions)
    dripping.cancel()


async def test_a_message_in_one_go_is_in_time_whatever_its_size(start: Start) -> None:
    service = await start(session_timeout=TIMEOUT)
    for size in (0, 10, 100_000):
        client = await service.connect()
        await client.start_message()
        await client.send(dotted(b"x" * size + b"\r\n"))
        assert (await client.reply()).startswith("250")
