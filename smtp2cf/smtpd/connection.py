"""Connection: octets in, replies out, and when to hang up. What aiosmtpd does with tasks, for speed without.

What falls short in aiosmtpd for a relay, and is overridden here:
- it inspects itself at every connection, which costs more than all the rest of one (`__init__`);
- it wakes a task for every command: here a command is answered as it arrives, and a task is made
  only for what must be waited for, such as a message that is being relayed (`data_received`);
- a client that goes away cancels what is being done with its message (`connection_lost`,
  `eof_received`);
- replies lack enhanced codes (`push`), every command restarts a timer, a time-out says nothing, and a
  client that reads nothing is never hung up on.

Knows no command: session.py does.
"""

import asyncio
import socket
import ssl
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol, cast

import structlog
from aiosmtpd import smtp as aiosmtpd

from smtp2cf.journal import tasks
from smtp2cf.reply import Reply, one_line
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.log_limit import LimitedLog
from smtp2cf.smtpd.other_protocols import PROXY_V2, other_protocol
from smtp2cf.smtpd.sasl import AUTH_LINE_LIMIT
from smtp2cf.smtpd.transaction import Transaction

if TYPE_CHECKING:
    from smtp2cf.smtpd.server import Listener, Server

PIPELINE_LIMIT = 65536
"""Octets of commands that may wait for an answer to an earlier one; more are left in the kernel."""
PIPELINE_TURN = 50
"""Commands that are answered in one go before other sessions have their turn."""
ERROR_BUDGET = 20
"""Nonsense a session may send without delivering mail (Postfix's smtpd_hard_error_limit)."""
HANDSHAKE_TIMEOUT = 30.0
"""Seconds a TLS handshake may take, and what a proxy says before it."""
SEND_BUFFER = 65536
"""Octets of replies that the kernel holds for a client that reads none; left alone it holds megabytes."""
LINGER = 30.0
"""Seconds a client has at least to read what was written before we hung up."""
SLOWEST_MESSAGE = 500
"""Octets a second that a message must bring, SESSION_TIMEOUT aside (Postfix's smtpd_min_data_rate)."""
ROOM_STEP = 262144
"""Octets after which a message in the making asks anew whether there is room for it."""
REFUSED_LINGER = 1.0
"""The same for a client that was turned away."""

_NONSENSE = frozenset({500, 501, 502, 503, 504, 535, 555})

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


def _bound_send_buffer(sock: socket.socket) -> None:
    """Most have it from the socket that listens: not on unix sockets, and not where that had it too late."""
    # Linux says the double of what it was told.
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 2 * SEND_BUFFER:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def tls_failed(limited_log: LimitedLog, client: str, error: BaseException) -> None:
    """Log a handshake that came to nothing: a client without our certificate's CA, a scanner, plain SMTP."""
    reason = one_line(str(error) or type(error).__name__, 200)
    limited_log.info("session.tls_failed", client=client, reason=reason)


class Reader(Protocol):
    """Takes the octets of a message out of the stream: DataReader, Chunks."""

    rest: bytes

    @property
    def held(self) -> int:
        """Octets that are in memory."""

    def drop(self) -> None:
        """Keep nothing of the message: what comes is read to its end."""

    @property
    def received(self) -> int:
        """Octets so far."""

    def feed(self, block: bytes) -> bool:
        """Take the next octets; True when no more belong to it."""


class Connection(aiosmtpd.SMTP):
    """One client's connection.

    listener: what is spoken here. peer: whom a proxy speaks for, where one does.
    """

    envelope: Transaction
    session: aiosmtpd.Session
    transport: asyncio.Transport | None

    def __init__(self, server: "Server", listener: "Listener", peer: tuple[str, int] | None = None) -> None:
        # What aiosmtpd finds out about itself is the same for every session.
        vars(self).update(server.session_template)
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._listener = listener
        self._peer = peer
        self._secure = listener.tls
        self._handshaking = False
        self.client = ""
        self.user = ""
        self._unanswered = b""
        self._answered = 0
        self._overlong = False
        self._unread = False
        self._data: Reader | None = None
        self._data_began_at = 0.0
        self._room_until = ROOM_STEP
        self._relaying = 0
        self._task: asyncio.Task[None] | None = None
        self._receipts = server.receipts.of_session()
        self._ended = False
        self._closing = False
        self._hung_up = False
        self._errors_left = ERROR_BUDGET
        self._heard_at = self.loop.time()

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there: greet it, or turn it away when there are too many."""
        self.transport = cast("asyncio.Transport", transport)
        self.envelope = Transaction()
        peer: Any = self._peer or transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = peer[0]
        elif transport.get_extra_info("socket").family != socket.AF_UNIX:
            # Gone again already. Nobody relays without an address, except on a unix socket.
            self.transport.abort()
            return
        sock = transport.get_extra_info("socket")
        _bound_send_buffer(sock)
        if (refusal := self._server.admit(self, sock.fileno())) is not None:
            # No limit counts it any more, and TLS would wait for the client's goodbye.
            self._timeout_handle = self.loop.call_later(REFUSED_LINGER, self._timeout_cb)
            self.close(refusal)
            return
        self.session = self._create_session()
        self.session.peer = peer
        self._timeout_handle = self.loop.call_later(self._timeout_duration, self._timeout_cb)
        self.transport.write(self._server.greeting(self._listener))

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone. What is being done with its message goes on to its end."""
        if self.transport is None:
            return  # known already: it went during the handshake
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        if self._data is not None:
            self._server.limited_log.info(
                "session.lost_in_data", client=self.client, reverse_path=self.envelope.mail_from
            )
        self.transport = self._data = None
        self._closing = self._hung_up = True
        self._drop_unanswered()
        self._receipts.closed()
        self._forget_when_done()
        log.debug("session.ended", client=self.client, error=repr(error) if error else None)

    def eof_received(self) -> bool:
        """The client sends no more, but may still read: answer what it sent."""
        self._ended = True
        self._receipts.hung_up()
        half_closed = not (self._secure or self._handshaking)
        if not half_closed:
            self._drop_unanswered()  # TLS can't be closed by halves: no answer would get to the client
        self._hang_up_when_done()
        return half_closed

    def data_received(self, data: bytes) -> None:
        """Octets of a message go to where it is kept; commands are answered as they come."""
        self._receipts.heard()
        if self._hung_up:
            return  # TLS hands on what it had even while it is being closed
        if self._data is not None:
            self._heard_at = self.loop.time()
            if self._take(data):
                self._serve()
        elif (
            self._task is None
            and not self._unanswered
            and not self._unread
            and data[-1:] == b"\n"
            and data.find(b"\n") == len(data) - 1
        ):
            self._heard_at = self.loop.time()
            self._run_command(data)  # by far most packets are one command
            if self._closing:
                self._hang_up_when_done()
        else:
            self._unanswered += data
            self._serve()

    def _read_message(self, reader: Reader, early: bytes) -> None:
        """Octets go to a reader from here on; `early`: those that came along with the command."""
        self._data = reader
        self._data_began_at = self.loop.time()
        self._room_until = min(self._room_until, reader.held + ROOM_STEP)
        self._take(early)

    def _take(self, block: bytes) -> bool:
        """Octets of the message; True when that was the last of them, and commands come again."""
        reader = cast("Reader", self._data)
        done = reader.feed(block)
        if reader.held > self._room_until:
            self._room_until = reader.held + ROOM_STEP
            if not self._server.has_room(self):
                self._server.limited_log.warning("session.no_room", client=self.client)
                reader.drop()
        if done:
            self._data = None
            if reader.rest:
                self._unanswered, self._answered = reader.rest, 0
            self._taken(reader)
        return done

    def pause_writing(self) -> None:
        """The client does not read its replies: no more of its commands until it does."""
        self._unread = True

    def resume_writing(self) -> None:
        """It reads again: go on with its commands."""
        self._unread = False
        self._serve()

    def _serve(self) -> None:
        """Answer the commands that are there, one after the other, until one must be waited for."""
        for _ in range(PIPELINE_TURN):
            if self._task is not None or self._data is not None or self._unread:
                break
            start, end = self._answered, self._unanswered.find(b"\n", self._answered) + 1
            if not end or (self._closing and self.idle):
                break
            self._answered = end
            self._heard_at = self.loop.time()
            self._run_command(self._unanswered[start:end])
        else:
            if self._task is None and self._data is None:
                self._wait_for(asyncio.sleep(0), "")
        waits = self._task is not None or self._unread
        # To cut off what is answered copies the rest: not at every turn of a long pipeline.
        if self._answered and (not waits or self._answered >= PIPELINE_LIMIT):
            self._unanswered = self._unanswered[self._answered :]
            self._answered = 0
        if self.transport is not None and not self._hung_up:
            if self._unanswered and not waits and self._data is None:
                self._look_at_unfinished()
            if waits and len(self._unanswered) - self._answered > PIPELINE_LIMIT:
                self.transport.pause_reading()
            elif not self._ended:
                self.transport.resume_reading()
        self._hang_up_when_done()

    def _look_at_unfinished(self) -> None:
        """A line without end is not kept: its beginning is enough to know that it is too long."""
        if not self._overlong and self._is_other_protocol(self._unanswered[: AUTH_LINE_LIMIT + 1]):
            return
        if self._overlong or len(self._unanswered) > AUTH_LINE_LIMIT:
            self._overlong = True
            self._unanswered = self._unanswered[-1:]

    def _timeout_cb(self) -> None:
        """The one timer of the session looks at how long the client has been at what it is doing."""
        self._timeout_handle = None
        if self._hung_up:
            return self._give_up()
        left, goodbye = self._time_left()
        if left > 0:
            self._timeout_handle = self.loop.call_later(left, self._timeout_cb)
            return None
        self._server.limited_log.info("session.timeout", client=self.client, reply=str(goodbye))
        return self.close(goodbye)

    def _time_left(self) -> tuple[float, Reply]:
        """Seconds until the client is hung up on, unless it goes on, and what it is told then.

        A command must be whole in time: its octets count for nothing, so that nobody holds a session by
        sending one now and then. A message may take longer the larger it is, but never pause for long.
        """
        if self._task is not None:
            return self._timeout_duration, replies.TIMED_OUT  # it waits for us
        now = self.loop.time()
        silence = self._heard_at + self._timeout_duration - now
        if self._data is None:
            return silence, replies.TIMED_OUT
        earned = self._data.received / SLOWEST_MESSAGE
        rest = self._data_began_at + self._timeout_duration + earned - now
        return min((silence, replies.TIMED_OUT), (rest, replies.TOO_SLOW))

    # ---- closing

    @property
    def held(self) -> int:
        """Octets of messages that are in memory for this client."""
        reader = self._data or self.envelope.chunks
        return reader.held if reader is not None else self._relaying

    @property
    def idle(self) -> bool:
        """No transaction is under way."""
        return self._task is None and self.envelope.mail_from is None

    def close(self, reply: Reply) -> None:
        """Say goodbye and hang up; what was written before goes out first."""
        if self._handshaking and self.transport is not None:
            self.transport.abort()  # the client would take a reply for a part of the handshake
        elif self.transport is not None and not self._hung_up:
            self.transport.write(reply.wire())
            self._hang_up()

    def finish(self) -> None:
        """Hang up as soon as the transaction under way is answered, at once where there is none."""
        self._closing = True
        self._hang_up_when_done()

    def abort(self) -> None:
        """Hang up now, whatever is under way."""
        self.close(replies.SHUTTING_DOWN)
        if self._task is not None:
            self._task.cancel()

    def _hang_up_when_done(self) -> None:
        if self._hung_up or self._task is not None:
            return
        if self._ended:
            if not (self._unread and self._unanswered):
                self._hang_up()
        elif self._closing and self.idle:
            self.close(replies.SHUTTING_DOWN)

    def _hang_up(self) -> None:
        self._closing = self._hung_up = True
        self._drop_unanswered()
        if self.transport is not None:
            self.transport.close()
            if self._timeout_handle is None:
                self._timeout_handle = self.loop.call_later(LINGER, self._timeout_cb)

    def _forget_when_done(self) -> None:
        if self.transport is None and self._task is None:
            self._server.forget(self)

    def _give_up(self) -> None:
        """The client does not read what was written for it."""
        if self.transport is not None:
            self.transport.abort()

    def _drop_unanswered(self) -> None:
        self._unanswered, self._answered = b"", 0

    # ---- replies

    async def push(self, status: str | bytes) -> None:
        """Send a reply in aiosmtpd's words, with an enhanced code."""
        text = status.decode("utf-8", "replace") if isinstance(status, bytes) else status
        line = replies.with_enhanced_code(text)
        self._send(line.encode("ascii", "backslashreplace") + b"\r\n", int(line[:3]))

    def _send_answer(self, reply: Reply, wire: bytes) -> None:
        """Send what became of a message: whoever relays has to know whether it gets there."""
        transport = self.transport
        # TLS can't be closed by halves, and drops what is written after the client's end.
        if transport is not None and (
            self._hung_up or transport.is_closing() or (self._ended and self._secure)
        ):
            transport = None
        self._receipts.answer(reply, transport, len(wire))
        self._send(wire, reply.code)

    def _answer(self, reply: Reply) -> None:
        self._send(reply.wire(utf8=self.envelope.smtp_utf8), reply.code)

    def _send(self, wire: bytes, code: int) -> None:
        if self._hung_up or self.transport is None:
            return
        if self.transport.is_closing():  # reset, as we shall be told
            self._drop_unanswered()
            return
        self.transport.write(wire)
        if code in _NONSENSE:
            self._errors_left -= 1
            if self._errors_left <= 0:
                self._server.limited_log.warning("session.too_many_errors", client=self.client)
                self.close(replies.TOO_MANY_ERRORS)

    # ---- what a session does

    def _run_command(self, line: bytes) -> None:
        """Answer one command, or start what must be waited for before it can be answered."""
        raise NotImplementedError

    def _taken(self, reader: Reader) -> None:
        """A reader has all of its octets."""
        raise NotImplementedError

    def _internal_error(self, verb: str) -> None:
        """The session is the last who can answer for a mistake of ours: the client keeps its message."""
        log.exception("session.error", client=self.client, command=verb)
        self.envelope = Transaction()
        self._answer(replies.INTERNAL_ERROR)

    def _is_other_protocol(self, line: bytes) -> bool:
        """Another protocol's first words: say what this is, and hang up."""
        # The second version of the PROXY protocol begins with an empty line.
        ahead = b"" if line.strip() else self._unanswered[self._answered : self._answered + len(PROXY_V2)]
        reply = other_protocol(line + ahead)
        if reply is None:
            return False
        self._server.limited_log.warning("session.not_smtp", client=self.client, reply=str(reply))
        self.close(reply)
        return True

    def _wait_for(self, work: Coroutine[Any, Any, None], verb: str) -> None:
        """Do something that takes its time; commands wait until it is done."""
        self._task = tasks.start(self._work(work, verb), "smtpd.work")

    async def _work(self, work: Coroutine[Any, Any, None], verb: str) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - logged and answered
            self._internal_error(verb)
        finally:
            self._task = None
            self._forget_when_done()
        self._serve()

    async def _start_tls(self, context: ssl.SSLContext, invitation: bytes) -> None:
        """Go on in TLS, as if nothing had been said before (RFC 3207 §4.2)."""
        plain = self.transport
        if plain is None or self._hung_up:
            return
        # What came in clear is nobody's to act on: anybody may have put it there.
        self._drop_unanswered()
        self._unread = False
        plain.write(invitation)
        self._handshaking = True
        timeout = min(HANDSHAKE_TIMEOUT, self._timeout_duration)
        secured = None
        try:
            secured = await self.loop.start_tls(
                plain, self, context, server_side=True, ssl_handshake_timeout=timeout
            )
        except OSError as error:
            tls_failed(self._server.limited_log, self.client, error)
        finally:
            self._handshaking = False
            # A handshake that was hung up on gives no transport; one that was done may be lost again already.
            if secured is not None and self.transport is plain:
                self.transport = secured
                self._secure = True
            else:
                plain.abort()
                self.connection_lost(None)
