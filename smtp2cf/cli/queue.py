"""The queue by hand: smtp2cf queue list, show, retry, hold, release, delete. On a running bridge too.

A table for people, one JSON object a line for scripts. Exit status (sysexits.h): 66 where no such mail
is in the queue, 69 where its database is away, 78 where there is none that can be opened. Knows the
spool, and no relay.
"""

import asyncio
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from smtp2cf.cli import journal
from smtp2cf.cli.arguments import App, EnvFile, Json
from smtp2cf.cli.terminal import fail, printable
from smtp2cf.journal.recorder import by_hand
from smtp2cf.journal.steps import Kind
from smtp2cf.reply import SendError, few_in_words, first_few, rough_duration
from smtp2cf.settings import loading
from smtp2cf.settings.units import seconds
from smtp2cf.spool import EVERYTHING, Action, Filter, Spool, SpoolError, SpoolItem, Status, open_spool
from smtp2cf.spool.item_json import item_as_json
from smtp2cf.spool.url import place

app = App(help="List, retry, hold or delete waiting mail.")

Ids = Annotated[list[str] | None, typer.Argument(help="Queue ids.", metavar="[QUEUE-ID]...")]
IdOption = Annotated[
    list[str] | None, typer.Option("--id", help="A queue id. May be repeated.", metavar="QUEUE-ID")
]
From = Annotated[
    str | None,
    typer.Option("--from", help="The sender. * matches anything, <> is the null sender.", metavar="ADDRESS"),
]
To = Annotated[str | None, typer.Option("--to", help="A recipient. * matches anything.", metavar="ADDRESS")]
OlderThan = Annotated[
    str | None, typer.Option(help="Received longer ago than this, such as 90s, 36h or 5d.", metavar="AGE")
]
StatusOption = Annotated[
    list[Status] | None,
    typer.Option("--status", help="queued, deferred, active or held. May be repeated.", metavar="STATUS"),
]
All = Annotated[bool, typer.Option("--all", help="All mail. Needed if no queue id or filter is given.")]


class _NotFoundError(Exception):
    """The mail that was named is not in the queue."""


NAMED_LIMIT = 50
"""Queue ids that the journal names of what was done at once; each message has a step of its own."""

GIVEN_LIMIT = 10
"""Addresses that a client gave for one that it became, which are named."""

_KINDS = {
    Action.RETRY: Kind.RETRIED,
    Action.HOLD: Kind.HELD,
    Action.RELEASE: Kind.RELEASED,
    Action.DELETE: Kind.DELETED,
}

_COLUMNS = "{:<13}  {:>5}  {:>7}  {:<8}  {:>5}  {:>6}  {:<28}  {}"


@app.command("list")
def list_(
    ids: Ids = None,
    id_: IdOption = None,
    sender: From = None,
    to: To = None,
    older_than: OlderThan = None,
    status: StatusOption = None,
    as_json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """List mail, oldest first."""
    which = _filter(ids, id_, sender, to, older_than, status)

    async def print_all(spool: Spool) -> None:
        count = 0
        async for item in spool.items(which):
            if as_json:
                sys.stdout.write(orjson.dumps(item_as_json(item)).decode() + "\n")
            else:
                if not count:
                    typer.echo(_COLUMNS.format("id", "age", "size", "status", "tries", "next", "from", "to"))
                _print_row(item)
            count += 1
        if not count and not as_json:
            said = "no mail is waiting" if which == EVERYTHING else "no matching mail"
            typer.echo(f"{said} in {_where(env_file)}")

    _with_spool(env_file, print_all)


@app.command()
def show(
    queue_id: Annotated[str, typer.Argument(help="A queue id.", metavar="QUEUE-ID")],
    message: Annotated[bool, typer.Option("--message", help="Print the message itself instead.")] = False,
    as_json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Show a message's envelope and each recipient's last answer."""

    async def print_one(spool: Spool) -> None:
        async for item in spool.items(Filter(queue_ids=(queue_id,))):
            if message:
                sys.stdout.buffer.write(await spool.read(queue_id) or b"")
            elif as_json:
                sys.stdout.write(orjson.dumps(item_as_json(item)).decode() + "\n")
            else:
                print_envelope(item)
            return
        raise _NotFoundError(f"{queue_id} is not in {_where(env_file)}")

    _with_spool(env_file, print_one)


def _change(action: Action, done: str, help_text: str) -> None:
    """Add the command that does `action`."""

    @app.command(str(action), help=help_text)
    def change(
        ids: Ids = None,
        id_: IdOption = None,
        sender: From = None,
        to: To = None,
        older_than: OlderThan = None,
        status: StatusOption = None,
        everything: All = False,
        as_json: Json = False,
        env_file: EnvFile = None,
    ) -> None:
        which = _filter(ids, id_, sender, to, older_than, status)
        if which == EVERYTHING and not everything:
            fail("say which mail: queue ids, a filter, or --all", os.EX_USAGE)
        _apply(action, done, which, as_json, env_file)


_change(Action.RETRY, "will be tried now", "Try mail again now.")
_change(Action.HOLD, "held", "Keep mail back until it is released.")
_change(Action.RELEASE, "released", "Send held mail again.")
_change(Action.DELETE, "deleted", "Delete mail. No DSN is sent.")


def _apply(action: Action, done: str, which: Filter, as_json: bool, env_file: Path | None) -> None:
    changed: list[str] = []

    async def apply(spool: Spool) -> None:
        count = 0
        with _progress(await spool.count(which) if sys.stderr.isatty() else 0) as advance:
            async for ids in spool.apply(action, which, "by hand"):
                count += len(ids)
                changed.extend(ids)
                advance(len(ids))
                if as_json:
                    sys.stdout.writelines(
                        orjson.dumps({"queue_id": queue_id, "action": str(action)}).decode() + "\n"
                        for queue_id in ids
                    )
        if not as_json:
            typer.echo(f"{count} {done}")
        if action is Action.RETRY and (held := await _held(spool, which)):
            typer.echo(f"{held} held, and not tried: smtp2cf queue release sends held mail again", err=True)
        if not count and which.queue_ids:
            named = ", ".join(which.queue_ids)
            raise _NotFoundError(f"{named}: not in {_where(env_file)}, or nothing to change")

    try:
        _with_spool(env_file, apply)
    finally:
        _note(action, changed, env_file)


async def _held(spool: Spool, which: Filter) -> int:
    """How much of this mail is held."""
    if which.statuses and Status.HELD not in which.statuses:
        return 0
    return await spool.count(dataclasses.replace(which, statuses=(Status.HELD,)))


def _note(action: Action, queue_ids: Sequence[str], env_file: Path | None) -> None:
    """Say in the journal who did what, to the messages as well."""
    if not queue_ids:
        return
    who, kind = journal.who_runs_this(), _KINDS[action]
    fields = {"queue_ids": first_few(queue_ids, NAMED_LIMIT), "count": len(queue_ids)}
    steps = [by_hand(kind, queue_id, who) for queue_id in queue_ids]
    journal.note(env_file, f"operator.{action}", fields, steps)


@contextlib.contextmanager
def _progress(total: int) -> "Iterator[Any]":
    """A progress bar on standard error where that is a terminal and there is much to do."""
    if total < 1000:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("messages", total=total)
        yield lambda count: progress.advance(task, count)


def _with_spool(env_file: Path | None, work: Callable[[Spool], Awaitable[None]]) -> None:
    """Open the spool beside whoever serves it, do the work, close it."""

    async def run() -> None:
        settings = loading.load(env_file)
        url = settings.spool_url.get_secret_value()
        if url.lower() == "none":
            raise SpoolError("there is no queue: SMTP2CF_SPOOL_URL is none")
        spool = await open_spool(url, state_dir=settings.state_dir, serve=False)
        try:
            await work(spool)
        finally:
            await spool.close()

    try:
        asyncio.run(run())
        sys.stdout.flush()
    except _NotFoundError as error:
        fail(str(error), os.EX_NOINPUT)
    except SendError as error:
        fail(error.reply.text, os.EX_UNAVAILABLE)
    except BrokenPipeError:
        # `| head` has seen enough; Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _where(env_file: Path | None) -> str:
    """Which spool that is: nobody may have named one."""
    settings = loading.load(env_file)
    return place(settings.spool_url.get_secret_value(), settings.state_dir)


def _filter(
    ids: list[str] | None,
    id_: list[str] | None,
    sender: str | None,
    to: str | None,
    older_than: str | None,
    statuses: list[Status] | None,
) -> Filter:
    """The mail that the options name."""
    return Filter(
        queue_ids=(*(ids or ()), *(id_ or ())),
        sender=sender.strip("<>") if sender is not None else None,
        recipient=to.strip("<>") if to is not None else None,
        older_than=_seconds(older_than) if older_than is not None else None,
        statuses=tuple(statuses or ()),
    )


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: use 90s, 30m, 2h or 3d", param_hint="--older-than") from None


def _print_row(item: SpoolItem) -> None:
    next_in = "" if item.status in (Status.HELD, Status.ACTIVE) else _age(item.next_attempt - time.time())
    row = _COLUMNS.format(
        item.queue_id,
        _age(time.time() - item.envelope.received_at),
        _size(item.size),
        item.status,
        item.attempts,
        next_in,
        printable(item.envelope.reverse_path or "<>"),
        printable(few_in_words(item.unresolved, 3)),
    )
    lines = [row]
    if item.hold_reason:
        lines.append(f"    held: {printable(item.hold_reason)}")
    if item.last_reply is not None:
        lines.append(f"    {printable(str(item.last_reply))}")
    sys.stdout.write("\n".join(lines) + "\n")


def print_envelope(item: SpoolItem) -> None:
    """What is known of a message, and each recipient's last answer."""
    envelope = item.envelope
    given = {
        "queue id": item.queue_id,
        "status": f"{item.status}{f': {item.hold_reason}' if item.hold_reason else ''}",
        "received": f"{_when(envelope.received_at)} from {envelope.client or 'this host'} ({envelope.helo})",
        "size": f"{item.size} octets",
        "attempts": f"{item.attempts}{', the last without an answer' if item.unanswered else ''}",
        "next attempt": _when(item.next_attempt),
        "given up": _when(item.expires),
        "from": f"<{envelope.reverse_path}>{_instead(envelope.given_reverse_path)}",
    }
    if envelope.dsn_for:
        given["DSN about"] = envelope.dsn_for
    for name, value in given.items():
        typer.echo(f"{name + ':':<14}{printable(value)}")
    for recipient in envelope.forward_paths:
        answer = item.outcomes.get(recipient)
        named = envelope.given_forward_paths.get(recipient, ())
        typer.echo(f"{'to:':<14}{printable(f'<{recipient}>{_instead(*named)}')}")
        typer.echo(f"{'':<14}{printable(str(answer)) if answer else 'not tried yet'}")


def _instead(*given: str | None) -> str:
    """What the client said, where something else goes out."""
    named = [f"<{address}>" for address in given if address is not None]
    return f" instead of {few_in_words(named, GIVEN_LIMIT)}" if named else ""


def _when(epoch: float) -> str:
    return datetime.fromtimestamp(epoch).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def _age(seconds: float) -> str:
    """A duration that fits in a column: "5d", "90m"."""
    number, unit = rough_duration(seconds).split()
    return f"{number}{unit[0]}" if seconds > 0 else "now"


def _size(octets: int) -> str:
    for unit, length in (("M", 2**20), ("K", 2**10)):
        if octets >= length:
            return f"{octets / length:.1f}{unit}"
    return str(octets)
