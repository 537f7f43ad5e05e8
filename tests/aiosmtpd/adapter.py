"""Stand-ins for aiosmtpd's SMTP and LMTP: what their tests set up, as a Server of ours that listens.

aiosmtpd makes one SMTP object for each connection and asks a handler at every step. Ours is one Server
that asks `accept` about messages and `authenticate` about passwords, so that is what a handler's
handle_DATA and an authenticator become. Options have their counterpart in Policy, or none; hooks that we
have no question for are never called. Two are, to let tests see: handle_VRFY sees the envelope, and
handle_PROXY what a proxy said, but what they answer counts for nothing.

The sessions are ours, over sockets on loopback. They only report what becomes of them.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from aiosmtpd import smtp as aiosmtpd
from aiosmtpd.controller import InetMixin, UnixSocketMixin
from aiosmtpd.proxy_protocol import ProxyData, get_proxy

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import Capacity, Listener, Policy, Rules, Server, before_session, handshake
from smtp2cf.smtpd.connection import Connection
from smtp2cf.smtpd.handshake import HANDSHAKE_TIMEOUT
from smtp2cf.smtpd.session import Session
from smtp2cf.smtpd.steps import Step

EVERYWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
BAD_CREDENTIALS = Reply(535, "5.7.8", "wrong user name or password")
PATIENCE = 2
"""Times what a test gives a proxy, which is little on a busy machine; the test is told."""
GRACE = 0.2
"""Seconds that sessions have when a controller is stopped."""

used = SimpleNamespace(times=0)
"""How often code of ours was spoken to: a test that leaves this at 0 is not about us."""


class WatchedConnection(Connection):
    """A connection that lets the stand-in know when it begins and ends, and has a test's own commands."""

    stand_in: "SMTP"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.writer = Writer(transport)
        super().connection_made(transport)
        self.stand_in.begun(self)

    def _do(self, step: "Step | Own") -> None:
        if isinstance(step, Own):
            self._wait_for(self._do_own(step))
        else:
            super()._do(step)

    async def _do_own(self, own: "Own") -> None:
        await own.work
        if own.then is not None:
            self._do(own.then)

    def data_received(self, data: bytes) -> None:
        used.times += 1
        super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.writer.close()
        super().connection_lost(error)


class Own(NamedTuple):
    """A step of a test's own: something to wait for, and what comes then."""

    work: Awaitable[Any]
    then: Step | None = None


class Writer:
    """What tests look at to see a connection end: close() is called once it has."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def close(self) -> None:
        """Nothing to do: it is closed."""


class SessionView:
    """A session of ours, as far as it has what aiosmtpd's have."""

    def __init__(self, watched: WatchedConnection, proxy_data: ProxyData | None) -> None:
        self._watched = watched
        self.peer = watched.session.peer
        self.proxy_data = proxy_data
        self.ssl = None
        self.login_data = None

    @property
    def authenticated(self) -> bool:
        """Somebody has."""
        return bool(self._watched.session.user)


class SMTP:
    """Takes aiosmtpd's arguments, and makes a Server of them."""

    lmtp = False
    line_length_limit = aiosmtpd.SMTP.line_length_limit

    def __init__(
        self,
        handler: Any,
        *,
        data_size_limit: int | None = aiosmtpd.DATA_SIZE_DEFAULT,
        hostname: str | None = None,
        tls_context: ssl.SSLContext | None = None,
        require_starttls: bool = False,
        timeout: float = 300,
        auth_required: bool = False,
        auth_require_tls: bool = True,
        auth_callback: Callable[..., bool] | None = None,
        authenticator: Callable[..., aiosmtpd.AuthResult] | None = None,
        proxy_protocol_timeout: float | None = None,
        decode_data: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        ident: str | None = None,
        enable_SMTPUTF8: bool = False,  # noqa: N803 - aiosmtpd's name
        auth_exclude_mechanism: object = None,
        command_call_limit: object = None,
    ) -> None:
        self.event_handler = handler
        self.loop = loop
        self.tls_context = tls_context
        self._decode = decode_data
        self._auth_callback = auth_callback
        self._authenticator = authenticator
        self._proxy_timeout = (proxy_protocol_timeout or 0) * PATIENCE
        self._call_limit_default = command_call_limit
        self._proxy_data: ProxyData | None = None
        self._watched: WatchedConnection | None = None
        self._policy = Policy(
            hostname=hostname or socket.getfqdn(),
            # Who has to authenticate, or to start TLS before, is who is in none of our networks.
            allow_networks=() if auth_required or require_starttls else EVERYWHERE,
            max_message_size=data_size_limit or aiosmtpd.DATA_SIZE_DEFAULT,
            max_recipients=1000,
            session_timeout=timeout,
            auth_without_tls=not auth_require_tls,
            proxy_networks=EVERYWHERE if proxy_protocol_timeout else (),
        )

    async def listen(self, sock: socket.socket, ssl_context: ssl.SSLContext | None = None) -> Server:
        """A server of ours at a socket. ssl_context: TLS from the first octet on."""
        context = ssl_context or self.tls_context
        served = Server(self._accept, Capacity(100))
        served.connection = type("Watched", (WatchedConnection,), {"stand_in": self})
        handshake.HANDSHAKE_TIMEOUT = self._proxy_timeout or HANDSHAKE_TIMEOUT
        before_session.get_proxy = self._get_proxy
        sock.setblocking(False)
        listener = Listener(
            rules=Rules(self._policy, authenticate=self._authenticate),
            protocol="lmtp" if self.lmtp else "smtps" if ssl_context is not None else "smtp",
            certificate=(lambda: context) if context is not None else None,
            sockets=[sock],
        )
        await served.start(listener)
        return served

    def _commands(self, session: Session) -> dict[str, Callable[[Session, str], Any]]:
        """The commands: ours, but for those that a test's subclass has of its own."""
        commands = dict(session.commands)
        for verb in commands:
            if (method := getattr(self, f"smtp_{verb}", None)) is not None:
                commands[verb] = lambda _, argument, method=method: Own(method(argument))
        if (hook := getattr(self.event_handler, "handle_VRFY", None)) is not None:
            verify = session.commands["VRFY"]
            commands["VRFY"] = lambda session, address: Own(
                hook(self, session, session.transaction, address), verify(session, address)
            )
        return commands

    # ---- what our server asks

    async def _accept(self, envelope: Envelope, message: bytes) -> Verdict:
        content = aiosmtpd.Envelope()
        content.mail_from = envelope.reverse_path
        content.rcpt_tos = list(envelope.forward_paths)
        content.content = message.decode("utf-8", "surrogateescape") if self._decode else message
        reply = Reply(250, "2.0.0", "OK")
        if (hook := getattr(self.event_handler, "handle_DATA", None)) is not None:
            reply = _reply(await hook(self, self.session, content))
        return Verdict(reply, dict.fromkeys(envelope.forward_paths, reply))

    async def _authenticate(self, _: str, name: str, password: str) -> Reply | None:
        login = aiosmtpd.LoginPassword(name.encode(), password.encode())
        if self._authenticator is not None:
            result = self._authenticator(self, self.session, None, "", login)
            return None if result.success else _reply(result.message or "") or BAD_CREDENTIALS
        good = self._auth_callback is not None and self._auth_callback("", login.login, login.password)
        return None if good else BAD_CREDENTIALS

    # ---- what tests look at

    def begun(self, connection: WatchedConnection) -> None:
        """A session of ours has begun; after what a proxy said, where there is one."""
        self._watched = connection
        connection.session.commands = self._commands(connection.session)
        if self._proxy_timeout and (hook := getattr(self.event_handler, "handle_PROXY", None)) is not None:
            connection.loop.create_task(hook(self, self.session, None, self._proxy_data))

    @property
    def session(self) -> SessionView | SimpleNamespace:
        """The last session; without one, what a proxy said before it was refused."""
        if self._watched is None:
            return SimpleNamespace(proxy_data=self._proxy_data)
        return SessionView(self._watched, self._proxy_data)

    @property
    def _writer(self) -> Writer:
        assert self._watched is not None
        return self._watched.writer

    async def _get_proxy(self, reader: Any) -> ProxyData:
        used.times += 1
        self._proxy_data = await get_proxy(reader)
        return self._proxy_data

    # ---- a connection of a test's own: octets in, replies to a mock

    def connection_made(self, transport: Any) -> None:
        """A client whose octets `data_received` brings; the loop runs later."""
        self._given = b""
        self._transport = transport
        self._handler_coroutine = self.loop.create_task(self._converse())

    def data_received(self, data: bytes) -> None:
        """Octets that the client says."""
        self._given += data

    async def _converse(self) -> None:
        """Say it all over a real connection, and write each line that comes back to the mock."""
        with socket.create_server(("127.0.0.1", 0)) as sock:
            served = await self.listen(sock)
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(self._given)
            with contextlib.suppress(ConnectionResetError):
                while line := await reader.readline():
                    self._transport.write(line)
                    if self._proxy_timeout and line.startswith(b"220"):
                        break  # the proxy was believed, and more it did not say
                else:
                    self._transport.close()
            writer.close()
            with contextlib.suppress(ConnectionResetError):
                await writer.wait_closed()
            await served.drain(GRACE)


class LMTP(SMTP):
    """The same for LMTP."""

    lmtp = True


def _reply(status: str) -> Reply:
    """A handler's words as a Reply."""
    code, _, text = status.partition(" ")
    enhanced, _, words = text.partition(" ")
    if enhanced.count(".") == 2:
        return Reply(int(code), enhanced, words)
    return Reply(int(code), f"{code[0]}.0.0", text)


# ---- aiosmtpd's controllers, which run an event loop in a thread and listen


class Listening:
    """What a controller takes for asyncio's server."""

    def __init__(self, served: Server) -> None:
        self._served = served

    def close(self) -> None:
        """Done by wait_closed."""

    async def wait_closed(self) -> None:
        """Take no more sessions, and end those there are."""
        await self._served.drain(GRACE)
        await asyncio.sleep(0)


async def listen_on_loopback(controller: InetMixin) -> Listening:
    """In place of a controller's own listening: at whatever port is free, which it gets to know."""
    sock = socket.create_server(("127.0.0.1", 0))
    controller.hostname, controller.port = sock.getsockname()
    return await _listen(controller, sock)


async def listen_on_unix_socket(controller: UnixSocketMixin) -> Listening:
    """The same for a unix socket."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(controller.unix_socket)  # as asyncio does
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(controller.unix_socket)
    sock.listen()
    return await _listen(controller, sock)


def knock(_: InetMixin | UnixSocketMixin) -> None:
    """In place of a controller's first connection, which is to make it call its factory: we have."""


async def _listen(controller: Any, sock: socket.socket) -> Listening:
    stand_in = controller._factory_invoker()
    return Listening(await stand_in.listen(sock, controller.ssl_context))
