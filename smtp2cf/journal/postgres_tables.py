"""The tables of a journal in PostgreSQL: how they are made, and brought up to date.

A schema changes by addition, as a spool's does (spool/schema.py).
"""

import secrets
from typing import Any

from smtp2cf.journal.record import JournalError
from smtp2cf.journal.rows import SEGMENT_BITS

MIGRATIONS: tuple[str, ...] = (
    f"""
    CREATE TABLE smtp2cf_journal_text (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        used integer NOT NULL,
        text text COLLATE "C" NOT NULL UNIQUE
    );
    CREATE TABLE smtp2cf_journal_segment (
        id integer PRIMARY KEY, first bigint NOT NULL, last bigint NOT NULL);
    CREATE TABLE smtp2cf_journal_message (
        id bigint PRIMARY KEY,
        received bigint NOT NULL,
        step bigint NOT NULL,
        recipients integer NOT NULL,
        sender_domain integer NOT NULL,
        header_from integer NOT NULL,
        client integer NOT NULL,
        login integer NOT NULL,
        helo integer NOT NULL,
        account integer NOT NULL,
        size integer NOT NULL,
        original_word integer NOT NULL,
        queue_id text COLLATE "C" NOT NULL UNIQUE,
        sender text COLLATE "C" NOT NULL,
        original_id text COLLATE "C" NOT NULL,
        parent text COLLATE "C",
        subject text
    );
    CREATE INDEX ON smtp2cf_journal_message (((id >> {SEGMENT_BITS})::int), lower(sender), sender_domain);
    CREATE INDEX ON smtp2cf_journal_message (((id >> {SEGMENT_BITS})::int), sender_domain);
    CREATE INDEX ON smtp2cf_journal_message (((id >> {SEGMENT_BITS})::int), original_word);
    CREATE INDEX ON smtp2cf_journal_message (parent) WHERE parent IS NOT NULL;
    CREATE TABLE smtp2cf_journal_recipient (
        id bigint PRIMARY KEY,
        step bigint NOT NULL,
        domain integer NOT NULL,
        status smallint NOT NULL,
        local text COLLATE "C" NOT NULL
    );
    CREATE INDEX ON smtp2cf_journal_recipient (((id >> {SEGMENT_BITS})::int), lower(local), domain);
    CREATE INDEX ON smtp2cf_journal_recipient (((id >> {SEGMENT_BITS})::int), domain);
    CREATE INDEX ON smtp2cf_journal_recipient (((id >> {SEGMENT_BITS})::int), status);
    CREATE TABLE smtp2cf_journal_step (
        id bigint PRIMARY KEY,
        recipient bigint NOT NULL,
        previous bigint NOT NULL,
        at bigint NOT NULL,
        reply integer NOT NULL,
        detail integer NOT NULL,
        kind smallint NOT NULL,
        attempt smallint NOT NULL,
        word integer,
        message_id text COLLATE "C"
    );
    CREATE INDEX ON smtp2cf_journal_step (((recipient >> {SEGMENT_BITS})::int), word) WHERE word IS NOT NULL;
    CREATE TABLE smtp2cf_journal_tally (
        minute bigint NOT NULL, status smallint NOT NULL, recipients integer NOT NULL,
        PRIMARY KEY (minute, status));
    CREATE TABLE smtp2cf_journal_action (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at bigint NOT NULL,
        name text NOT NULL,
        who text NOT NULL,
        fields text NOT NULL
    )
    """,
)
"""Each takes the schema one version further. Rows are as rows.py makes them; the words of message ids are
columns here, because a table of them would take twice the room. Times are as in sqlite_tables.py."""

MIN_READER = 1
"""How many migrations a bridge has to know to use the database."""

_LOCK = 0x5332434A


async def migrate(connection: Any, journal: str) -> None:
    """Make the tables, or bring them up to date; in a transaction. Raises JournalError.

    journal: its name for people.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    if not await is_made(connection):
        await connection.execute(
            "CREATE TABLE smtp2cf_journal (name text NOT NULL, version integer NOT NULL,"
            " min_reader integer NOT NULL, recipient bigint NOT NULL, step bigint NOT NULL)"
        )
        await connection.execute("INSERT INTO smtp2cf_journal VALUES ($1, 0, 0, 1, 1)", secrets.token_hex(8))
    version, min_reader = await connection.fetchrow("SELECT version, min_reader FROM smtp2cf_journal")
    if min_reader > len(MIGRATIONS):
        raise JournalError(
            f"the journal {journal} was written by a newer smtp2cf (it needs schema {min_reader}, this one"
            f" knows {len(MIGRATIONS)}): upgrade smtp2cf"
        )
    if version >= len(MIGRATIONS):
        return
    for migration in MIGRATIONS[version:]:
        await connection.execute(migration)
    await connection.execute(
        "UPDATE smtp2cf_journal SET version = $1, min_reader = $2", len(MIGRATIONS), MIN_READER
    )


async def is_made(connection: Any) -> bool:
    """Whether there is a journal."""
    made: bool = await connection.fetchval("SELECT to_regclass('smtp2cf_journal') IS NOT NULL")
    return made
