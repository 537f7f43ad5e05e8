"""The command line: smtp2cf serve, sandbox, check, send, queue, user. Exit codes are sysexits.h's."""

import asyncio
import contextlib
import gc
import io
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smtp2cf import __version__
from smtp2cf.cli.arguments import App, run
from smtp2cf.cli.queue import EnvFile
from smtp2cf.cli.queue import app as queue_app
from smtp2cf.cli.send import send
from smtp2cf.cli.terminal import fail
from smtp2cf.cli.user import app as user_app
from smtp2cf.listen.endpoint import Endpoint, bound, listen
from smtp2cf.settings import fields, loading
from smtp2cf.spool import SpoolError

if TYPE_CHECKING:
    from smtp2cf.serve import Listening

SANDBOX_ENDPOINT = "127.0.0.1:8787"
SANDBOX_TLS_ENDPOINT = "127.0.0.1:2587"

app = App(help="An SMTP relay that hands mail to Cloudflare's Email Sending API.")
app.command()(send)
app.add_typer(queue_app, name="queue")
app.add_typer(user_app, name="user")


@app.command("install-sendmail")
def install_sendmail(
    prefix: Annotated[
        Path | None, typer.Option(help="Below which directory; /usr by default.", metavar="DIRECTORY")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the links away again.")] = False,
) -> None:
    """Make sendmail, mailq and newaliases of this host point to smtp2cf-sendmail."""
    from smtp2cf.cli import install_sendmail as links

    try:
        done = links.install(prefix, undo=undo)
    except links.InstallError as error:
        fail(str(error), os.EX_CANTCREAT)
    typer.echo("\n".join(done))


def main() -> None:
    """Run the command that the arguments name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the locale, no message is lost
    try:
        status = run(app, "smtp2cf")
        sys.stdout.flush()
    except fields.SettingsError as error:
        fail(error.args, os.EX_CONFIG)
    except SpoolError as error:
        fail(str(error), os.EX_CONFIG)
    except BrokenPipeError:
        status = _output_is_gone(os.EX_IOERR)  # `| head` has seen enough
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _output_is_gone(os.EX_OSERR)
        fail(f"{where}{error.strerror or error}", os.EX_OSERR)
    sys.exit(status)


def _output_is_gone(status: int) -> int:
    """Where standard output takes nothing more, Python is not to try again, and complain, at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"smtp2cf {__version__}")
        raise typer.Exit


@app.command()
def serve(
    env_file: EnvFile = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Use a stand-in for Cloudflare: no account, no network.")
    ] = False,
    sandbox_listen: Annotated[
        str, typer.Option(help="Where that stand-in listens.", metavar="HOST:PORT")
    ] = SANDBOX_ENDPOINT,
    sandbox_tls_listen: Annotated[
        str,
        typer.Option(
            help="Where a sandbox takes mail with STARTTLS, with a certificate of its own; none for nowhere.",
            metavar="HOST:PORT",
        ),
    ] = SANDBOX_TLS_ENDPOINT,
) -> None:
    """Take mail over SMTP and hand it to Cloudflare."""
    from smtp2cf import serve as bridge
    from smtp2cf.journal import logs
    from smtp2cf.settings import rooms, trial

    settings = rooms.require_no_open_relay(loading.load(env_file))
    if not sandbox:
        rooms.require_account(settings)
    logs.configure(settings.log_level, settings.log_format)
    for line in loading.unknown_variables(env_file):
        bridge.log.warning("settings.unknown", setting=line)
    on_trial = None
    if sandbox:
        starttls = None if sandbox_tls_listen.lower() == "none" else _endpoint(sandbox_tls_listen)
        on_trial = trial.Trial(_endpoint(sandbox_listen), starttls)
    _run_loop(bridge.run(settings, on_trial, _announce))


@app.command()
def sandbox(
    sandbox_listen: Annotated[
        str, typer.Option("--listen", help="Where to listen.", metavar="HOST:PORT")
    ] = SANDBOX_ENDPOINT,
) -> None:
    """Run the stand-in for Cloudflare's API by itself."""
    from smtp2cf.sandbox import Sandbox

    hosts = (socket.gethostname(), *loading.load().admin_hosts)

    async def stand_in_alone() -> None:
        endpoint = _endpoint(sandbox_listen)
        sockets = listen(endpoint)
        stand_in = Sandbox(token=None, hosts=hosts)
        await stand_in.start(sockets)
        url = f"http://{bound(sockets, endpoint)}"
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        typer.echo(f"SMTP2CF_API_BASE_URL={url}/client/v4\nmessages: {url}/messages")
        await stop.wait()
        await stand_in.stop()

    _run_loop(stand_in_alone())


@app.command()
def check(env_file: EnvFile = None) -> None:
    """Check the settings, the token, and that Cloudflare can be reached; exit 0 or 78."""
    from smtp2cf import serve as bridge
    from smtp2cf.journal import logs
    from smtp2cf.reply import SendError
    from smtp2cf.settings import rooms

    settings = rooms.require_no_open_relay(rooms.require_account(loading.load(env_file)))
    logs.configure("warning", settings.log_format)
    bridge.make_access(settings).close()
    rooms.require_sense(settings)
    certificate = bridge.load_certificate(settings)
    for line in (*loading.unknown_variables(env_file), *bridge.clients_will_refuse(settings, certificate)):
        typer.echo(f"warning: {line}", err=True)
    typer.echo("settings: ok")
    if certificate is not None:
        typer.echo(f"certificate: {certificate}")

    async def verify() -> str:
        client = bridge.make_client(settings)
        try:
            state = await client.verify_token()
        finally:
            await client.aclose()
        return "" if state.accepted else state.reason

    try:
        refused = asyncio.run(verify())
    except SendError as error:
        fail(
            f"Cloudflare: {error.reply.text} (SMTP2CF_API_BASE_URL is {settings.api_base_url})", os.EX_CONFIG
        )
    if refused:
        fail(f"token: {refused}", os.EX_CONFIG)
    typer.echo(f"Cloudflare: {settings.api_base_url} answers\ntoken: active")


def _announce(listening: "Listening") -> None:
    """Tell a person at a terminal where to send mail and where to look."""
    if listening.sandbox is None and not sys.stderr.isatty():
        return
    lines = [f"smtp2cf {__version__}"]
    plain = "  (no TLS)" if listening.ca_file is not None else ""
    lines += [f"  send mail to   {endpoint}{plain}" for endpoint in listening.smtp]
    lines += [f"  with STARTTLS  {endpoint}  (trust {listening.ca_file})" for endpoint in listening.starttls]
    lines += [f"  with TLS       {endpoint}" for endpoint in listening.smtps]
    lines += [f"  with LMTP      {endpoint}" for endpoint in listening.lmtp]
    if listening.sandbox is not None:
        lines.append(
            f"  what went out  http://{listening.sandbox}/messages  (a sandbox: nothing leaves this host)"
        )
    lines += [f"  status         http://{endpoint}/" for endpoint in listening.admin]
    typer.echo("\n".join(lines))
    sys.stdout.flush()


def _endpoint(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        fail(str(error), os.EX_USAGE)


def _run_loop(main_task: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop, where the platform has it."""
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        new_event_loop = uvloop.new_event_loop
    # What is loaded now stays: the collector need not look at it again with every few messages.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main_task)
