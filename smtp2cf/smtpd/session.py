"""One SMTP session: aiosmtpd's, with the transaction written anew for speed and truth (RFC 5321).

What falls short in aiosmtpd for a relay, and is overridden here:
- it inspects itself at every connection, which costs more than all the rest of one (`__init__`);
- it wakes a task for every command: here a command is answered as it arrives, and a task is made
  only for what must be waited for, such as a message that is being relayed (`data_received`);
- DATA goes line by line and a line ends at 1001 octets (`smtp_DATA`, see data.py);
- a client that goes away cancels what is being done with its message (`connection_lost`,
  `eof_received`);
- replies lack enhanced codes (`push`), MAIL and RCPT refuse AUTH= and DSN parameters
  (transaction.py), EHLO sends a packet a line, every command restarts a timer, a time-out says
  nothing, and a client that reads nothing is never hung up on.

Knows no relay: what becomes of a message is `accept`'s answer. Extensions offered: PIPELINING, SIZE,
8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES, DSN.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog
from aiosmtpd import smtp as aiosmtpd

from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.data import DataReader
from smtp2cf.smtpd.foreign import foreign_protocol
from smtp2cf.smtpd.receipts import Receipts
from smtp2cf.smtpd.transaction import MAIL_USAGE, RCPT_USAGE, Transaction

if TYPE_CHECKING:
    from smtp2cf.smtpd.server import Server

PIPELINE_LIMIT = 65536
"""Octets of commands that may wait for an answer to an earlier one; more are left in the kernel."""
PIPELINE_TURN = 500
"""Commands that are answered in one go before other sessions have their turn."""
ERROR_BUDGET = 20
"""Nonsense a session may send without delivering mail (Postfix's smtpd_hard_error_limit)."""
COMMAND_LIMIT = 512
"""Octets of a command line (RFC 5321 §4.5.3.1.4)."""
PATH_COMMAND_LIMIT = 2048
"""Octets of MAIL and RCPT with every parameter at its largest (RFC 1870, 3461, 4954, 6531)."""
LINGER = 30.0
"""Seconds a client has at least to read what was written before we hung up."""
RESET_WAIT = 0.5
"""Seconds in which a client that is gone, and not just silent, answers a reply with a reset."""

_NONSENSE = frozenset({500, 501, 502, 503, 504, 555})

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Session(aiosmtpd.SMTP):
    """A connection that speaks SMTP. Made by `Server`, one for each client."""

    envelope: Transaction
    session: aiosmtpd.Session
    transport: asyncio.Transport | None

    def __init__(self, server: "Server") -> None:
        # What aiosmtpd finds out about itself is the same for every session.
        vars(self).update(server.session_template)
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._client = ""
        self._unanswered = b""
        self._answered = 0
        self._overlong = False
        self._unread = False
        self._data: DataReader | None = None
        self._task: asyncio.Task[None] | None = None
        self._receipts = Receipts(server.answered)
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
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._client = peer[0]
        elif transport.get_extra_info("socket").family != socket.AF_UNIX:
            # Gone again already. Nobody relays without an address, except on a unix socket.
            self.transport.abort()
            return
        if (refusal := self._server.admit(self)) is not None:
            self.close(refusal)
            return
        self.session = self._create_session()
        self.session.peer = peer
        self._timeout_handle = self.loop.call_later(self._timeout_duration, self._timeout_cb)
        self.transport.write(self._server.greeting)

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone. What is being done with its message goes on to its end."""
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        if self._data is not None:
            log.info("session.lost_in_data", client=self._client, reverse_path=self.envelope.mail_from)
        self.transport = self._data = None
        self._closing = self._hung_up = True
        self._drop_unanswered()
        self._receipts.client_left()
        self._receipts.confirm(received=error is None)
        if self._task is None:
            self._server.forget(self)
        log.debug("session.ended", client=self._client, error=repr(error) if error else None)

    def eof_received(self) -> bool:
        """The client sends no more, but may still read: answer what it sent."""
        self._ended = True
        self._receipts.client_left()
        self._hang_up_when_done()
        return True

    def data_received(self, data: bytes) -> None:
        """Octets of a message go to where it is kept; commands are answered as they come."""
        self._heard_at = self.loop.time()
        if self._receipts.unconfirmed:
            self._receipts.confirm(received=True)
        if self._data is not None:
            self._take(data)
        elif (
            self._task is None
            and not self._unanswered
            and not self._unread
            and data[-1:] == b"\n"
            and data.find(b"\n") == len(data) - 1
        ):
            self._run_command(data)  # by far most packets are one command
            if self._closing:
                self._hang_up_when_done()
        else:
            self._unanswered += data
            self._serve()

    def _take(self, block: bytes) -> None:
        """Octets of the message; behind its final dot come commands again."""
        reader = cast("DataReader", self._data)
        if reader.feed(block):
            self._data = None
            self._unanswered = reader.rest
            self._wait_for(self._finish_message(reader), "DATA")

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
            self._run_command(self._unanswered[start:end])
        else:
            self._wait_for(asyncio.sleep(0), "")
        if self._answered:
            self._unanswered = self._unanswered[self._answered :]
            self._answered = 0
        if self.transport is not None and not self._hung_up:
            waits = self._task is not None or self._unread
            if self._unanswered and not waits and self._data is None:
                self._look_at_unfinished()
            if waits and len(self._unanswered) > PIPELINE_LIMIT:
                self.transport.pause_reading()
            elif not self._ended:
                self.transport.resume_reading()
        self._hang_up_when_done()

    def _look_at_unfinished(self) -> None:
        """A line without end is not kept: its beginning is enough to know that it is too long."""
        if not self._is_foreign(self._unanswered) and len(self._unanswered) > PATH_COMMAND_LIMIT:
            self._overlong = True
            self._unanswered = self._unanswered[-1:]

    def _timeout_cb(self) -> None:
        """The one timer of the session looks at when the client was last heard."""
        self._timeout_handle = None
        if self._hung_up:
            return self._give_up()
        idle = 0.0 if self._receipts.relaying else self.loop.time() - self._heard_at
        if idle < self._timeout_duration:
            self._timeout_handle = self.loop.call_later(self._timeout_duration - idle, self._timeout_cb)
            return None
        log.info("session.timeout", client=self._client, idle=round(idle, 1))
        return self.close(replies.TIMED_OUT)

    # ---- closing

    @property
    def idle(self) -> bool:
        """No transaction is under way."""
        return self._task is None and self.envelope.mail_from is None

    def close(self, reply: Reply) -> None:
        """Say goodbye and hang up; what was written before goes out first."""
        if self.transport is not None and not self._hung_up:
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
        if self._ended and self._receipts.unconfirmed:
            self.loop.call_later(RESET_WAIT, self._look_for_reset)
        else:
            self._leave()

    def _look_for_reset(self) -> None:
        """A client that is gone has answered our reply with a reset; one that only listens has not."""
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
            self._receipts.confirm(received=not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            self._leave()

    def _leave(self) -> None:
        if self.transport is not None:
            self.transport.close()
            if self._timeout_handle is None:
                self._timeout_handle = self.loop.call_later(LINGER, self._timeout_cb)

    def _give_up(self) -> None:
        """The client does not read what was written for it."""
        if self.transport is not None:
            self._receipts.confirm(received=False)
            self.transport.abort()

    def _drop_unanswered(self) -> None:
        self._unanswered, self._answered = b"", 0

    # ---- replies

    async def push(self, status: str | bytes) -> None:
        """Send a reply in aiosmtpd's words, with an enhanced code."""
        text = status.decode("utf-8", "replace") if isinstance(status, bytes) else status
        line = replies.with_enhanced_code(text)
        self._send(line.encode("ascii", "backslashreplace") + b"\r\n", int(line[:3]))

    def _answer(self, reply: Reply) -> None:
        self._send(reply.wire(utf8=self.envelope.smtp_utf8), reply.code)

    def _send(self, wire: bytes, code: int) -> None:
        if self._hung_up or self.transport is None:
            return
        self.transport.write(wire)
        if code in _NONSENSE:
            self._errors_left -= 1
            if self._errors_left <= 0:
                log.warning("session.too_many_errors", client=self._client)
                self.close(replies.TOO_MANY_ERRORS)

    # ---- commands

    def _run_command(self, line: bytes) -> None:
        """Answer one command, or start what must be waited for before it can be answered."""
        verb, _, argument = line.decode("utf-8", "surrogateescape").strip().partition(" ")
        verb = verb.upper()
        limit = PATH_COMMAND_LIMIT if verb in _PATH_COMMANDS else COMMAND_LIMIT
        too_long, self._overlong = self._overlong or len(line) > limit, False
        try:
            if not too_long and (command := COMMANDS.get(verb)) is not None:
                command(self, argument.strip())
            elif self._is_foreign(line):
                pass
            elif too_long:
                self._answer(replies.COMMAND_TOO_LONG)
            elif verb in AIOSMTPD_COMMANDS:
                self._wait_for(AIOSMTPD_COMMANDS[verb](self, argument.strip()), verb)
            else:
                self._answer(replies.UNKNOWN_COMMAND if verb.isalpha() else replies.BAD_COMMAND)
        except Exception:  # noqa: BLE001 - logged and answered
            self._internal_error(verb)

    def _is_foreign(self, line: bytes) -> bool:
        """Another protocol's first words: say what this is, and hang up."""
        reply = foreign_protocol(line)
        if reply is None:
            return False
        log.warning("session.not_smtp", client=self._client, reply=str(reply))
        self.close(reply)
        return True

    def _wait_for(self, work: Coroutine[Any, Any, None], verb: str) -> None:
        """Do something that takes its time; commands wait until it is done."""
        self._task = self.loop.create_task(self._work(work, verb))

    async def _work(self, work: Coroutine[Any, Any, None], verb: str) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - logged and answered
            self._internal_error(verb)
        finally:
            self._task = None
            if self.transport is None:
                self._server.forget(self)
        self._serve()

    def _internal_error(self, verb: str) -> None:
        """The session is the last who can answer for a mistake of ours: the client keeps its message."""
        log.exception("session.error", client=self._client, command=verb)
        self.envelope = Transaction()
        self._answer(replies.INTERNAL_ERROR)

    @aiosmtpd.syntax("HELO hostname")
    def smtp_HELO(self, hostname: str) -> None:
        """HELO: the old greeting, no extensions."""
        self._hello(hostname, "HELO", self._server.helo_reply)

    @aiosmtpd.syntax("EHLO hostname")
    def smtp_EHLO(self, hostname: str) -> None:
        """EHLO: the greeting, and what is offered."""
        self._hello(hostname, "EHLO", self._server.ehlo_reply)

    def _hello(self, hostname: str, verb: Literal["HELO", "EHLO"], wire: bytes) -> None:
        if not hostname:
            return self._answer(replies.syntax(f"{verb} hostname"))
        self.envelope = Transaction()
        self.session.extended_smtp = verb == "EHLO"
        # Anything is taken for a name, but only what can be shown and kept as text goes further.
        is_text = hostname.isascii() and hostname.isprintable()
        self.session.host_name = hostname if is_text else ascii(hostname)[1:-1]
        return self._send(wire, 250)

    @aiosmtpd.syntax("RSET")
    def smtp_RSET(self, argument: str) -> None:
        """RSET: forget the transaction."""
        if argument:
            return self._answer(replies.syntax("RSET"))
        self.envelope = Transaction()
        return self._send(_OK, 250)

    @aiosmtpd.syntax("NOOP [ignored]")
    def smtp_NOOP(self, _: str) -> None:
        """NOOP: nothing."""
        self._send(_OK, 250)

    @aiosmtpd.syntax("QUIT")
    def smtp_QUIT(self, _: str) -> None:
        """QUIT: goodbye."""
        self.close(replies.GOODBYE)

    @aiosmtpd.syntax("VRFY address")
    def smtp_VRFY(self, address: str) -> None:
        """VRFY: we can't know, only Cloudflare's answer to the message does."""
        self._answer(replies.CANNOT_VERIFY if address else replies.syntax("VRFY address"))

    @aiosmtpd.syntax(MAIL_USAGE)
    def smtp_MAIL(self, argument: str) -> None:
        """MAIL FROM: a transaction starts."""
        if not self.session.host_name:
            return self._answer(replies.NO_HELLO)
        if self.envelope.mail_from is not None:
            return self._answer(replies.NESTED_MAIL)
        if not self._server.may_relay(self._client):
            log.warning("session.relaying_denied", client=self._client, helo=self.session.host_name)
            return self._answer(replies.relaying_denied(self._client))
        refusal = self.envelope.mail(argument, size_limit=self._server.policy.max_message_size)
        return self._send(_SENDER_OK, 250) if refusal is None else self._answer(refusal)

    @aiosmtpd.syntax(RCPT_USAGE)
    def smtp_RCPT(self, argument: str) -> None:
        """RCPT TO: one recipient more."""
        if self.envelope.mail_from is None:
            return self._answer(replies.NO_MAIL if self.session.host_name else replies.NO_HELLO)
        refusal = self.envelope.rcpt(argument, limit=self._server.policy.max_recipients)
        return self._send(_RECIPIENT_OK, 250) if refusal is None else self._answer(refusal)

    @aiosmtpd.syntax("DATA")
    def smtp_DATA(self, argument: str) -> None:
        """DATA: invite the message; what follows is the message until its final dot."""
        if not self.envelope.rcpt_tos:
            has_sender = self.envelope.mail_from is not None
            return self._answer(replies.NO_RCPT if has_sender else replies.NO_MAIL)
        if argument:
            return self._answer(replies.syntax("DATA"))
        self._data = DataReader(self._server.policy.max_message_size)
        self._send(b"354 end with <CRLF>.<CRLF>\r\n", 354)
        early = self._unanswered[self._answered :]
        if early:  # sent along with DATA, without waiting for the 354
            self._drop_unanswered()
            self._take(early)
        return None

    async def _finish_message(self, reader: DataReader) -> None:
        """The final dot is there: relay the message and answer what became of it."""
        message = reader.message()
        if reader.too_big:
            reply = replies.too_big(self._server.policy.max_message_size)
            log.info("session.too_big", client=self._client, reverse_path=self.envelope.mail_from)
        else:
            del reader
            reply = await self._relay(message)
        wire = reply.wire(utf8=self.envelope.smtp_utf8)
        self.envelope = Transaction()
        self._send(wire, reply.code)

    async def _relay(self, message: bytes) -> Reply:
        envelope = self.envelope.complete(client=self._client, helo=self.session.host_name or "")
        self._receipts.begin(envelope)
        reply = None
        try:
            reply = (await self._server.accept(envelope, message)).reply
        finally:
            self._receipts.end(reply)
            self._heard_at = self.loop.time()
        if self.transport is None:
            self._receipts.confirm(received=False)
        elif reply.success:
            self._errors_left = ERROR_BUDGET
        return reply


_OK = replies.RESET.wire()
_SENDER_OK = replies.SENDER_OK.wire()
_RECIPIENT_OK = replies.RECIPIENT_OK.wire()
_PATH_COMMANDS = frozenset({"MAIL", "RCPT"})

COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "HELO": Session.smtp_HELO,
    "EHLO": Session.smtp_EHLO,
    "MAIL": Session.smtp_MAIL,
    "RCPT": Session.smtp_RCPT,
    "DATA": Session.smtp_DATA,
    "RSET": Session.smtp_RSET,
    "NOOP": Session.smtp_NOOP,
    "QUIT": Session.smtp_QUIT,
    "VRFY": Session.smtp_VRFY,
}
AIOSMTPD_COMMANDS: dict[str, Callable[[Session, str], Coroutine[Any, Any, None]]] = {
    "EXPN": Session.smtp_EXPN,
    "HELP": Session.smtp_HELP,
}
