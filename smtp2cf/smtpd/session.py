"""One SMTP session: aiosmtpd's, with the commands of a transaction written anew (RFC 5321).

What falls short in aiosmtpd for a relay, and is overridden here:
- it inspects itself at every connection, which costs more than the rest of it (`__init__`);
- DATA goes line by line, lines end at 1001 octets (`data_received`, `smtp_DATA`);
- a client that goes away cancels what is being done with its message (`connection_lost`,
  `eof_received`, `_handle_client`);
- replies lack enhanced codes (`push`), MAIL and RCPT refuse AUTH= and DSN parameters, EHLO sends a
  packet a line, every command restarts a timer, a time-out says nothing.

Knows no relay: what becomes of a message is `accept`'s answer. Extensions offered: PIPELINING, SIZE,
8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES, DSN.
"""

import asyncio
from collections.abc import Awaitable, Callable
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

READ_LIMIT = 65536
"""Octets of commands held before the kernel is asked to hold back the rest."""
ERROR_BUDGET = 20
"""Nonsense a session may send before it is shown the door (Postfix's smtpd_hard_error_limit)."""
COMMAND_LIMIT = 512
"""Octets of a command line (RFC 5321 §4.5.3.1.4)."""
PATH_COMMAND_LIMIT = 2048
"""Octets of MAIL and RCPT with every parameter at its largest (RFC 1870, 3461, 4954, 6531)."""
HTTP_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE", "PRI"})

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
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    def __init__(self, server: "Server") -> None:
        loop = asyncio.get_running_loop()
        if server.session_state is None:
            super().__init__(
                None,
                hostname=server.policy.hostname,
                data_size_limit=server.policy.max_message_size,
                enable_SMTPUTF8=True,
                timeout=server.policy.session_timeout,
                loop=loop,
            )
            server.session_state = vars(self).copy()
        else:
            # What aiosmtpd found out about itself for the first session holds for all of them.
            vars(self).update(server.session_state)
        reader = asyncio.StreamReader(limit=READ_LIMIT, loop=loop)
        asyncio.StreamReaderProtocol.__init__(self, reader, self._cb_client_connected, loop)
        self._reader = reader
        self._server = server
        self._client = ""
        self._data: DataReader | None = None
        self._data_ended: asyncio.Future[bool] | None = None
        self._relaying = False
        self._closing = False
        self._errors_left = ERROR_BUDGET
        self._heard_at = loop.time()

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there: greet it, or turn it away when there are too many."""
        transport = cast("asyncio.Transport", transport)
        if not self._server.admit(self):
            transport.write(replies.TOO_MANY_SESSIONS.wire())
            transport.close()
            return
        super().connection_made(transport)
        peer = self.session.peer
        self._client = peer[0] if isinstance(peer, tuple) else ""

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone. What is being done with its message goes on to its end."""
        self._server.forget(self)
        if self.transport is None:
            return
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        self.transport = None
        self._end_data(complete=False)

    def eof_received(self) -> bool:
        """The client sends no more, but may still read: answer what it sent."""
        self._reader.feed_eof()
        self._end_data(complete=False)
        return True

    def data_received(self, data: bytes) -> None:
        """Octets of commands go to the reader, octets of a message straight to where it is kept."""
        self._heard_at = self.loop.time()
        if self._data is None:
            self._reader.feed_data(data)
        elif self._data.feed(data):
            if self._data.rest:
                self._reader.feed_data(self._data.rest)
            self._end_data(complete=True)

    def _end_data(self, *, complete: bool) -> None:
        if self._data_ended is not None and not self._data_ended.done():
            self._data_ended.set_result(complete)
        self._data_ended = None
        self._data = None

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Start the one timer of the session: it looks at when the client was last heard."""
        if self._timeout_handle is None:
            self._timeout_handle = self.loop.call_later(
                duration or self._timeout_duration, self._timeout_cb
            )

    def _timeout_cb(self) -> None:
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
        return not self._relaying and self.envelope.mail_from is None

    def close(self, reply: Reply) -> None:
        """Say goodbye and hang up; what was written before goes out first."""
        self._closing = True
        if self.transport is not None and not self.transport.is_closing():
            self._writer.write(reply.wire())
            self.transport.close()

    def finish(self) -> None:
        """Hang up as soon as the transaction under way is answered, at once where there is none."""
        if self.idle:
            self.close(replies.SHUTTING_DOWN)
        else:
            self._closing = True

    def abort(self) -> None:
        """Hang up now, whatever is under way."""
        self.close(replies.SHUTTING_DOWN)
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    # ---- replies

    async def push(self, status: str | bytes) -> None:
        """Send a reply in aiosmtpd's words, with an enhanced code."""
        text = status.decode("utf-8", "replace") if isinstance(status, bytes) else status
        line = replies.with_enhanced_code(text)
        await self._send(line.encode("ascii", "backslashreplace") + b"\r\n", int(line[:3]))

    async def answer(self, reply: Reply) -> None:
        """Send a reply."""
        await self._send(reply.wire(utf8=self.envelope.smtp_utf8), reply.code)

    async def _send(self, wire: bytes, code: int) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        self._writer.write(wire)
        await self._writer.drain()
        if code in _NONSENSE:
            self._errors_left -= 1
            if self._errors_left <= 0:
                log.warning("session.too_many_errors", client=self._client)
                self.close(replies.TOO_MANY_ERRORS)

    # ---- commands

    async def _handle_client(self) -> None:
        """Read commands and answer them until the client or the server has had enough."""
        try:
            self._writer.write(f"220 {self.hostname} ESMTP smtp2cf\r\n".encode())
            while not self._closing or not self.idle:
                line = await self._read_command()
                if line is None or not await self._run_command(line):
                    break
                if self._closing and self.idle:
                    self.close(replies.SHUTTING_DOWN)
        except ConnectionError:
            log.debug("session.lost", client=self._client)
        finally:
            if self.transport is not None:
                self.transport.close()

    async def _read_command(self) -> bytes | None:
        """The next command line, without limit to how long a client may be; None at its end."""
        too_long = False
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return None
            except asyncio.LimitOverrunError as overrun:
                await self._reader.read(overrun.consumed)
                too_long = True
                continue
            if not too_long and len(line) <= _line_limit(line):
                return line
            await self.answer(replies.COMMAND_TOO_LONG)
            too_long = False
            if self._closing:
                return None

    async def _run_command(self, line: bytes) -> bool:
        """Answer one command; False when the session is over."""
        verb, _, argument = line.decode("utf-8", "surrogateescape").strip().partition(" ")
        verb = verb.upper()
        try:
            if (command := COMMANDS.get(verb)) is not None:
                await command(self, argument.strip())
            elif verb in HTTP_METHODS:
                log.warning("session.http", client=self._client)
                self.close(replies.HTTP_CLIENT)
            else:
                await self.answer(replies.UNKNOWN_COMMAND if verb.isalpha() else replies.BAD_COMMAND)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            # The session is the last who can answer for a mistake of ours: the client keeps its message.
            log.exception("session.error", client=self._client, command=verb)
            self._set_rset_state()
            await self.answer(replies.INTERNAL_ERROR)
        return self.transport is not None and not self.transport.is_closing()

    def _create_envelope(self) -> Transaction:
        return Transaction()

    async def smtp_HELO(self, hostname: str) -> None:
        """HELO: the old greeting, no extensions."""
        await self._hello(hostname, "HELO", f"250 {self.hostname}\r\n".encode())

    async def smtp_EHLO(self, hostname: str) -> None:
        """EHLO: the greeting, and what is offered."""
        await self._hello(hostname, "EHLO", self._server.ehlo_reply)

    async def _hello(self, hostname: str, verb: Literal["HELO", "EHLO"], wire: bytes) -> None:
        if not hostname:
            await self.answer(replies.syntax(f"{verb} hostname"))
            return
        self._set_rset_state()
        self.session.extended_smtp = verb == "EHLO"
        self.session.host_name = hostname
        await self._send(wire, 250)

    async def smtp_QUIT(self, _: str) -> None:
        """QUIT: goodbye."""
        self.close(replies.GOODBYE)

    async def smtp_VRFY(self, address: str) -> None:
        """VRFY: we can't know, only Cloudflare's answer to the message does."""
        await self.answer(replies.CANNOT_VERIFY if address else replies.syntax("VRFY address"))

    async def smtp_MAIL(self, argument: str) -> None:
        """MAIL FROM: a transaction starts."""
        if not self.session.host_name:
            return await self.answer(replies.NO_HELLO)
        if self.envelope.mail_from is not None:
            return await self.answer(replies.NESTED_MAIL)
        if argument[:5].upper() != "FROM:":
            return await self.answer(replies.syntax("MAIL FROM:<address> [parameters]"))
        if not self._server.policy.may_relay(self._client):
            log.warning("session.relaying_denied", client=self._client, helo=self.session.host_name)
            return await self.answer(replies.relaying_denied(self._client))
        try:
            address, rest = parse_path(argument[5:])
        except PathError as error:
            return await self.answer(error.reply)
        if rest:
            parameters, wrong = parse_parameters(rest, MAIL_RULES)
            if wrong is not None:
                return await self.answer(wrong)
            limit = self._server.policy.max_message_size
            if int(parameters.get("SIZE", 0)) > limit:
                return await self.answer(replies.too_big(limit))
            self.envelope.parameters = parameters
            self.envelope.smtp_utf8 = "SMTPUTF8" in parameters
        self.envelope.mail_from = address
        await self._send(_SENDER_OK, 250)

    async def smtp_RCPT(self, argument: str) -> None:
        """RCPT TO: one recipient more."""
        if self.envelope.mail_from is None:
            return await self.answer(replies.NO_MAIL if self.session.host_name else replies.NO_HELLO)
        if argument[:3].upper() != "TO:":
            return await self.answer(replies.syntax("RCPT TO:<address> [parameters]"))
        limit = self._server.policy.max_recipients
        if len(self.envelope.rcpt_tos) >= limit:
            return await self.answer(replies.too_many_recipients(limit))
        try:
            address, rest = parse_path(argument[3:])
        except PathError as error:
            return await self.answer(error.reply)
        if not address:
            return await self.answer(Reply(553, "5.1.3", "<>: a recipient can't be the null address"))
        if rest:
            parameters, wrong = parse_parameters(rest, RCPT_RULES)
            if wrong is not None:
                return await self.answer(wrong)
            self.envelope.recipient_parameters[address] = parameters
        self.envelope.rcpt_tos.append(address)
        return await self._send(_RECIPIENT_OK, 250)

    async def smtp_DATA(self, argument: str) -> None:
        """DATA: the message, and the answer to what became of it."""
        if not self.envelope.rcpt_tos:
            has_sender = self.envelope.mail_from is not None
            return await self.answer(replies.NO_RCPT if has_sender else replies.NO_MAIL)
        if argument:
            return await self.answer(replies.syntax("DATA"))
        reader = await self._read_message()
        if reader is None:
            log.info("session.lost_in_data", client=self._client, reverse_path=self.envelope.mail_from)
            return None
        message = reader.message()
        if reader.too_big:
            reply = replies.too_big(self._server.policy.max_message_size)
            log.info("session.too_big", client=self._client, reverse_path=self.envelope.mail_from)
        else:
            del reader
            reply = await self._relay(message)
        smtp_utf8 = self.envelope.smtp_utf8
        self._set_post_data_state()
        return await self._send(reply.wire(utf8=smtp_utf8), reply.code)

    async def _read_message(self) -> DataReader | None:
        """Invite the message and read it to its final dot; None when the client went away before."""
        reader = DataReader(self._server.policy.max_message_size)
        self._writer.write(b"354 end with <CRLF>.<CRLF>\r\n")
        # What a client sent along with DATA, without waiting for the 354, is in the reader's buffer.
        buffer = self._reader._buffer  # type: ignore[attr-defined]  # noqa: SLF001 - no public way to look
        if buffer:
            early = await self._reader.read(len(buffer))
            if reader.feed(early):
                self._reader.feed_data(reader.rest)
                return reader
        if self._reader.at_eof() or self.transport is None:
            return None
        ended = self.loop.create_future()
        self._data, self._data_ended = reader, ended
        return reader if await ended else None

    async def _relay(self, message: bytes) -> Reply:
        envelope = self._envelope()
        self._relaying = True
        try:
            verdict = await self._server.accept(envelope, message)
        finally:
            self._relaying = False
            self._heard_at = self.loop.time()
        if self.transport is None:
            log.warning(
                "session.reply_lost", queue_id=envelope.queue_id, client=self._client, reply=str(verdict.reply)
            )
        return verdict.reply

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


def _line_limit(line: bytes) -> int:
    return PATH_COMMAND_LIMIT if line[:4].upper() in (b"MAIL", b"RCPT") else COMMAND_LIMIT


_SENDER_OK = replies.SENDER_OK.wire()
_RECIPIENT_OK = replies.RECIPIENT_OK.wire()

Command = Callable[[Any, str], Awaitable[None]]
COMMANDS: dict[str, Command] = {
    "HELO": Session.smtp_HELO,
    "EHLO": Session.smtp_EHLO,
    "MAIL": Session.smtp_MAIL,
    "RCPT": Session.smtp_RCPT,
    "DATA": Session.smtp_DATA,
    "RSET": Session.smtp_RSET,
    "NOOP": Session.smtp_NOOP,
    "QUIT": Session.smtp_QUIT,
    "VRFY": Session.smtp_VRFY,
    "EXPN": Session.smtp_EXPN,
    "HELP": Session.smtp_HELP,
}
