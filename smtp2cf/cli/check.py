"""smtp2cf check: would a bridge with these settings take mail and send it? One line for each thing looked at.

Exit status 78 (sysexits.h) if something is wrong; a warning changes nothing. With --show, which settings are
in use, and where each comes from.
"""

import asyncio
import os
import sys
from typing import Annotated

import orjson
import typer

from smtp2cf.cli.arguments import EnvFile
from smtp2cf.cli.examine import Finding, Status, examine
from smtp2cf.cli.terminal import one_line
from smtp2cf.journal import logs
from smtp2cf.settings import loading

_MARKS = {
    Status.OK: ("✓", typer.colors.GREEN),
    Status.WARNING: ("!", typer.colors.YELLOW),
    Status.ERROR: ("✗", typer.colors.RED),
}


def check(
    env_file: EnvFile = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line: check, status, text.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Only print every setting's value and where it comes from.")
    ] = False,
) -> None:
    """Check settings, files, listeners, the token and what is set up at Cloudflare. Exit 0 or 78."""
    if show:
        for setting in loading.effective(env_file):
            line = f"{setting.setting} = {setting.value} # {setting.origin}"
            sys.stdout.write(_as_json(setting) if as_json else f"{one_line(line)}\n")
        return
    logs.configure("error", "auto")

    async def show_all() -> bool:
        right = True
        async for finding in examine(env_file):
            sys.stdout.write(_as_json(finding) if as_json else as_line(finding))
            sys.stdout.flush()
            right = right and finding.status is not Status.ERROR
        return right

    if not asyncio.run(show_all()):
        raise typer.Exit(os.EX_CONFIG)


def _as_json(finding: Finding | loading.Effective) -> str:
    return orjson.dumps(finding._asdict()).decode() + "\n"


def as_line(finding: Finding) -> str:
    """What a person reads: with a mark on a terminal, with a word elsewhere."""
    text = f"{finding.check}: {one_line(finding.text)}\n"
    if not sys.stdout.isatty():
        return f"{finding.status}: {text}"
    mark, color = _MARKS[finding.status]
    return f"{typer.style(mark, fg=color)} {text}"
