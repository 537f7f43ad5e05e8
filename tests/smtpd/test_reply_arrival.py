"""Whether a client got its answer: every way to hang up, over TCP, STARTTLS and SMTPS, TLS 1.2 and 1.3.

What an answer's fate means for the same message sent again: tests/relay/test_lost_reply.py. The programs
that hang up like this: tests/clients/test_hanging_up.py.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.smtpd.reply_arrival import Tcp, has_arrived, tcp_info
from tests.smtpd.conftest import TAKEN, Service, Start
from tests.smtpd.dialog import dotted, until
from tests.smtpd.raw import RawClient
from tests.support.certificates import Certificates

Lines = list[MutableMapping[str, Any]]
MESSAGE = dotted(b"hello\r\n")
SESSION = b"MAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.net>\r\nDATA\r\n"

WAYS = ["plain", "STARTTLS 1.2", "STARTTLS 1.3", "SMTPS 1.2", "SMTPS 1.3"]
TLS_WAYS = WAYS[1:]


class Meeting:
    """A client that has sent its message up to the final dot. The server waits until `relay` is set."""

    def __init__(self, service: Service, client: RawClient) -> None:
        self.service = service
        self.client = client
        self.relay = asyncio.Event()
        self.entered = asyncio.Event()
        self.meanwhile: Callable[[], None] = lambda: None

    async def accept(self, envelope: Envelope, message: bytes) -> Verdict:
        self.entered.set()
        await self.relay.wait()
        self.meanwhile()
        return Verdict(TAKEN, dict.fromkeys(envelope.forward_paths, TAKEN))

    async def answered(self) -> None:
        """Let the message go, and read the answer to it."""
        self.relay.set()
        assert (await self.client.reply()).startswith("250 2.0.0 taken")

    async def fate(self) -> bool:
        """Whether the answer has arrived, as the relay is told in the end."""
        await until(
            lambda: bool(self.service.confirmed) and not self.service.server.sessions.reply_arrival.open
        )
        assert len({queue_id for queue_id, _ in self.service.confirmed}) == 1
        return self.service.confirmed[-1][1]


Meet = Callable[[str], Awaitable[Meeting]]


@pytest.fixture
async def meet(start: Start, certificates: Certificates) -> AsyncIterator[Meet]:
    clients: list[RawClient] = []

    async def meet(way: str, last: bytes = MESSAGE) -> Meeting:
        tls_first = way.startswith("SMTPS")
        service = await start(
            protocol="smtps" if tls_first else "smtp",
            tls=None if way == "plain" else certificates.server,
        )
        client = await RawClient.connect(("127.0.0.1", service.port))
        clients.append(client)
        meeting = Meeting(service, client)
        service.server.sessions.accept = meeting.accept
        context = ssl.create_default_context(cafile=str(certificates.cert))
        context.maximum_version = ssl.TLSVersion.TLSv1_2 if way.endswith("1.2") else ssl.TLSVersion.TLSv1_3
        if tls_first:
            await client.start_tls(context)
        assert (await client.reply()).startswith("220")
        if way.startswith("STARTTLS"):
            assert (await client.ask(b"EHLO client.example")).startswith("250")
            assert (await client.ask(b"STARTTLS")).startswith("220")
            await client.start_tls(context)
        assert (await client.ask(b"EHLO client.example")).startswith("250")
        for command in SESSION.splitlines():
            assert (await client.ask(command))[0] in "23"
        await client.send(last)
        await meeting.entered.wait()
        return meeting

    yield meet
    for client in clients:
        client.close()


# ---- what has arrived


async def quit_and_wait(client: RawClient) -> None:
    assert (await client.ask(b"QUIT")).startswith("221")
    client.close()


async def quit_and_close(client: RawClient) -> None:
    """As Postfix does, and PHP's mailers: the 221 is never read."""
    await client.send(b"QUIT\r\n")
    client.close()


async def say_goodbye_and_close(client: RawClient) -> None:
    """As Go's net/smtp does (Close without Quit)."""
    await client.say_goodbye()
    client.close()


async def say_goodbye_and_reset(client: RawClient) -> None:
    await client.say_goodbye()
    client.reset()


async def close(client: RawClient) -> None:
    client.close()


async def reset(client: RawClient) -> None:
    """Linux takes no note of what a reset acknowledges."""
    client.reset()


async def half_close(client: RawClient) -> None:
    client.half_close()


async def stay(_: RawClient) -> None:
    """It may send the same over another connection meanwhile, and means it."""


async def go_on(client: RawClient) -> None:
    assert (await client.ask(b"NOOP")).startswith("250")


ENDS = [
    quit_and_wait,
    quit_and_close,
    say_goodbye_and_close,
    say_goodbye_and_reset,
    close,
    reset,
    half_close,
    stay,
    go_on,
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_reply_that_was_read_has_arrived(
    meet: Meet, way: str, end: Callable[[RawClient], Awaitable[None]], logged: Lines
) -> None:
    meeting = await meet(way)
    await meeting.answered()
    await end(meeting.client)
    assert await meeting.fate() is True
    assert "session.reply_lost" not in [line["event"] for line in logged]


@pytest.mark.parametrize("end", [close, reset, say_goodbye_and_close])
@pytest.mark.parametrize("way", WAYS)
async def test_a_reply_that_was_read_before_the_goodbye_to_a_pipelined_quit_has_arrived(
    meet: Any, way: str, end: Callable[[RawClient], Awaitable[None]], logged: Lines
) -> None:
    """As Postfix does: dot and QUIT in one packet, the 250 is read, and the 221 is not."""
    meeting = await meet(way, MESSAGE + b"QUIT\r\n")
    await meeting.answered()
    await end(meeting.client)
    assert await meeting.fate() is True
    assert "session.reply_lost" not in [line["event"] for line in logged]


@pytest.mark.parametrize("way", WAYS)
async def test_a_reply_that_only_the_clients_host_has_has_arrived(meet: Meet, way: str) -> None:
    """What becomes of it there is nobody's to know."""
    meeting = await meet(way)
    meeting.relay.set()
    await until(lambda: bool(meeting.service.confirmed))  # acknowledged
    meeting.client.reset()
    assert await meeting.fate() is True


async def test_a_client_that_is_told_of_the_end_has_its_reply(meet: Meet) -> None:
    meeting = await meet("SMTPS 1.3")
    await meeting.answered()
    stopping = asyncio.create_task(meeting.service.server.drain(5))
    assert (await meeting.client.reply()).startswith("421")
    await meeting.client.send(b"NOOP\r\n")
    assert await meeting.fate() is True
    meeting.client.close()
    await stopping


async def test_a_client_that_closed_its_side_hears_the_reply(meet: Meet) -> None:
    meeting = await meet("plain")
    meeting.client.half_close()
    await until(lambda: all(session.client_ended for session in meeting.service.server.sessions))
    assert [received for _, received in meeting.service.confirmed] == [False], "it may have been gone"
    await meeting.answered()
    assert await meeting.fate() is True


# ---- what is lost


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_reply_to_a_client_that_has_gone_is_lost(
    meet: Meet, way: str, how: str, logged: Lines
) -> None:
    meeting = await meet(way)
    getattr(meeting.client, how)()
    await until(lambda: bool(meeting.service.confirmed))  # that it has hung up
    meeting.relay.set()
    await until(lambda: len(meeting.service.confirmed) == 2)
    assert await meeting.fate() is False
    assert "session.reply_lost" in [line["event"] for line in logged]


@pytest.mark.parametrize("way", WAYS)
async def test_a_reply_to_a_client_that_goes_as_it_is_written_is_lost(meet: Meet, way: str) -> None:
    """Its end is there already, and the server has not heard of it: only the kernel knows."""
    meeting = await meet(way)
    meeting.meanwhile = meeting.client.close
    meeting.relay.set()
    assert await meeting.fate() is False


@pytest.mark.parametrize("way", WAYS)
async def test_a_reply_to_a_client_that_pipelined_quit_and_has_gone_is_lost(meet: Any, way: str) -> None:
    meeting = await meet(way, MESSAGE + b"QUIT\r\n")
    meeting.meanwhile = meeting.client.close
    meeting.relay.set()
    assert await meeting.fate() is False


@pytest.mark.parametrize("way", TLS_WAYS)
async def test_tls_cant_be_closed_by_halves(meet: Meet, way: str) -> None:
    """Nothing can be sent any more to who has said goodbye, though it might read on."""
    meeting = await meet(way)
    await meeting.client.say_goodbye()
    await until(lambda: bool(meeting.service.confirmed))
    meeting.relay.set()
    await until(lambda: len(meeting.service.confirmed) == 2)
    assert await meeting.fate() is False
    meeting.client.close()


async def test_a_reply_that_nobody_acknowledges_is_lost_in_the_end(
    meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is off, a cable that is out."""
    meeting = await meet("plain")
    monkeypatch.setattr(
        "smtp2cf.smtpd.reply_arrival.tcp_info", lambda sock: Tcp(100, 50, 3, hung_up=False, closed=False)
    )
    await meeting.answered()
    meeting.client.close()
    await until(lambda: not meeting.service.server.sessions)
    assert meeting.service.confirmed == []
    monkeypatch.setattr("smtp2cf.smtpd.reply_arrival.LOST_AFTER", 0.0)
    assert await meeting.fate() is False


async def test_a_server_that_stops_does_not_wait_for_long(
    meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = await meet("plain")
    monkeypatch.setattr(
        "smtp2cf.smtpd.reply_arrival.tcp_info", lambda sock: Tcp(100, 50, 3, hung_up=False, closed=False)
    )
    monkeypatch.setattr("smtp2cf.smtpd.server.ARRIVAL_WAIT", 0.05)
    await meeting.answered()
    meeting.client.close()
    await meeting.service.server.drain(10)
    assert await meeting.fate() is False


# ---- where the kernel tells less


@pytest.mark.parametrize("end", [quit_and_close, close, half_close, stay])
async def test_on_a_unix_socket_what_the_kernel_took_has_arrived(
    start: Start, end: Callable[[RawClient], Awaitable[None]]
) -> None:
    service = await start(unix=True)
    client = await RawClient.connect(service.address)
    await client.send(b"HELO a\r\n" + SESSION + MESSAGE)
    while await client.reply() != "250 2.0.0 taken":
        pass
    await end(client)
    await until(lambda: bool(service.confirmed))
    assert service.confirmed[-1][1] is True
    client.close()


async def test_on_a_unix_socket_a_reply_to_a_client_that_has_gone_is_lost(start: Start) -> None:
    async def accept(envelope: Envelope, message: bytes) -> Verdict:
        client.close()
        return Verdict(TAKEN, dict.fromkeys(envelope.forward_paths, TAKEN))

    service = await start(accept, unix=True)
    client = await RawClient.connect(service.address)
    await client.send(b"HELO a\r\n" + SESSION)
    for _ in range(5):
        await client.reply()
    await client.send(MESSAGE)
    await until(lambda: bool(service.confirmed) and not service.server.sessions.reply_arrival.open)
    assert service.confirmed[-1][1] is False


@pytest.mark.parametrize(("how", "arrived"), [("half_close", True), ("close", False)])
async def test_where_tcp_tells_nothing_only_a_reset_behind_the_end_is_a_loss(
    meet: Meet, monkeypatch: pytest.MonkeyPatch, how: str, arrived: bool
) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.reply_arrival.tcp_info", lambda sock: None)
    monkeypatch.setattr("smtp2cf.smtpd.reply_arrival.RESET_WITHIN", 0.1)
    meeting = await meet("plain")
    getattr(meeting.client, how)()
    await until(lambda: all(session.client_ended for session in meeting.service.server.sessions))
    meeting.relay.set()
    await until(lambda: len(meeting.service.confirmed) == 2)
    assert await meeting.fate() is arrived
    meeting.client.close()


async def test_without_a_file_to_spare_a_reply_has_arrived(
    meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dup(_: int) -> int:
        raise OSError(24, "Too many open files")

    meeting = await meet("plain")
    monkeypatch.setattr("smtp2cf.smtpd.reply_arrival.os.dup", dup)
    await meeting.answered()
    meeting.client.close()
    assert await meeting.fate() is True


# ---- the rule


@pytest.mark.parametrize(
    ("acknowledged", "closed", "resent", "hung_up", "arrived"),
    [
        (100, False, 0, False, True),
        (100, True, 9, True, True),  # acknowledged is acknowledged
        (150, True, 0, True, True),
        (99, False, 0, False, None),
        (99, False, 0, True, None),
        (99, False, 9, True, None),
        (99, True, 0, False, True),  # the reset acknowledged it, of which Linux takes no note
        (99, True, 0, True, False),  # the end of the client's stream would have acknowledged it
        (99, True, 1, False, False),  # a host that has it does not let it be sent again
    ],
)
def test_has_arrived(
    acknowledged: int, closed: bool, resent: int, hung_up: bool, arrived: bool | None
) -> None:
    tcp = Tcp(acknowledged, 0, resent, hung_up, closed)
    assert has_arrived(tcp, 100, resent=0, hung_up=hung_up) is arrived


async def test_tcp_info_knows_the_position_of_every_octet(start: Start) -> None:
    """The numbers come from fixed places of a structure: this fails where they are others."""
    service = await start()
    client = await RawClient.connect(("127.0.0.1", service.port))
    heard = len(await client.line())
    (session,) = service.server.sessions
    sock = session.transport.get_extra_info("socket")
    await until(lambda: tcp_info(sock) == Tcp(heard, 0, 0, hung_up=False, closed=False))
    await client.send(b"NOOP\r\n")
    heard += len(await client.line())
    await until(lambda: tcp_info(sock) == Tcp(heard, 0, 0, hung_up=False, closed=False))
    below = socket.socket(sock.family, sock.type, fileno=os.dup(sock.fileno()))
    client.reset()
    await until(lambda: not service.server.sessions)
    assert tcp_info(below) == Tcp(heard, 0, 0, hung_up=False, closed=True)
    below.close()
