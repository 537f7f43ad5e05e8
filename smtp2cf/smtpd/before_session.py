"""Before a session: connections that have something to do before SMTP is spoken.

At a listening socket where TLS comes first, or where proxies say for whom they connect (HAProxy's PROXY
protocol, versions 1 and 2, read by aiosmtpd). Such connections are accepted here one by one, bounded in
number and time. A plain socket needs none of this: see Server.start. Knows no command.
"""

import asyncio
import contextlib
import socket

from aiosmtpd.proxy_protocol import get_proxy

from smtp2cf.journal import tasks
from smtp2cf.reply import Reply, one_line
from smtp2cf.smtpd import refusals, replies
from smtp2cf.smtpd.connection import Connection
from smtp2cf.smtpd.handshake import handshake_timeout, tls_failed
from smtp2cf.smtpd.listener import Listener
from smtp2cf.smtpd.sessions import Sessions

OUT_OF_FILES_WAIT = 1.0
"""Seconds until the next try to accept a connection when there are no files left for one."""
GOODBYE_WAIT = 1.0
"""Seconds that a proxy without a header has to read why it is turned away."""
GOODBYES = 1000
"""Connections that are told at once why they are turned away."""
PROXY_LINE_LIMIT = 107
"""Octets of a version 1 header with its CRLF (PROXY protocol §2.1)."""

Peer = tuple[str, int]


def turn_away_waiting(listeners: list[socket.socket], reply: Reply) -> None:
    """Say goodbye to clients that are connected but not accepted yet; TLS has no words for that."""
    told: list[socket.socket] = []
    for listener in listeners:
        while len(told) < GOODBYES:
            try:
                sock, _ = listener.accept()
            except OSError:
                break  # nobody waits, or there is no file left
            told.append(sock)
            sock.setblocking(False)
            _say(sock, reply)
    if told:
        # A client that has spoken first would lose the reply to a reset if we closed now.
        asyncio.get_running_loop().call_later(GOODBYE_WAIT, _close_all, told)


def _say(sock: socket.socket, reply: Reply) -> None:
    with contextlib.suppress(OSError):  # gone already
        sock.send(reply.wire())
        sock.shutdown(socket.SHUT_WR)


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


class Acceptor:
    """Accepts connections at one listening socket and makes sessions of them."""

    def __init__(
        self, sessions: Sessions, sock: socket.socket, listener: Listener, connection: type[Connection]
    ) -> None:
        self._sessions = sessions
        self._rules = listener.rules
        self._limited_log = sessions.limited_log
        self._connection = connection
        self._socket = sock
        self._listener = listener
        self._preparing: dict[asyncio.Task[None], str] = {}
        self._accepting = tasks.keep_running(self._accept, "smtpd.accept")

    def close(self) -> None:
        """Take no more, and hang up on those that are no sessions yet."""
        for task in (self._accepting, *self._preparing):
            task.cancel()
        self._accepting.add_done_callback(lambda _: self._socket.close())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(self._socket)
            except OSError as error:
                self._limited_log.warning(
                    "session.not_accepted", client="", reason=error.strerror or str(error)
                )
                await asyncio.sleep(OUT_OF_FILES_WAIT)
                continue
            client = peer[0] if isinstance(peer, tuple) else ""
            if self._sessions.files.are_short(sock.fileno()):
                refusals.count("", replies.NO_FILES)
                if not self._listener.tls_first:
                    _say(sock, replies.NO_FILES)
                sock.close()
                continue
            if len(self._preparing) >= self._sessions.capacity.sessions or self._has_enough(client):
                refusals.count("", replies.TOO_MANY_SESSIONS)
                self._limited_log.warning("session.refused", client=client, arriving=len(self._preparing))
                sock.close()
                continue
            task = tasks.start(self._prepare(sock, client), "smtpd.arrive")
            self._preparing[task] = client
            task.add_done_callback(self._preparing.pop)

    def _has_enough(self, client: str) -> bool:
        """This client has as many connections on the way as it may have sessions; a proxy may have more."""
        limit = self._rules.sessions.client
        if not limit or not client or self._rules.is_proxy(client):
            return False
        return sum(other == client for other in self._preparing.values()) >= limit

    async def _prepare(self, sock: socket.socket, client: str) -> None:
        """What comes before the session, and then the session."""
        timeout = handshake_timeout(self._rules.policy.session_timeout)
        spoken_for = None
        try:
            if self._rules.is_proxy(client):
                async with asyncio.timeout(timeout):
                    spoken_for = await _read_proxy(sock)
        except (OSError, ValueError, EOFError) as error:
            reason = "no PROXY header in time" if isinstance(error, TimeoutError) else str(error)
            refusals.REFUSALS.counted["proxy"] += 1
            self._limited_log.warning("session.proxy_refused", client=client, reason=one_line(reason, 200))
            await self._turn_away(sock, client)
            return
        except BaseException:
            if not self._listener.tls_first:
                _say(sock, replies.SHUTTING_DOWN)
            sock.close()
            raise
        certificate = self._listener.certificate if self._listener.tls_first else None
        tls = certificate() if certificate is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection(self._sessions, self._listener, spoken_for),
                sock,
                ssl=tls,
                ssl_handshake_timeout=timeout if tls is not None else None,
            )
        except OSError as error:
            tls_failed(self._limited_log, spoken_for[0] if spoken_for else client, error)

    async def _turn_away(self, sock: socket.socket, client: str) -> None:
        """Say why, where that can be understood, and hang up."""
        with sock, contextlib.suppress(OSError, TimeoutError):
            if not self._listener.tls_first:
                async with asyncio.timeout(GOODBYE_WAIT):
                    loop = asyncio.get_running_loop()
                    await loop.sock_sendall(sock, replies.proxy_expected(client).wire())
                    sock.shutdown(socket.SHUT_WR)
                    # To close with octets unread is a reset, which may overtake the reply.
                    while await loop.sock_recv(sock, 65536):
                        pass


async def _read_proxy(sock: socket.socket) -> Peer | None:
    """Whom the proxy speaks for; None where it speaks for itself, as in its health checks.

    Takes the header and not an octet more: TLS may follow. Raises ValueError for what is none, EOFError
    where the proxy leaves, OSError.
    """
    found = await get_proxy(_Octets(sock))
    if found.error or not found.valid:
        raise ValueError(found.error or "no PROXY header")
    if not found.src_addr or isinstance(found.src_addr, str | bytes) or found.command == 0:
        return None
    return str(found.src_addr), found.src_port or 0


class _Octets:
    """aiosmtpd's AsyncReader, over a socket that others read on from."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def read(self, n: int = -1) -> bytes:
        return await self.readexactly(n)

    async def readexactly(self, n: int) -> bytes:
        octets = b""
        while len(octets) < n:
            block = await asyncio.get_running_loop().sock_recv(self._sock, n - len(octets))
            if not block:
                raise EOFError("the proxy left before its header was whole")
            octets += block
        return octets

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        octets = b""
        while not octets.endswith(separator):
            if len(octets) > PROXY_LINE_LIMIT:
                raise ValueError("the PROXY header is too long")
            octets += await self.readexactly(1)
        return octets
