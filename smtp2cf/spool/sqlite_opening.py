"""How an SQLite spool is opened: its lock, its files, and what the previous process left in it.

Knows nothing of the jobs.
"""

import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from smtp2cf.spool import sqlite_file
from smtp2cf.spool.clock import Clock, Mark
from smtp2cf.spool.lock import SpoolLock, served_by
from smtp2cf.spool.notes_file import Noted, read_notes
from smtp2cf.spool.protocol import SpoolError
from smtp2cf.spool.sqlite_errors import DAMAGE, code_of
from smtp2cf.spool.sqlite_guard import FileGuard, identity
from smtp2cf.spool.sqlite_sql import GIVEN_BACK


class Left(NamedTuple):
    """What the previous process left: its clock, and the answers noted in the database and in the file."""

    clock: Clock
    in_rows: Mapping[bytes, Noted] = {}
    in_file: Mapping[bytes, Noted] = {}


class Opened(NamedTuple):
    """The files, the lock if this process serves them, and what the previous process left."""

    guard: FileGuard
    lock: SpoolLock | None
    left: Left


def notes_of(path: Path) -> Path:
    """The file beside a spool that answers are noted in."""
    return path.with_name(path.name + ".notes")


def open_files(path: Path, serve: bool) -> Opened:
    """Open the files; serve: end the previous process's claims. Raises SpoolError."""
    lock_path = path.with_name(path.name + ".lock")
    if not serve:
        served = _served(path, lock_path)
        return _with_what_was_left(sqlite_file.open_guarded(path, serve=False, alone=not served), None)
    sqlite_file.make_directory(path.parent)
    lock = SpoolLock(lock_path)
    try:
        guard = sqlite_file.open_guarded(path, serve=True)
        lock.note(identity(path))
        return _with_what_was_left(guard, lock)
    except BaseException:
        lock.release()
        raise


def _with_what_was_left(guard: FileGuard, lock: SpoolLock | None) -> Opened:
    try:
        return Opened(guard, lock, _take_over(guard.path, serve=lock is not None))
    except BaseException:
        guard.close()
        raise


def _served(path: Path, lock_path: Path) -> bool:
    """Whether a bridge serves the file; raises SpoolError if it serves one that was there before.

    The log of that one is still found by this file's name: just opening the two together would mix them.
    """
    try:
        served = served_by(lock_path)
        file = "{}:{}".format(*identity(path)) if served is not None else ""
    except OSError as error:
        raise SpoolError(sqlite_file.cannot_open(path, error)) from error
    if served is not None and served.file not in ("", file):
        raise SpoolError(
            f"another file has replaced {path} while {served.who} has it open: move the old one back, or"
            " restart that bridge"
        )
    return served is not None


def _take_over(path: Path, *, serve: bool) -> Left:
    """Read what the previous process left. serve: end its claims, and continue its clock."""
    try:
        connection = sqlite_file.connect_writer(path) if serve else sqlite_file.connect_reader(path)
        try:
            clock = _clock_of(connection, serve=serve)
            if not serve:
                return Left(clock)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"UPDATE mail SET {GIVEN_BACK} WHERE status = 'active'")  # noqa: S608 - a constant
            connection.execute("DELETE FROM clock")
            connection.execute("INSERT INTO clock (boot, passed, now) VALUES (?, ?, ?)", clock.mark())
            connection.execute("COMMIT")
            now = clock.now()
            rows = connection.execute("SELECT digest, reply, until FROM memory WHERE until > ?", (now,))
            in_rows = {digest: Noted(reply, until) for digest, reply, until in rows}
            return Left(clock, in_rows, read_notes(notes_of(path), now))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise SpoolError(sqlite_file.cannot_open(path, error)) from error


def _clock_of(connection: sqlite3.Connection, *, serve: bool) -> Clock:
    """The clock as the previous process left it; if that can't be read and we only read, the host's.

    Files without one went by the host's clock, which may have been set back since the last check.
    """
    try:
        mark = connection.execute("SELECT boot, passed, now FROM clock").fetchone()
        if mark is not None:
            return Clock.resume(Mark(*mark))
        (checked_at,) = connection.execute("SELECT at FROM checked").fetchone()
    except sqlite3.Error as error:
        if serve or code_of(error) not in DAMAGE:
            raise
        checked_at = 0.0
    return Clock(max(time.time(), checked_at))
