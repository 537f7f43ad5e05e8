"""A journal for the commands to say who did what in, and what it says."""

import asyncio
from pathlib import Path
from typing import Any

from smtp2cf.journal.sqlite_journal import SqliteJournal


def make_journal(directory: Path) -> None:
    """As a bridge with this STATE_DIR has made it."""
    asyncio.run(_make(directory))


async def _make(directory: Path) -> None:
    journal = SqliteJournal(directory / "journal.sqlite3")
    await journal.record([])
    await journal.close()


def actions(directory: Path) -> list[tuple[str, Any]]:
    """What was done, the latest first: the line's event, and its fields."""
    return asyncio.run(_actions(directory))


async def _actions(directory: Path) -> list[tuple[str, Any]]:
    journal = SqliteJournal(directory / "journal.sqlite3", create=False)
    try:
        found = await journal.actions(0)
    finally:
        await journal.close()
    assert all(action.who for action in found)
    return [(action.name, action.fields) for action in found]
