"""A small SMTP server on standard input and output, for -bs while the bridge is away."""

from __future__ import annotations

import os
import time

from .delivery import Delivery
from .direct import relay_directly
from .drop import drop
from .envelope import Envelope
from .exit_codes import BAD_MESSAGE, OK, Away, Failure
from .host import name_of_host
from .message import BLOCK, Message
from .options import Options
from .output import printable, write_stdout
from .parameters import MAIL_PARAMETERS, RCPT_PARAMETERS, smtp_path
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class OwnSession:
    """One SMTP session that drops its mail, or relays it directly."""

    def __init__(self, options: Options, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self._buffer = b""
        self._envelope: Envelope | None = None
        self._commands: dict[str, Callable[[str], str]] = {
            "HELO": self._helo,
            "EHLO": self._ehlo,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": lambda _: "250 2.0.0 OK",
            "VRFY": lambda _: "252 2.5.2 send some mail, I'll try",
        }

    def run(self) -> int:
        self._say(f"220 {name_of_host()} ESMTP smtp2cf-sendmail")
        while True:
            line = self._line()
            if line is None:
                return OK
            verb, _, argument = line.partition(" ")
            if verb.upper() == "QUIT":
                self._say("221 2.0.0 goodbye")
                return OK
            command = self._commands.get(verb.upper())
            self._say(command(argument.strip()) if command else "500 5.5.2 unknown command")

    def _say(self, reply: str) -> None:
        write_stdout("".join(f"{printable(line)}\r\n" for line in reply.split("\r\n")))

    def _line(self) -> str | None:
        """The next command without its line end, None at the end of the input."""
        while b"\n" not in self._buffer:
            block = os.read(0, BLOCK)
            if not block or len(self._buffer) > BLOCK:
                return None
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "surrogateescape")

    def _helo(self, _: str) -> str:
        self._envelope = None
        return f"250 {name_of_host()}"

    def _ehlo(self, _: str) -> str:
        self._envelope = None
        offered = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
        return "".join(f"250-{line}\r\n" for line in (name_of_host(), *offered)) + "250 DSN"

    def _mail(self, argument: str) -> str:
        if self._envelope is not None:
            return "503 5.5.1 one MAIL at a time"
        path, parameters, wrong = smtp_path(argument, "FROM:", MAIL_PARAMETERS)
        if wrong:
            return wrong
        self._envelope = Envelope(path, [])
        self._envelope.eight_bit = parameters.get("BODY", "").upper() == "8BITMIME"
        self._envelope.smtputf8 = "SMTPUTF8" in parameters
        self._envelope.ret = parameters.get("RET", "").upper()
        self._envelope.envid = parameters.get("ENVID", "")
        return "250 2.1.0 OK"

    def _rcpt(self, argument: str) -> str:
        if self._envelope is None:
            return "503 5.5.1 MAIL first"
        path, parameters, wrong = smtp_path(argument, "TO:", RCPT_PARAMETERS)
        if wrong:
            return wrong
        if not path:
            return "501 5.1.3 syntax: RCPT TO:<address>"
        self._envelope.forward_paths.append(path)
        if "NOTIFY" in parameters:
            self._envelope.notify_of[path] = parameters["NOTIFY"].upper()
        if "ORCPT" in parameters:
            self._envelope.orcpt_of[path] = parameters["ORCPT"]
        return "250 2.1.5 OK"

    def _rset(self, _: str) -> str:
        self._envelope = None
        return "250 2.0.0 OK"

    def _data(self, _: str) -> str:
        if self._envelope is None or not self._envelope.forward_paths:
            return "503 5.5.1 RCPT first"
        self._say("354 end with <CRLF>.<CRLF>")
        message = Message()
        for block in self._text():
            message.write(block)  # unchanged: the bridge treats line ends as in its own session
        envelope, self._envelope = self._envelope, None
        try:
            if self._settings.yes("DIRECT"):
                return self._relay_directly(envelope, message)
            drop(self._settings, envelope, envelope.forward_paths, message, {})
        except Away as error:
            return f"451 4.3.0 {error}"
        finally:
            message.close()
        return "250 2.0.0 kept until the bridge is back"

    def _relay_directly(self, envelope: Envelope, message: Message) -> str:
        """One reply for all recipients: success if any was served, as the bridge replies."""
        delivery = Delivery(self._settings, envelope, message, {}, self._options.verbose)
        delivery.told = relay_directly(envelope, message, time.time(), delivery.settle_directly)
        delivery.report()
        return str((delivery.served or delivery.deferred or delivery.refused)[0].reply)

    def _text(self) -> Iterator[bytes]:
        """The message up to CRLF.CRLF, without dot-stuffing. What is pipelined after it stays buffered."""
        end = b"\r\n.\r\n"
        text, unseen = b"\r\n" + self._buffer, 2
        while end not in text:
            held = next(size for size in (4, 3, 2, 1, 0) if text.endswith(end[:size]))
            ready, text = text[: len(text) - held], text[len(text) - held :]
            if ready:
                yield ready.replace(b"\r\n.", b"\r\n")[unseen:]
                unseen = 0
            block = os.read(0, BLOCK)
            if not block:
                raise Failure(BAD_MESSAGE, "the input ended inside DATA")
            text += block
        ready, _, self._buffer = text.partition(end)
        yield (ready + b"\r\n").replace(b"\r\n.", b"\r\n")[unseen:]
