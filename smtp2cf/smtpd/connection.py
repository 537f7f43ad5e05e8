"""Connection: what comes from a client, and what is done about it: what its session says (session.py).

This is the upper half, of commands and messages; how replies go out and the connection ends is the lower one
(outgoing.py). Together they are aiosmtpd's SMTP class, with what falls short in it for a relay overridden.
Here:
- it wakes a task for every command: now a command is answered as it arrives, and a task is made only for
  what must be waited for, such as a message that is being relayed (`data_received`);
- a client that goes away cancels what is being done with its message (`connection_lost`, `eof_received`).
"""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import structlog

from smtp2cf.envelope import Verdict
from smtp2cf.journal import tasks
from smtp2cf.smtpd import greetings, refusals, replies, time_limits
from smtp2cf.smtpd.handshake import handshake_timeout, tls_failed
from smtp2cf.smtpd.listener import Listener
from smtp2cf.smtpd.other_protocols import PROXY_V2
from smtp2cf.smtpd.outgoing import COMMANDS, GONE, HANDSHAKE, HUNG_UP, MESSAGE, WORKING, Outgoing
from smtp2cf.smtpd.reply_arrival import Sign
from smtp2cf.smtpd.session import Session
from smtp2cf.smtpd.sessions import Sessions
from smtp2cf.smtpd.steps import Await, CheckPassword, Read, Relay, Say, StartTls, Step

PIPELINE_LIMIT = 65536
"""Octets of commands that may wait for an answer to an earlier one; more are left in the kernel."""
PIPELINE_TURN = 50
"""Commands that are answered in one go before other sessions have their turn."""
ROOM_STEP = 262144
"""Octets of a message after which it has to be asked again whether there is room for it."""

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Connection(Outgoing):
    """One client's connection.

    sessions: all that are open, and what they share. listener: where it came in. peer: whom a proxy connects
    for, None without one.
    """

    session: Session

    def __init__(self, sessions: Sessions, listener: Listener, peer: tuple[str, int] | None = None) -> None:
        super().__init__(sessions, listener.rules, listener.name)
        self.client_ended = False
        """The client sends no more, but may still read."""
        self.finishing = False
        """Hang up once the transaction under way is answered."""
        self._listener = listener
        self._peer = peer
        self._room_until = ROOM_STEP
        self._relaying: Relay | None = None
        self._reading_paused = False
        self._under_way: asyncio.Task[None] | None = None

    # ---- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there: greet it, or turn it away if there are too many."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        peer: Any = self._peer or transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = peer[0]
        self.session = Session(self._listener, self.client)
        self.session.peer = peer
        if not self.client and sock.family != socket.AF_UNIX:
            # Gone again already. Nobody relays without an address, except on a unix socket.
            self._abort_transport()
            return
        if (refusal := self._sessions.admit(self, sock.fileno())) is not None:
            refusals.count("", refusal)
            # No limit counts it any more, and TLS would wait for the client's goodbye.
            self._look_at_time_in(time_limits.REFUSED_LINGER)
            self.close(refusal)
            return
        self._look_at_time_in(self._limits.timeout)
        self._send(greetings.banner(self.rules.policy.hostname, lmtp=self._listener.lmtp), 220)

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone. What is being done with its message is finished all the same."""
        if self.transport is None:
            return  # known already: it went during the handshake
        if self._timer is not None:
            self._timer.cancel()
        if self._message_reader is not None:
            sender = self.session.transaction.mail_from
            self._sessions.limited_log.info(
                "session.lost_in_data", client=self.client, **self._came_in, **{"from": sender}
            )
        self.transport = self._message_reader = None
        self.state = GONE
        self.input.clear()
        self._notice(Sign.GONE)
        self._forget_if_gone()
        log.debug("session.ended", client=self.client, error=repr(error) if error else None)

    def eof_received(self) -> bool:
        """The client sends no more, but may still read: answer what it sent."""
        self.client_ended = True
        self._notice(Sign.ENDED)
        half_closed = not self.session.secure and self.state is not HANDSHAKE
        if not half_closed:
            self.input.clear()  # half of a TLS connection can't be closed: no answer would reach the client
        self._hang_up_if_done()
        return half_closed

    def data_received(self, data: bytes) -> None:
        """Octets of a message go to its reader; commands are answered as they come."""
        if self._replies.sent:
            self._notice(Sign.SENT)
        if self.state is MESSAGE:
            self._limits.heard_at = self.loop.time()
            if self._feed(data) and self.state is COMMANDS:
                self._serve()
        elif self.state is not HUNG_UP:  # TLS hands on what it had even while it is being closed
            self.input.add(data)
            self._serve()

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
            self._limits.heard_at = self.loop.time()
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
        elif isinstance(step, Await):
            self._wait_for(self._await(step))
        elif isinstance(step, StartTls):
            self._wait_for(self._start_tls(step))
        else:
            if step.reply.code >= 400:
                refusals.count(self.session.verb, step.reply, step.event.name if step.event else "")
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
        self._limits.message_began_at = self.loop.time()
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
                self._sessions.limited_log.warning("session.no_room", client=self.client, **self._came_in)
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
                self._under_way = tasks.start(self._relay(step), "smtpd.work")
            else:
                self._send(*step)
        return done

    async def _relay(self, step: Relay) -> None:
        """Relay a message and answer what became of it."""
        self._relaying = step
        verdict: Verdict | None = None
        try:
            try:
                verdict = await self._sessions.accept(step.envelope, step.message)
                wire = self.session.answers(verdict)
            except Exception:  # noqa: BLE001 - logged, and answered for each recipient
                if verdict is not None:  # its client does not get it, by our mistake
                    self._replies.replied(step.envelope, verdict.reply, None, 0)
                self._send(*self._message_failed())
            else:
                # Half of a TLS connection can't be closed: what is written after the client's end is dropped.
                unheard = self.client_ended and self.session.secure
                self._send_answer(step.envelope, verdict.reply, wire, unheard=unheard)
        finally:
            self._relaying = None
            self._limits.heard_at = self.loop.time()
            self._work_done()
        self._serve()

    def _notice(self, sign: Sign) -> None:
        self._replies.noticed(sign, self._relaying.envelope if self._relaying is not None else None)

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
        refusal = await self.rules.login_refusal(self.client, name, password)
        self._limits.heard_at = self.loop.time()
        self._do(self.session.password_checked(step.credentials, refusal))

    async def _await(self, step: Await) -> None:
        refusal = await step.judgement
        self._limits.heard_at = self.loop.time()
        self._do(step.then(refusal))

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
        timeout = handshake_timeout(self._limits.timeout)
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

    # ---- closing

    @property
    def held(self) -> int:
        """Octets of messages that are in memory for this client."""
        reader = self._message_reader or self.session.transaction.chunks
        if reader is not None:
            return reader.held
        return len(self._relaying.message) if self._relaying is not None else 0

    @property
    def idle(self) -> bool:
        """No transaction is under way."""
        return self._under_way is None and self.session.transaction.mail_from is None

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

    def _forget_if_gone(self) -> None:
        if self.state is GONE and self._under_way is None:
            self._sessions.forget(self)
            self.session.log_out()
