"""The schema of an SQLite spool: its tables, and how an older file is brought up to date.

Knows nothing of the jobs.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from smtp2cf.spool.protocol import SpoolError
from smtp2cf.spool.schema import Schema, require_readable

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
    "CREATE TABLE schema (version INTEGER NOT NULL); INSERT INTO schema VALUES (0)",
    "CREATE TABLE note (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID",
    """
    CREATE TABLE followed (
        message_id TEXT NOT NULL,
        recipient TEXT NOT NULL,
        envelope TEXT NOT NULL,
        original_id TEXT NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (message_id, recipient)
    ) WITHOUT ROWID;
    CREATE INDEX followed_until ON followed (until)
    """,
    "CREATE TABLE count (name TEXT PRIMARY KEY, text TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID",
    """
    CREATE TABLE posting (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL,
        added REAL NOT NULL,
        due REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX posting_due ON posting (due, number)
    """,
)
"""Each takes the schema one version further; see schema.py for what it may do.

mail.due is when to claim it: at the next attempt or, if it was tried, when it expires, whichever is first;
if it is active, when the lease is over; NULL, never, if it is held. Every time is by the spool's own clock,
of which the table clock has a mark (clock.Mark).
"""

MIN_READER = 2
"""How many migrations a bridge has to know to use the file: those up to the clock.

It is the file's user_version, which bridges that know only the first two compare with their own number. The
table `schema` says how many migrations the file has seen.
"""


def migrate(connection: sqlite3.Connection, path: Path, *, serve: bool) -> None:
    """See that the file is ours; serve: bring its schema up to date. Raises SpoolError, sqlite3.Error."""
    schema = readable(connection, path)
    if not serve:
        if schema.version < len(MIGRATIONS):
            raise SpoolError(f"the spool {path} has an older schema: start 'smtp2cf serve' to update it")
        return
    if not _tables(connection):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect only in an empty file
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise SpoolError(f"the file system of {path} does not support SQLite's write-ahead log")
    if schema.version < len(MIGRATIONS):
        _apply(connection, MIGRATIONS[schema.version :])


def readable(connection: sqlite3.Connection, path: Path) -> Schema:
    """The file's schema. Raises SpoolError if the file is not ours or the schema is too new."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if _tables(connection) and application_id != APPLICATION_ID:
        raise SpoolError(f"{path} is another program's database, not a spool of smtp2cf")
    schema = _read(connection)
    require_readable(schema, len(MIGRATIONS), str(path))
    return schema


def _tables(connection: sqlite3.Connection) -> int:
    tables: int
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return tables


def _read(connection: sqlite3.Connection) -> Schema:
    (min_reader,) = connection.execute("PRAGMA user_version").fetchone()
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema'").fetchone():
        return Schema(version=min_reader, min_reader=min_reader)
    (version,) = connection.execute("SELECT version FROM schema").fetchone()
    return Schema(version, min_reader)


def _apply(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    for migration in migrations:
        for statement in migration.split(";"):
            connection.execute(statement)
    connection.execute("UPDATE schema SET version = ?", (len(MIGRATIONS),))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {MIN_READER}")
    connection.execute("COMMIT")
