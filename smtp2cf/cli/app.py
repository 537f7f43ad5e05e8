"""The command line: puts the commands together, and turns their errors into lines and exit codes."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.completion import get_completion_inspect_parameters

from smtp2cf import __version__
from smtp2cf.cli.arguments import App, run
from smtp2cf.cli.check import check
from smtp2cf.cli.forget import forget
from smtp2cf.cli.log import log
from smtp2cf.cli.queue import app as queue_app
from smtp2cf.cli.quota import quota
from smtp2cf.cli.sandbox import sandbox
from smtp2cf.cli.send import send
from smtp2cf.cli.serve import serve
from smtp2cf.cli.setup import app as setup_app
from smtp2cf.cli.suppressions import app as suppressions_app
from smtp2cf.cli.terminal import fail
from smtp2cf.cli.trace import trace
from smtp2cf.cli.user import app as user_app
from smtp2cf.listen.systemd import HandedOverError
from smtp2cf.settings import fields
from smtp2cf.spool import SpoolError

COMPLETE = "_SMTP2CF_COMPLETE"
"""Set by the shells' completion (deploy/completion), which asks what may come next."""

app = App(help="An SMTP relay that hands mail to Cloudflare's Email Sending API.")
for command in (send, serve, sandbox, check, log, trace, forget, quota):
    app.command()(command)
app.add_typer(queue_app, name="queue")
app.add_typer(setup_app, name="setup")
app.add_typer(suppressions_app, name="suppressions")
app.add_typer(user_app, name="user")


@app.command("install-sendmail")
def install_sendmail(
    prefix: Annotated[
        Path | None, typer.Option(help="The directory to install below. Default: /usr.", metavar="DIRECTORY")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Remove the links again.")] = False,
) -> None:
    """Make smtp2cf-sendmail this host's sendmail, mailq and newaliases."""
    from smtp2cf.cli import install_sendmail as links

    try:
        done = links.install(prefix, undo=undo)
    except links.InstallError as error:
        fail(str(error), os.EX_CANTCREAT)
    typer.echo("\n".join(done))


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"smtp2cf {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command that the arguments name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the locale, no message is lost
    if COMPLETE in os.environ:
        get_completion_inspect_parameters()  # which makes typer know the shells
    try:
        status = run(app, "smtp2cf")
        sys.stdout.flush()
    except fields.SettingsError as error:
        fail(error.args, os.EX_CONFIG)
    except (SpoolError, HandedOverError) as error:
        fail(str(error), os.EX_CONFIG)
    except BrokenPipeError:
        status = _give_up_on_output(os.EX_IOERR)  # `| head` has seen enough
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _give_up_on_output(os.EX_OSERR)
        fail(f"{where}{error.strerror or error}", os.EX_OSERR)
    sys.exit(status)


def _give_up_on_output(status: int) -> int:
    """If standard output takes nothing more, keep Python from trying again at exit, and complaining."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
