"""An SMTP server that says what it is told to say, for answers no bridge gives on demand."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

Answers = Mapping[str, str | Callable[[str], str | None]]

USUAL = {
    "": "220 scripted ESMTP",
    "EHLO": "250-scripted\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go on",
    ".": "250 2.0.0 taken",
    "RSET": "250 2.0.0 ok",
    "QUIT": "221 2.0.0 bye",
}
HANG_UP = "HANG UP"
"""An answer that closes the connection."""


class Server(socketserver.ThreadingTCPServer):
    """answers: by command, "" for the greeting and "." for the end of DATA; functions get the line."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, answers: Answers, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.answers = {**USUAL, **answers}
        self.context = context
        self.commands: list[str] = []
        self.messages: list[bytes] = []

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def answer(self, verb: str, line: str) -> str | None:
        known = self.answers.get(verb, "500 5.5.2 unknown")
        return known(line) if callable(known) else known


class _Session(socketserver.StreamRequestHandler):
    server: Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._session()

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def _session(self) -> None:
        if not self._say("", ""):
            return
        while line := self.rfile.readline().decode("utf-8", "surrogateescape").rstrip("\r\n"):
            self.server.commands.append(line)
            verb = line.split()[0].upper()
            if not self._say(verb, line) or verb == "QUIT":
                return
            if verb == "STARTTLS" and self.server.context:
                self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
            if verb == "DATA" and self.last.startswith("354"):
                self.server.messages.append(self._message())
                if not self._say(".", ""):
                    return

    def _say(self, verb: str, line: str) -> bool:
        self.last = self.server.answer(verb, line) or ""
        if self.last == HANG_UP:
            self.connection.shutdown(socket.SHUT_RDWR)
            return False
        self.wfile.write(self.last.encode() + b"\r\n")
        return True

    def _message(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line)
        return b"".join(lines)


@contextlib.contextmanager
def scripted(answers: Answers | None = None, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A running server."""
    with Server(answers or {}, context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def certificate(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate for 127.0.0.1 made by openssl, and its authority's file."""
    import subprocess

    key, cert = directory / "key.pem", directory / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=bridge"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert
