"""A server of this room on loopback, with three lines of accept, and with plain ones of the rest."""

import asyncio
import contextlib
import dataclasses
import gc
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import Capacity, Listener, MailProtocol, Policy, Rules, Server, SessionLimits
from smtp2cf.smtpd.connection import Connection
from tests.smtpd.dialog import Client
from tests.support.certificates import Certificates, make_certificates

TAKEN = Reply(250, "2.0.0", "taken")
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test here runs on both loops that the bridge may run on, unless it says otherwise."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def arriving() -> list[asyncio.Task[Any]]:
    """Connections that are no sessions yet: a header or a handshake comes before."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "smtpd.arrive"]


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let this loop's clock, asyncio's and not uvloop's, show that so much later."""
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + seconds)


async def turns() -> None:
    """As many turns of the loop as what was sent needs to be read."""
    for _ in range(20):
        await asyncio.sleep(0)


def connections() -> list[Connection]:
    """All that this process has."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, Connection)]


class Service:
    """A running server, what it took, and ways to talk to it. listener: without its socket."""

    def __init__(self, accept: Any, listener: Listener, capacity: Capacity) -> None:
        self.taken: list[tuple[Envelope, bytes]] = []
        self.confirmed: list[tuple[str, bool]] = []
        self.listener = listener
        self.server = Server(accept or self.take, capacity, self._confirm)
        self.clients: list[Client] = []
        self.address: Any = None

    async def take(self, envelope: Envelope, message: bytes) -> Verdict:
        """Take every message."""
        self.taken.append((envelope, message))
        return Verdict(TAKEN, dict.fromkeys(envelope.forward_paths, TAKEN))

    def _confirm(self, envelope: Envelope, received: bool) -> None:
        self.confirmed.append((envelope.queue_id, received))

    async def start(self, family: socket.AddressFamily, address: Any, send_buffer: int = 0) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if send_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(2048)
        sock.setblocking(False)
        self.address = sock.getsockname()
        await self.listen([sock])

    async def listen(self, sockets: list[socket.socket], *, shared: bool = False) -> None:
        """Take sessions at more sockets."""
        await self.server.start(dataclasses.replace(self.listener, sockets=sockets, shared=shared))

    @property
    def port(self) -> int:
        return self.address[1]

    async def connect(
        self,
        source: str = "",
        receive_buffer: int = 0,
        tls: ssl.SSLContext | None = None,
        ahead: bytes = b"",
    ) -> Client:
        """A client. source: the address it comes from. tls: begins with a handshake. ahead: sent before."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if source:
            sock.bind((source, 0))
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        address = self.address if family == socket.AF_UNIX else ("127.0.0.1", self.port)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
            if ahead:
                await asyncio.get_running_loop().sock_sendall(sock, ahead)
        except OSError:
            sock.close()
            raise
        opened = asyncio.open_unix_connection if family == socket.AF_UNIX else asyncio.open_connection
        name = {"server_hostname": "127.0.0.1"} if tls is not None else {}
        client = Client(*await opened(sock=sock, ssl=tls, **name))
        self.clients.append(client)
        return client

    async def greeted(self, name: str = "client.example", **options: Any) -> Client:
        """A client that has said EHLO, or LHLO."""
        client = await self.connect(**options)
        assert (await client.reply()).startswith("220")
        verb = "LHLO" if self.listener.lmtp else "EHLO"
        assert (await client.ask(f"{verb} {name}")).startswith("250")
        return client

    async def secured(self, tls: ssl.SSLContext) -> Client:
        """A client that has said EHLO, STARTTLS and EHLO again."""
        client = await self.greeted()
        assert (await client.ask("STARTTLS")).startswith("220 2.0.0")
        await client.start_tls(tls)
        assert (await client.ask(f"{'LHLO' if self.listener.lmtp else 'EHLO'} client.example")).startswith(
            "250"
        )
        return client

    async def play(self, dialog: str) -> None:
        """A dialog with a client of its own."""
        await (await self.connect()).play(dialog)

    @property
    def message(self) -> bytes:
        """The only message that was taken."""
        assert len(self.taken) == 1
        return self.taken[0][1]

    @property
    def envelope(self) -> Envelope:
        """The envelope of the only message that was taken."""
        assert len(self.taken) == 1
        return self.taken[0][0]

    async def stop(self) -> None:
        for client in self.clients:
            client.reset()
        await self.server.drain(0.01)


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a server: `await start(accept, max_sessions=2, …)`; stopped after the test.

    unix: listen on a unix socket. ipv6: listen on [::], IPv4 included. send_buffer: octets of replies
    that the kernel holds. protocol: what is spoken. tls: its context. authenticate, sender_refusal: Rules'.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def begin(
            accept: Any = None,
            *,
            unix: bool = False,
            ipv6: bool = False,
            send_buffer: int = 0,
            protocol: MailProtocol = "smtp",
            max_sessions: int = 1000,
            max_message_memory: int = 512 << 20,
            tls: ssl.SSLContext | None = None,
            authenticate: Any = None,
            sender_refusal: Any = None,
            sessions: SessionLimits | None = None,
            quotas: Any = None,
            **policy: Any,
        ) -> Service:
            defaults: dict[str, Any] = {
                "hostname": "bridge.example",
                "allow_networks": LOOPBACK,
                "max_message_size": 1 << 20,
                "max_recipients": 1000,
                "session_timeout": 60.0,
            }
            rules = Rules(
                Policy(**{**defaults, **policy}),
                authenticate=authenticate,
                sender_refusal=sender_refusal,
                sessions=sessions,
                quotas=quotas,
            )
            certificate = (lambda: tls) if tls is not None else None
            listener = Listener(rules=rules, protocol=protocol, certificate=certificate)
            service = Service(accept, listener, Capacity(max_sessions, max_message_memory))
            if unix:
                await service.start(socket.AF_UNIX, str(tmp_path / "smtp"))
            elif ipv6:
                await service.start(socket.AF_INET6, ("::", 0))
            else:
                await service.start(socket.AF_INET, ("127.0.0.1", 0), send_buffer)
            stack.push_async_callback(service.stop)
            return service

        yield begin


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """The log lines of a test."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On loopback an acknowledgement is back at once."""
    monkeypatch.setattr("smtp2cf.smtpd.reply_arrival.LOOK_EVERY", 0.02)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate for 127.0.0.1, and who trusts it."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def _asyncio_has_no_complaint(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No exception that nobody looked at, no misuse of a transport."""
    yield
    complaints = [
        record.getMessage()
        for when in ("setup", "call", "teardown")
        for record in caplog.get_records(when)  # type: ignore[arg-type]
        if record.name == "asyncio" and record.levelno >= logging.WARNING
    ]
    assert complaints == []
