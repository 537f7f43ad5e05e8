"""smtp2cf setup: makes in Cloudflare what the bridge needs there.

Exit status: 1 if --dry-run finds something missing; as in sysexits.h, 69 if Cloudflare gives no answer, 77 if
the token lacks a permission, 78 if only a person can decide what to do, or for settings that are wrong.
"""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from smtp2cf.cli.arguments import App, EnvFile
from smtp2cf.cli.examine import account as sending
from smtp2cf.cli.examine import files
from smtp2cf.cli.terminal import fail, printable
from smtp2cf.cloudflare import event_setup
from smtp2cf.cloudflare.account import Account
from smtp2cf.cloudflare.event_setup import EventsState
from smtp2cf.journal import logs
from smtp2cf.listen.files import FileError
from smtp2cf.reply import SendError
from smtp2cf.settings import accounts, check, loading
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.secret_files import secret_in

QUEUE_NAME = "smtp2cf-events"

app = App(help="Make in Cloudflare what the bridge needs there.")


@app.callback()
def _setup() -> None:
    """Make in Cloudflare what the bridge needs there."""


@app.command("events")
def events(
    account: Annotated[
        str, typer.Option(help="The [[account]], where there are several.", metavar="NAME")
    ] = "",
    queue: Annotated[
        str, typer.Option(help="What to call a new queue, or which to use.", metavar="NAME")
    ] = QUEUE_NAME,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with a token that has the permissions Queues: Edit and Zone: Read. It is used once,"
            " and not kept.",
            metavar="FILE",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing, and make nothing.")
    ] = False,
    env_file: EnvFile = None,
) -> None:
    """Make the queue of events, its pull consumer, and a subscription for each sending domain.

    Running it again makes only what is still missing.
    """
    logs.configure("error", "auto")
    settings = loading.load(env_file)
    check.require_account(settings)
    found = accounts.named(settings, loading.files_of_secrets(env_file), account)
    try:
        token = secret_in(token_file) if token_file is not None else ""
    except FileError as error:
        fail(f"--token-file {error}", os.EX_NOINPUT)
    asyncio.run(_run(settings, found, token, queue, dry_run=dry_run))


async def _run(settings: Settings, account: Account, token: str, name: str, *, dry_run: bool) -> None:
    api = (
        account.client.api_with(token, {"SMTP2CF_API_TOKEN": "--token-file"}) if token else account.client.api
    )
    table = next(
        each for each in accounts.tables(settings) if each.name == (account.name or accounts.DEFAULT)
    )
    own = sending.domains_of_table(table)
    wanted = own or sending.domains_of(settings, files.senders_of_users(settings))
    try:
        state = await event_setup.look(api, wanted, queue_id=table.events_queue_id, name=name)
        if not dry_run:
            async for line in event_setup.make(api, state):
                typer.echo(printable(line))
            state = await event_setup.look(api, wanted, queue_id=table.events_queue_id, name=name)
    except SendError as error:
        missing = "permission" in error.reply.text
        fail(error.reply.text, os.EX_NOPERM if missing else os.EX_UNAVAILABLE)
    finally:
        await account.aclose()
    _say(state, is_set=bool(table.events_queue_id), dry_run=dry_run)


def _say(state: EventsState, *, is_set: bool, dry_run: bool) -> None:
    """What there is, what is missing, and what is left to do."""
    for line in event_setup.in_words(state):
        typer.echo(printable(line))
    if state.elsewhere:
        fail("a domain's events can go to one queue only: use that one, or delete its subscription", 78)
    if not state.domains:
        fail("no domain is set up for sending: add one under Email Sending in Cloudflare's dashboard", 78)
    if not state.complete:
        if dry_run:
            raise typer.Exit(1)
        fail("something is still missing: run this again", os.EX_UNAVAILABLE)
    if not is_set:
        typer.echo(f"now set SMTP2CF_EVENTS_QUEUE_ID={state.queue_id}, or events_queue_id of an [[account]]")
