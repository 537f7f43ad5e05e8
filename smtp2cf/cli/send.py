"""smtp2cf send: sends one test message through the running bridge, as its clients do, and prints the result.

Exit status (sysexits.h): 0 only if the message was sent; 75 if it is kept or must be sent again, with the
reason; 67 or 65 if it was refused; 77 if the login was; 69 if nobody answers.
"""

import asyncio
import contextlib
import http.client
import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from smtp2cf.cli import healthcheck, smtp_client
from smtp2cf.cli.arguments import EnvFile
from smtp2cf.cli.smtp_client import Target
from smtp2cf.cli.terminal import endpoint_of, fail, password_line, printable, read_password
from smtp2cf.listen import files
from smtp2cf.reply import SendError
from smtp2cf.settings import fields, listening, loading
from smtp2cf.spool import Filter, SpoolError, open_spool

PATIENCE = 10.0
"""Seconds to wait for the result of mail that is kept."""
LOOK_EVERY = 0.2
PASSWORD_FILE_LIMIT = 4096
_UNKNOWN = "it is not in this queue: see the bridge's log for the result"

Password = Annotated[
    Path | None,
    typer.Option(help="A file whose first line is the password. Default: ask for it.", metavar="FILE"),
]


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
    target = _target(settings, server, starttls=starttls, smtps=smtps, ca_file=ca_file)
    password = _password(user, password_file) if user else ""
    with smtp_client.failures_explained(target, user), smtp_client.connected(target) as client:
        if user:
            smtp_client.login(client, user, password)
        code, answer = smtp_client.send(client, sender, to, target.endpoint)
    typer.echo(printable(f"{code} {answer}"))
    _end(settings, code, answer)


def _target(
    settings: fields.Settings, server: str, *, starttls: bool, smtps: bool, ca_file: Path | None
) -> Target:
    """How to reach the bridge: as the options say, or else the settings."""
    if starttls and smtps:
        fail("--starttls and --smtps: use only one of them", os.EX_USAGE)
    if server:
        endpoint = endpoint_of(server, "--server")
    else:
        plain, encrypted = listening.places_of(settings, "smtp"), listening.places_of(settings, "smtps")
        smtps = smtps or (not plain and bool(encrypted) and not starttls)
        places = encrypted if smtps else plain
        if not places:
            which = "SMTP2CF_SMTPS_LISTEN" if smtps else "SMTP2CF_SMTP_LISTEN"
            fail(f"{which} is none: use --server", os.EX_CONFIG)
        endpoint = places[0]
    if not (starttls or smtps):
        return Target(endpoint, False, None, "")
    # Without --server it is our own bridge: its certificate is known, and loopback is in few of them.
    trusted = _trusted(settings, ca_file, by_name=bool(server))
    return Target(endpoint, smtps, trusted, endpoint.host if server else settings.hostname)


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


def _address(option: str, text: str) -> str:
    """Text that may stand between < and >. Whether it is an address is for the bridge to say."""
    if not text.isprintable() or set("<> ") & set(text):
        fail(f"{option}: {text!r} is not an address such as name@example.com", os.EX_USAGE)
    return text


def _end(settings: fields.Settings, code: int, answer: str) -> None:
    """Exit with the status for the answer. If the mail is kept, wait for its result first."""
    if code < 400:
        _, queue_id, *rest = f"{answer} ".split(" ", 2)
        if not rest[0].startswith("kept") and rest[0].strip() != "queued":
            return
        status, reply = _wait(settings, queue_id)
        if status in ("sent", "queued"):
            typer.echo(f"{status}: {printable(reply)}")
            return
        if status not in ("bounced", "suppressed"):
            fail(f"not sent yet: {reply}. `smtp2cf queue show {queue_id}` says more", os.EX_TEMPFAIL)
        typer.echo(f"{status}: {printable(reply)}")
        code = int(reply[:3])
    if code in (530, 535):
        raise typer.Exit(os.EX_NOPERM)
    if code >= 500:
        raise typer.Exit(os.EX_NOUSER if code in (550, 553) else os.EX_DATAERR)
    raise typer.Exit(os.EX_TEMPFAIL)


def _wait(settings: fields.Settings, queue_id: str) -> tuple[str, str]:
    """What became of mail that is kept: its status, in the log's words, and the reply or the reason."""
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
    """The bridge's status page, {} if it has none."""
    for endpoint in settings.admin_listen[:1]:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            _, body = healthcheck.ask(endpoint.from_here, "/", "application/json")
            page: Mapping[str, Any] = orjson.loads(body)
            return page
    return {}


def _in_queue(settings: fields.Settings, queue_id: str) -> tuple[bool, str]:
    """Whether this mail is in the queue, and its last reply, or why the queue can't be read."""

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
