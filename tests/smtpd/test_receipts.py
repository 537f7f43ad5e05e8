"""Whether a client got its answer, where it does not say so: over TLS, and while it stays and is silent."""

import asyncio
import os
import socket
import struct
from collections.abc import MutableMapping
from typing import Any

import pytest

from smtp2cf.smtpd import SMTP_DOOR, SMTPS_DOOR
from tests.smtpd.conftest import Start
from tests.smtpd.dialog import Client, dotted, until
from tests.support.certificates import Certificates

Lines = list[MutableMapping[str, Any]]


def give_up(client: Client) -> None:
    """What a program does that reads no more: the end of its stream, then a reset for what is unread."""
    below = socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno()))
    below.shutdown(socket.SHUT_WR)
    below.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()
    below.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.connection.RESET_WAIT", 0.2)


@pytest.mark.usefixtures("patient")
async def test_a_client_of_tls_that_leaves_without_its_reply_does_not_have_it(
    start: Start, certificates: Certificates, logged: Lines
) -> None:
    service = await start(door=SMTPS_DOOR, tls=certificates.server)
    client = await service.connect(tls=certificates.client)
    await client.start_message()
    await client.send(dotted(b"hello\r\n"))
    await until(lambda: bool(service.taken))
    give_up(client)
    await until(lambda: bool(service.confirmed))
    assert [received for _, received in service.confirmed] == [False]
    assert "session.reply_lost" in [line["event"] for line in logged]


@pytest.mark.usefixtures("patient")
async def test_a_client_of_tls_that_reads_its_reply_and_leaves_has_it(
    start: Start, certificates: Certificates
) -> None:
    service = await start(door=SMTPS_DOOR, tls=certificates.server)
    client = await service.connect(tls=certificates.client)
    await client.start_message()
    await client.send(dotted(b"hello\r\n"))
    assert (await client.reply()).startswith("250")
    await client.close()
    await until(lambda: bool(service.confirmed))
    assert [received for _, received in service.confirmed] == [True]


@pytest.mark.usefixtures("patient")
async def test_a_client_of_tls_that_is_told_of_the_end_has_its_reply(
    start: Start, certificates: Certificates, logged: Lines
) -> None:
    service = await start(door=SMTPS_DOOR, tls=certificates.server)
    client = await service.connect(tls=certificates.client)
    await client.start_message()
    await client.send(dotted(b"hello\r\n"))
    assert (await client.reply()).startswith("250")
    stopping = asyncio.create_task(service.server.drain(5))
    assert (await client.reply()).startswith("421")
    await client.send(b"NOOP\r\n")
    await until(lambda: bool(service.confirmed))
    assert [received for _, received in service.confirmed] == [True]
    assert "session.reply_lost" not in [line["event"] for line in logged]
    await client.close()
    await stopping


@pytest.mark.parametrize("unix", [False, True])
async def test_a_client_that_stays_and_is_silent_has_its_reply(
    start: Start, unix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends the same mail over another connection meanwhile means it."""
    monkeypatch.setattr("smtp2cf.smtpd.connection.ACKNOWLEDGED_WAIT", 0.05)
    monkeypatch.setattr("smtp2cf.smtpd.server.ACKNOWLEDGED_EVERY", 0.02)
    service = await start(door=SMTP_DOOR, unix=unix)
    client = await service.connect()
    await client.start_message()
    await client.send(dotted(b"hello\r\n"))
    assert (await client.reply()).startswith("250")
    await until(lambda: bool(service.confirmed))
    assert [received for _, received in service.confirmed] == [True]
