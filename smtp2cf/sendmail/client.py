"""An SMTP client (RFC 5321) for the bridge: one session, and one message to all its recipients.

SIZE (RFC 1870), 8BITMIME (6152), DSN (3461), SMTPUTF8 (6531), PIPELINING (2920), AUTH (4954) and
STARTTLS (3207).
"""

from __future__ import annotations

from .endpoint import REPLY_TIMEOUT, connect, parse_endpoint
from .envelope import Envelope, mail_parameters
from .exit_codes import CONFIG, Away, Failure, why
from .host import name_of_host
from .message import BLOCK, Message, dot_stuffed
from .output import write_stderr
from .reply import Outcome, Reply, exit_code
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FINAL_TIMEOUT = 600
"""Seconds for the reply to the end of DATA (RFC 5321 §4.5.3.2.6)."""

PIPELINE = 100
"""Commands sent before their replies are read: few enough for socket buffers to hold both."""

RECIPIENTS_AT_ONCE = 1000
MOST_REPLY_LINES = 1000


class Client:
    """One SMTP session. Every method that talks to the bridge raises Away if it is lost or replies 421."""

    def __init__(self, settings: Settings, verbose: bool) -> None:
        self._settings = settings
        self._verbose = verbose
        self._received = b""
        self.extensions: dict[str, str] = {}
        self.sock: Any = connect(settings.bridge, "SMTP2CF_SENDMAIL_HOST")
        self.sock.settimeout(REPLY_TIMEOUT)
        try:
            self.greeting = self._expect("connect", self.read_reply())
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def start(self) -> None:
        """EHLO, then STARTTLS and AUTH if they are configured."""
        self._hello()
        if self._settings.yes("TLS"):
            self._start_tls()
        if self._settings.get("USER"):
            self._authenticate(self._settings.get("USER"), self._settings.password())

    def quit(self) -> None:
        try:
            self.command("QUIT")
        except Away:
            return  # the mail has its reply already

    def unread(self) -> bytes:
        """Octets received after the last reply."""
        return self._received

    def send(self, octets: bytes) -> None:
        try:
            self.sock.sendall(octets)
        except OSError as error:
            raise Away(f"{self._settings.bridge}: {why(error)}") from error

    def read_reply(self) -> Reply:
        """Read one reply, all its lines."""
        lines: list[str] = []
        while True:
            line = self._read_line()
            code, separator = line[:3], line[3:4]
            if not (len(code) == 3 and code.isascii() and code.isdigit()) or separator not in ("", " ", "-"):
                raise Away(f"{self._settings.bridge}: not an SMTP reply: {line[:80]}")
            if self._verbose:
                write_stderr(f"{line}\n")
            lines.append(line[4:])
            if separator != "-" or len(lines) == MOST_REPLY_LINES:
                break
        reply = Reply(int(code), lines)
        if reply.code == 421:
            raise Away(f"{self._settings.bridge}: {reply}")
        return reply

    def _read_line(self) -> str:
        while b"\n" not in self._received:
            try:
                block = self.sock.recv(BLOCK)
            except OSError as error:
                raise Away(f"{self._settings.bridge}: {why(error)}") from error
            if not block or len(self._received) > BLOCK:
                raise Away(f"{self._settings.bridge}: {'line too long' if block else 'connection lost'}")
            self._received += block
        line, _, self._received = self._received.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "backslashreplace")

    def command(self, line: str, shown: str = "") -> Reply:
        self._show(shown or line)
        self.send(line.encode("utf-8", "surrogateescape") + b"\r\n")
        return self.read_reply()

    def _show(self, line: str) -> None:
        if self._verbose:
            write_stderr(f">>> {line}\n")

    def _expect(self, stage: str, reply: Reply) -> Reply:
        if reply.code >= 400:
            raise Failure(exit_code(stage, reply), str(reply))
        return reply

    def _hello(self) -> None:
        name = name_of_host()
        reply = self.command(f"EHLO {name}")
        if reply.code >= 500:
            self._expect("connect", self.command(f"HELO {name}"))
            return
        self._expect("connect", reply)
        words = [line.partition(" ") for line in reply.lines[1:]]
        self.extensions = {keyword.upper(): rest for keyword, _, rest in words}

    def _start_tls(self) -> None:
        if "STARTTLS" not in self.extensions:
            raise Failure(
                CONFIG, f"SMTP2CF_SENDMAIL_TLS=yes, but {self._settings.bridge} does not offer STARTTLS"
            )
        self._expect("connect", self.command("STARTTLS"))
        import socket
        import ssl

        authorities = self._settings.get("TLS_CA_FILE") or None
        host = parse_endpoint(self._settings.bridge, "SMTP2CF_SENDMAIL_HOST")[0] or "localhost"
        try:
            context = ssl.create_default_context(cafile=authorities)
            plain = socket.socket(fileno=self.sock.detach())
            plain.settimeout(REPLY_TIMEOUT)
            self._received = b""  # received in the clear: it may be forged
            self.sock = context.wrap_socket(plain, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            problem = f"certificate not trusted: {error.verify_message}"
            raise Failure(CONFIG, f"{self._settings.bridge}: {problem}") from error
        except OSError as error:
            raise Away(f"{self._settings.bridge}: TLS: {why(error)}") from error
        self._hello()

    def _authenticate(self, user: str, password: str) -> None:
        import binascii

        def encoded(text: str) -> str:
            return binascii.b2a_base64(text.encode("utf-8", "surrogateescape"), newline=False).decode()

        mechanisms = self.extensions.get("AUTH", "").upper().split()
        if not password or not {"PLAIN", "LOGIN"}.intersection(mechanisms):
            problem = (
                "no password: set SMTP2CF_SENDMAIL_PASSWORD_FILE"
                if not password
                else f"{self._settings.bridge} does not offer AUTH PLAIN or LOGIN"
            )
            raise Failure(CONFIG, f"SMTP2CF_SENDMAIL_USER={user}, but {problem}")
        if "PLAIN" in mechanisms:
            secret = encoded(f"\0{user}\0{password}")
            self._expect("AUTH", self.command(f"AUTH PLAIN {secret}", "AUTH PLAIN ..."))
            return
        self._expect("AUTH", self.command("AUTH LOGIN"))
        for word in (user, password):
            self._expect("AUTH", self.command(encoded(word), "..."))

    def begin(
        self, envelope: Envelope, recipients: list[str], size: int
    ) -> tuple[list[str], list[Outcome], list[str]]:
        """MAIL and RCPT. Returns who is accepted, who is refused, and who is left for another transaction."""
        if not envelope.ascii and "SMTPUTF8" not in self.extensions:
            reply = Reply(553, ["5.6.7 an address is not ASCII, and the bridge does not offer SMTPUTF8"])
            return [], [Outcome(recipient, "MAIL", reply) for recipient in recipients], []
        answered = self._envelope(envelope, recipients, size)
        accepted = [outcome.recipient for outcome in answered if outcome.reply.code < 300]
        if not accepted:
            self.command("RSET")
            return [], answered, []
        # 452: too many for one transaction (RFC 5321 §4.5.3.1.10), so they get another one.
        later = [outcome.recipient for outcome in answered if outcome.reply.code == 452]
        refused = [outcome for outcome in answered if outcome.reply.code >= 300 and outcome.reply.code != 452]
        return accepted, refused, later

    def check(self, envelope: Envelope) -> list[Outcome]:
        """The bridge's reply for each recipient; no message is sent."""
        answered = self._envelope(envelope, envelope.forward_paths, 0)
        self.command("RSET")
        return answered

    def _envelope(self, envelope: Envelope, recipients: list[str], size: int) -> list[Outcome]:
        commands = [self._mail_command(envelope, size)]
        notify = f" NOTIFY={envelope.notify}" if envelope.notify and "DSN" in self.extensions else ""
        commands += [f"RCPT TO:<{recipient}>{notify}" for recipient in recipients]
        mail, *replies = self._pipeline(commands)
        if mail.code >= 300:
            return [Outcome(recipient, "MAIL", mail) for recipient in recipients]
        return [Outcome(recipient, "RCPT", reply) for recipient, reply in zip(recipients, replies)]

    def _mail_command(self, envelope: Envelope, size: int) -> str:
        offered = [
            text for extension, text in mail_parameters(envelope, size) if extension in self.extensions
        ]
        return " ".join([f"MAIL FROM:<{envelope.reverse_path}>", *offered])

    def _pipeline(self, commands: list[str]) -> list[Reply]:
        at_once = PIPELINE if "PIPELINING" in self.extensions else 1
        replies: list[Reply] = []
        for place in range(0, len(commands), at_once):
            batch = commands[place : place + at_once]
            for line in batch:
                self._show(line)
            self.send("".join(f"{line}\r\n" for line in batch).encode("utf-8", "surrogateescape"))
            replies += [self.read_reply() for _ in batch]
        return replies

    def data(self, message: Message) -> Reply:
        """DATA and the message; returns the reply."""
        reply = self.command("DATA")
        if reply.code != 354:
            return reply if reply.code >= 400 else Reply(451, [f"4.5.0 unexpected reply to DATA: {reply}"])
        for block in dot_stuffed(message.blocks()):
            self.send(block)
        self.sock.settimeout(FINAL_TIMEOUT)
        reply = self.command(".")
        self.sock.settimeout(REPLY_TIMEOUT)
        return reply


def send_to_bridge(
    settings: Settings, envelope: Envelope, message: Message, verbose: bool
) -> tuple[list[Outcome], list[list[str]], str]:
    """Send to the bridge. Returns its replies; if it was lost, also the unanswered recipients, and why.

    Those come in groups. The recipients of a transaction that was cut off are a group of their own: the
    bridge may have sent their message, and recognises it by the same recipients and octets.
    """
    outcomes: list[Outcome] = []
    waiting = envelope.forward_paths
    unanswered: list[str] = []
    try:
        with Client(settings, verbose) as client:
            client.start()
            most = RECIPIENTS_AT_ONCE
            while waiting:
                batch, rest = waiting[:most], waiting[most:]
                unanswered, refused, later = client.begin(envelope, batch, message.size)
                outcomes += refused
                most = len(batch) - len(later) if later else most
                waiting = later + rest
                if unanswered:
                    final = client.data(message)
                    outcomes += [Outcome(recipient, "DATA", final) for recipient in unanswered]
                    unanswered = []
            client.quit()
    except Away as error:
        return outcomes, [group for group in (unanswered, waiting) if group], str(error)
    return outcomes, [], ""
