"""smtp2cf send: one test message through the running bridge, as its clients send it, and what became of it.

Exit status (sysexits.h): 0 where the message was sent, and only then; 75 where it is kept or has to be tried
again, with the reason; 67 and 65 where it was refused; 77 where the login was; 69 where nobody answers.
"""

import asyncio
import base64
import contextlib
import http.client
import os
import smtplib
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson
import typer

from smtp2cf import __version__
from smtp2cf.cli import healthcheck
from smtp2cf.cli.arguments import EnvFile
from smtp2cf.cli.terminal import endpoint_of, fail, password_line, printable, read_password
from smtp2cf.listen import files
from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.reply import SendError
from smtp2cf.settings import fields, loading
from smtp2cf.spool import Filter, SpoolError, open_spool

TIMEOUT = 120.0
"""Seconds for one answer: the bridge may wait for Cloudflare."""
PATIENCE = 10.0
"""Seconds that kept mail has to be tried in, before it is said to wait."""
LOOK_EVERY = 0.2
PASSWORD_FILE_LIMIT = 4096
_UNKNOWN = "it is not in this queue: see the bridge's log for the result"

Password = Annotated[
    Path | None,
    typer.Option(help="A file whose first line is the password. Default: ask for it.", metavar="FILE"),
]


class Door(NamedTuple):
    """How to get in. trusted: None without TLS. name: what the certificate has to name, "" for anything."""

    endpoint: Endpoint
    smtps: bool
    trusted: ssl.SSLContext | None
    name: str


def send(
    to: Annotated[str, typer.Option(help="The recipient.", metavar="ADDRESS")],
    sender: Annotated[
        str,
        typer.Option("--from", help="The sender, in a domain set up at Cloudflare.", metavar="ADDRESS"),
    ],
    user: Annotated[
        str, typer.Option(help="Log in as this user of SMTP2CF_USERS_FILE. Needs TLS.", metavar="NAME")
    ] = "",
    password_file: Password = None,
    starttls: Annotated[bool, typer.Option("--starttls", help="Use STARTTLS.")] = False,
    smtps: Annotated[bool, typer.Option("--smtps", help="Use TLS from the first byte.")] = False,
    server: Annotated[
        str,
        typer.Option(
            help="The bridge, by the name its clients use. Default: from the settings.",
            metavar="HOST:PORT",
        ),
    ] = "",
    ca_file: Annotated[
        Path | None,
        typer.Option(help="A CA to trust besides the public ones, in PEM.", metavar="FILE"),
    ] = None,
    env_file: EnvFile = None,
) -> None:
    """Send one test message through the running bridge and print the result."""
    sender, to = _address("--from", sender), _address("--to", to)
    settings = loading.load(env_file)
    door = _door(settings, server, starttls=starttls, smtps=smtps, ca_file=ca_file)
    password = _password(user, password_file) if user else ""
    try:
        with _connected(door) as client:
            if user:
                _login(client, user, password)
            code, answer = _send(client, sender, to, door.endpoint)
    except smtplib.SMTPAuthenticationError as error:
        status = os.EX_NOPERM if error.smtp_code >= 500 else os.EX_TEMPFAIL
        fail(f"login as {user}: {error.smtp_code} {_joined(error.smtp_error)}", status)
    except smtplib.SMTPNotSupportedError as error:
        fail(_not_offered(error, door, user), os.EX_UNAVAILABLE)
    except smtplib.SMTPResponseException as error:
        status = os.EX_UNAVAILABLE if error.smtp_code >= 500 else os.EX_TEMPFAIL
        fail(f"{door.endpoint} answers {error.smtp_code} {_joined(error.smtp_error)}", status)
    except ssl.SSLCertVerificationError as error:
        fail(
            f"the certificate of {door.endpoint} is not trusted: {error.verify_message} (give its CA with"
            " --ca-file, and a name in the certificate with --server)",
            os.EX_UNAVAILABLE,
        )
    except ssl.SSLError as error:
        fail(
            f"TLS failed with {door.endpoint}: {error.reason or error} (--smtps is for SMTP2CF_SMTPS_LISTEN,"
            " --starttls for SMTP2CF_SMTP_LISTEN)",
            os.EX_UNAVAILABLE,
        )
    except (OSError, smtplib.SMTPException) as error:
        fail(
            f"no bridge answers on {door.endpoint}: {getattr(error, 'strerror', '') or error}"
            " (is `smtp2cf serve` running?)",
            os.EX_UNAVAILABLE,
        )
    typer.echo(printable(f"{code} {answer}"))
    _end(settings, code, answer)


def _door(
    settings: fields.Settings, server: str, *, starttls: bool, smtps: bool, ca_file: Path | None
) -> Door:
    """How to get in, as the options and the settings say; TLS from the first byte where there is no other."""
    if starttls and smtps:
        fail("--starttls and --smtps: use only one of them", os.EX_USAGE)
    if server:
        endpoint = endpoint_of(server, "--server")
    else:
        smtps = smtps or (not settings.smtp_listen and bool(settings.smtps_listen) and not starttls)
        places = settings.smtps_listen if smtps else settings.smtp_listen
        if not places:
            which = "SMTP2CF_SMTPS_LISTEN" if smtps else "SMTP2CF_SMTP_LISTEN"
            fail(f"{which} is none: use --server", os.EX_CONFIG)
        endpoint = places[0]
    if not (starttls or smtps):
        return Door(endpoint, False, None, "")
    # Without --server it is our own bridge: its certificate is known, and loopback is in few of them.
    trusted = _trusted(settings, ca_file, by_name=bool(server))
    return Door(endpoint, smtps, trusted, endpoint.host if server else settings.hostname)


def _trusted(settings: fields.Settings, ca_file: Path | None, *, by_name: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = by_name
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    for option, file in (
        ("--ca-file", ca_file),
        ("SMTP2CF_TLS_CA_FILE", settings.tls_ca_file),
        ("SMTP2CF_TLS_CERT_FILE", settings.tls_cert_file),
    ):
        if file is None:
            continue
        try:
            context.load_verify_locations(cadata=files.read_text(file))
        except files.FileError as error:
            fail(f"{option}: {error}", os.EX_CONFIG)
        except ssl.SSLError:
            fail(f"{option}: {file} holds no certificate in PEM", os.EX_CONFIG)
    return context


def _password(user: str, file: Path | None) -> str:
    try:
        if file is None:
            return read_password(user)
        with file.open("rb") as opened:
            return password_line(opened.read(PASSWORD_FILE_LIMIT))
    except ValueError as error:
        fail(str(error), os.EX_DATAERR)
    except OSError as error:
        fail(f"--password-file: {file}: {error.strerror}", os.EX_NOINPUT)


class _Plain(smtplib.SMTP):
    """smtplib, to an endpoint that may be a unix socket or every address of this host."""

    def __init__(self, door: Door) -> None:
        self._door = door
        here = door.endpoint.from_here
        # Asked for its name, smtplib would look it up in the DNS: a host may have to wait long for that.
        super().__init__(here.host or "localhost", here.port or 25, socket.gethostname(), timeout=TIMEOUT)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        if self._door.endpoint.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            sock.connect(self._door.endpoint.path)
        else:
            sock = socket.create_connection((host, port), timeout)
        if self._door.smtps and self._door.trusted is not None:
            return self._door.trusted.wrap_socket(sock, server_hostname=self._door.name)
        return sock


def _connected(door: Door) -> smtplib.SMTP:
    """A client that has said EHLO, over TLS where it is to be."""
    client = _Plain(door)
    try:
        client.ehlo_or_helo_if_needed()
        if door.trusted is not None and not door.smtps:
            client._host = door.name  # type: ignore[attr-defined]  # noqa: SLF001 - what starttls verifies
            client.starttls(context=door.trusted)
            client.ehlo_or_helo_if_needed()
    except BaseException:
        client.close()
        raise
    return client


def _login(client: smtplib.SMTP, user: str, password: str) -> None:
    """AUTH PLAIN (RFC 4616) by hand: smtplib takes no password outside ASCII."""
    if not client.has_extn("auth"):
        raise smtplib.SMTPNotSupportedError("AUTH")
    secret = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    code, answer = client.docmd("AUTH PLAIN", secret)
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, answer)


def _send(client: smtplib.SMTP, sender: str, to: str, place: Endpoint) -> tuple[int, str]:
    """The bridge's last word."""
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


def _address(option: str, text: str) -> str:
    """What may stand between < and >; whether it is an address is the bridge's to say."""
    if not text.isprintable() or set("<> ") & set(text):
        fail(f"{option}: {text!r} is not an address such as name@example.com", os.EX_USAGE)
    return text


def _end(settings: fields.Settings, code: int, answer: str) -> None:
    """Exit with what the answer means; of mail that is kept, find out what became of it."""
    if code < 400:
        _, queue_id, *rest = f"{answer} ".split(" ", 2)
        if not rest[0].startswith("kept") and rest[0].strip() != "queued":
            return
        status, reply = _wait(settings, queue_id)
        if status in ("sent", "queued"):
            typer.echo(f"{status}: {printable(reply)}")
            return
        if status != "bounced":
            fail(f"not sent yet: {reply}. `smtp2cf queue show {queue_id}` says more", os.EX_TEMPFAIL)
        typer.echo(f"bounced: {printable(reply)}")
        code = int(reply[:3])
    if code in (530, 535):
        raise typer.Exit(os.EX_NOPERM)
    if code >= 500:
        raise typer.Exit(os.EX_NOUSER if code in (550, 553) else os.EX_DATAERR)
    raise typer.Exit(os.EX_TEMPFAIL)


def _wait(settings: fields.Settings, queue_id: str) -> tuple[str, str]:
    """What became of mail that is kept: its status in the log's words, and the reply or the reason."""
    give_up = time.monotonic() + PATIENCE
    while True:
        waits, reply = _in_queue(settings, queue_id)
        page = _status_page(settings)
        for attempt in page.get("recent", ()):
            if attempt["queue_id"] == queue_id:
                return attempt["status"], attempt["reply"]
        if waits and reply:
            return "deferred", reply
        if time.monotonic() > give_up:
            limit = page.get("rate limit", "")
            held_up = f" (rate limit: {limit})" if limit.startswith("next call") else ""
            return "", reply or (f"Cloudflare has not answered yet{held_up}" if waits else _UNKNOWN)
        time.sleep(LOOK_EVERY)


def _status_page(settings: fields.Settings) -> Mapping[str, Any]:
    """What the bridge's own page says; nothing where there is none."""
    for endpoint in settings.admin_listen[:1]:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            _, body = healthcheck.ask(endpoint.from_here, "/", "application/json")
            page: Mapping[str, Any] = orjson.loads(body)
            return page
    return {}


def _in_queue(settings: fields.Settings, queue_id: str) -> tuple[bool, str]:
    """Whether this mail is seen to wait, and its last answer, or why it can't be seen."""

    async def look() -> tuple[bool, str]:
        url = settings.spool_url.get_secret_value()
        spool = await open_spool(url, state_dir=settings.state_dir, serve=False)
        try:
            async for item in spool.items(Filter(queue_ids=(queue_id,))):
                return True, str(item.last_reply or "")
            return False, ""
        finally:
            await spool.close()

    try:
        return asyncio.run(look())
    except SpoolError as error:
        return False, f"the queue can't be read: {error}"
    except SendError as error:
        return False, f"the queue can't be read: {error.reply.text}"


def _joined(answer: bytes | str) -> str:
    """An answer of several lines as one."""
    text = answer if isinstance(answer, str) else answer.decode(errors="replace")
    return " ".join(text.split())


def _not_offered(error: smtplib.SMTPNotSupportedError, door: Door, user: str) -> str:
    """Why STARTTLS or AUTH did not work, from what smtplib says of it."""
    if user and "AUTH" in str(error):
        if door.trusted is None:
            return f"{door.endpoint} does not offer login without TLS: add --starttls or --smtps"
        return f"{door.endpoint} does not offer login: SMTP2CF_USERS_FILE is not set there"
    return f"{door.endpoint} does not offer STARTTLS: set SMTP2CF_TLS_CERT_FILE there, or use --smtps"
