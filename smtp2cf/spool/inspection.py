"""Inspection: whether a spool could be served, without serving it, for `smtp2cf check`.

A bridge may serve it meanwhile. Nothing is created, claimed or brought up to date in SQLite; PostgreSQL is
opened as every command opens it.
"""

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smtp2cf.spool import open_spool, sqlite_file, sqlite_schema
from smtp2cf.spool.clock import Clock, Mark
from smtp2cf.spool.disk_space import Space
from smtp2cf.spool.lock import served_by
from smtp2cf.spool.permissions import permissions
from smtp2cf.spool.protocol import SpoolError
from smtp2cf.spool.sqlite_counts import ALL as ALL_COUNTS
from smtp2cf.spool.sqlite_errors import WHEN_DAMAGED
from smtp2cf.spool.url import is_sqlite, place, sqlite_path

PATIENCE = 5.0
"""Seconds for looking for damage in an SQLite file; a large one is not looked at whole."""
_STEPS = 10_000
"""Steps of SQLite's machine between two looks at the clock."""


async def inspect(url: str, *, state_dir: Path, min_free: int) -> str:
    """What is to be said of the spool at `url`. Raises SpoolError, or SendError while it takes no mail.

    url, state_dir, min_free: see open_spool.
    """
    shown = place(url, state_dir)
    if is_sqlite(url):
        return f"{shown}: {await asyncio.to_thread(_inspect_file, sqlite_path(url, state_dir), min_free)}"
    spool = await open_spool(url, state_dir=state_dir, serve=False)
    try:
        await spool.check()
        waiting = sum(total.messages for total in (await spool.totals()).values())
    finally:
        await spool.close()
    return f"{shown}: {_waiting(waiting)}"


async def read_note(url: str, *, state_dir: Path, name: str) -> str:
    """The text of a note (Spool.amend), "" for none. Raises SpoolError or SendError."""
    if is_sqlite(url):
        path = sqlite_path(url, state_dir)
        rows = await asyncio.to_thread(_select, path, "SELECT text FROM note WHERE name = ?", name)
        return str(rows[0][0]) if rows else ""
    spool = await open_spool(url, state_dir=state_dir, serve=False)
    try:
        return await spool.amend(name, lambda text, _: (text, text))
    finally:
        await spool.close()


async def read_counts(url: str, *, state_dir: Path) -> tuple[Mapping[str, str], float]:
    """See Spool.counts. Raises SpoolError or SendError."""
    if is_sqlite(url):
        path = sqlite_path(url, state_dir)
        marks = await asyncio.to_thread(_select, path, "SELECT boot, passed, now FROM clock")
        now = Clock.resume(Mark(*marks[0])).now() if marks else 0.0
        return dict(await asyncio.to_thread(_select, path, ALL_COUNTS, now)), now
    spool = await open_spool(url, state_dir=state_dir, serve=False)
    try:
        return await spool.counts()
    finally:
        await spool.close()


def _select(path: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows; none of a file that is not there, or that the next start brings up to date."""
    try:
        if not path.exists():
            return []
        connection = sqlite_file.connect_reader(path)
        try:
            if sqlite_schema.readable(connection, path).version < len(sqlite_schema.MIGRATIONS):
                return []
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise SpoolError(sqlite_file.cannot_open(path, error)) from error


def _inspect_file(path: Path, min_free: int) -> str:
    directory = _existing(path.parent)
    try:
        # This tells more than permissions would: a file system may be read-only, or be none for files.
        tempfile.TemporaryFile(dir=directory).close()
        exists = path.exists()
    except OSError as error:
        so = "" if directory == path.parent else f", so {path.parent} can't be created"
        mend = permissions(path) or f". Let uid {os.geteuid()} write there, or set another SMTP2CF_STATE_DIR"
        raise SpoolError(f"{directory} can't be written to ({error.strerror}){so}{mend}") from error
    said = _inspect_database(path) if exists else "the first start creates it"
    if refusal := Space(directory, min_free).refusal():
        raise refusal
    return said


def _existing(directory: Path) -> Path:
    """The nearest directory on the way that is there."""
    for place_ in (directory, *directory.parents):
        if place_.exists() or place_.is_symlink():
            return place_
    return directory


def _inspect_database(path: Path) -> str:
    try:
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise SpoolError(f"{path} can't be read and written{permissions(path)}")
        served = served_by(path.with_name(path.name + ".lock"))
        connection = sqlite_file.connect_reader(path)
        try:
            older = sqlite_schema.readable(connection, path).version < len(sqlite_schema.MIGRATIONS)
            whole = _look_for_damage(connection, path)
            (waiting,) = connection.execute("SELECT count(*) FROM mail").fetchone() if not older else (0,)
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise SpoolError(sqlite_file.cannot_open(path, error)) from error
    parts = [
        "the next start updates its schema" if older else _waiting(waiting),
        *([] if whole else [f"no damage found in {PATIENCE:.0f} s (not all was checked)"]),
        *([f"a bridge serves it ({served.who})"] if served is not None else []),
    ]
    return "; ".join(parts)


def _look_for_damage(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether all of it was looked at. Raises SpoolError for damage."""
    until = time.monotonic() + PATIENCE
    connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return False
        raise
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        raise SpoolError(f"the spool {path} is damaged: {' '.join(str(found).split())}. {WHEN_DAMAGED}")
    return True


def _waiting(messages: int) -> str:
    return f"{messages or 'no'} {'message waits' if messages == 1 else 'messages wait'}"
