"""smtp2cf log: what became of mail, as the journal has it, the newest first; with --follow, as it happens.

A table for people, one JSON object a line for scripts. Exit status (sysexits.h): 69 where the journal can't
be read, 78 where there is none.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Annotated

import orjson
import typer

from smtp2cf.cli.arguments import EnvFile, Json
from smtp2cf.cli.journal import Table, row_as_json, say, with_journal
from smtp2cf.journal.matching import matches
from smtp2cf.journal.record import PAGE, Cursor, Journal, JournalError, Row, Search
from smtp2cf.journal.steps import Status
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.units import seconds

EVERY = 0.5
"""Seconds between two looks for what is new."""
MOST = 10_000_000
"""Rows that may be asked for."""
BEFORE = 10
"""Rows shown before those that follow, unless another number is asked for."""

To = Annotated[
    str | None,
    typer.Option(
        "--to",
        help="A recipient; @example.com for a domain, anna for all that begin with it.",
        metavar="ADDRESS",
    ),
]
From = Annotated[
    str | None,
    typer.Option("--from", help="The sender, likewise; <> is the null sender.", metavar="ADDRESS"),
]
Statuses = Annotated[
    list[Status] | None,
    typer.Option("--status", help=f"{', '.join(Status)}. May be repeated.", metavar="STATUS"),
]
Since = Annotated[
    str | None, typer.Option(help="Received no longer ago than this, such as 90s, 2h or 5d.", metavar="AGE")
]
Id = Annotated[str | None, typer.Option("--id", help="A queue id.", metavar="QUEUE-ID")]
MessageId = Annotated[
    str | None,
    typer.Option(help="Cloudflare's message id, or the message's own.", metavar="MESSAGE-ID"),
]
Limit = Annotated[int | None, typer.Option(help=f"How many. Default: {PAGE}.", metavar="NUMBER")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")]


def log(
    to: To = None,
    sender: From = None,
    status: Statuses = None,
    since: Since = None,
    id_: Id = None,
    message_id: MessageId = None,
    limit: Limit = None,
    follow: Follow = False,
    as_json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Show what became of mail, the newest first."""
    which = Search(
        recipient=_address(to),
        sender=_address(sender),
        statuses=tuple(status or ()),
        since=_since(since),
        queue_id=id_ or "",
        message_id=message_id or "",
        limit=min(max(1, limit or (BEFORE if follow else PAGE)), MOST),
    )
    show = _Show(as_json)

    async def search(journal: Journal, _: Settings) -> None:
        for row in await journal.search(which):
            show.row(row)
        if not show.shown and not as_json:
            typer.echo("no matching mail")

    async def follow_on(journal: Journal, _: Settings) -> None:
        await follow_journal(journal, which, show.row)

    with_journal(env_file, follow_on if follow else search)


class _Show:
    def __init__(self, as_json: bool) -> None:
        self._table = None if as_json else Table()
        self.shown = 0

    def row(self, row: Row) -> None:
        self.shown += 1
        if self._table is None:
            sys.stdout.write(orjson.dumps(row_as_json(row)).decode() + "\n")
        else:
            self._table.print(row)


async def follow_journal(journal: Journal, which: Search, show: Callable[[Row], None]) -> None:
    """Show the latest rows, then what comes; a journal that is away, or not made yet, is waited for."""
    cursor: Cursor | None = None
    away = ""
    while True:
        try:
            if cursor is None:
                before, cursor = await journal.begin(which)
                for row in reversed(before):
                    show(row)
            rows, cursor = await journal.follow(cursor)
        except JournalError as error:
            if str(error) != away:
                away = str(error)
                say(f"{away}; waiting for it")
        else:
            away = ""
            for row in rows:
                if matches(row, which):
                    show(row)
            sys.stdout.flush()
            if rows:
                continue
        await asyncio.sleep(EVERY)


def _address(given: str | None) -> str:
    """An address as a search takes it: without the brackets of SMTP, unless these are all of it."""
    text = (given or "").strip()
    return text if text == "<>" else text.removeprefix("<").removesuffix(">")


def _since(given: str | None) -> float | None:
    try:
        return max(0.0, time.time() - seconds(given)) if given is not None else None
    except ValueError:
        raise typer.BadParameter(f"{given!r}: use 90s, 30m, 2h or 3d", param_hint="--since") from None
