"""An SQLite spool's file: made and opened.

Raises SpoolError with one line for the operator where the file is not, or not yet, one of ours.

Knows nothing of the jobs.
"""

import contextlib
import os
import re
import sqlite3
from pathlib import Path

from smtp2cf.spool import reserve, sqlite_schema
from smtp2cf.spool.permissions import permissions
from smtp2cf.spool.protocol import SpoolError, SpoolFull
from smtp2cf.spool.sqlite_errors import DAMAGE, WHEN_DAMAGED, send_error
from smtp2cf.spool.sqlite_guard import FileGuard

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process that is writing."""

WAL_PAGES = 4000
"""Pages (16 MB) in the log before it is written into the file: fewer, larger fsyncs."""


def open_guarded(path: Path, *, serve: bool, alone: bool = True) -> FileGuard:
    """Open the file, and check that it is ours and that we can use its schema.

    serve: create it if it is missing, with mode 0600, update an older schema, and make the reserve for a full
    disk. Nobody else does that, so that a command run by root leaves nothing the server can't open. alone:
    nobody serves it now, so the reserve may be used.
    """
    if sqlite3.sqlite_version_info < (3, 35):
        raise SpoolError(f"the spool needs SQLite 3.35 or newer, this is {sqlite3.sqlite_version}")
    try:
        if not serve and not path.exists():
            raise SpoolError(f"there is no spool at {path}: 'smtp2cf serve' creates it")
        with contextlib.ExitStack() as undo:
            guard = _open_guarded(path, undo, serve=serve, alone=alone)
            undo.pop_all()
            return guard
    except (OSError, sqlite3.Error) as error:
        raise SpoolError(cannot_open(path, error)) from error


def _open_guarded(path: Path, undo: contextlib.ExitStack, *, serve: bool, alone: bool) -> FileGuard:
    real = Path(os.path.realpath(path))
    descriptor = None
    if serve:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, descriptor)
        reserve.set_aside(real)
    if alone:
        reserve.lend(real)
    anchor = _open(path)
    undo.callback(anchor.close)
    if serve:
        # What a crash left in the log has room in the file already; after this the log is as good as empty.
        anchor.execute("PRAGMA wal_checkpoint").fetchone()
    sqlite_schema.migrate(anchor, path, serve=serve)
    guard = FileGuard(path, anchor, descriptor)
    if serve:
        reserve.adopt(real)
        _set_aside_inside(anchor, guard)
    return guard


def _set_aside_inside(connection: sqlite3.Connection, guard: FileGuard) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        reserve.set_aside_inside(connection)
        guard.make_room(connection)
        connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if not isinstance(send_error(error), SpoolFull):
            raise


def cannot_open(path: Path, error: Exception) -> str:
    """One line for the operator: what is wrong with the file, and what to do."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in DAMAGE:
        return f"cannot open the spool {path}: {error}. {WHEN_DAMAGED}"
    if isinstance(send_error(error), SpoolFull):
        return (
            f"cannot open the spool {path}: the disk is full, and there is no reserve for that yet: free"
            f" {reserve.FULL_SIZE / 2**20:.0f} MiB in {path.parent}"
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot open the spool {path}: {reason}{permissions(path)}"


def make_directory(path: Path) -> None:
    """Create the directory for a spool and its lock, with mode 0700."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SpoolError(
            f"cannot create the spool's directory {path}: {error.strerror}{permissions(path)}"
        ) from error


def connect_writer(path: Path, *, serve: bool = True) -> sqlite3.Connection:
    """A connection that writes and fsyncs; never creates a file. Raises sqlite3.Error.

    serve: it writes the log into the file, which commands leave to the process that serves.
    """
    return _open(
        path,
        "synchronous = FULL",
        "foreign_keys = ON",
        # Debian's SQLite overwrites what it deletes, which doubles the work of every delivered message.
        "secure_delete = FAST",
        f"wal_autocheckpoint = {WAL_PAGES if serve else 0}",
        f"journal_size_limit = {WAL_PAGES * 4096 * 2}",
        "temp_store = MEMORY",  # no other file has to find room
    )


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads. Raises sqlite3.Error."""
    return _open(path, "query_only = ON")


def _open(path: Path, *pragmas: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    # Transactions are begun and ended by hand; a connection may be closed by another thread than used it.
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        connection.create_function("regexp", 2, _regexp, deterministic=True)
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _regexp(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None
