"""smtp2cf trace: one message's whole story as a timeline, from the journal.

Exit status (sysexits.h): 66 where the journal knows no such mail, 69 where it can't be read, 78 where there
is none.
"""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
import typer

from smtp2cf.cli.arguments import EnvFile, Json
from smtp2cf.cli.journal import COLOURS, NotFoundError, in_brackets, iso, when, with_journal
from smtp2cf.cli.terminal import printable
from smtp2cf.journal.record import Journal, Past, Search, Story
from smtp2cf.journal.steps import OPEN
from smtp2cf.reply import few_in_words
from smtp2cf.settings.fields import Settings

NAMED = 3
"""Recipients that a line names; the rest are counted."""
MOST = 100_000
"""Messages that may be asked for."""
LISTED = 20
"""Recipients whose state is listed one by one."""

What = Annotated[
    str,
    typer.Argument(
        help="A queue id, a message id (Cloudflare's or the message's own), or an address.",
        metavar="QUEUE-ID | MESSAGE-ID | ADDRESS",
    ),
]
Limit = Annotated[
    int, typer.Option(help="How many messages of an address, the newest first.", metavar="NUMBER")
]


def trace(what: What, limit: Limit = 3, as_json: Json = False, env_file: EnvFile = None) -> None:
    """Show the whole story of a message."""

    async def show(journal: Journal, _: Settings) -> None:
        queue_ids = await _find(journal, what.strip(), min(max(1, limit), MOST))
        if not queue_ids:
            raise NotFoundError(f"the journal has no mail {what}")
        for number, queue_id in enumerate(queue_ids):
            story = await journal.story(queue_id)
            if story is None:
                continue
            dsns = [dsn for dsn in [await journal.story(one) for one in story.dsns] if dsn is not None]
            if as_json:
                sys.stdout.write(orjson.dumps(_as_json(story)).decode() + "\n")
            else:
                _print(story, dsns, number)

    with_journal(env_file, show)


async def _find(journal: Journal, what: str, limit: int) -> list[str]:
    """The queue ids of the messages that are meant."""
    if not what:
        return []  # or any would do
    if await journal.story(what) is not None:
        return [what]
    if rows := await journal.search(Search(message_id=what, limit=limit)):
        return list(dict.fromkeys(row.message.queue_id for row in rows))
    address = what.removeprefix("<").removesuffix(">")
    if "@" not in address:
        return []
    found = [
        *await journal.search(Search(recipient=address, limit=limit)),
        *await journal.search(Search(sender=address, limit=limit)),
    ]
    found.sort(key=lambda row: row.message.received_at, reverse=True)
    return list(dict.fromkeys(row.message.queue_id for row in found))[:limit]


def _as_json(story: Story) -> dict[str, Any]:
    said = story.message
    return {
        "queue_id": said.queue_id,
        "received": iso(said.received_at),
        "from": said.sender,
        "to": [{"address": who, "status": status} for who, status in story.recipients.items()],
        "client": said.client,
        "user": said.user,
        "helo": said.helo,
        "account": said.account,
        "size": said.size,
        "original_message_id": in_brackets(said.original_id),
        "header_from": said.header_from,
        "subject": said.subject,
        "dsn_for": said.parent,
        "dsns": list(story.dsns),
        "steps": [
            {
                "time": iso(step.at),
                "what": step.kind,
                "to": list(step.recipients),
                "reply": step.reply,
                "detail": step.detail,
                "attempts": step.attempt,
                "message_id": in_brackets(step.message_id),
            }
            for step in story.steps
        ],
    }


def _print(story: Story, dsns: Sequence[Story], number: int) -> None:
    said = story.message
    if number:
        typer.echo()
    to = few_in_words([f"<{who}>" for who in story.recipients], NAMED)
    typer.secho(printable(f"{said.queue_id}  <{said.sender}> → {to}"), bold=True)
    for name, value in (
        ("From", said.header_from),
        ("Subject", said.subject),
        ("Message-ID", in_brackets(said.original_id)),
        ("Account", said.account),
        ("A DSN about", said.parent),
    ):
        if value:
            typer.echo(f"  {name + ':':<13}{printable(value)}")
    _line(when(said.received_at), "received", _how_it_came(story))
    for step in story.steps:
        _line(_after(step.at - said.received_at), step.kind, _told(step, len(story.recipients)))
    for dsn in dsns:
        became = ", ".join(f"<{who}> {status}" for who, status in dsn.recipients.items())
        _line("", "DSN", f"{dsn.message.queue_id} to {became}")
    _print_states(story)


def _print_states(story: Story) -> None:
    for who, status in list(story.recipients.items())[:LISTED]:
        _line("now", status, f"<{who}>")
    if len(story.recipients) > LISTED:
        _line("", "", f"and {len(story.recipients) - LISTED} more: smtp2cf log --id {story.message.queue_id}")
    if any(status in OPEN for status in story.recipients.values()):
        _line("", "", f"when it is tried next: smtp2cf queue show {story.message.queue_id}")


def _how_it_came(story: Story) -> str:
    said = story.message
    if said.parent:
        return "from this bridge"
    parts = [
        f"from {said.client or 'this host'}",
        f"({said.helo})" if said.helo else "",
        f"as user {said.user}" if said.user else "",
        f"{said.size} octets" if said.size else "",
    ]
    return " ".join(filter(None, parts))


def _told(step: Past, recipients: int) -> str:
    """What a step's line says: to whom unless it is all of them, the answer, and what else is known."""
    whom = few_in_words([f"<{who}>" for who in step.recipients], NAMED) if recipients > 1 else ""
    parts = [
        f"attempt {step.attempt}:" if step.attempt else "",
        f"{whom}:" if whom else "",
        step.reply,
        step.detail,
        f"[{in_brackets(step.message_id)}]" if step.message_id else "",
    ]
    return " ".join(filter(None, parts))


def _line(time: str, what: str, text: str) -> None:
    colour = COLOURS.get(what.rpartition(".")[2])
    styled = typer.style(f"{what:<16}", fg=colour) if colour else f"{what:<16}"
    before = 2 + 23 + 2 + 16 + 2
    first, *more = _wrapped(printable(text), before) or [""]
    typer.echo(f"  {time:>23}  {styled}  {first}".rstrip())
    for line in more:
        typer.echo(" " * before + line)


def _wrapped(text: str, before: int) -> list[str]:
    """A text in lines that fit beside `before` characters on the terminal; elsewhere it is one."""
    if not sys.stdout.isatty():
        return [text]
    return textwrap.wrap(text, max(30, shutil.get_terminal_size().columns - before))


def _after(passed: float) -> str:
    """How long after it was received: "+0.120 s", "+2 h 5 min"."""
    if passed < 120:
        return f"+{max(0.0, passed):.3f} s"
    minutes = int(passed) // 60
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"+{days} d {hours} h"
    return f"+{hours} h {minutes % 60} min" if hours else f"+{minutes} min"
