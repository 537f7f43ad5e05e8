"""The schema of a PostgreSQL spool: its tables, and how an older one is brought up to date.

Knows nothing of connections.
"""

from typing import Any

from smtp2cf.spool.schema import Schema, require_readable

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE FUNCTION smtp2cf_now() RETURNS float8 LANGUAGE sql STABLE AS
        'SELECT extract(epoch FROM now())::float8';
    CREATE TABLE smtp2cf_mail (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        queue_id text COLLATE "C" NOT NULL UNIQUE,
        status text NOT NULL,
        due float8,
        next_attempt float8 NOT NULL,
        expires float8 NOT NULL,
        received_at float8 NOT NULL,
        attempts integer NOT NULL,
        failures integer NOT NULL DEFAULT 0,
        unanswered boolean NOT NULL,
        is_dsn boolean NOT NULL,
        size integer NOT NULL,
        owner text NOT NULL,
        hold_reason text NOT NULL DEFAULT '',
        sender text NOT NULL,
        recipients text NOT NULL,
        envelope text NOT NULL,
        outcomes text NOT NULL
    ) WITH (autovacuum_vacuum_scale_factor = 0.02);
    CREATE INDEX smtp2cf_mail_due_new ON smtp2cf_mail (due, queue_id)
        WHERE attempts = 0 AND due IS NOT NULL;
    CREATE INDEX smtp2cf_mail_due_tried ON smtp2cf_mail (due, queue_id)
        WHERE attempts > 0 AND due IS NOT NULL;
    CREATE TABLE smtp2cf_message (
        id bigint PRIMARY KEY REFERENCES smtp2cf_mail (id) ON DELETE CASCADE,
        bytes bytea NOT NULL
    ) WITH (autovacuum_vacuum_scale_factor = 0.02);
    ALTER TABLE smtp2cf_message ALTER bytes SET STORAGE EXTERNAL;
    CREATE TABLE smtp2cf_memory (digest bytea PRIMARY KEY, reply text NOT NULL, until float8 NOT NULL);
    """,
    "ALTER TABLE smtp2cf_spool ADD COLUMN schema_version integer NOT NULL DEFAULT 0",
    "CREATE TABLE smtp2cf_note (name text PRIMARY KEY, version bigint NOT NULL, text text NOT NULL)",
    """
    CREATE TABLE smtp2cf_followed (
        message_id text NOT NULL,
        recipient text NOT NULL,
        envelope text NOT NULL,
        original_id text NOT NULL,
        until float8 NOT NULL,
        PRIMARY KEY (message_id, recipient)
    );
    CREATE INDEX smtp2cf_followed_until ON smtp2cf_followed (until);
    """,
    """
    CREATE TABLE smtp2cf_count (
        name text PRIMARY KEY, version bigint NOT NULL, text text NOT NULL, until float8 NOT NULL
    )
    """,
    """
    CREATE TABLE smtp2cf_posting (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text NOT NULL UNIQUE,
        body text NOT NULL,
        added float8 NOT NULL,
        due float8 NOT NULL,
        attempts integer NOT NULL DEFAULT 0
    ) WITH (autovacuum_vacuum_scale_factor = 0.02);
    CREATE INDEX smtp2cf_posting_due ON smtp2cf_posting (due, number);
    """,
)
"""Each takes the schema one version further; see schema.py for what it may do.

smtp2cf_mail.due is when to claim it: at the next attempt or, if it was tried, when it expires, whichever
is first; if it is active, when the lease is over; NULL, never, if it is held. Messages are stored without
compression, which costs more than it saves for mail that stays for a second.
"""

MIN_READER = 1
"""How many migrations a bridge has to know to use the database.

It is kept as smtp2cf_spool.version, which bridges that know only the first one compare with their own number.
smtp2cf_spool.schema_version says how many migrations the database has seen.
"""

_LOCK = 0x53324346


async def migrate(connection: Any, spool: str) -> None:
    """Make the tables, or bring them up to date; in a transaction. Raises SpoolError.

    spool: its name for people.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    if not await connection.fetchval("SELECT to_regclass('smtp2cf_spool') IS NOT NULL"):
        await connection.execute(
            "CREATE TABLE smtp2cf_spool (version integer NOT NULL, checked_at timestamptz NOT NULL)"
        )
        await connection.execute("INSERT INTO smtp2cf_spool (version, checked_at) VALUES (0, now())")
    row = await connection.fetchrow("SELECT * FROM smtp2cf_spool")
    schema = Schema(row.get("schema_version", row["version"]), min_reader=row["version"])
    require_readable(schema, len(MIGRATIONS), spool)
    if schema.version >= len(MIGRATIONS):
        return
    for migration in MIGRATIONS[schema.version :]:
        await connection.execute(migration)
    await connection.execute(
        "UPDATE smtp2cf_spool SET version = $1, schema_version = $2", MIN_READER, len(MIGRATIONS)
    )
