"""Connection: octets in, replies out, and when to hang up. It does what its session says (session.py).

This is aiosmtpd's SMTP class, with what falls short in it for a relay overridden:
- it inspects itself at every connection, which costs more than all the rest of one (`__init__`);
- it wakes a task for every command. Here a command is answered as it arrives, and a task is made only for
  what must be waited for, such as a message that is being relayed (`data_received`);
- a client that goes away cancels what is being done with its message (`connection_lost`, `eof_received`);
- replies lack enhanced codes, every command restarts a timer, a time-out says nothing, and a client that
  reads nothing is never hung up on.
"""

import asyncio
import enum
import socket
from collections.abc import Coroutine
from typing import Any, cast

import structlog
from aiosmtpd import smtp as aiosmtpd

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.journal import tasks
from smtp2cf.reply import Reply, one_line
from smtp2cf.smtpd import greetings, replies
from smtp2cf.smtpd.aiosmtpd_base import aiosmtpd_attributes
from smtp2cf.smtpd.input import Input
from smtp2cf.smtpd.listener import SMTP_LISTENER, Listener
from smtp2cf.smtpd.log_limit import LimitedLog
from smtp2cf.smtpd.other_protocols import PROXY_V2
from smtp2cf.smtpd.session import Session
from smtp2cf.smtpd.sessions import Sessions
from smtp2cf.smtpd.steps import CheckPassword, Event, Read, Reader, Relay, Say, StartTls, Step

PIPELINE_LIMIT = 65536
"""Octets of commands that may wait for an answer to an earlier one; more are left in the kernel."""
PIPELINE_TURN = 50
"""Commands that are answered in one go before other sessions have their turn."""
ERROR_BUDGET = 20
"""Wrong commands a session may send without delivering mail (Postfix's smtpd_hard_error_limit)."""
HANDSHAKE_TIMEOUT = 30.0
"""Seconds a TLS handshake may take, and what a proxy says before it."""
SEND_BUFFER = 65536
"""Octets of replies that the kernel holds for a client that reads none; left alone it holds megabytes."""
LINGER = 30.0
"""Seconds a client has at least to read what was written before we hung up."""
REFUSED_LINGER = 1.0
"""The same for a client that was turned away."""
SLOWEST_MESSAGE = 500
"""Octets a second at which a message must arrive, SESSION_TIMEOUT aside (Postfix's smtpd_min_data_rate)."""
ROOM_STEP = 262144
"""Octets of a message after which it has to be asked again whether there is room for it."""

_NONSENSE = frozenset({500, 501, 502, 503, 504, 535, 555})

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class State(enum.Enum):
    """What a connection is doing."""

    COMMANDS = "what comes are commands"
    MESSAGE = "what comes is a message, for the reader"
    WORKING = "something is being done for the client, and its next commands wait"
    HANDSHAKE = "TLS begins"
    HUNG_UP = "we have hung up, and the client may still read"
    GONE = "there is no connection any more"


# To look a member up by its class takes ten times as long, and every packet does it.
COMMANDS, MESSAGE, WORKING, HANDSHAKE, HUNG_UP, GONE = State


def _bound_send_buffer(sock: socket.socket) -> None:
    """Most inherit it from the listening socket: not unix sockets, and not if that had it too late."""
    # Linux says the double of what it was told.
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 2 * SEND_BUFFER:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def tls_failed(limited_log: LimitedLog, client: str, error: BaseException) -> None:
    """Log a failed handshake: a client that doesn't trust our certificate, a scanner, plain SMTP."""
    reason = one_line(str(error) or type(error).__name__, 200)
    limited_log.info("session.tls_failed", client=client, reason=reason)


class Connection(aiosmtpd.SMTP):
    """One client's connection.

    sessions: all that are open, and what they share. listener: what is spoken here. peer: whom a proxy
    connects for, None without one.
    """

    session: Session
    transport: asyncio.Transport | None

    def __init__(
        self, sessions: Sessions, listener: Listener = SMTP_LISTENER, peer: tuple[str, int] | None = None
    ) -> None:
        policy = sessions.rules.policy
        # What aiosmtpd finds out about itself is the same for every session.
        shared = aiosmtpd_attributes(policy.hostname, policy.max_message_size, policy.session_timeout)
        vars(self).update(shared)
        self.loop = asyncio.get_running_loop()
        self.client = ""
        self.state = COMMANDS
        self.client_ended = False
        """The client sends no more, but may still read."""
        self.stalled = False
        """The client doesn't read its replies."""
        self.finishing = False
        """Hang up once the transaction under way is answered."""
        self.input = Input()
        self._sessions = sessions
        self._listener = listener
        self._peer = peer
        self._timeout = policy.session_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._message_reader: Reader | None = None
        self._message_began_at = 0.0
        self._room_until = ROOM_STEP
        self._relaying = 0
        self._reading_paused = False
        self._under_way: asyncio.Task[None] | None = None
        self._replies = sessions.reply_arrival.of_session()
        self._errors_left = ERROR_BUDGET
        self._heard_at = self.loop.time()

    # ---- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there: greet it, or turn it away if there are too many."""
        self.transport = cast("asyncio.Transport", transport)  # asyncio names no better type here
        sock = transport.get_extra_info("socket")
        peer: Any = self._peer or transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = peer[0]
        self.session = Session(self._sessions.rules, self._listener, self.client, secure=self._listener.tls)
        self.session.peer = peer
        if not self.client and sock.family != socket.AF_UNIX:
            # Gone again already. Nobody relays without an address, except on a unix socket.
            self.transport.abort()
            return
        _bound_send_buffer(sock)
        if (refusal := self._sessions.admit(self, sock.fileno())) is not None:
            # No limit counts it any more, and TLS would wait for the client's goodbye.
            self._timer = self.loop.call_later(REFUSED_LINGER, self._look_at_time)
            self.close(refusal)
            return
        self._timer = self.loop.call_later(self._timeout, self._look_at_time)
        hostname = self._sessions.rules.policy.hostname
        self.transport.write(greetings.banner(hostname, lmtp=self._listener.lmtp))

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone. What is being done with its message is finished all the same."""
        if self.transport is None:
            return  # known already: it went during the handshake
        if self._timer is not None:
            self._timer.cancel()
        if self._message_reader is not None:
            sender = self.session.transaction.mail_from
            self._sessions.limited_log.info("session.lost_in_data", client=self.client, reverse_path=sender)
        self.transport = self._message_reader = None
        self.state = GONE
        self.input.clear()
        self._replies.closed()
        self._forget_if_gone()
        log.debug("session.ended", client=self.client, error=repr(error) if error else None)

    def eof_received(self) -> bool:
        """The client sends no more, but may still read: answer what it sent."""
        self.client_ended = True
        self._replies.client_ended()
        half_closed = not self.session.secure and self.state is not HANDSHAKE
        if not half_closed:
            self.input.clear()  # half of a TLS connection can't be closed: no answer would reach the client
        self._hang_up_if_done()
        return half_closed

    def data_received(self, data: bytes) -> None:
        """Octets of a message go to its reader; commands are answered as they come."""
        if self._replies.sent:
            self._replies.client_sent()
        if self.state is MESSAGE:
            self._heard_at = self.loop.time()
            if self._feed(data) and self.state is COMMANDS:
                self._serve()
        elif self.state is not HUNG_UP:  # TLS hands on what it had even while it is being closed
            self.input.add(data)
            self._serve()

    def pause_writing(self) -> None:
        """The client doesn't read its replies: answer no more commands until it does."""
        self.stalled = True

    def resume_writing(self) -> None:
        """The client reads again: go on with its commands."""
        self.stalled = False
        self._serve()

    # ---- commands

    def _serve(self) -> None:
        """Answer the commands that have come, one after the other, until one has to be waited for."""
        for _ in range(PIPELINE_TURN):
            if self.state is not COMMANDS or not self.input.octets or self.stalled:
                break
            if self.finishing and self.idle:
                break
            line = self.input.line()
            if line is None:
                self._look_at_unfinished()
                break
            self._heard_at = self.loop.time()
            self._answer(line)
        else:
            if self.state is COMMANDS:
                self._wait_for(asyncio.sleep(0))
        if self._reading_paused or (self.input.octets and len(self.input) > PIPELINE_LIMIT):
            self._pause_or_resume()
        if self.client_ended or self.finishing:
            self._hang_up_if_done()

    def _answer(self, line: bytes) -> None:
        # The second version of the PROXY protocol begins with empty lines.
        following = self.input.peek(len(PROXY_V2)) if len(line) <= 2 else b""
        overlong, self.input.overlong = self.input.overlong, False
        try:
            step = self.session.command(line, overlong=overlong, following=following)
        except Exception:  # noqa: BLE001 - logged and answered
            step = self._failed()
        if isinstance(step, Say):
            self._send(*step)
        else:
            self._do(step)

    def _do(self, step: Step) -> None:
        """Do what the session said has to be done."""
        if isinstance(step, Say):
            self._send(*step)
        elif isinstance(step, Read):
            self._read(step)
        elif isinstance(step, CheckPassword):
            self._wait_for(self._check_password(step))
        elif isinstance(step, StartTls):
            self._wait_for(self._start_tls(step))
        else:
            if step.event is not None:
                self._log(step.event)
            self.close(step.reply)

    def _look_at_unfinished(self) -> None:
        """A line without an end is not kept: its beginning is enough to see that it is too long."""
        if (close := self.session.unfinished(self.input.unfinished())) is not None:
            self._do(close)
        else:
            self.input.shorten()

    def _pause_or_resume(self) -> None:
        """Leave octets in the kernel while commands wait."""
        if self.transport is None or self.state is HUNG_UP:
            return
        waits = self._under_way is not None or self.stalled
        if waits and len(self.input) > PIPELINE_LIMIT:
            self._reading_paused = True
            self.transport.pause_reading()
        elif self._reading_paused and not self.client_ended:
            self._reading_paused = False
            self.transport.resume_reading()

    # ---- a message

    def _read(self, step: Read) -> None:
        """Octets go to a reader from here on, beginning with those that came along with the command."""
        if step.invitation:
            self._send(step.invitation, 354)
        self.state = MESSAGE
        self._message_reader = step.reader
        self._message_began_at = self.loop.time()
        self._room_until = min(self._room_until, step.reader.held + ROOM_STEP)
        self._feed(self.input.take(step.most))

    def _feed(self, block: bytes) -> bool:
        """Octets of the message; True if it is complete, and commands come again."""
        reader = self._message_reader
        if reader is None:
            return False
        done = reader.feed(block)
        if reader.held > self._room_until:
            self._room_until = reader.held + ROOM_STEP
            if not self._sessions.has_room(self):
                self._sessions.limited_log.warning("session.no_room", client=self.client)
                reader.drop()
        if done:
            self._message_reader = None
            self.state = COMMANDS
            if reader.rest:
                self.input.add(reader.rest)
            try:
                step = self.session.message_read(reader)
            except Exception:  # noqa: BLE001 - logged, and answered for each recipient
                step = self._message_failed()
            if isinstance(step, Relay):
                self.state = WORKING
                self._under_way = tasks.start(self._relay(step.envelope, step.message), "smtpd.work")
            else:
                self._send(*step)
        return done

    async def _relay(self, envelope: Envelope, message: bytes) -> None:
        """Relay a message and answer what became of it."""
        self._replies.relaying = envelope
        self._relaying = len(message)
        verdict: Verdict | None = None
        try:
            try:
                verdict = await self._sessions.accept(envelope, message)
                reply, wire = verdict.reply, self.session.answers(verdict)
            except Exception:  # noqa: BLE001 - logged, and answered for each recipient
                self._replies.failed(has_reply=verdict is not None)
                failed = self._message_failed()
                reply, wire = replies.INTERNAL_ERROR, failed.wire
            if reply.success:
                self._errors_left = ERROR_BUDGET
            self._heard_at = self.loop.time()
            self._send_answer(reply, wire)
        finally:
            self._replies.relaying = None
            self._relaying = 0
            self._work_done()
        self._serve()

    def _message_failed(self) -> Say:
        """A mistake of ours around a message: the client has as many answers as it waits for."""
        log.exception("session.error", client=self.client, command="DATA")
        return self.session.refuse_message(replies.INTERNAL_ERROR)

    # ---- other things that take their time

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that takes its time; commands wait until it is done."""
        self.state = WORKING
        self._under_way = tasks.start(self._work(work), "smtpd.work")

    async def _work(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - logged and answered
            self._send(*self._failed())
        finally:
            self._work_done()
        self._serve()

    def _work_done(self) -> None:
        self._under_way = None
        if self.state in (WORKING, HANDSHAKE):
            self.state = COMMANDS
        self._forget_if_gone()

    def _failed(self) -> Say:
        """The session is the last that can answer for a mistake of ours: the client keeps its message."""
        log.exception("session.error", client=self.client, command=self.session.verb)
        return self.session.failed()

    async def _check_password(self, step: CheckPassword) -> None:
        name, password = step.credentials.name, step.credentials.password
        refusal = await self._sessions.rules.login_refusal(self.client, name, password)
        self._heard_at = self.loop.time()
        self._do(self.session.password_checked(step.credentials, refusal))

    async def _start_tls(self, step: StartTls) -> None:
        """Go on in TLS, as if nothing had been said before (RFC 3207 §4.2)."""
        plain = self.transport
        if plain is None or self.state is HUNG_UP:
            return
        # Nobody may act on what came unencrypted: anybody may have put it there.
        self.input.clear()
        self.stalled = self._reading_paused = False
        plain.write(step.invitation)
        self.state = HANDSHAKE
        timeout = min(HANDSHAKE_TIMEOUT, self._timeout)
        secured = None
        try:
            secured = await self.loop.start_tls(
                plain, self, step.context, server_side=True, ssl_handshake_timeout=timeout
            )
        except OSError as error:
            tls_failed(self._sessions.limited_log, self.client, error)
        finally:
            # A handshake that was hung up on gives no transport; one that was done may be lost again already.
            if secured is not None and self.transport is plain:
                self.transport = secured
                self.session.secure = True
            else:
                plain.abort()
                self.connection_lost(None)

    # ---- replies

    def _send(self, wire: bytes, code: int, event: Event | None = None) -> None:
        if event is not None:
            self._log(event)
        if self.transport is None or self.state is HUNG_UP:
            return
        if self.transport.is_closing():  # reset, as we shall be told
            self.input.clear()
            return
        self.transport.write(wire)
        if code in _NONSENSE:
            self._errors_left -= 1
            if self._errors_left <= 0:
                self._sessions.limited_log.warning("session.too_many_errors", client=self.client)
                self.close(replies.TOO_MANY_ERRORS)

    def _send_answer(self, reply: Reply, wire: bytes) -> None:
        """Send what became of a message: the relay has to know whether it arrives."""
        transport = self.transport
        # Half of a TLS connection can't be closed: what is written after the client's end is dropped.
        if transport is not None and (
            self.state is HUNG_UP or transport.is_closing() or (self.client_ended and self.session.secure)
        ):
            transport = None
        self._replies.replied(reply, transport, len(wire))
        self._send(wire, reply.code)

    def _log(self, event: Event) -> None:
        if event.about_message:
            log.info(event.name, client=self.client, **event.fields)
        else:
            self._sessions.limited_log.warning(event.name, client=self.client, **event.fields)

    # ---- time

    def _look_at_time(self) -> None:
        """The one timer of the session looks at how long the client has been at what it is doing."""
        self._timer = None
        if self.state is HUNG_UP:
            if self.transport is not None:
                self.transport.abort()  # it does not read what was written for it
            return
        left, goodbye = self._time_left()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look_at_time)
            return
        self._sessions.limited_log.info("session.timeout", client=self.client, reply=str(goodbye))
        self.close(goodbye)

    def _time_left(self) -> tuple[float, Reply]:
        """Seconds until the client is hung up on, unless it goes on, and what it is told then.

        A command must be complete in time. Its octets count for nothing, so that nobody holds a session by
        sending one now and then. A message may take longer the larger it is, but must never pause for long.
        """
        if self._under_way is not None:
            return self._timeout, replies.TIMED_OUT  # it waits for us
        now = self.loop.time()
        silence = self._heard_at + self._timeout - now
        if self._message_reader is None:
            return silence, replies.TIMED_OUT
        earned = self._message_reader.received / SLOWEST_MESSAGE
        rest = self._message_began_at + self._timeout + earned - now
        return min((silence, replies.TIMED_OUT), (rest, replies.TOO_SLOW))

    # ---- closing

    @property
    def held(self) -> int:
        """Octets of messages that are in memory for this client."""
        reader = self._message_reader or self.session.transaction.chunks
        return reader.held if reader is not None else self._relaying

    @property
    def idle(self) -> bool:
        """No transaction is under way."""
        return self._under_way is None and self.session.transaction.mail_from is None

    def close(self, reply: Reply) -> None:
        """Say goodbye and hang up; what was written before goes out first."""
        if self.transport is None or self.state is HUNG_UP:
            return
        if self.state is HANDSHAKE:
            self.transport.abort()  # the client would take a reply for a part of the handshake
        else:
            self.transport.write(reply.wire())
            self._hang_up()

    def finish(self) -> None:
        """Hang up as soon as the transaction under way is answered, at once if there is none."""
        self.finishing = True
        self._hang_up_if_done()

    def abort(self) -> None:
        """Hang up now, whatever is under way."""
        self.close(replies.SHUTTING_DOWN)
        if self._under_way is not None:
            self._under_way.cancel()

    def _hang_up_if_done(self) -> None:
        if self.state in (HUNG_UP, GONE) or self._under_way is not None:
            return
        if self.client_ended:
            if not (self.stalled and self.input.octets):
                self._hang_up()
        elif self.finishing and self.idle:
            self.close(replies.SHUTTING_DOWN)

    def _hang_up(self) -> None:
        self.state = HUNG_UP
        self.input.clear()
        if self.transport is not None:
            self.transport.close()
            if self._timer is None:
                self._timer = self.loop.call_later(LINGER, self._look_at_time)

    def _forget_if_gone(self) -> None:
        if self.state is GONE and self._under_way is None:
            self._sessions.forget(self)
            self.session.log_out()
