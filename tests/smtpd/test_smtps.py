"""SMTPS (RFC 8314): TLS from the first octet on."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import MutableMapping
from typing import Any

import pytest

from smtp2cf.smtpd import Listener, SessionLimits
from tests.smtpd.conftest import Start, arriving
from tests.smtpd.dialog import until
from tests.smtpd.rude_tls import RudeTls
from tests.support.certificates import Certificates
from tests.support.waiting import PATIENCE

Lines = list[MutableMapping[str, Any]]


def _events(logged: Lines) -> list[str]:
    return [line["event"] for line in logged if line["log_level"] != "debug"]


async def anybody(*_: str) -> None:
    """Every password is right."""


@pytest.mark.parametrize("unix", [False, True])
async def test_a_session_in_tls(start: Start, certificates: Certificates, unix: bool) -> None:
    service = await start(
        protocol="smtps", unix=unix, tls=certificates.server, authenticate=anybody, allow_networks=()
    )
    client = await service.connect(tls=certificates.client)
    await client.play("""
        S: 220 bridge.example ESMTP
        C: EHLO client.example
        S: 250-bridge.example
        S: 250-PIPELINING
        S: 250-SIZE 1048576
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-ENHANCEDSTATUSCODES
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-LIMITS RCPTMAX=1000
        S: 250-PRDR
        S: 250-AUTH PLAIN LOGIN
        S: 250 HELP
        C: STARTTLS
        S: 503 5.5.1 TLS is on already
        C: AUTH PLAIN AGFubmEAYQ==
        S: 235 2.7.0
        C: MAIL FROM:<anna@example.com>
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: x
        C: .
        S: 250 2.0.0 taken
        C: QUIT
        S: 221
        S: <closed>
    """)
    assert service.message == b"x\r\n"
    assert (service.envelope.client, service.envelope.auth_user) == ("" if unix else "127.0.0.1", "anna")
    await client.close()
    await until(lambda: not service.server.sessions)


async def test_it_needs_a_certificate(start: Start) -> None:
    service = await start()
    with pytest.raises(ValueError, match="needs a certificate"):
        Listener(rules=service.listener.rules, protocol="smtps")


async def test_each_handshake_has_the_certificate_of_its_time(
    start: Start, certificates: Certificates
) -> None:
    service = await start()
    seen: list[bool] = []

    def current() -> ssl.SSLContext:
        seen.append(True)
        return certificates.server

    service.listener = Listener(rules=service.listener.rules, protocol="smtps", certificate=current)
    await service.start(socket.AF_INET, ("127.0.0.1", 0))
    for _ in range(3):
        await service.greeted(tls=certificates.client)
    assert len(seen) == 3


# ---- on the wrong port, and out of patience


@pytest.mark.parametrize(
    "said",
    [
        b"EHLO client.example\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 100,
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    ],
    ids=lambda said: repr(said[:5]),
)
async def test_a_client_without_tls_is_hung_up_on(
    start: Start, certificates: Certificates, logged: Lines, said: bytes
) -> None:
    service = await start(protocol="smtps", tls=certificates.server)
    client = await service.connect()
    await client.send(said)
    assert b"220" not in await client.reader.read()
    await until(lambda: bool(_events(logged)))
    assert _events(logged) == ["session.tls_failed"]
    assert logged[-1]["client"] == "127.0.0.1"
    assert not service.server.sessions


@pytest.mark.parametrize("sent", [0, 60])
async def test_a_handshake_has_its_time(
    start: Start, certificates: Certificates, logged: Lines, monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.handshake.HANDSHAKE_TIMEOUT", 0.2)
    service = await start(protocol="smtps", tls=certificates.server)
    client = await service.connect()
    await client.send(RudeTls(client, certificates.client).hello()[:sent])
    begin = time.monotonic()
    assert await client.reader.read() == b""
    assert 0.1 < time.monotonic() - begin < 20
    await until(lambda: bool(_events(logged)))
    assert _events(logged) == ["session.tls_failed"]


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("sent", [0, 60, 10_000])
async def test_a_client_that_leaves_in_its_handshake(
    start: Start, certificates: Certificates, logged: Lines, how: str, sent: int
) -> None:
    service = await start(protocol="smtps", tls=certificates.server)
    client = await service.connect()
    await client.send(RudeTls(client, certificates.client).hello()[:sent])
    getattr(client, how)()
    await until(lambda: bool(_events(logged)))
    assert _events(logged) == ["session.tls_failed"]
    await until(lambda: not arriving())
    await service.greeted(tls=certificates.client)


@pytest.mark.parametrize("leaving", ["close_notify", "reset", "end"])
async def test_a_client_that_leaves_with_the_last_of_its_handshake_is_forgotten(
    start: Start, certificates: Certificates, leaving: str
) -> None:
    service = await start(protocol="smtps", tls=certificates.server)
    client = await service.connect()
    rude = RudeTls(client, certificates.client)
    await client.send(rude.hello())
    last = await rude.finished()
    client.writer.write(last + (rude.close_notify() if leaving == "close_notify" else b""))
    if leaving == "reset":
        client.reset()
    else:
        client.end()
    await until(lambda: not arriving() and not service.server.sessions)


async def test_commands_that_come_with_the_last_of_the_handshake_are_answered(
    start: Start, certificates: Certificates
) -> None:
    service = await start(protocol="smtps", tls=certificates.server)
    client = await service.connect()
    rude = RudeTls(client, certificates.client)
    await client.send(rude.hello())
    await client.send(await rude.finished() + rude.seal(b"NOOP\r\nVRFY x\r\n"))
    assert [line[:3] for line in await rude.heard(3)] == [b"220", b"250", b"252"]


# ---- many


async def test_sessions_over_the_limit_are_told_to_come_back(
    start: Start, certificates: Certificates
) -> None:
    service = await start(protocol="smtps", tls=certificates.server, max_sessions=2)
    first = await service.greeted(tls=certificates.client)
    await service.greeted(tls=certificates.client)
    third = await service.connect(tls=certificates.client)
    await third.play("S: 421 4.3.2 too many sessions (SMTP2CF_MAX_SESSIONS)\nS: <closed>")
    await first.ask("QUIT")
    await first.close()
    await until(lambda: len(service.server.sessions) == 1)
    await service.greeted(tls=certificates.client)


async def test_those_who_only_connect_are_bounded_too(
    start: Start, certificates: Certificates, logged: Lines
) -> None:
    service = await start(protocol="smtps", tls=certificates.server, max_sessions=3)
    idle = [await service.connect() for _ in range(3)]
    await until(lambda: len(arriving()) == 3)
    for _ in range(5):
        assert await (await service.connect()).reader.read() == b""
    assert _events(logged) == ["session.refused"] * 5
    for client in idle:
        client.reset()
    await until(lambda: not arriving())
    await service.greeted(tls=certificates.client)


async def test_a_hundred_at_once(start: Start, certificates: Certificates) -> None:
    service = await start(protocol="smtps", tls=certificates.server)
    clients = await asyncio.gather(*(service.greeted(tls=certificates.client) for _ in range(100)))
    assert len(service.server.sessions) == len(clients) == 100


async def test_the_end_of_the_server(start: Start, certificates: Certificates) -> None:
    service = await start(protocol="smtps", tls=certificates.server)
    client = await service.greeted(tls=certificates.client)
    late = await service.connect()
    await late.send(RudeTls(late, certificates.client).hello()[:60])
    await until(lambda: len(arriving()) == 1)
    draining = asyncio.ensure_future(service.server.drain(5))
    assert (await client.reply()).startswith("421 4.3.2 shutting down")
    await client.close()
    await draining
    assert await late.reader.read() == b""
    with pytest.raises(OSError):
        await service.connect()


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_no_client_makes_it_negotiate_anew(start: Start, certificates: Certificates) -> None:
    service = await start(protocol="smtps", tls=certificates.server)
    client = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{service.port}", "-tls1_2", "-crlf"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    async with asyncio.timeout(PATIENCE):
        await client.stdout.readuntil(b"220 bridge.example ESMTP smtp2cf\r\n")
        client.stdin.write(b"EHLO a\n")
        await client.stdout.readuntil(b"250 HELP\r\n")
        client.stdin.write(b"R\n")  # s_client's own command for it
        await client.stdout.readuntil(b"RENEGOTIATING\n")
        said = await client.stdout.read()
        await client.wait()
    assert b"no renegotiation" in said
    await until(lambda: not service.server.sessions)
    await service.greeted(tls=certificates.client)


async def test_what_a_refused_client_sent_along_is_nobodys(
    start: Start, certificates: Certificates, logged: list[Any]
) -> None:
    service = await start(protocol="smtps", tls=certificates.server, max_sessions=1)
    await service.greeted(tls=certificates.client)
    late = await service.connect(tls=certificates.client)
    await late.send(b"MAIL FROM:<anna@example.com>\r\n")
    assert (await late.everything()).startswith("421 4.3.2")
    assert "session.error" not in [line["event"] for line in logged]


async def test_handshakes_count_against_what_one_client_may_have(
    start: Start, certificates: Certificates
) -> None:
    sessions = SessionLimits(client=2)
    service = await start(protocol="smtps", tls=certificates.server, sessions=sessions)
    for _ in range(2):
        await service.connect()
    with pytest.raises(OSError):
        await service.connect(tls=certificates.client)
    await service.greeted(source="127.0.0.9", tls=certificates.client)


@pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop's client, paused, does not end its handshake
async def test_a_refused_client_that_does_not_say_goodbye_is_not_waited_for(
    start: Start, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No limit counts it, so it must not hold a file of the process."""
    monkeypatch.setattr("smtp2cf.smtpd.time_limits.REFUSED_LINGER", 0.3)
    service = await start(protocol="smtps", tls=certificates.server, max_sessions=1)
    await service.greeted(tls=certificates.client)
    late = await service.connect(tls=certificates.client)
    late.writer.transport.pause_reading()
    opened = len(os.listdir("/proc/self/fd"))
    await until(lambda: len(os.listdir("/proc/self/fd")) < opened)
