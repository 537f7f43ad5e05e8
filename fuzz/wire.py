"""A session at a wire that is none: no sockets, no waiting, the same every time.

A `House` is a server with everything on: AUTH, STARTTLS, PRDR, LMTP, BDAT. A `Call` is one client's
connection to it: what is sent is taken in at once, what is answered can be read at once, and hours pass
in no time. TLS is a wire like the plain one: a handshake is done when its first octet is that of a
handshake, and failed otherwise.
"""

import asyncio
import atexit
import ipaddress
import selectors
import socket
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

from smtp2cf.envelope import Accept, Envelope, Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import Capacity, Listener, MailProtocol, Policy, Rules, Server
from smtp2cf.smtpd.connection import Connection

PROTOCOLS: tuple[MailProtocol, ...] = ("smtp", "lmtp", "smtps")
HANDSHAKE = b"\x16"
USER, PASSWORD = "anna", "secret"
MESSAGE_LIMIT = 2000
"""Octets: small enough that inputs go over it."""
RECIPIENT_LIMIT = 5
TIMEOUT = 300.0
WRITE_LIMIT = 1 << 16
"""Octets that nobody reads, after which a transport says so."""
ABANDONED = TIMEOUT + 60.0
"""Seconds after which no session is left whose client does nothing."""


class _Selector(selectors.DefaultSelector):
    """Never waits: time it was to wait for has passed."""

    loop: "Loop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self.loop.now += timeout
        return []


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop with time of its own, and TLS without any."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        # What is due now must be due by a margin that a float of months still has room for.
        self._clock_resolution = 1e-3
        self.complaints: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.complaints.append(context))

    def time(self) -> float:
        return self.now

    async def start_tls(self, transport: Any, *_: Any, **__: Any) -> Any:
        return await transport.handshake()

    def settle(self) -> None:
        """Let everything run that can run now; no time passes."""
        while self._ready:  # type: ignore[attr-defined]
            self.call_soon(self.stop)
            self.run_forever()

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass, and what is due in it happen."""
        self.run_until_complete(asyncio.sleep(seconds))
        self.settle()


# What a session looks at below its transport: a real socket, on which nothing ever happens.
_SOCKET, _OTHER_END = socket.socketpair(socket.AF_UNIX)
for _end in (_SOCKET, _OTHER_END):
    atexit.register(_end.close)


class Transport(asyncio.Transport):
    """The server's end of a call."""

    def __init__(self, call: "Call") -> None:
        super().__init__()
        self._call = call
        self.closing = False
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": (self._call.client, 12345), "socket": _SOCKET}.get(name, default)

    def write(self, octets: bytes) -> None:
        if not self.closing:
            self._call.take(octets)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self.reading:
            self.reading = True
            self._call.loop.call_soon(self._call.deliver)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        # As asyncio's: what nobody reads keeps the connection.
        self.closing = True
        if not self._call.unread:
            self._call.loop.call_soon(self._call.lose, None)

    def abort(self) -> None:
        self.closing = True
        self._call.loop.call_soon(self._call.lose, None)

    async def handshake(self) -> "Transport":
        """What start_tls does with this transport."""
        return await self._call.handshake()


class Accepted(NamedTuple):
    """What accept was called with."""

    envelope: Envelope
    message: bytes


class House:
    """A server, and what it took. accept: its own, instead of one that takes all. fates: what becomes of
    the next messages. options: of the policy."""

    def __init__(self, accept: Accept | None = None, **options: Any) -> None:
        self.loop = Loop()
        self._options = options
        self._real_accept = accept
        asyncio.set_event_loop(None)
        self.accepted: list[Accepted] = []
        self.fates: list[Reply | Exception] = []
        self.server = self.loop.run_until_complete(self._make())

    async def _make(self) -> Server:
        defaults: dict[str, Any] = {
            "hostname": "bridge.example",
            "allow_networks": (ipaddress.ip_network("127.0.0.0/8"),),
            "max_message_size": MESSAGE_LIMIT,
            "max_recipients": RECIPIENT_LIMIT,
            "session_timeout": TIMEOUT,
        }
        policy = Policy(**{**defaults, **self._options})
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        rules = Rules(policy, authenticate=self._check)
        self.listeners = {
            protocol: Listener(rules=rules, protocol=protocol, certificate=lambda: context)
            for protocol in PROTOCOLS
        }
        return Server(self._accept, Capacity(10))

    async def _accept(self, envelope: Envelope, message: bytes) -> Verdict:
        number = len(self.accepted)
        self.accepted.append(Accepted(envelope, message))
        if self._real_accept is not None:
            return await self._real_accept(envelope, message)
        await asyncio.sleep(len(message) % 3 / 10)
        fate = self.fates.pop(0) if self.fates else Reply(250, "2.0.0", "taken")
        if isinstance(fate, Exception):
            raise fate
        reply = fate._replace(text=f"{fate.text} #{number}")
        return Verdict(reply, dict.fromkeys(envelope.forward_paths, reply))

    async def _check(self, _: str, name: str, password: str) -> Reply | None:
        await asyncio.sleep(1)
        return None if (name, password) == (USER, PASSWORD) else Reply(535, "5.7.8", "wrong")

    def call(self, protocol: MailProtocol = "smtp", client: str = "127.0.0.1") -> "Call":
        """A client calls."""
        return Call(self, self.listeners[protocol], client)

    def close(self) -> None:
        """Nobody calls any more."""
        self.loop.close()

    def empty(self) -> None:
        """Forget what was taken; nothing else may be left of the calls so far."""
        assert not self.server.sessions, "a session is still there"
        assert not asyncio.all_tasks(self.loop), "a task is still there"
        assert not self.loop.complaints, self.loop.complaints
        self.accepted.clear()
        self.fates.clear()


class Call:
    """One client's connection. said: all that was sent. heard: all that was answered."""

    def __init__(self, house: House, listener: Listener, client: str) -> None:
        self.house = house
        self.loop = house.loop
        self.client = client
        self.listener = listener
        self.said = bytearray()
        self.heard = bytearray()
        self.secured_at: list[tuple[int, int]] = []
        """Where TLS began: the octets that were discarded or a handshake, from and to, in `said`."""
        self.gone = False
        self.unread = 0
        self._reads = True
        self._waiting = bytearray()
        self._handshake: asyncio.Future[None] | None = None
        self._session = self._run(lambda: Connection(house.server.sessions, listener))
        self.transport = Transport(self)
        self._run(lambda: self._session.connection_made(self.transport))

    def _run(self, work: Callable[[], Any]) -> Any:
        """Do something in the loop, and all that follows of it."""
        result: list[Any] = []
        self.loop.call_soon(lambda: result.append(work()))
        self.loop.settle()
        if not result:
            raise AssertionError(self.loop.complaints)
        return result[0]

    # ---- the client's side

    def send(self, packet: bytes) -> None:
        """Send octets, which arrive in one."""
        if self.gone or not packet:
            return
        begin = len(self.said)
        self.said += packet
        if self._handshake is not None:
            self.secured_at.append((begin, begin + 1))
            handshake, self._handshake = self._handshake, None
            if packet[:1] == HANDSHAKE:
                handshake.set_result(None)
            else:
                handshake.set_exception(ssl.SSLError("no handshake"))
            self.loop.settle()
            packet = packet[1:]
        self._waiting += packet
        self._run(self.deliver)

    def end(self) -> None:
        """Say that nothing more comes."""
        if not self.gone:
            self._run(lambda: self._session.eof_received() or self.transport.close())

    def reset(self) -> None:
        """Vanish."""
        self._run(lambda: self.lose(ConnectionResetError()))

    def stop_reading(self) -> None:
        """Read no more answers."""
        self._reads = False

    def read_on(self) -> None:
        """Read what was not read."""
        self._reads = True
        full, self.unread = self.unread > WRITE_LIMIT, 0
        if self.gone:
            return
        if self.transport.closing:
            self._run(lambda: self.lose(None))
        elif full:
            self._run(self._session.resume_writing)

    # ---- the server's side

    def take(self, octets: bytes) -> None:
        """An answer."""
        self.heard += octets
        if not self._reads:
            was_full = self.unread > WRITE_LIMIT
            self.unread += len(octets)
            if self.unread > WRITE_LIMIT and not was_full:
                self._session.pause_writing()

    def deliver(self) -> None:
        """Hand on what was sent, if anybody reads."""
        if self._waiting and self.transport.reading and not self.gone and not self.transport.closing:
            packet = bytes(self._waiting)
            self._waiting.clear()
            self._session.data_received(packet)

    def lose(self, error: Exception | None) -> None:
        """The connection is over."""
        if not self.gone:
            self.gone = True
            if self._handshake is not None:
                self._handshake.set_exception(ConnectionResetError())
                self._handshake = None
            else:
                self._session.connection_lost(error)

    async def handshake(self) -> Transport:
        """Wait for the client's handshake."""
        self.secured_at.append((-1, len(self.said)))
        self._waiting.clear()
        self._handshake = self.loop.create_future()
        timeout = self.loop.call_later(30, self._fail_handshake)
        try:
            await self._handshake
        finally:
            timeout.cancel()
        self.transport = Transport(self)
        return self.transport

    def _fail_handshake(self) -> None:
        if self._handshake is not None:
            self._handshake.set_exception(ConnectionAbortedError("no handshake in time"))
            self._handshake = None
