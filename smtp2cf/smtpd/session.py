"""One SMTP or LMTP session: what each command is answered (RFC 5321, RFC 2033). No I/O.

`command(line)` says what the connection has to do next, as a Step: say something, read a message, relay it,
check a password, begin TLS, or hang up. For a Step that takes its time, the connection comes back with
what came of it: `message_read`, `answers`, `password_checked`.

Offered: PIPELINING, SIZE, 8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES, DSN, CHUNKING (RFC 3030), LIMITS
(RFC 9422), PRDR (draft-hall-prdr); STARTTLS (RFC 3207) and AUTH (RFC 4954) if they are set up.

Knows no sockets, no relay and no users: who may do what is in the rules.
"""

import unicodedata
from collections.abc import Callable, Mapping
from typing import Literal

from aiosmtpd import smtp as aiosmtpd

from smtp2cf.envelope import Verdict
from smtp2cf.reply import Reply
from smtp2cf.smtpd import greetings, refusals, replies, steps
from smtp2cf.smtpd.chunks import Chunks, parse_bdat
from smtp2cf.smtpd.data import DataReader
from smtp2cf.smtpd.input import LONGEST_LINE
from smtp2cf.smtpd.listener import Listener
from smtp2cf.smtpd.other_protocols import other_protocol
from smtp2cf.smtpd.path import NO_POSTMASTER, PathError, parse_forward_path
from smtp2cf.smtpd.rules import Judging
from smtp2cf.smtpd.sasl import Credentials, Exchange, Progress, parse_auth
from smtp2cf.smtpd.steps import Await, CheckPassword, Close, Event, Read, Reader, Relay, Say, StartTls, Step
from smtp2cf.smtpd.transaction import Transaction
from smtp2cf.smtpd.usage import BDAT_USAGE, COMMAND_LIMIT, LIMITS, NOT_HERE, TLS_FIRST, USAGE


class Session(aiosmtpd.Session):
    """What is known of one client, and what it is answered.

    client: its address, "" on a unix socket.
    """

    def __init__(self, listener: Listener, client: str) -> None:
        super().__init__(None)  # type: ignore[arg-type] # aiosmtpd's sessions have a loop; there is no I/O here
        self.client = client
        self.user = ""
        """Who has authenticated, "" for nobody."""
        self.secure = listener.tls_first
        """This is TLS."""
        self.transaction = Transaction()
        self.verb = ""
        """The command under way."""
        self.commands = self._commands(listener)
        self._listener = listener
        self._lmtp = listener.lmtp
        self._rules = listener.rules
        self._exchange: Exchange | None = None
        """The AUTH under way: lines are responses to it."""

    def _commands(self, listener: Listener) -> Mapping[str, "Command"]:
        """What is understood here, now: until there is TLS where it is required, hardly anything."""
        spoken = self.LMTP if listener.lmtp else self.SMTP
        if self.secure or not listener.rules.policy.tls_required:
            return spoken
        return {**spoken, **dict.fromkeys(TLS_FIRST, Session._tls_first)}

    def command(self, line: bytes, *, overlong: bool = False, following: bytes = b"") -> Step:
        """A line has come. overlong: its beginning is missing. following: some octets behind it."""
        if self._exchange is not None:
            return self._respond(self._exchange, line, overlong=overlong)
        # Not decoded as a whole: no other script's letters and blanks are the standard's.
        word, _, rest = line.strip().partition(b" ")
        self.verb = verb = word.upper().decode("latin-1")
        too_long = overlong or len(line) > LIMITS.get(verb, COMMAND_LIMIT)
        if not too_long and (command := self.commands.get(verb)) is not None:
            if (wrong := self._malformed(line)) is not None:
                return self._refuse_line(wrong)
            return command(self, rest.decode("utf-8", "surrogateescape").strip())
        if (close := self._close_if_other_protocol(line + following)) is not None:
            return close
        if too_long:
            return self._refuse_line(replies.COMMAND_TOO_LONG)
        unknown = replies.UNKNOWN_COMMAND if verb.isalpha() else replies.BAD_COMMAND
        return self._say(NOT_HERE.get(verb, unknown))

    def unfinished(self, beginning: bytes) -> Close | None:
        """The beginning of a line has come: hang up if it is that of another protocol."""
        # Base64 that has not all come yet may look like the method of an HTTP request.
        return self._close_if_other_protocol(beginning) if self._exchange is None else None

    def message_read(self, reader: Reader) -> Say | Relay:
        """A reader has all of its octets."""
        if isinstance(reader, Chunks):
            if reader.refusal is not None:
                return self._say(reader.refusal)
            if not reader.last and not reader.too_big:
                taken = replies.NO_ROOM if reader.dropped else replies.chunk_taken(reader.size)
                return self._say(taken)
            if not reader.last:
                return self._say(replies.too_big(self._rules.policy.max_message_size))
        message = reader.message()
        if reader.too_big:
            sender = {"from": self.transaction.mail_from}
            event = Event("session.too_big", sender, about_message=True)
            return self.refuse_message(replies.too_big(self._rules.policy.max_message_size), event)
        if reader.dropped:
            return self.refuse_message(replies.NO_ROOM)
        transaction = self.transaction
        transaction.chunks = None
        envelope = transaction.complete(
            client=self.client,
            helo=self.host_name or "",
            user=self.user,
            lmtp=self._lmtp,
            listener=self._listener.name,
        )
        return Relay(envelope, message)

    def answers(self, verdict: Verdict) -> bytes:
        """The answer to a message, which ends its transaction: one reply, or one for each recipient."""
        transaction, lmtp = self.transaction, self._lmtp
        utf8 = transaction.smtp_utf8
        wire = verdict.reply.wire(utf8=utf8)
        if lmtp or transaction.wants_prdr:
            outcomes = (verdict.outcomes.get(who, verdict.reply) for who in transaction.rcpt_tos)
            each = b"".join(replies.for_recipient(reply).wire(utf8=utf8) for reply in outcomes)
            wire = each if lmtp else replies.PER_RECIPIENT + each + wire
        self.transaction = Transaction()
        return wire

    def refuse_message(self, reply: Reply, event: Event | None = None) -> Say:
        """The answer to a message that is not relayed, which ends its transaction."""
        refusals.count(self.verb, reply)
        everybody = dict.fromkeys(self.transaction.rcpt_tos, reply)
        return Say(self.answers(Verdict(reply, everybody)), reply.code, event)

    def password_checked(self, credentials: Credentials, refusal: Reply | None) -> Say | Close:
        """A password was checked. refusal: the reply if it is wrong."""
        event = None
        if refusal is None and (refusal := self._rules.sessions.enter(user=credentials.name)) is not None:
            event = Event("session.refused", {"reply": str(refusal)})
        if refusal is None:
            self.user = credentials.name
            return self._say(replies.AUTHENTICATED)
        return Close(refusal, event) if refusal.code == 421 else self._say(refusal, event)

    def failed(self) -> Say:
        """A mistake of ours: the client keeps its message, and may try again."""
        self.transaction = Transaction()
        return self._say(replies.INTERNAL_ERROR)

    def log_out(self) -> None:
        """Nobody has authenticated any more."""
        if self.user:
            self._rules.sessions.leave(user=self.user)
        self.user = ""

    # ---- a line

    def _say(self, reply: Reply, event: Event | None = None) -> Say:
        if reply.code >= 400:
            refusals.count(self.verb, reply, event.name if event is not None else "")
        return Say(reply.wire(utf8=self.transaction.smtp_utf8), reply.code, event)

    def _malformed(self, line: bytes) -> Reply | None:
        """The reply to a line that another server could take for another one, or for two."""
        if b"\0" in line or b"\r" in line.rstrip():
            return replies.NO_LINE
        return self._wrong_end(line)

    def _wrong_end(self, line: bytes) -> Reply | None:
        if self._rules.policy.crlf_only and (line[-2:] != b"\r\n" or b"\r" in line[:-2]):
            return replies.NO_CRLF
        return None

    def _refuse_line(self, reply: Reply) -> Say | Close:
        # Behind BDAT octets follow, and none of them may be taken for a command.
        return Close(reply) if self.verb == "BDAT" else self._say(reply)

    def _close_if_other_protocol(self, line: bytes) -> Close | None:
        reply = other_protocol(line)
        return Close(reply, Event("session.not_smtp", {"reply": str(reply)})) if reply is not None else None

    # ---- the session

    def _helo(self, hostname: str) -> Step:
        return self._greet(hostname, "HELO")

    def _ehlo(self, hostname: str) -> Step:
        return self._greet(hostname, "EHLO")

    def _lhlo(self, hostname: str) -> Step:
        return self._greet(hostname, "LHLO")

    def _greet(self, hostname: str, verb: Literal["HELO", "EHLO", "LHLO"]) -> Step:
        if not hostname:
            return self._say(replies.syntax(f"{verb} hostname"))
        self.transaction = Transaction()
        self.extended_smtp = verb != "HELO"
        # Any name is accepted, but only what can be shown and kept as text goes further.
        is_text = hostname.isascii() and hostname.isprintable()
        self.host_name = hostname if is_text else ascii(hostname)[1:-1]
        if verb == "HELO":
            return Say(greetings.helo(self._rules.policy.hostname), 250)
        return Say(greetings.ehlo(self._listener, secure=self.secure), 250)

    def _rset(self, argument: str) -> Step:
        if argument:
            return self._say(replies.syntax("RSET"))
        self.transaction = Transaction()
        return steps.OK

    def _noop(self, _: str) -> Step:
        return steps.OK

    def _quit(self, _: str) -> Step:
        return Close(replies.GOODBYE)

    def _vrfy(self, address: str) -> Step:
        """We can't know: only Cloudflare's answer to the message does. We do know our postmaster."""
        if not address:
            return self._say(replies.syntax("VRFY address"))
        try:
            parse_forward_path(address, self._rules.policy.postmaster)
        except PathError as error:
            if error.reply == NO_POSTMASTER:
                return self._say(error.reply)
        return self._say(replies.CANNOT_VERIFY)

    def _help(self, topic: str) -> Step:
        absent = set() if self._listener.offers_starttls else {"STARTTLS"}
        if not self._rules.offers_auth:
            absent.add("AUTH")
        known = [verb for verb in self.commands if verb not in absent]
        if not topic:
            return self._say(Reply(214, "2.0.0", f"commands: {' '.join(known)}"))
        verb = topic.upper()
        if verb not in known:
            return self._say(Reply(504, "5.5.4", f"{topic}: no such command"))
        return self._say(Reply(214, "2.0.0", f"syntax: {USAGE.get(verb, verb)}"))

    # ---- who the client is

    def _starttls(self, argument: str) -> Step:
        """Everything from here on is in TLS, and nothing said before counts (RFC 3207 §4.2)."""
        certificate = self._listener.certificate if self._listener.offers_starttls else None
        if argument:
            return self._say(replies.syntax("STARTTLS"))
        if self.secure or certificate is None:
            return self._say(replies.TLS_ALREADY if self.secure else replies.NO_TLS)
        self.transaction = Transaction()
        self.host_name = None
        self.extended_smtp = False
        self.log_out()
        self.commands = self.LMTP if self._lmtp else self.SMTP
        return StartTls(certificate(), replies.READY_FOR_TLS.wire())

    def _tls_first(self, _: str) -> Step:
        return self._refuse_line(replies.TLS_REQUIRED)

    def _auth(self, argument: str) -> Step:
        """Begin an exchange: the next lines are the client's responses."""
        if (refusal := self._auth_refusal()) is not None:
            return self._say(refusal)
        exchange = parse_auth(argument)
        if isinstance(exchange, Reply):
            return self._say(exchange)
        return self._go_on(exchange, exchange.begin())

    def _auth_refusal(self) -> Reply | None:
        if not self.host_name:
            return replies.NO_HELLO
        if not self._rules.offers_auth:
            return replies.NO_AUTH
        if not self._rules.may_authenticate(secure=self.secure):
            return replies.TLS_FIRST
        if self.user:
            return replies.AUTHENTICATED_ALREADY
        return replies.AUTH_IN_TRANSACTION if self.transaction.mail_from is not None else None

    def _respond(self, exchange: Exchange, line: bytes, *, overlong: bool) -> Step:
        """A line that is a response in the AUTH under way."""
        too_long = overlong or len(line) > LONGEST_LINE
        wrong = replies.AUTH_TOO_LONG if too_long else self._wrong_end(line)
        return self._go_on(exchange, wrong or exchange.answer(line.strip(b" \r\n")))

    def _go_on(self, exchange: Exchange, progress: Progress) -> Step:
        self._exchange = None
        if isinstance(progress, Reply):
            return self._say(progress)
        if isinstance(progress, Credentials):
            # One user, however a client composes the letters of the name.
            name = unicodedata.normalize("NFC", progress.name)
            return CheckPassword(Credentials(name, progress.password))
        self._exchange = exchange
        return Say(progress, 334)

    # ---- the transaction

    def _mail(self, argument: str) -> Step:
        if not self.host_name:
            return self._say(replies.NO_HELLO)
        if self.transaction.mail_from is not None:
            return self._say(replies.NESTED_MAIL)
        rules = self._rules
        if (refusal := rules.relay_refusal(self.client, self.user, secure=self.secure)) is not None:
            return self._say(refusal, Event("session.relaying_denied", {"helo": self.host_name}))
        if (refusal := rules.no_mail_now()) is not None:
            return self._say(refusal)
        limit, takes_name = rules.policy.max_message_size, rules.policy.takes_sender
        refusal = self.transaction.mail(argument, size_limit=limit, takes_name=takes_name)
        if refusal is not None:
            return self._say(refusal)
        judgement = rules.mail_refusal(self.client, self.user, self.transaction.mail_from or "")
        if judgement is not None:
            return self._judge(judgement, self._refuse_sender, steps.SENDER_OK)
        return steps.SENDER_OK

    def _refuse_sender(self, refusal: Reply) -> Say:
        self.transaction = Transaction()
        event = Event("session.sender_refused", {"user": self.user, "reply": str(refusal)})
        return self._say(refusal, event)

    def _judge(self, judgement: Reply | Judging, refuse: Callable[[Reply], Say], accepted: Say) -> Step:
        """Refuse, or wait to see whether to."""
        if isinstance(judgement, Reply):
            return refuse(judgement)
        return Await(judgement, lambda refusal: accepted if refusal is None else refuse(refusal))

    def _rcpt(self, argument: str) -> Step:
        if self.transaction.mail_from is None:
            return self._say(replies.NO_MAIL if self.host_name else replies.NO_HELLO)
        if self.transaction.chunks is not None:
            return self._say(replies.BDAT_BEGUN)
        policy = self._rules.policy
        refusal = self.transaction.rcpt(
            argument,
            limit=policy.max_recipients,
            postmaster=policy.postmaster,
            recipients=policy.recipients,
            user=self.user,
        )
        if refusal is not None:
            return self._say(refusal)
        judgement = self._rules.recipient_refusal(self.client, self.user, self.transaction.mail_from)
        if judgement is not None:
            return self._judge(judgement, self._refuse_recipient, steps.RECIPIENT_OK)
        return steps.RECIPIENT_OK

    def _refuse_recipient(self, refusal: Reply) -> Say:
        self.transaction.take_back()
        return self._say(refusal, Event("session.recipient_refused", {"reply": str(refusal)}))

    def _data(self, argument: str) -> Step:
        """Invite the message: what follows is the message, up to its final dot."""
        if (refusal := self._no_message_yet()) is not None:
            return self._say(refusal)
        if self.transaction.chunks is not None:
            return self._say(replies.BDAT_BEGUN)
        if argument:
            return self._say(replies.syntax("DATA"))
        return Read(DataReader(self._rules.policy.max_message_size), invitation=replies.SEND_MESSAGE)

    def _bdat(self, argument: str) -> Step:
        """A chunk of the message follows at once, whether it is wanted or not."""
        chunk = parse_bdat(argument)
        if chunk is None:
            # Nobody knows how many octets follow, and none of them may be taken for a command.
            return Close(replies.syntax(BDAT_USAGE))
        size, last = chunk
        chunks = self.transaction.chunks or Chunks(self._rules.policy.max_message_size)
        refusal = self._no_message_yet()
        if refusal is None:
            self.transaction.chunks = chunks
        chunks.begin(size, last=last, refusal=refusal)
        return Read(chunks, most=size)

    def _no_message_yet(self) -> Reply | None:
        """Why no message may come now; None if one may."""
        if self.transaction.rcpt_tos:
            return None
        return replies.NO_MAIL if self.transaction.mail_from is None else replies.NO_RCPT

    COMMON: Mapping[str, "Command"] = {
        "MAIL": _mail,
        "RCPT": _rcpt,
        "DATA": _data,
        "BDAT": _bdat,
        "RSET": _rset,
        "NOOP": _noop,
        "QUIT": _quit,
        "VRFY": _vrfy,
        "HELP": _help,
        "STARTTLS": _starttls,
        "AUTH": _auth,
    }
    SMTP: Mapping[str, "Command"] = {"EHLO": _ehlo, "HELO": _helo, **COMMON}
    LMTP: Mapping[str, "Command"] = {"LHLO": _lhlo, **COMMON}


Command = Callable[[Session, str], Step]
