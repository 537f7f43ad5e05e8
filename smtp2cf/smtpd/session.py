"""One SMTP session: aiosmtpd's, with the transaction written anew for speed and truth (RFC 5321).

What falls short in aiosmtpd for a relay, and is overridden here:
- it inspects itself at every connection, which costs more than all the rest of one (`__init__`);
- it wakes a task for every command: here a command is answered as it arrives, and a task is made
  only for what must be waited for, such as a message that is being relayed (`data_received`);
- DATA goes line by line and a line ends at 1001 octets (`smtp_DATA`, see data.py);
- a client that goes away cancels what is being done with its message (`connection_lost`,
  `eof_received`);
- replies lack enhanced codes (`push`), MAIL and RCPT refuse AUTH= and DSN parameters, EHLO sends a
  packet a line, every command restarts a timer, a time-out says nothing.

Knows no relay: what becomes of a message is `accept`'s answer. Extensions offered: PIPELINING, SIZE,
8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES, DSN.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog
from aiosmtpd import smtp as aiosmtpd

from smtp2cf.envelope import Envelope
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.data import DataReader
from smtp2cf.smtpd.parameters import MAIL_RULES, RCPT_RULES, Parameters, parse_parameters
from smtp2cf.smtpd.path import PathError, parse_path

if TYPE_CHECKING:
    from smtp2cf.smtpd.server import Server

PIPELINE_LIMIT = 65536
"""Octets of commands that may wait for an answer to an earlier one; more are left in the kernel."""
ERROR_BUDGET = 20
"""Nonsense a session may send before it is shown the door (Postfix's smtpd_hard_error_limit)."""
COMMAND_LIMIT = 512
"""Octets of a command line (RFC 5321 §4.5.3.1.4)."""
PATH_COMMAND_LIMIT = 2048
"""Octets of MAIL and RCPT with every parameter at its largest (RFC 1870, 3461, 4954, 6531)."""
HTTP_METHODS = frozenset(
    {"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE", "PRI"}
)

_NONSENSE = frozenset({500, 501, 502, 503, 504, 555})

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Transaction(aiosmtpd.Envelope):
    """What MAIL and RCPT said so far; aiosmtpd makes a new one at RSET, HELO and EHLO."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: Parameters = {}
        self.recipient_parameters: dict[str, Parameters] = {}


class Session(aiosmtpd.SMTP):
    """A connection that speaks SMTP. Made by `Server`, one for each client."""

    envelope: Transaction
    session: aiosmtpd.Session
    transport: asyncio.Transport | None

    def __init__(self, server: "Server") -> None:
        if server.session_state is None:
            super().__init__(
                None,
                hostname=server.policy.hostname,
                data_size_limit=server.policy.max_message_size,
                enable_SMTPUTF8=True,
                timeout=server.policy.session_timeout,
                loop=asyncio.get_running_loop(),
            )
            server.session_state = vars(self).copy()
        else:
            # What aiosmtpd found out about itself for the first session holds for all of them.
            vars(self).update(server.session_state)
        self._server = server
        self._client = ""
        self._unanswered = b""
        self._overlong = False
        self._unread = False
        self._data: DataReader | None = None
        self._task: asyncio.Task[None] | None = None
        self._relaying = False
        self._unconfirmed: Envelope | None = None
        self._ended = False
        self._closing = False
        self._errors_left = ERROR_BUDGET
        self._heard_at = self.loop.time()

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there: greet it, or turn it away when there are too many."""
        self.transport = cast("asyncio.Transport", transport)
        self.envelope = Transaction()
        if not self._server.admit(self):
            self.close(replies.TOO_MANY_SESSIONS)
            return
        self.session = self._create_session()
        self.session.peer = transport.get_extra_info("peername")
        self._client = self.session.peer[0] if isinstance(self.session.peer, tuple) else ""
        self._timeout_handle = self.loop.call_later(self._timeout_duration, self._timeout_cb)
        self.transport.write(self._server.greeting)

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone. What is being done with its message goes on to its end."""
        self._server.forget(self)
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        if self._data is not None:
            self._lost_in_data()
        self.transport = None
        self._closing = True
        self._unanswered = b""
        self._confirm(received=error is None and not self._relaying)
        log.debug("session.ended", client=self._client, error=repr(error) if error else None)

    def eof_received(self) -> bool:
        """The client sends no more, but may still read: answer what it sent."""
        self._ended = True
        if self._data is not None:
            self._lost_in_data()
        self._hang_up_at_end()
        return True

    def data_received(self, data: bytes) -> None:
        """Octets of a message go to where it is kept; commands are answered as they come."""
        self._heard_at = self.loop.time()
        if self._data is not None:
            if not self._data.feed(data):
                return
            reader, self._data = self._data, None
            data = reader.rest
            self._wait_for(self._finish_message(reader))
        if (
            self._task is None
            and not self._unanswered
            and data[-1:] == b"\n"
            and data.find(b"\n") == len(data) - 1
        ):
            self._run_command(data)  # by far most packets are one command
            return
        self._unanswered += data
        self._serve()

    def pause_writing(self) -> None:
        """The client does not read its replies: no more of its commands until it does."""
        super().pause_writing()
        self._unread = True

    def resume_writing(self) -> None:
        """It reads again: go on with its commands."""
        super().resume_writing()
        self._unread = False
        self._serve()

    def _serve(self) -> None:
        """Answer the commands that are there, one after the other, until one must be waited for."""
        while self._unanswered and self._task is None and self._data is None and not self._unread:
            if self._closing and self.idle:
                break
            line, newline, rest = self._unanswered.partition(b"\n")
            if not newline:
                self._discard_overlong()
                break
            self._unanswered = rest
            self._run_command(line + newline)
        if self.transport is not None and not self.transport.is_closing():
            waits = self._task is not None or self._unread
            if waits and len(self._unanswered) > PIPELINE_LIMIT:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()
        self._hang_up_at_end()

    def _discard_overlong(self) -> None:
        """A line without end is not kept: its beginning is enough to know that it is too long."""
        if len(self._unanswered) > PATH_COMMAND_LIMIT:
            self._overlong = True
            self._unanswered = self._unanswered[-1:]

    def _hang_up_at_end(self) -> None:
        if self.transport is None or self._task is not None:
            return
        if self._ended and not self.transport.is_closing():
            self._closing = True
            self.transport.close()
        elif self._closing and self.idle:
            self.close(replies.SHUTTING_DOWN)

    def _lost_in_data(self) -> None:
        self._data = None
        log.info("session.lost_in_data", client=self._client, reverse_path=self.envelope.mail_from)

    def _timeout_cb(self) -> None:
        """The one timer of the session looks at when the client was last heard."""
        if self.transport is None:
            return
        idle = 0.0 if self._relaying else self.loop.time() - self._heard_at
        if idle < self._timeout_duration:
            self._timeout_handle = self.loop.call_later(self._timeout_duration - idle, self._timeout_cb)
            return
        log.info("session.timeout", client=self._client, idle=round(idle, 1))
        self.close(replies.TIMED_OUT)

    # ---- closing

    @property
    def idle(self) -> bool:
        """No transaction is under way."""
        return self._task is None and self.envelope.mail_from is None

    def close(self, reply: Reply) -> None:
        """Say goodbye and hang up; what was written before goes out first."""
        self._closing = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(reply.wire())
            self.transport.close()

    def finish(self) -> None:
        """Hang up as soon as the transaction under way is answered, at once where there is none."""
        self._closing = True
        self._hang_up_at_end()

    def abort(self) -> None:
        """Hang up now, whatever is under way."""
        self.close(replies.SHUTTING_DOWN)
        if self._task is not None:
            self._task.cancel()

    # ---- replies

    async def push(self, status: str | bytes) -> None:
        """Send a reply in aiosmtpd's words, with an enhanced code."""
        text = status.decode("utf-8", "replace") if isinstance(status, bytes) else status
        line = replies.with_enhanced_code(text)
        self._send(line.encode("ascii", "backslashreplace") + b"\r\n", int(line[:3]))

    def _answer(self, reply: Reply) -> None:
        self._send(reply.wire(utf8=self.envelope.smtp_utf8), reply.code)

    def _send(self, wire: bytes, code: int) -> None:
        if self.transport is None or self.transport.is_closing():
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
        if self._unconfirmed is not None:
            self._confirm(received=True)
        overlong, self._overlong = self._overlong, False
        try:
            if overlong or len(line) > (PATH_COMMAND_LIMIT if verb in _PATH_COMMANDS else COMMAND_LIMIT):
                self._answer(replies.COMMAND_TOO_LONG)
            elif (command := COMMANDS.get(verb)) is not None:
                command(self, argument.strip())
            elif verb in AIOSMTPD_COMMANDS:
                self._wait_for(AIOSMTPD_COMMANDS[verb](self, argument.strip()))
            elif verb in HTTP_METHODS:
                log.warning("session.http", client=self._client)
                self.close(replies.HTTP_CLIENT)
            else:
                self._answer(replies.UNKNOWN_COMMAND if verb.isalpha() else replies.BAD_COMMAND)
        except Exception:  # noqa: BLE001 - logged and answered
            self._internal_error(verb)

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that takes its time; commands wait until it is done."""
        self._task = self.loop.create_task(self._work(work))

    async def _work(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - logged and answered
            self._internal_error("")
        finally:
            self._task = None
        self._serve()

    def _internal_error(self, verb: str) -> None:
        """The session is the last who can answer for a mistake of ours: the client keeps its message."""
        log.exception("session.error", client=self._client, command=verb)
        self.envelope = Transaction()
        self._answer(replies.INTERNAL_ERROR)

    def _create_envelope(self) -> Transaction:
        return Transaction()

    def smtp_HELO(self, hostname: str) -> None:
        """HELO: the old greeting, no extensions."""
        self._hello(hostname, "HELO", self._server.helo_reply)

    def smtp_EHLO(self, hostname: str) -> None:
        """EHLO: the greeting, and what is offered."""
        self._hello(hostname, "EHLO", self._server.ehlo_reply)

    def _hello(self, hostname: str, verb: Literal["HELO", "EHLO"], wire: bytes) -> None:
        if not hostname:
            return self._answer(replies.syntax(f"{verb} hostname"))
        self.envelope = Transaction()
        self.session.extended_smtp = verb == "EHLO"
        self.session.host_name = hostname
        return self._send(wire, 250)

    def smtp_QUIT(self, _: str) -> None:
        """QUIT: goodbye."""
        self.close(replies.GOODBYE)

    def smtp_VRFY(self, address: str) -> None:
        """VRFY: we can't know, only Cloudflare's answer to the message does."""
        self._answer(replies.CANNOT_VERIFY if address else replies.syntax("VRFY address"))

    def smtp_MAIL(self, argument: str) -> None:
        """MAIL FROM: a transaction starts."""
        if not self.session.host_name:
            return self._answer(replies.NO_HELLO)
        if self.envelope.mail_from is not None:
            return self._answer(replies.NESTED_MAIL)
        if argument[:5].upper() != "FROM:":
            return self._answer(replies.syntax("MAIL FROM:<address> [parameters]"))
        if not self._server.policy.may_relay(self._client):
            log.warning("session.relaying_denied", client=self._client, helo=self.session.host_name)
            return self._answer(replies.relaying_denied(self._client))
        try:
            address, rest = parse_path(argument[5:])
        except PathError as error:
            return self._answer(error.reply)
        if rest:
            parameters, wrong = parse_parameters(rest, MAIL_RULES)
            if wrong is not None:
                return self._answer(wrong)
            limit = self._server.policy.max_message_size
            if int(parameters.get("SIZE", 0)) > limit:
                return self._answer(replies.too_big(limit))
            self.envelope.parameters = parameters
            self.envelope.smtp_utf8 = "SMTPUTF8" in parameters
        self.envelope.mail_from = address
        return self._send(_SENDER_OK, 250)

    def smtp_RCPT(self, argument: str) -> None:
        """RCPT TO: one recipient more."""
        if self.envelope.mail_from is None:
            return self._answer(replies.NO_MAIL if self.session.host_name else replies.NO_HELLO)
        if argument[:3].upper() != "TO:":
            return self._answer(replies.syntax("RCPT TO:<address> [parameters]"))
        limit = self._server.policy.max_recipients
        if len(self.envelope.rcpt_tos) >= limit:
            return self._answer(replies.too_many_recipients(limit))
        try:
            address, rest = parse_path(argument[3:])
        except PathError as error:
            return self._answer(error.reply)
        if not address:
            return self._answer(Reply(553, "5.1.3", "<>: a recipient can't be the null address"))
        if rest:
            parameters, wrong = parse_parameters(rest, RCPT_RULES)
            if wrong is not None:
                return self._answer(wrong)
            self.envelope.recipient_parameters[address] = parameters
        self.envelope.rcpt_tos.append(address)
        return self._send(_RECIPIENT_OK, 250)

    def smtp_DATA(self, argument: str) -> None:
        """DATA: invite the message; what follows is the message until its final dot."""
        if not self.envelope.rcpt_tos:
            has_sender = self.envelope.mail_from is not None
            return self._answer(replies.NO_RCPT if has_sender else replies.NO_MAIL)
        if argument:
            return self._answer(replies.syntax("DATA"))
        self._data = DataReader(self._server.policy.max_message_size)
        self._send(b"354 end with <CRLF>.<CRLF>\r\n", 354)
        if self._unanswered:  # sent along with DATA, without waiting for the 354
            early, self._unanswered = self._unanswered, b""
            self.data_received(early)
        elif self._ended:
            self._lost_in_data()
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
        envelope = self._envelope()
        self._relaying = True
        try:
            verdict = await self._server.accept(envelope, message)
        finally:
            self._relaying = False
            self._heard_at = self.loop.time()
        if self._server.answered is not None:
            self._unconfirmed = envelope
        if self.transport is None or self._ended:
            self._confirm(received=False)
            log.warning(
                "session.reply_lost",
                queue_id=envelope.queue_id,
                client=self._client,
                reply=str(verdict.reply),
            )
        return verdict.reply

    def _confirm(self, *, received: bool) -> None:
        """Tell whether the client got its answer: it did if it goes on, or hangs up in good order."""
        if self._unconfirmed is not None and self._server.answered is not None:
            envelope, self._unconfirmed = self._unconfirmed, None
            self._server.answered(envelope, received)

    def _envelope(self) -> Envelope:
        transaction = self.envelope
        parameters = transaction.parameters
        of_recipients = transaction.recipient_parameters.items()
        return Envelope(
            reverse_path=transaction.mail_from or "",
            forward_paths=tuple(transaction.rcpt_tos),
            body=cast("Literal['7BIT', '8BITMIME']", parameters.get("BODY", "7BIT")),
            smtputf8=transaction.smtp_utf8,
            ret=cast("Literal['FULL', 'HDRS'] | None", parameters.get("RET")),
            envid=parameters.get("ENVID"),
            notify={address: given["NOTIFY"] for address, given in of_recipients if "NOTIFY" in given},
            orcpt={address: given["ORCPT"] for address, given in of_recipients if "ORCPT" in given},
            auth_param=parameters.get("AUTH"),
            client=self._client,
            helo=self.session.host_name or "",
        )


_SENDER_OK = replies.SENDER_OK.wire()
_RECIPIENT_OK = replies.RECIPIENT_OK.wire()
_PATH_COMMANDS = frozenset({"MAIL", "RCPT"})

COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "HELO": Session.smtp_HELO,
    "EHLO": Session.smtp_EHLO,
    "MAIL": Session.smtp_MAIL,
    "RCPT": Session.smtp_RCPT,
    "DATA": Session.smtp_DATA,
    "QUIT": Session.smtp_QUIT,
    "VRFY": Session.smtp_VRFY,
}
AIOSMTPD_COMMANDS: dict[str, Callable[[Session, str], Coroutine[Any, Any, None]]] = {
    "RSET": Session.smtp_RSET,
    "NOOP": Session.smtp_NOOP,
    "EXPN": Session.smtp_EXPN,
    "HELP": Session.smtp_HELP,
}
