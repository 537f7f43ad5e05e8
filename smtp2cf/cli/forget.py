"""smtp2cf forget: removes a person from the journal. Mail that waits stays, and is listed.

Exit status (sysexits.h): 69 where the journal or the spool can't be used, 78 where there is no journal.
"""

import os
import sys
import time
from typing import Annotated

import orjson
import typer

from smtp2cf.cli.arguments import EnvFile, Json
from smtp2cf.cli.journal import who_runs_this, with_journal
from smtp2cf.cli.terminal import fail, printable
from smtp2cf.journal.record import Action, Journal
from smtp2cf.reply import SendError
from smtp2cf.settings.fields import Settings
from smtp2cf.spool import Filter, open_spool

Address = Annotated[str, typer.Argument(help="The person's address.", metavar="ADDRESS")]


def forget(address: Address, as_json: Json = False, env_file: EnvFile = None) -> None:
    """Remove an address from the journal: mail to it, mail from it, and where a reply names it."""
    address = address.strip().removeprefix("<").removesuffix(">")
    if "@" not in address.strip("@"):
        fail(f"{printable(address)} is no address", os.EX_DATAERR)

    async def remove(journal: Journal, settings: Settings) -> None:
        forgotten = await journal.forget(address)
        removed = {"recipients": forgotten.recipients, "messages_from": forgotten.messages}
        await journal.record((), [Action(time.time(), "operator.forget", who_runs_this(), removed)])
        waiting = await _waiting(address, settings)
        if as_json:
            sys.stdout.write(orjson.dumps({**removed, "waiting": waiting}).decode() + "\n")
            return
        typer.echo(
            f"{forgotten.recipients} recipients removed, {forgotten.messages} messages from this address"
        )
        if waiting:
            typer.echo(f"waiting mail stays in the queue: {' '.join(waiting)}")

    with_journal(env_file, remove)


async def _waiting(address: str, settings: Settings) -> list[str]:
    """The queue ids of waiting mail to or from the address."""
    try:
        spool = await open_spool(
            settings.spool_url.get_secret_value(), state_dir=settings.state_dir, serve=False
        )
        try:
            found: dict[str, None] = {}
            for which in (Filter(recipient=address), Filter(sender=address)):
                async for item in spool.items(which):
                    found[item.queue_id] = None
            return list(found)
        finally:
            await spool.close()
    except SendError as error:
        fail(f"the journal has forgotten it, but {error.reply.text}", os.EX_UNAVAILABLE)
