"""One SMTP or LMTP session: the commands (RFC 5321, RFC 2033).

aiosmtpd's commands are written anew where they fall short for a relay: DATA goes line by line there and
a line ends at 1001 octets (data.py), MAIL and RCPT refuse AUTH= and DSN parameters (transaction.py), AUTH
reads from a stream that is not there and LOGIN's challenges are not the usual ones (sasl.py), EHLO sends
a packet a line, and BDAT, LMTP and PRDR are missing.

Offered: PIPELINING, SIZE, 8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES, DSN, CHUNKING (RFC 3030), LIMITS
(RFC 9422), PRDR (draft-hall-prdr); STARTTLS (RFC 3207) and AUTH (RFC 4954) where they are set up.

Knows no relay and no users: what becomes of a message is `accept`'s answer, who may send what
`authenticate`'s and `sender_refusal`'s.
"""

import unicodedata
from collections.abc import Callable, Coroutine
from typing import Any, Literal, cast

import structlog
from aiosmtpd import smtp as aiosmtpd

from smtp2cf.envelope import Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.chunks import Chunks, parse_bdat
from smtp2cf.smtpd.connection import ERROR_BUDGET, Connection, Reader
from smtp2cf.smtpd.data import DataReader
from smtp2cf.smtpd.path import NO_POSTMASTER, PathError, parse_forward_path
from smtp2cf.smtpd.sasl import AUTH_LINE_LIMIT, AUTH_USAGE, Credentials, Exchange, Step, parse_auth
from smtp2cf.smtpd.transaction import MAIL_USAGE, RCPT_USAGE, Transaction

COMMAND_LIMIT = 512
"""Octets of a command line (RFC 5321 §4.5.3.1.4)."""
PATH_COMMAND_LIMIT = 2048
"""Octets of MAIL and RCPT with every parameter at its largest (RFC 1870, 3461, 4954, 6531)."""
BDAT_USAGE = "BDAT size [LAST]"

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Session(Connection):
    """A connection that speaks SMTP or LMTP. Made by `Server`, one for each client."""

    _exchange: Exchange | None = None
    """The AUTH under way: lines are responses to it."""

    def _run_command(self, line: bytes) -> None:
        """Answer one command, or start what must be waited for before it can be answered."""
        if self._exchange is not None:
            return self._respond(self._exchange, line)
        # Not decoded as a whole: no other script's letters and blanks are the standard's.
        word, _, rest = line.strip().partition(b" ")
        verb = word.upper().decode("latin-1")
        argument = rest.decode("utf-8", "surrogateescape").strip()
        too_long, self._overlong = self._overlong or len(line) > LIMITS.get(verb, COMMAND_LIMIT), False
        try:
            if not too_long and (command := self._listener.commands.get(verb)) is not None:
                if (wrong := self._malformed(line)) is None:
                    command(self, argument)
                else:
                    self._refuse_line(verb, wrong)
            elif self._is_other_protocol(line):
                pass
            elif too_long:
                self._refuse_line(verb, replies.COMMAND_TOO_LONG)
            elif verb in AIOSMTPD_COMMANDS:
                self._wait_for(AIOSMTPD_COMMANDS[verb](self, argument), verb)
            else:
                unknown = replies.UNKNOWN_COMMAND if verb.isalpha() else replies.BAD_COMMAND
                self._answer(WRONG_HELLO.get(verb, unknown))
        except Exception:  # noqa: BLE001 - logged and answered
            self._internal_error(verb)

    def _malformed(self, line: bytes) -> Reply | None:
        """The reply to a line that another server could take for another one, or for two."""
        if b"\0" in line or b"\r" in line.rstrip():
            return replies.NO_LINE
        return self._wrong_end(line)

    def _wrong_end(self, line: bytes) -> Reply | None:
        if self._server.policy.crlf_only and (line[-2:] != b"\r\n" or b"\r" in line[:-2]):
            return replies.NO_CRLF
        return None

    def _refuse_line(self, verb: str, reply: Reply) -> None:
        if verb == "BDAT":
            self.close(reply)  # octets follow, of which none may be taken for a command
        else:
            self._answer(reply)

    def _is_other_protocol(self, line: bytes) -> bool:
        # Base64 that has not all come yet may look like the method of an HTTP request.
        return self._exchange is None and super()._is_other_protocol(line)

    # ---- the session

    def smtp_HELO(self, hostname: str) -> None:
        """HELO: the old greeting, no extensions."""
        self._hello(hostname, "HELO")

    def smtp_EHLO(self, hostname: str) -> None:
        """EHLO: the greeting, and what is offered."""
        self._hello(hostname, "EHLO")

    def smtp_LHLO(self, hostname: str) -> None:
        """LHLO: LMTP's EHLO."""
        self._hello(hostname, "LHLO")

    def _hello(self, hostname: str, verb: Literal["HELO", "EHLO", "LHLO"]) -> None:
        if not hostname:
            return self._answer(replies.syntax(f"{verb} hostname"))
        self.envelope = Transaction()
        self.session.extended_smtp = verb != "HELO"
        # Anything is taken for a name, but only what can be shown and kept as text goes further.
        is_text = hostname.isascii() and hostname.isprintable()
        self.session.host_name = hostname if is_text else ascii(hostname)[1:-1]
        server = self._server
        offer = server.helo_reply if verb == "HELO" else server.offer(self._listener, secure=self._secure)
        return self._send(offer, 250)

    def smtp_RSET(self, argument: str) -> None:
        """RSET: forget the transaction."""
        if argument:
            return self._answer(replies.syntax("RSET"))
        self.envelope = Transaction()
        return self._send(_OK, 250)

    def smtp_NOOP(self, _: str) -> None:
        """NOOP: nothing."""
        self._send(_OK, 250)

    def smtp_QUIT(self, _: str) -> None:
        """QUIT: goodbye."""
        self.close(replies.GOODBYE)

    def smtp_VRFY(self, address: str) -> None:
        """VRFY: we can't know, only Cloudflare's answer to the message does. We do know our postmaster."""
        if not address:
            return self._answer(replies.syntax("VRFY address"))
        try:
            parse_forward_path(address, self._server.policy.postmaster)
        except PathError as error:
            if error.reply == NO_POSTMASTER:
                return self._answer(error.reply)
        return self._answer(replies.CANNOT_VERIFY)

    def smtp_HELP(self, topic: str) -> None:
        """HELP: the commands there are, or how one is written."""
        known = self._server.commands(self._listener)
        if not topic:
            return self._answer(Reply(214, "2.0.0", f"commands: {' '.join(known)}"))
        verb = topic.upper()
        if verb not in known:
            return self._answer(Reply(504, "5.5.4", f"{topic}: no such command"))
        return self._answer(Reply(214, "2.0.0", f"syntax: {USAGE.get(verb, verb)}"))

    # ---- who it is

    def smtp_STARTTLS(self, argument: str) -> None:
        """STARTTLS: everything from here on is in TLS, and nothing said before counts."""
        context = self._server.starttls_context(self._listener)
        if argument:
            return self._answer(replies.syntax("STARTTLS"))
        if self._secure or context is None:
            return self._answer(replies.TLS_ALREADY if self._secure else replies.NO_TLS)
        self.envelope = Transaction()
        self.session.host_name = None
        self.session.extended_smtp = False
        self._server.leave_user(self)
        return self._wait_for(self._start_tls(context, replies.READY_FOR_TLS.wire()), "STARTTLS")

    def smtp_AUTH(self, argument: str) -> None:
        """AUTH: begin an exchange; the next lines are the client's responses."""
        if not self.session.host_name:
            return self._answer(replies.NO_HELLO)
        if self._server.authenticate is None:
            return self._answer(replies.NO_AUTH)
        if not self._server.may_authenticate(secure=self._secure):
            return self._answer(replies.TLS_FIRST)
        if self.user:
            return self._answer(replies.AUTHENTICATED_ALREADY)
        if self.envelope.mail_from is not None:
            return self._answer(replies.AUTH_IN_TRANSACTION)
        exchange = parse_auth(argument)
        if isinstance(exchange, Reply):
            return self._answer(exchange)
        return self._follow(exchange, exchange.begin())

    def _respond(self, exchange: Exchange, line: bytes) -> None:
        """A line that is a response of the AUTH under way."""
        too_long, self._overlong = self._overlong or len(line) > AUTH_LINE_LIMIT, False
        wrong = replies.AUTH_TOO_LONG if too_long else self._wrong_end(line)
        self._follow(exchange, wrong or exchange.answer(line.strip(b" \r\n")))

    def _follow(self, exchange: Exchange, step: Step) -> None:
        self._exchange = None
        if isinstance(step, Reply):
            self._answer(step)
        elif isinstance(step, Credentials):
            self._wait_for(self._check(step), "AUTH")
        else:
            self._exchange = exchange
            self._send(step, 334)

    async def _check(self, credentials: Credentials) -> None:
        """Ask who knows the users; at most one question a session."""
        assert self._server.authenticate is not None  # noqa: S101 - AUTH is refused without
        # One user, however a client composes the letters of the name.
        name = unicodedata.normalize("NFC", credentials.name)
        refusal = await self._server.authenticate(self.client, name, credentials.password)
        if refusal is None and (refusal := self._server.enter_user(self, name)) is not None:
            self._server.limited_log.warning("session.refused", client=self.client, reply=str(refusal))
        self._heard_at = self.loop.time()
        if refusal is None:
            self._answer(replies.AUTHENTICATED)
        elif refusal.code == 421:
            self.close(refusal)
        else:
            self._answer(refusal)

    # ---- the transaction

    def smtp_MAIL(self, argument: str) -> None:
        """MAIL FROM: a transaction starts."""
        if not self.session.host_name:
            return self._answer(replies.NO_HELLO)
        if self.envelope.mail_from is not None:
            return self._answer(replies.NESTED_MAIL)
        if (refusal := self._server.relay_refusal(self, secure=self._secure)) is not None:
            self._server.limited_log.warning(
                "session.relaying_denied", client=self.client, helo=self.session.host_name
            )
            return self._answer(refusal)
        if self._server.closed is not None and (refusal := self._server.closed()) is not None:
            return self._answer(refusal)
        refusal = self.envelope.mail(argument, size_limit=self._server.policy.max_message_size)
        if refusal is None and (refusal := self._server.mail_refusal(self)) is not None:
            self._server.limited_log.warning(
                "session.sender_refused", client=self.client, user=self.user, reply=str(refusal)
            )
            self.envelope = Transaction()
        return self._send(_SENDER_OK, 250) if refusal is None else self._answer(refusal)

    def smtp_RCPT(self, argument: str) -> None:
        """RCPT TO: one recipient more."""
        if self.envelope.mail_from is None:
            return self._answer(replies.NO_MAIL if self.session.host_name else replies.NO_HELLO)
        if self.envelope.chunks is not None:
            return self._answer(replies.BDAT_BEGUN)
        policy = self._server.policy
        refusal = self.envelope.rcpt(argument, limit=policy.max_recipients, postmaster=policy.postmaster)
        if refusal is None and (refusal := self._server.recipient_refusal(self)) is not None:
            self._server.limited_log.warning(
                "session.recipient_refused", client=self.client, reply=str(refusal)
            )
            self.envelope.take_back()
        return self._send(_RECIPIENT_OK, 250) if refusal is None else self._answer(refusal)

    def smtp_DATA(self, argument: str) -> None:
        """DATA: invite the message; what follows is the message until its final dot."""
        if (refusal := self._no_message_yet()) is not None:
            return self._answer(refusal)
        if self.envelope.chunks is not None:
            return self._answer(replies.BDAT_BEGUN)
        if argument:
            return self._answer(replies.syntax("DATA"))
        self._send(b"354 end with <CRLF>.<CRLF>\r\n", 354)
        early = self._unanswered[self._answered :]  # sent along with DATA, without waiting for the 354
        self._drop_unanswered()
        return self._read_message(DataReader(self._server.policy.max_message_size), early)

    def smtp_BDAT(self, argument: str) -> None:
        """BDAT: a chunk of the message follows at once, whether it is wanted or not."""
        chunk = parse_bdat(argument)
        if chunk is None:
            # Nobody knows how many octets follow, and none of them may be taken for a command.
            return self.close(replies.syntax(BDAT_USAGE))
        size, last = chunk
        chunks = self.envelope.chunks or Chunks(self._server.policy.max_message_size)
        refusal = self._no_message_yet()
        if refusal is None:
            self.envelope.chunks = chunks
        chunks.begin(size, last=last, refusal=refusal)
        early = self._unanswered[self._answered : self._answered + size]
        self._answered += len(early)
        return self._read_message(chunks, early)

    def _no_message_yet(self) -> Reply | None:
        """Why no message may come now; None where one may."""
        if self.envelope.rcpt_tos:
            return None
        return replies.NO_MAIL if self.envelope.mail_from is None else replies.NO_RCPT

    def _taken(self, reader: Reader) -> None:
        if isinstance(reader, DataReader):
            return self._wait_for(self._finish_message(reader), "DATA")
        chunks = cast("Chunks", reader)
        if chunks.refusal is not None:
            return self._answer(chunks.refusal)
        if chunks.last:
            return self._wait_for(self._finish_message(chunks), "BDAT")
        if chunks.too_big:
            return self._answer(replies.too_big(self._server.policy.max_message_size))
        if chunks.dropped:
            return self._answer(replies.NO_ROOM)
        return self._answer(replies.chunk_taken(chunks.size))

    async def _finish_message(self, reader: DataReader | Chunks) -> None:
        """The message is whole: relay it and answer what became of it."""
        try:
            verdict = await self._verdict(reader)
            wire = self._answers(verdict)
        except Exception:
            # As many answers as the client waits for, whatever has failed.
            log.exception("session.error", client=self.client, command="DATA")
            self._receipts.unanswered()
            verdict = self._same_for_all(replies.INTERNAL_ERROR)
            wire = self._answers(verdict)
        self.envelope = Transaction()
        self._send_answer(verdict.reply, wire)

    async def _verdict(self, reader: DataReader | Chunks) -> Verdict:
        message = reader.message()
        if reader.too_big:
            log.info("session.too_big", client=self.client, reverse_path=self.envelope.mail_from)
            return self._same_for_all(replies.too_big(self._server.policy.max_message_size))
        if reader.dropped:
            return self._same_for_all(replies.NO_ROOM)
        del reader
        self.envelope.chunks = None
        return await self._relay(message)

    async def _relay(self, message: bytes) -> Verdict:
        envelope = self.envelope.complete(
            client=self.client,
            helo=self.session.host_name or "",
            user=self.user,
            per_recipient=self._listener.lmtp or self.envelope.wants_prdr,
        )
        self._receipts.begin(envelope)
        self._relaying = len(message)
        try:
            verdict = await self._server.accept(envelope, message)
        except BaseException:
            self._receipts.fail()
            raise
        finally:
            self._relaying = 0
            self._heard_at = self.loop.time()
        if verdict.reply.success:
            self._errors_left = ERROR_BUDGET
        return verdict

    def _same_for_all(self, reply: Reply) -> Verdict:
        return Verdict(reply, dict.fromkeys(self.envelope.rcpt_tos, reply))

    def _answers(self, verdict: Verdict) -> bytes:
        """The answer to a message: one, or one for each recipient in the order of RCPT."""
        utf8 = self.envelope.smtp_utf8
        if not (self._listener.lmtp or self.envelope.wants_prdr):
            return verdict.reply.wire(utf8=utf8)
        each = b"".join(
            _of_recipient(verdict.outcomes.get(who, verdict.reply)).wire(utf8=utf8)
            for who in self.envelope.rcpt_tos
        )
        return each if self._listener.lmtp else replies.PER_RECIPIENT + each + verdict.reply.wire(utf8=utf8)


def _of_recipient(reply: Reply) -> Reply:
    """A recipient's own reply: a success is about the address (RFC 3463 §3.2)."""
    return reply._replace(status="2.1.5") if reply.status == "2.0.0" else reply


_OK = replies.RESET.wire()
_SENDER_OK = replies.SENDER_OK.wire()
_RECIPIENT_OK = replies.RECIPIENT_OK.wire()

Command = Callable[[Session, str], None]

LIMITS = {"MAIL": PATH_COMMAND_LIMIT, "RCPT": PATH_COMMAND_LIMIT, "AUTH": AUTH_LINE_LIMIT}
"""Octets of the command lines that may be longer than others."""
USAGE = {
    "HELO": "HELO hostname",
    "EHLO": "EHLO hostname",
    "LHLO": "LHLO hostname",
    "MAIL": MAIL_USAGE,
    "RCPT": RCPT_USAGE,
    "BDAT": BDAT_USAGE,
    "NOOP": "NOOP [ignored]",
    "VRFY": "VRFY address",
    "HELP": "HELP [command]",
    "AUTH": AUTH_USAGE,
}
_COMMON: dict[str, Command] = {
    "MAIL": Session.smtp_MAIL,
    "RCPT": Session.smtp_RCPT,
    "DATA": Session.smtp_DATA,
    "BDAT": Session.smtp_BDAT,
    "RSET": Session.smtp_RSET,
    "NOOP": Session.smtp_NOOP,
    "QUIT": Session.smtp_QUIT,
    "VRFY": Session.smtp_VRFY,
    "HELP": Session.smtp_HELP,
    "STARTTLS": Session.smtp_STARTTLS,
    "AUTH": Session.smtp_AUTH,
}
SMTP_COMMANDS: dict[str, Command] = {
    "EHLO": Session.smtp_EHLO,
    "HELO": Session.smtp_HELO,
    **_COMMON,
}
LMTP_COMMANDS: dict[str, Command] = {"LHLO": Session.smtp_LHLO, **_COMMON}
WRONG_HELLO = {"LHLO": replies.SAY_EHLO, "EHLO": replies.SAY_LHLO, "HELO": replies.SAY_LHLO}
"""What a client of the other protocol is told."""
AIOSMTPD_COMMANDS: dict[str, Callable[[Session, str], Coroutine[Any, Any, None]]] = {
    "EXPN": aiosmtpd.SMTP.smtp_EXPN,
}
