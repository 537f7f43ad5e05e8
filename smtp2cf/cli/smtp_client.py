"""SMTP client: what `smtp2cf send` speaks to the bridge, on top of smtplib, and what its failures mean.

Knows no settings but the names of those that a failure may be about.
"""

import base64
import contextlib
import os
import smtplib
import socket
import ssl
from collections.abc import Iterator
from email.utils import formatdate, make_msgid
from typing import NamedTuple

from smtp2cf import __version__
from smtp2cf.cli.terminal import fail
from smtp2cf.listen.endpoint import Endpoint

TIMEOUT = 120.0
"""Seconds for one answer: the bridge may wait for Cloudflare."""


class Target(NamedTuple):
    """How to reach a bridge.

    smtps: with TLS from the first byte. trusted: None without TLS. name: what the certificate has to name, ""
    for anything.
    """

    endpoint: Endpoint
    smtps: bool
    trusted: ssl.SSLContext | None
    name: str


@contextlib.contextmanager
def failures_explained(target: Target, user: str) -> Iterator[None]:
    """End the command with one line for whatever fails. user: who logs in, "" for nobody."""
    place = target.endpoint
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        status = os.EX_NOPERM if error.smtp_code >= 500 else os.EX_TEMPFAIL
        fail(f"login as {user}: {error.smtp_code} {_joined(error.smtp_error)}", status)
    except smtplib.SMTPNotSupportedError as error:
        fail(_not_offered(error, target, user), os.EX_UNAVAILABLE)
    except smtplib.SMTPResponseException as error:
        status = os.EX_UNAVAILABLE if error.smtp_code >= 500 else os.EX_TEMPFAIL
        fail(f"{place} answers {error.smtp_code} {_joined(error.smtp_error)}", status)
    except (OSError, smtplib.SMTPException) as error:
        fail(_no_answer(error, place), os.EX_UNAVAILABLE)


def _no_answer(error: Exception, place: Endpoint) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {place} is not trusted: {error.verify_message} (give its CA with --ca-file,"
            " and a name in the certificate with --server)"
        )
    if isinstance(error, ssl.SSLError):
        return (
            f"TLS failed with {place}: {error.reason or error} (--smtps is for SMTP2CF_SMTPS_LISTEN,"
            " --starttls for SMTP2CF_SMTP_LISTEN)"
        )
    why = getattr(error, "strerror", "") or error
    return f"no bridge answers on {place}: {why} (is `smtp2cf serve` running?)"


class _Client(smtplib.SMTP):
    """smtplib, to an endpoint that may be a unix socket or every address of this host."""

    def __init__(self, target: Target) -> None:
        self._target = target
        here = target.endpoint.from_here
        # Asked for its name, smtplib would look it up in the DNS: that may take long.
        super().__init__(here.host or "localhost", here.port or 25, socket.gethostname(), timeout=TIMEOUT)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        if self._target.endpoint.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            sock.connect(self._target.endpoint.path)
        else:
            sock = socket.create_connection((host, port), timeout)
        if self._target.smtps and self._target.trusted is not None:
            return self._target.trusted.wrap_socket(sock, server_hostname=self._target.name)
        return sock


def connected(target: Target) -> smtplib.SMTP:
    """A client that has said EHLO, over TLS if the target has it."""
    client = _Client(target)
    try:
        client.ehlo_or_helo_if_needed()
        if target.trusted is not None and not target.smtps:
            client._host = target.name  # type: ignore[attr-defined]  # noqa: SLF001 - what starttls verifies
            client.starttls(context=target.trusted)
            client.ehlo_or_helo_if_needed()
    except BaseException:
        client.close()
        raise
    return client


def login(client: smtplib.SMTP, user: str, password: str) -> None:
    """AUTH PLAIN (RFC 4616) by hand: smtplib takes no password outside ASCII."""
    if not client.has_extn("auth"):
        raise smtplib.SMTPNotSupportedError("AUTH")
    secret = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    code, answer = client.docmd("AUTH PLAIN", secret)
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, answer)


def send(client: smtplib.SMTP, sender: str, to: str, place: Endpoint) -> tuple[int, str]:
    """Send a test message. Returns the code and text of the bridge's final reply."""
    client.command_encoding = "utf-8"
    utf8 = "" if f"{sender}{to}".isascii() else " SMTPUTF8 BODY=8BITMIME"
    for command in (f"MAIL FROM:<{sender}>{utf8}", f"RCPT TO:<{to}>"):
        code, answer = client.docmd(command)
        if code >= 400:
            return code, _joined(answer)
    try:
        code, answer = client.data(_message(sender, to, place))
    except smtplib.SMTPDataError as error:
        return error.smtp_code, _joined(error.smtp_error)
    return code, _joined(answer)


def _message(sender: str, to: str, place: Endpoint) -> bytes:
    host = socket.gethostname()
    lines = (
        f"From: <{sender}>",
        f"To: <{to}>",
        f"Subject: smtp2cf test message from {host}",
        f"Date: {formatdate(localtime=True)}",
        f"Message-ID: {make_msgid(domain=sender.rpartition('@')[2])}",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "",
        f"`smtp2cf send` of smtp2cf {__version__} sent this message on {host},",
        f"through the bridge on {place}. You read it: the bridge works.",
        "",
    )
    return "\r\n".join(lines).encode()


def _joined(answer: bytes | str) -> str:
    """An answer of several lines as one."""
    text = answer if isinstance(answer, str) else answer.decode(errors="replace")
    return " ".join(text.split())


def _not_offered(error: smtplib.SMTPNotSupportedError, target: Target, user: str) -> str:
    """Why STARTTLS or AUTH did not work."""
    if user and "AUTH" in str(error):
        if target.trusted is None:
            return f"{target.endpoint} does not offer login without TLS: add --starttls or --smtps"
        return f"{target.endpoint} does not offer login: SMTP2CF_USERS_FILE is not set there"
    return f"{target.endpoint} does not offer STARTTLS: set SMTP2CF_TLS_CERT_FILE there, or use --smtps"
