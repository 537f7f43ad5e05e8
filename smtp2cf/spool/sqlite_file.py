"""An SQLite spool's file: made, recognised, migrated, opened.

Raises SpoolError with one line for the operator where the file is not, or not yet, one of ours.

Knows nothing of the jobs.
"""

import contextlib
import os
import re
import sqlite3
from pathlib import Path

from smtp2cf.spool import reserve
from smtp2cf.spool.permissions import permissions
from smtp2cf.spool.protocol import SpoolError, SpoolFull
from smtp2cf.spool.sqlite_errors import DAMAGE, WHEN_DAMAGED, send_error
from smtp2cf.spool.sqlite_guard import Hold

APPLICATION_ID = 0x53324346
"""What file(1) and we know the file by: "S2CF"."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE mail (
        id INTEGER PRIMARY KEY,
        queue_id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        due REAL,
        next_attempt REAL NOT NULL,
        expires REAL NOT NULL,
        received_at REAL NOT NULL,
        attempts INTEGER NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0,
        unanswered INTEGER NOT NULL,
        is_dsn INTEGER NOT NULL,
        size INTEGER NOT NULL,
        owner TEXT NOT NULL,
        hold_reason TEXT NOT NULL DEFAULT '',
        sender TEXT NOT NULL,
        recipients TEXT NOT NULL,
        envelope TEXT NOT NULL,
        outcomes TEXT NOT NULL
    );
    CREATE INDEX mail_due_new ON mail (due, queue_id) WHERE attempts = 0 AND due IS NOT NULL;
    CREATE INDEX mail_due_tried ON mail (due, queue_id) WHERE attempts > 0 AND due IS NOT NULL;
    CREATE TABLE message (
        id INTEGER PRIMARY KEY REFERENCES mail (id) ON DELETE CASCADE,
        bytes BLOB NOT NULL
    );
    CREATE TABLE memory (digest BLOB PRIMARY KEY, reply TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE checked (at REAL NOT NULL);
    INSERT INTO checked VALUES (0);
    """,
    "CREATE TABLE clock (boot TEXT NOT NULL, passed REAL NOT NULL, now REAL NOT NULL)",
)
"""Each takes the schema one version further; a file's user_version says how many it has seen.

mail.due is when to claim it: at the next attempt or, if it was tried, when it expires, whichever is first;
if it is active, when the lease is over; NULL, never, if it is held. Every time is by the spool's own clock,
of which the table clock has a mark (clock.Mark).
"""

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process that writes."""

WAL_PAGES = 4000
"""Pages (16 MB) the log may have before it is worked into the file: fewer, larger fsyncs."""


def take_hold(path: Path, *, serve: bool, alone: bool = True) -> Hold:
    """Open the file and see that it is ours, and of the current schema.

    serve: make it where it is missing, its directory too (modes 0600 and 0700), migrate it where it is
    older, and set room aside for a disk that is full. Nobody else does, so that a command run by root
    leaves nothing the server cannot open. alone: nobody serves it now, so what was set aside may be used.
    """
    if sqlite3.sqlite_version_info < (3, 35):
        raise SpoolError(f"the spool needs SQLite 3.35 or newer, this is {sqlite3.sqlite_version}")
    try:
        if not serve and not path.exists():
            raise SpoolError(f"there is no spool at {path}: 'smtp2cf serve' makes it")
        with contextlib.ExitStack() as undo:
            hold = _take_hold(path, undo, serve=serve, alone=alone)
            undo.pop_all()
            return hold
    except (OSError, sqlite3.Error) as error:
        raise SpoolError(cannot_open(path, error)) from error


def _take_hold(path: Path, undo: contextlib.ExitStack, *, serve: bool, alone: bool) -> Hold:
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
        # What is in the log since a crash has its room in the file; the log is then as good as empty.
        anchor.execute("PRAGMA wal_checkpoint").fetchone()
    _migrate(anchor, path, serve=serve)
    hold = Hold(path, anchor, descriptor)
    if serve:
        reserve.adopt(real)
        _set_aside_inside(anchor, hold)
    return hold


def _set_aside_inside(connection: sqlite3.Connection, hold: Hold) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        reserve.set_aside_inside(connection)
        hold.make_room(connection)
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
            f"cannot open the spool {path}: the disk is full, and nothing was set aside for that yet;"
            f" {reserve.FULL_SIZE / 2**20:.0f} MiB are needed in {path.parent}"
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot open the spool {path}: {reason}{permissions(path)}"


def make_directory(path: Path) -> None:
    """Make the directory for a spool and its lock, for nobody else to look into."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SpoolError(
            f"cannot make the spool's directory {path}: {error.strerror}{permissions(path)}"
        ) from error


def connect_writer(path: Path, *, serve: bool = True) -> sqlite3.Connection:
    """A connection that writes and fsyncs; never makes a file. Raises sqlite3.Error.

    serve: it works the log into the file, which whoever only has a few words to say leaves to others.
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


def _migrate(connection: sqlite3.Connection, path: Path, *, serve: bool) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application_id != APPLICATION_ID:
        raise SpoolError(f"{path} is a database of something else, not a spool of smtp2cf")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise SpoolError(
            f"the spool {path} was written by a newer smtp2cf (schema {version}, this one knows "
            f"{len(MIGRATIONS)}): upgrade smtp2cf, or set another SMTP2CF_SPOOL_URL"
        )
    if not serve:
        if version < len(MIGRATIONS):
            raise SpoolError(f"the spool {path} has an older schema: 'smtp2cf serve' brings it up to date")
        return
    if not tables:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of effect in an empty file alone
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise SpoolError(f"the file system of {path} does not take SQLite's write-ahead log")
    if version < len(MIGRATIONS):
        _take_further(connection, version)


def _take_further(connection: sqlite3.Connection, version: int) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    for migration in MIGRATIONS[version:]:
        for statement in migration.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
