"""A server of this room on loopback, with three lines of accept."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import Policy, Server
from tests.smtpd.dialog import Client

TAKEN = Reply(250, "2.0.0", "taken")
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test here runs on both loops that the bridge may run on, unless it says otherwise."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Service:
    """A running server, what it took, and ways to talk to it."""

    def __init__(self, accept: Any, policy: Policy) -> None:
        self.taken: list[tuple[Envelope, bytes]] = []
        self.confirmed: list[tuple[str, bool]] = []
        self.server = Server(accept or self.take, policy, self._confirm)
        self.clients: list[Client] = []
        self._address: Any = None

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
        self._address = sock.getsockname()
        await self.server.start([sock])

    @property
    def port(self) -> int:
        return self._address[1]

    async def connect(self, source: str = "", receive_buffer: int = 0) -> Client:
        """A client; `source`: the address it comes from."""
        family = socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if source:
            sock.bind((source, 0))
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        address = self._address if family == socket.AF_UNIX else ("127.0.0.1", self.port)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError:
            sock.close()
            raise
        opened = asyncio.open_unix_connection if family == socket.AF_UNIX else asyncio.open_connection
        client = Client(*await opened(sock=sock))
        self.clients.append(client)
        return client

    async def greeted(self, name: str = "client.example") -> Client:
        """A client that has said EHLO."""
        client = await self.connect()
        assert (await client.reply()).startswith("220")
        assert (await client.ask(f"EHLO {name}")).startswith("250")
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
    that the kernel holds.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def begin(
            accept: Any = None, *, unix: bool = False, ipv6: bool = False, send_buffer: int = 0, **policy: Any
        ) -> Service:
            defaults: dict[str, Any] = {
                "hostname": "bridge.example",
                "allow_networks": LOOPBACK,
                "max_message_size": 1 << 20,
                "max_recipients": 1000,
                "max_sessions": 1000,
                "session_timeout": 60.0,
            }
            service = Service(accept, Policy(**{**defaults, **policy}))
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
    """On loopback a reset is back at once."""
    monkeypatch.setattr("smtp2cf.smtpd.connection.RESET_WAIT", 0.05)
