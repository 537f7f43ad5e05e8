"""Recipients file: who gets mail instead of whom, in the format of sendmail's aliases (aliases(5)).

`name: target, target`, continued on lines that begin with a space. A target is an address or a name of the
file. What only a host with mailboxes can do (`|command`, `/file`, `:include:`) is left out, and the log names
the line, so that an /etc/aliases can be used as it is. A file that can't be read changes nothing.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from smtp2cf.access.address_map import AddressMap
from smtp2cf.access.recipients import Table
from smtp2cf.listen import files
from smtp2cf.listen.file_watch import FileWatch

log = structlog.stdlib.get_logger("smtp2cf.access")

LOOK_INTERVAL = 5.0
"""Seconds between two looks at the file."""
_TARGET = re.compile(r"[!#-.0-9;=?A-Z^_`a-z{}~][!#-?A-Z^_`a-z{|}~]{0,63}(?:@[\w.-]{1,253})?")


def parse(text: str) -> tuple[Table, list[str]]:
    """The table, and a line for each thing that is left out."""
    table: dict[str, tuple[str, ...]] = {}
    left_out: list[str] = []
    for number, entry in _entries(text):
        name, colon, value = entry.partition(":")
        name = name.strip().strip('"')
        if not colon or not _is_pattern(name):
            left_out.append(f"line {number}: expected name: address, address")
            continue
        targets = []
        for target in filter(None, map(str.strip, value.split(","))):
            if _TARGET.fullmatch(target):
                targets.append(target)
            else:
                left_out.append(f"line {number}: {name}: {target[:100]}: only addresses and names get mail")
        if targets:
            table[name] = tuple(targets)
    return table, left_out


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """Each entry on one line, with the number of its first."""
    first, entry = 0, ""
    for number, full_line in enumerate(text.splitlines(), 1):
        line = full_line.split("#")[0].rstrip()
        if line and line[0] in " \t" and entry:
            entry += line
        elif line:
            if entry:
                yield first, entry
            first, entry = number, line.lstrip()
    if entry:
        yield first, entry


def _is_pattern(name: str) -> bool:
    try:
        return bool(AddressMap({name: True}))
    except ValueError:
        return False


class RecipientsFile:
    """The file, re-read when it changes. use: takes its table.

    Raises FileError if it can't be read at first.
    """

    def __init__(self, path: Path, use: Callable[[Table], None], *, every: float = LOOK_INTERVAL) -> None:
        self._path = path
        self._use = use
        self._file = FileWatch(path, every=every, steady=True)
        self._left_out: list[str] = []
        self._take(self._read())

    async def watch(self) -> None:
        """Log what is left out, and re-read the file whenever it changes, until cancelled."""
        self._say_left_out()
        async for new_for in self._file.looks():
            if new_for is not None:
                await self.reread()

    async def reread(self) -> None:
        """Read the file now."""
        self._file.read = await asyncio.to_thread(self._file.stamps)
        reason = ""
        try:
            text = await asyncio.to_thread(self._read)
        except files.FileError as error:
            reason = str(error)
        if reason:
            note = "the previous recipients stay in use"
            log.error("recipients.reload_failed", file=str(self._path), reason=reason, note=note)
        else:
            self._take(text)
            self._say_left_out()
            log.info("recipients.reloaded", file=str(self._path))

    def _read(self) -> str:
        return files.read(self._path).decode("utf-8-sig", errors="replace")

    def _take(self, text: str) -> None:
        table, self._left_out = parse(text)
        self._use(table)

    def _say_left_out(self) -> None:
        """Not when it is read at first: whoever only checks the settings reads it too."""
        for line in self._left_out:
            log.warning("recipients.left_out", file=str(self._path), reason=line)
