"""Journal: how the commands that read the journal open it, and how they word what is in it.

On a terminal a row fits its width and times are relative; elsewhere rows are whole and times absolute. Knows
no command.
"""

import asyncio
import contextlib
import os
import pwd
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from smtp2cf.cli.terminal import fail, printable
from smtp2cf.journal.record import Action, Entry, Journal, JournalError, Row
from smtp2cf.reply import first_few, rough_duration
from smtp2cf.settings import loading, rooms
from smtp2cf.settings.fields import Settings, SettingsError

NAMED_LIMIT = 50
"""Recipients that are named."""
COLOURS = {
    "sent": "green",
    "delivered": "green",
    "queued": "green",
    "kept": "cyan",
    "deferred": "yellow",
    "held": "yellow",
    "bounced": "red",
    "suppressed": "red",
    "expired": "red",
    "complained": "red",
    "deleted": "magenta",
}
_SHARES = (0.26, 0.32)
"""Of the room that is left: the sender's and the recipient's; the rest is the reply's."""


class NotFoundError(Exception):
    """What was asked for is not in the journal."""


def with_journal(env_file: Path | None, work: Callable[[Journal, Settings], Awaitable[None]]) -> None:
    """Open the journal beside whoever writes it, do the work, close it; end the command on an error."""
    try:
        asyncio.run(_with_journal(env_file, work))
        sys.stdout.flush()
    except NotFoundError as error:
        fail(str(error), os.EX_NOINPUT)
    except JournalError as error:
        fail(str(error), os.EX_UNAVAILABLE)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `| head` has seen enough; Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _with_journal(env_file: Path | None, work: Callable[[Journal, Settings], Awaitable[None]]) -> None:
    settings = loading.load(env_file)
    journal = rooms.journal(settings, create=False)
    if journal is None:
        fail("there is no journal: SMTP2CF_JOURNAL_DAYS is 0, or SMTP2CF_SPOOL_URL is none", os.EX_CONFIG)
    try:
        await work(journal, settings)
    finally:
        with contextlib.suppress(JournalError):
            await journal.close()


def note(env_file: Path | None, name: str, fields: Mapping[str, object], steps: Iterable[Entry] = ()) -> None:
    """Record what the one who runs this did, if there is a journal. name: such as `operator.hold`."""

    async def write() -> None:
        journal = rooms.journal(loading.load(env_file), create=False)
        if journal is None:
            return
        try:
            await journal.record(list(steps), [Action(time.time(), name, who_runs_this(), fields)])
        finally:
            await journal.close()

    try:
        asyncio.run(write())
    except SettingsError:
        return  # what was done did not need them
    except JournalError as error:
        if not error.missing:
            say(f"done, but not noted in the journal: {error}")


def who_runs_this() -> str:
    """The user who typed the command; root by way of sudo is told by his own name."""
    name = os.environ.get("SUDO_USER", "")
    if name and os.geteuid() == 0:
        return f"{name} (sudo)"
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


# ---- as JSON


def row_as_json(row: Row) -> dict[str, Any]:
    """A row with the names of the log line; the keys are always the same."""
    said = row.message
    return {
        "time": iso(row.at),
        "queue_id": said.queue_id,
        "from": said.sender,
        "to": first_few(said.recipients, NAMED_LIMIT),
        "status": row.status or row.kind,
        "what": row.kind,
        "reply": row.reply,
        "detail": row.detail,
        "attempts": row.attempt,
        "message_id": in_brackets(row.message_id),
        "original_message_id": in_brackets(said.original_id),
        "received": iso(said.received_at),
        "client": said.client,
        "user": said.user,
        "helo": said.helo,
        "account": said.account,
        "size": said.size,
        "header_from": said.header_from,
        "subject": said.subject,
        "dsn_for": said.parent,
    }


def in_brackets(message_id: str) -> str:
    """A message id as a header has it."""
    return f"<{message_id}>" if message_id else ""


def iso(at: float) -> str:
    """A time in UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---- for people


class Table:
    """Prints rows under a heading, in columns that fit the terminal; without one, each column is whole."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._is_terminal = self._console.is_terminal
        self._begun = False

    def print(self, row: Row) -> None:
        """Print a row."""
        if not self._begun:
            self._begun = True
            self._print(("when", "id", "status", "from", "to", "reply"), "bold")
        said = row.message
        more = len(said.recipients) - 1
        status = row.status or row.kind
        to = f"{row.recipient} and {more} more" if more > 0 else row.recipient
        reply = " ".join(filter(None, (row.reply, row.detail)))
        cells = (self._when(row.at), said.queue_id, status, said.sender or "<>", to, reply)
        self._print([printable(cell) for cell in cells], COLOURS.get(status, ""))

    def _when(self, at: float) -> str:
        return ago(at) if self._is_terminal else when(at)

    def _print(self, cells: Sequence[str], style: str) -> None:
        from rich.cells import set_cell_size
        from rich.text import Text

        line = Text()
        for number, (cell, width) in enumerate(zip(cells, self._widths(), strict=True)):
            fitted = set_cell_size(_cut(cell, width), width) if width else cell
            line.append(fitted + "  ", style if number == 2 or style == "bold" else "")
        line.rstrip()
        self._console.print(line)

    def _widths(self) -> tuple[int, ...]:
        """Cells of each column; 0 for as many as it has."""
        if not self._is_terminal:
            return (23, 13, 10, 30, 30, 0)
        fixed = (5, 13, 10)
        left = max(30, self._console.width - sum(fixed) - 2 * 5)
        shares = tuple(max(8, int(left * share)) for share in _SHARES)
        return (*fixed, *shares, max(8, left - sum(shares) - 1))


def _cut(text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def ago(at: float) -> str:
    """How long ago, in a few characters: "40s", "5m", "3d"."""
    passed = time.time() - at
    if passed < 1:
        return "now"
    number, unit = rough_duration(passed).split()
    return f"{number}{unit[0]}"


def when(at: float) -> str:
    """A time by this host's clock."""
    return (
        datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S.")
        + f"{int(at * 1000) % 1000:03d}"
    )


def say(text: str) -> None:
    """Say something that is no result."""
    typer.echo(f"smtp2cf: {printable(text)}", err=True)
