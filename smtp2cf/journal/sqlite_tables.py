"""The tables of a journal in SQLite: how they are made, and how an older file is brought up to date.

A schema changes by addition, as a spool's does (spool/schema.py): `user_version` is how many migrations a
bridge has to know to use the file, and the table `journal` says how many it has seen.
"""

import secrets
import sqlite3
from pathlib import Path

from smtp2cf.journal.record import JournalError, no_journal
from smtp2cf.journal.rows import SEGMENT_BITS

APPLICATION_ID = 0x5332434A
"""What file(1) and we know the file by: "S2CJ"."""

MIGRATIONS: tuple[str, ...] = (
    f"""
    CREATE TABLE journal (name TEXT NOT NULL, version INTEGER NOT NULL, recipient INTEGER NOT NULL,
        step INTEGER NOT NULL);
    INSERT INTO journal VALUES ('', 0, 1, 1);
    CREATE TABLE text (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, used INTEGER NOT NULL);
    CREATE TABLE segment (id INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL);
    CREATE TABLE message (
        id INTEGER PRIMARY KEY,
        queue_id TEXT NOT NULL,
        received INTEGER NOT NULL,
        recipients INTEGER NOT NULL,
        sender TEXT NOT NULL COLLATE NOCASE,
        sender_domain INTEGER NOT NULL,
        header_from INTEGER NOT NULL,
        client INTEGER NOT NULL,
        login INTEGER NOT NULL,
        helo INTEGER NOT NULL,
        account INTEGER NOT NULL,
        size INTEGER NOT NULL,
        original_id TEXT NOT NULL,
        parent TEXT,
        subject TEXT,
        step INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX message_queue_id ON message (queue_id);
    CREATE INDEX message_sender ON message (id >> {SEGMENT_BITS}, sender, sender_domain);
    CREATE INDEX message_sender_domain ON message (id >> {SEGMENT_BITS}, sender_domain);
    CREATE INDEX message_parent ON message (parent) WHERE parent IS NOT NULL;
    CREATE TABLE recipient (
        id INTEGER PRIMARY KEY,
        local TEXT NOT NULL COLLATE NOCASE,
        domain INTEGER NOT NULL,
        status INTEGER NOT NULL,
        step INTEGER NOT NULL
    );
    CREATE INDEX recipient_local ON recipient (id >> {SEGMENT_BITS}, local, domain);
    CREATE INDEX recipient_domain ON recipient (id >> {SEGMENT_BITS}, domain);
    CREATE INDEX recipient_status ON recipient (id >> {SEGMENT_BITS}, status);
    CREATE TABLE step (
        id INTEGER PRIMARY KEY,
        recipient INTEGER NOT NULL,
        at INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        reply INTEGER NOT NULL,
        detail INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        message_id TEXT,
        previous INTEGER NOT NULL
    );
    CREATE TABLE word (segment INTEGER NOT NULL, hash INTEGER NOT NULL, message INTEGER NOT NULL,
        PRIMARY KEY (segment, hash, message)) WITHOUT ROWID;
    CREATE TABLE tally (minute INTEGER NOT NULL, status INTEGER NOT NULL, recipients INTEGER NOT NULL,
        PRIMARY KEY (minute, status)) WITHOUT ROWID;
    CREATE TABLE action (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, name TEXT NOT NULL, who TEXT NOT NULL,
        fields TEXT NOT NULL)
    """,  # noqa: S608 - a constant
)
"""Each takes the schema one version further.

Rows are as rows.py makes them; times are in milliseconds, those of `tally` in minutes, `text.used` in days.
`journal` has the next numbers, and a name that is drawn when the file is made.
"""

MIN_READER = 1
"""How many migrations a bridge has to know to use the file."""


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """See that the file is ours, and bring it up to date. Raises JournalError, sqlite3.Error."""
    version = readable(connection, path)
    if not _tables(connection):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect only in an empty file
    connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if version >= len(MIGRATIONS):
        return
    connection.execute("BEGIN EXCLUSIVE")
    for migration in MIGRATIONS[version:]:
        for statement in migration.split(";"):
            connection.execute(statement)
    connection.execute("UPDATE journal SET name = ? WHERE name = ''", (secrets.token_hex(8),))
    connection.execute("UPDATE journal SET version = ?", (len(MIGRATIONS),))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {MIN_READER}")
    connection.execute("COMMIT")


def require_made(connection: sqlite3.Connection, path: Path) -> None:
    """Raise JournalError if this bridge can't use the file as it is."""
    if not _tables(connection):  # it is being made
        raise no_journal(path)
    if readable(connection, path) < len(MIGRATIONS):
        raise JournalError(f"the journal {path} has an older schema: start 'smtp2cf serve' to update it")


def readable(connection: sqlite3.Connection, path: Path) -> int:
    """How many migrations the file has seen. Raises JournalError if it is not ours, or too new."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (min_reader,) = connection.execute("PRAGMA user_version").fetchone()
    if not _tables(connection):
        return 0
    if application_id != APPLICATION_ID:
        raise JournalError(f"{path} is another program's database, not a journal of smtp2cf", damaged=True)
    require_readable(min_reader, str(path))
    version: int
    (version,) = connection.execute("SELECT version FROM journal").fetchone()
    return version


def require_readable(min_reader: int, journal: str) -> None:
    """Raise JournalError where a bridge has to know more migrations. journal: its name for people."""
    if min_reader > len(MIGRATIONS):
        raise JournalError(
            f"the journal {journal} was written by a newer smtp2cf (it needs schema {min_reader}, this one"
            f" knows {len(MIGRATIONS)}): upgrade smtp2cf"
        )


def _tables(connection: sqlite3.Connection) -> int:
    tables: int
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return tables
