"""STARTTLS (RFC 3207): nothing said in clear counts, and however a handshake ends, the session does too."""

import asyncio
import gc
import ssl
import time
import tracemalloc
from collections.abc import MutableMapping
from typing import Any

import pytest

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.smtpd.connection import PIPELINE_LIMIT
from tests.smtpd.conftest import TAKEN, Service, Start
from tests.smtpd.dialog import Client, dotted, until
from tests.smtpd.rude_tls import RudeTls
from tests.support.certificates import Certificates

Lines = list[MutableMapping[str, Any]]
TO_DATA = b"MAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.net>\r\nDATA\r\n"


def _events(logged: Lines) -> list[str]:
    return [line["event"] for line in logged if line["log_level"] != "debug"]


async def invited(service: Service) -> Client:
    """A client that may begin its handshake."""
    client = await service.greeted()
    assert await client.ask("STARTTLS") == "220 2.0.0 go ahead with TLS"
    return client


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def tls(request: pytest.FixtureRequest, certificates: Certificates) -> ssl.SSLContext:
    """A client's context for one version."""
    context = ssl.create_default_context(cafile=str(certificates.cert))
    context.minimum_version = context.maximum_version = ssl.TLSVersion[request.param]
    return context


# ---- as it should be


async def test_what_is_offered_before_and_after(start: Start, certificates: Certificates) -> None:
    service = await start(tls=certificates.server)
    client = await service.connect()
    await client.reply()
    before = (await client.ask("EHLO a")).split("\n")
    assert before[-2:] == ["250-STARTTLS", "250 HELP"]
    await client.ask("STARTTLS")
    await client.start_tls(certificates.client)
    after = (await client.ask("EHLO a")).split("\n")
    assert after == [line for line in before if "STARTTLS" not in line]


async def test_a_message_over_tls(start: Start, certificates: Certificates, tls: ssl.SSLContext) -> None:
    service = await start(tls=certificates.server)
    client = await service.secured(tls)
    await client.play("""
        C: MAIL FROM:<anna@example.com>
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: Subject: x
        C: .
        S: 250 2.0.0 taken
        C: QUIT
        S: 221
        S: <closed>
    """)
    assert service.message == b"Subject: x\r\n"
    assert (service.envelope.client, service.envelope.helo) == ("127.0.0.1", "client.example")
    await client.close()
    await until(lambda: not service.server.sessions)


async def test_over_a_unix_socket_in_lmtp_too(start: Start, certificates: Certificates) -> None:
    service = await start(unix=True, protocol="lmtp", tls=certificates.server)
    client = await service.secured(certificates.client)
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("250")


@pytest.mark.parametrize(
    ("before", "command", "reply"),
    [
        ([], "STARTTLS now", "501 5.5.4 syntax: STARTTLS"),
        (["EHLO a"], "STARTTLS x", "501 5.5.4"),
        ([], "starttls", "220 2.0.0"),
        (["EHLO a", "MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>"], "STARTTLS", "220 2.0.0"),
    ],
)
async def test_how_it_may_be_asked_for(
    start: Start, certificates: Certificates, before: list[str], command: str, reply: str
) -> None:
    client = await (await start(tls=certificates.server)).connect()
    await client.reply()
    for earlier in before:
        await client.ask(earlier)
    assert (await client.ask(command)).startswith(reply)


async def test_it_is_not_there_without_a_certificate(start: Start) -> None:
    client = await (await start()).greeted()
    assert (await client.ask("STARTTLS")).startswith("502 5.5.1 TLS is not offered here")
    assert "STARTTLS" not in await client.ask("HELP")
    assert await client.ask("NOOP") == "250 2.0.0 OK"


async def test_twice_is_once_too_often(start: Start, certificates: Certificates) -> None:
    client = await (await start(tls=certificates.server)).secured(certificates.client)
    assert await client.ask("STARTTLS") == "503 5.5.1 TLS is on already"
    assert await client.ask("NOOP") == "250 2.0.0 OK"


async def test_nothing_of_a_transaction_is_left(start: Start, certificates: Certificates) -> None:
    service = await start(tls=certificates.server)
    client = await service.greeted("before.example")
    await client.ask("MAIL FROM:<anna@example.com> SMTPUTF8")
    await client.ask("RCPT TO:<bert@example.net>")
    await client.ask("BDAT 5\r\none")
    await client.ask("STARTTLS")
    await client.start_tls(certificates.client)
    assert (await client.ask("RCPT TO:<bert@example.net>")).startswith("503 5.5.1 send HELO")
    assert (await client.ask("MAIL FROM:<a@b.c>")).startswith("503 5.5.1 send HELO")
    await client.ask("HELO after.example")
    await client.ask("MAIL FROM:<dora@example.com>")
    await client.ask("RCPT TO:<carla@example.net>")
    await client.ask("BDAT 5 LAST\r\ntwo")
    assert service.message == b"two\r\n"
    assert (service.envelope.helo, service.envelope.smtputf8) == ("after.example", False)
    assert service.envelope.forward_paths == ("carla@example.net",)


# ---- the injection family (CVE-2011-0411 and its kin): what came in clear is nobody's to act on


@pytest.mark.parametrize(
    "injected",
    [
        b"RSET\r\n",
        b"NOO",
        b"VRFY x\r\nVRFY x\r\nQUIT\r\n",
        b"EHLO evil.example\r\n" + TO_DATA + b"evil\r\n.\r\n",
        b"AUTH PLAIN AGJlcnQAYg==\r\n",
        b"STARTTLS\r\n",
        b"X" * 100_000,
    ],
    ids=lambda octets: repr(octets[:12]),
)
async def test_what_is_behind_starttls_in_its_packet_is_dropped(
    start: Start, certificates: Certificates, injected: bytes
) -> None:
    service = await start(tls=certificates.server)
    client = await service.greeted()
    await client.send(b"STARTTLS\r\n" + injected[:60_000])
    assert (await client.reply()).startswith("220 2.0.0")
    await client.start_tls(certificates.client)
    assert await client.ask("NOOP") == "250 2.0.0 OK"
    assert (await client.ask("MAIL FROM:<a@b.c>")).startswith("503 5.5.1 send HELO")
    assert service.taken == []


async def test_what_was_pipelined_before_it_is_answered(start: Start, certificates: Certificates) -> None:
    service = await start(tls=certificates.server)
    client = await service.greeted()
    await client.send(b"NOOP\r\nVRFY x\r\nSTARTTLS\r\nNOOP\r\n")
    assert [(await client.reply())[:9] for _ in range(3)] == ["250 2.0.0", "252 2.1.5", "220 2.0.0"]
    await client.start_tls(certificates.client)
    assert (await client.ask("HELP")).startswith("214")


async def test_clear_text_in_place_of_the_handshake_ends_the_session(
    start: Start, certificates: Certificates, logged: Lines
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    await client.send(b"EHLO evil.example\r\n" + TO_DATA + b"evil\r\n.\r\n")
    answer = await client.reader.read()
    assert b"250" not in answer, "no command is answered; what comes is at most an alert"
    await until(lambda: not service.server.sessions)
    assert service.taken == []
    assert _events(logged) == ["session.tls_failed"]


async def test_in_an_auth_exchange_it_is_a_bad_response(start: Start, certificates: Certificates) -> None:
    async def anybody(*_: str) -> None: ...

    service = await start(tls=certificates.server, authenticate=anybody, auth_without_tls=True)
    client = await service.greeted()
    await client.ask("AUTH LOGIN")
    assert (await client.ask("STARTTLS")).startswith("501 5.5.2"), "eight letters are base64, but no name"


async def test_answers_of_clear_commands_are_not_sent_in_tls(
    start: Start, certificates: Certificates
) -> None:
    """A client that pipelines behind STARTTLS hears nothing of it (CVE-2021-33515's mirror)."""
    service = await start(tls=certificates.server)
    client = await service.greeted()
    await client.send(b"STARTTLS\r\n" + b"VRFY x\r\n" * 600)
    await client.reply()
    await client.start_tls(certificates.client)
    await client.send(b"QUIT\r\n")
    assert (await client.everything()).startswith("221 2.0.0")


# ---- handshakes that come to nothing

FAILURES = {
    "noise": b"\x00" * 300,
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a record that is too long": b"\x16\x03\x01\xff\xff" + b"x" * 300,
    "a record cut off": b"\x16\x03\x01\x02\x00\x01\x00\x01",
    "nothing": b"",
}


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("sent", FAILURES.values(), ids=FAILURES)
async def test_a_handshake_that_fails_ends_the_session_with_one_line(
    start: Start, certificates: Certificates, logged: Lines, sent: bytes, how: str
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    await client.send(sent)
    getattr(client, how)()
    await until(lambda: not service.server.sessions)
    assert _events(logged) == ["session.tls_failed"]
    assert logged[-1]["client"] == "127.0.0.1" or logged[-2]["client"] == "127.0.0.1"
    await service.secured(certificates.client)


async def test_a_client_that_does_not_trust_the_certificate(
    start: Start, certificates: Certificates, logged: Lines
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    with pytest.raises(ssl.SSLCertVerificationError):
        await client.start_tls(ssl.create_default_context())
    await until(lambda: not service.server.sessions)
    # In TLS 1.3 the server may think that it is done before the client has looked at the certificate.
    assert _events(logged) in (["session.tls_failed"], [])


async def test_no_version_in_common(start: Start, certificates: Certificates, logged: Lines) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.cert, certificates.key)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    service = await start(tls=server)
    old = ssl.create_default_context(cafile=str(certificates.cert))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    client = await invited(service)
    with pytest.raises(OSError):
        await client.start_tls(old)
    await until(lambda: not service.server.sessions)
    assert _events(logged) == ["session.tls_failed"]


@pytest.mark.parametrize(("ours", "session"), [(0.2, 60.0), (30.0, 0.2), (0.2, 0.2)])
@pytest.mark.parametrize("sent", [0, 100])
async def test_a_handshake_has_its_time(
    start: Start,
    certificates: Certificates,
    logged: Lines,
    monkeypatch: pytest.MonkeyPatch,
    ours: float,
    session: float,
    sent: int,
) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.handshake.HANDSHAKE_TIMEOUT", ours)
    service = await start(tls=certificates.server, session_timeout=session)
    client = await invited(service)
    begin = time.monotonic()
    await client.send(RudeTls(client, certificates.client).hello()[:sent])
    assert await client.reader.read() == b"", "no reply that the client would take for its handshake"
    assert 0.1 < time.monotonic() - begin < 20
    await until(lambda: not service.server.sessions)
    assert _events(logged) == ["session.tls_failed"]


# ---- those who leave around its end


@pytest.mark.parametrize("leaving", ["close_notify", "reset", "end"])
async def test_a_client_that_leaves_with_the_last_of_its_handshake_is_forgotten(
    start: Start, certificates: Certificates, tls: ssl.SSLContext, leaving: str
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    rude = RudeTls(client, tls)
    await client.send(rude.hello())
    last = await rude.finished()
    client.writer.write(last + (rude.close_notify() if leaving == "close_notify" else b""))
    if leaving == "reset":
        client.reset()
    else:
        client.end()
    await until(lambda: not service.server.sessions)


async def test_commands_that_come_with_the_last_of_the_handshake_are_answered(
    start: Start, certificates: Certificates, tls: ssl.SSLContext
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    rude = RudeTls(client, tls)
    await client.send(rude.hello())
    await client.send(await rude.finished() + rude.seal(b"EHLO a\r\n" + TO_DATA + dotted(b"x\r\n")))
    assert [line[:4] for line in await rude.heard(15)][-4:] == [b"250 ", b"250 ", b"354 ", b"250 "]
    assert service.message == b"x\r\n"


async def test_a_handshake_that_comes_octet_by_octet(
    start: Start, certificates: Certificates, tls: ssl.SSLContext
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    rude = RudeTls(client, tls)

    async def slowly(flight: bytes) -> None:
        for octet in flight:
            client.writer.write(bytes([octet]))
            await asyncio.sleep(0)

    await slowly(rude.hello())
    await slowly(await rude.finished() + rude.seal(b"NOOP\r\n"))
    assert await rude.heard() == [b"250 2.0.0 OK"]


@pytest.mark.parametrize("goodbye", [True, False])
async def test_tls_that_ends_without_a_goodbye_is_an_end(
    start: Start, certificates: Certificates, logged: Lines, tls: ssl.SSLContext, goodbye: bool
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    rude = RudeTls(client, tls)
    await client.send(rude.hello())
    await client.send(await rude.finished() + rude.seal(b"EHLO a\r\n" + TO_DATA + dotted(b"x\r\n")))
    await rude.heard(15)
    if goodbye:
        await client.send(rude.close_notify())
    client.end()
    await until(lambda: not service.server.sessions)
    assert [received for _, received in service.confirmed] == [True]
    assert _events(logged) == []


async def test_half_a_message_is_no_message(
    start: Start, certificates: Certificates, logged: Lines, tls: ssl.SSLContext
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    rude = RudeTls(client, tls)
    await client.send(rude.hello())
    await client.send(await rude.finished() + rude.seal(b"EHLO a\r\n" + TO_DATA + b"half\r\n.\r"))
    await rude.heard(14)
    client.end()
    await until(lambda: not service.server.sessions)
    assert service.taken == []
    assert _events(logged) == ["session.lost_in_data"]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_message_whose_client_vanished_is_relayed_to_its_end(
    start: Start, certificates: Certificates, how: str
) -> None:
    entered, opened = asyncio.Event(), asyncio.Event()
    done: list[bytes] = []

    async def accept(_: Envelope, message: bytes) -> Verdict:
        entered.set()
        await opened.wait()
        done.append(message)
        return Verdict(TAKEN, {})

    service = await start(accept, tls=certificates.server)
    client = await service.secured(certificates.client)
    await client.send(TO_DATA + dotted(b"x\r\n"))
    await entered.wait()
    if how == "reset":
        client.reset()
    else:
        await client.close()
    await until(lambda: all(session.transport is None for session in service.server.sessions))
    opened.set()
    await until(lambda: not service.server.sessions)
    assert done == [b"x\r\n"]
    assert {received for _, received in service.confirmed} == {False}


# ---- the end of the server


async def test_a_handshake_under_way_does_not_hold_up_the_end(
    start: Start, certificates: Certificates
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    await client.send(RudeTls(client, certificates.client).hello()[:50])
    begin = time.monotonic()
    await service.server.drain(0.1)
    assert time.monotonic() - begin < 9
    assert not service.server.sessions
    assert await client.reader.read() == b""


async def test_a_handshake_that_is_done_in_time_ends_with_a_goodbye(
    start: Start, certificates: Certificates, tls: ssl.SSLContext
) -> None:
    service = await start(tls=certificates.server)
    client = await invited(service)
    draining = asyncio.ensure_future(service.server.drain(5))
    rude = RudeTls(client, tls)
    await client.send(rude.hello())
    await client.send(await rude.finished())
    assert (await rude.heard())[0].startswith(b"421 4.3.2 shutting down")
    await client.send(rude.close_notify())
    client.end()
    await draining


async def test_a_message_under_way_is_answered_before_the_end(
    start: Start, certificates: Certificates
) -> None:
    service = await start(tls=certificates.server)
    client = await service.secured(certificates.client)
    await client.send(TO_DATA)
    for _ in range(3):
        await client.reply()
    draining = asyncio.ensure_future(service.server.drain(5))
    await asyncio.sleep(0)
    await client.send(dotted(b"x\r\n"))
    assert await client.reply() == "250 2.0.0 taken"
    assert (await client.reply()).startswith("421 4.3.2")
    await client.close()
    await draining
    assert service.message == b"x\r\n"


# ---- much at once


async def test_two_hundred_messages_in_one_stream(start: Start, certificates: Certificates) -> None:
    service = await start(tls=certificates.server)
    client = await service.secured(certificates.client)
    messages = [b"number %d\r\n" % number for number in range(200)]
    sending = asyncio.ensure_future(client.send(b"".join(TO_DATA + dotted(text) for text in messages)))
    codes = [(await client.reply())[:3] for _ in range(4 * len(messages))]
    await sending
    assert codes == ["250", "250", "354", "250"] * len(messages)
    assert [message for _, message in service.taken] == messages


async def test_a_message_of_five_megabytes(start: Start, certificates: Certificates) -> None:
    service = await start(tls=certificates.server, max_message_size=5 << 20)
    client = await service.secured(certificates.client)
    message = (b"x" * 76 + b"\r\n") * 67_000
    await client.send(TO_DATA + dotted(message))
    assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "354", "250"]
    assert service.message == message


async def test_a_megabyte_of_commands_behind_a_message_that_takes_its_time(
    start: Start, certificates: Certificates
) -> None:
    opened = asyncio.Event()

    async def accept(_: Envelope, message: bytes) -> Verdict:
        await opened.wait()
        return Verdict(TAKEN, {})

    service = await start(accept, tls=certificates.server)
    client = await service.secured(certificates.client)
    count = 4000
    await client.send(TO_DATA + dotted(b"x\r\n"))
    for _ in range(3):
        await client.reply()
    (session,) = service.server.sessions
    sending = asyncio.ensure_future(client.send((b"NOOP " + b"x" * 500 + b"\r\n") * count))
    await until(lambda: len(session.input) > PIPELINE_LIMIT)
    await asyncio.sleep(0.05)
    assert len(session.input) < PIPELINE_LIMIT + 300_000, "what more there is stays in the kernel"
    opened.set()
    assert await client.reply() == "250 2.0.0 taken"
    assert await client.reader.readexactly(count * 14) == b"250 2.0.0 OK\r\n" * count
    await sending


async def test_a_client_that_reads_no_reply_costs_little_and_goes(
    start: Start, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.time_limits.LINGER", 0.3)
    service = await start(tls=certificates.server, send_buffer=4096, session_timeout=1.5)
    client = await service.connect(receive_buffer=4096)
    for command in (b"", b"EHLO a\r\n", b"STARTTLS\r\n"):
        await client.send(command)
        await client.reply()
    rude = RudeTls(client, certificates.client)
    await client.send(rude.hello())
    await client.send(await rude.finished())
    client.writer.transport.pause_reading()
    gc.collect()
    tracemalloc.start()
    client.writer.write(rude.seal(b"HELP\r\n" * 100_000))
    await until(lambda: any(session.stalled for session in service.server.sessions))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    await until(lambda: not service.server.sessions)
