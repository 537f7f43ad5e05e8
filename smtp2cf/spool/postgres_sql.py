"""The statements of a PostgreSQL spool.

Times are the database's: smtp2cf_now(), in epoch seconds, is the clock that all who share it agree
on. Every statement can be run twice, because the first answer may have been lost.

Knows nothing of connections.
"""

from smtp2cf.reply import printable
from smtp2cf.spool import codec
from smtp2cf.spool.protocol import PAGE, Action, Filter, Period

PUT_MEMORY = 120
"""Seconds for which a request to put mail is known, in case that it comes again."""

PUT = f"""
    WITH first_time AS (
        INSERT INTO smtp2cf_memory (digest, reply, until) VALUES ($20, '', smtp2cf_now() + {PUT_MEMORY})
        ON CONFLICT (digest) DO NOTHING RETURNING digest
    ), new AS (
        SELECT *, smtp2cf_now() + delay AS next_attempt, smtp2cf_now() + expires_in AS expires,
            smtp2cf_now() - age AS received_at,
            CASE WHEN claimed THEN smtp2cf_now() + $18
                WHEN attempts > 0 THEN smtp2cf_now() + least(delay, expires_in)
                ELSE smtp2cf_now() + delay END AS due,
            CASE WHEN claimed THEN $17 ELSE '' END AS owner
        FROM unnest($1::text[], $2::text[], $3::float8[], $4::float8[], $5::float8[], $6::int[],
            $7::bool[], $8::bool[], $9::int[], $10::text[], $11::text[], $12::text[], $13::text[],
            $14::bytea[], $15::bytea[], $16::text[])
        AS new (queue_id, status, delay, expires_in, age, attempts,
            claimed, is_dsn, size, sender, recipients, envelope, outcomes, message, digest, reply)
        WHERE EXISTS (SELECT FROM first_time)
    ), remembered AS (
        INSERT INTO smtp2cf_memory AS noted (digest, reply, until)
        SELECT DISTINCT ON (digest) digest, reply, smtp2cf_now() + $19 FROM new WHERE digest IS NOT NULL
        ON CONFLICT (digest) DO UPDATE SET until = excluded.until,
            reply = CASE WHEN noted.digest = ANY($21::bytea[]) AND noted.reply != ''
                AND noted.until > smtp2cf_now() THEN noted.reply ELSE excluded.reply END
        RETURNING digest, reply
    ), refused AS (
        SELECT queue_id, remembered.reply
        FROM new JOIN remembered USING (digest)
        WHERE digest = ANY($21::bytea[]) AND new.reply != remembered.reply
    ), put_again AS (
        UPDATE smtp2cf_mail AS mail SET
            status = CASE WHEN new.claimed OR hold_reason = '' THEN new.status ELSE 'held' END,
            due = CASE WHEN new.claimed OR hold_reason = '' THEN new.due END,
            next_attempt = new.next_attempt, unanswered = new.claimed, owner = new.owner,
            outcomes = new.outcomes
        FROM new
        WHERE mail.queue_id = new.queue_id AND mail.envelope = new.envelope
            AND mail.owner = $17 AND mail.unanswered AND mail.attempts = new.attempts
    ), kept AS (
        INSERT INTO smtp2cf_mail (queue_id, status, due, next_attempt, expires, received_at, attempts,
            unanswered, is_dsn, size, owner, sender, recipients, envelope, outcomes)
        SELECT queue_id, status, due, next_attempt, expires, received_at, attempts,
            claimed, is_dsn, size, owner, sender, recipients, envelope, outcomes
        FROM new
        WHERE NOT EXISTS (
            SELECT FROM smtp2cf_mail AS mail
            WHERE mail.queue_id = new.queue_id AND mail.envelope = new.envelope
        ) AND NOT EXISTS (SELECT FROM refused WHERE refused.queue_id = new.queue_id)
        RETURNING id, queue_id
    ), stored AS (
        INSERT INTO smtp2cf_message (id, bytes)
        SELECT kept.id, new.message FROM kept JOIN new USING (queue_id)
    )
    SELECT queue_id, reply FROM refused
    UNION ALL
    SELECT queue_id, noted.reply
    FROM unnest($1::text[], $15::bytea[], $16::text[]) AS again (queue_id, digest, reply)
    JOIN smtp2cf_memory AS noted USING (digest)
    WHERE NOT EXISTS (SELECT FROM first_time) AND digest = ANY($21::bytea[])
        AND noted.reply NOT IN ('', again.reply) AND noted.until > smtp2cf_now()
"""  # noqa: S608 - a constant
"""$20 stands for this very request: put again, because the first answer was lost, it changes nothing, and
says again what was not kept. The mail may have been sent by then and be gone.

Mail that is there already is left alone, unless its first attempt is under way here. A queue id that
other mail has is an error, and nothing is kept.

$21 are the digests whose mail is not kept if another's answer stands there. What a killed process has asked
for may be committed after its death, so `recall` can miss it. This insert can't: it waits until whoever is
inserting the same digest has committed. Returns the mail that was not kept, each with that answer."""

CLAIM = f"""
    WITH new AS MATERIALIZED (
        SELECT id, due, queue_id FROM smtp2cf_mail WHERE attempts = 0 AND due <= smtp2cf_now()
        ORDER BY due, queue_id LIMIT $1 FOR UPDATE SKIP LOCKED
    ), tried AS MATERIALIZED (
        SELECT id, due, queue_id FROM smtp2cf_mail WHERE attempts > 0 AND due <= smtp2cf_now()
        ORDER BY due, queue_id LIMIT $1 FOR UPDATE SKIP LOCKED
    ), places AS (
        SELECT least((SELECT count(*) FROM tried), greatest($2, $1 - (SELECT count(*) FROM new))) AS tried
    ), picked AS (
        SELECT id, lane, place
        FROM (
            SELECT id, 1 AS lane, row_number() OVER (ORDER BY due, queue_id) AS place FROM tried
            UNION ALL
            SELECT id, 2, row_number() OVER (ORDER BY due, queue_id) FROM new
        ) AS both_lanes, places
        WHERE place <= CASE lane WHEN 1 THEN places.tried ELSE $1 - places.tried END
    )
    UPDATE smtp2cf_mail SET status = 'active', owner = $3, due = smtp2cf_now() + $4
    FROM picked WHERE smtp2cf_mail.id = picked.id
    RETURNING lane, place, smtp2cf_now(), {codec.ITEM_COLUMNS}
"""  # noqa: S608 - a constant
"""$1 places, of which $2 are for mail that was tried before if there is enough of both."""

CLAIM_EXPIRED = f"""
    UPDATE smtp2cf_mail SET status = 'active', owner = $2, due = smtp2cf_now() + $3
    WHERE id IN (
        SELECT id FROM smtp2cf_mail
        WHERE attempts > 0 AND due <= smtp2cf_now() AND expires <= smtp2cf_now()
        ORDER BY due, queue_id LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    RETURNING 1, queue_id, smtp2cf_now(), {codec.ITEM_COLUMNS}
"""  # noqa: S608 - a constant

BEGIN = """
    UPDATE smtp2cf_mail SET attempts = attempts + 1, unanswered = true, due = smtp2cf_now() + $3
    WHERE queue_id = ANY($1::text[]) AND owner = $2 RETURNING queue_id
"""

RENEW = """
    UPDATE smtp2cf_mail SET due = smtp2cf_now() + $3
    WHERE queue_id = ANY($1::text[]) AND owner = $2 RETURNING queue_id
"""

_GIVEN_BACK = """
    UPDATE smtp2cf_mail SET
        status = CASE WHEN hold_reason != '' THEN 'held' WHEN attempts > 0 THEN 'deferred' ELSE 'queued' END,
        due = CASE WHEN hold_reason != '' THEN NULL WHEN attempts > 0 THEN least(next_attempt, expires)
            ELSE next_attempt END,
        owner = ''
"""

GIVE_BACK = f"{_GIVEN_BACK} WHERE owner = $1 AND ($2::text[] IS NULL OR queue_id = ANY($2))"
"""$2 is NULL for whatever $1 claims."""

GIVE_BACK_STRAYS = f"""
    {_GIVEN_BACK}
    WHERE owner = $1 AND id IN (
        SELECT id FROM smtp2cf_mail WHERE attempts = 0 AND due > smtp2cf_now() AND due <= smtp2cf_now() + $3
            AND owner = $1 AND queue_id != ALL($2::text[])
        UNION ALL
        SELECT id FROM smtp2cf_mail WHERE attempts > 0 AND due > smtp2cf_now() AND due <= smtp2cf_now() + $3
            AND owner = $1 AND queue_id != ALL($2::text[])
    )
    RETURNING queue_id
"""  # noqa: S608 - a constant
"""What $1 claims by the database's account, with leases of $3 seconds, but $2, which is all it knows of.

Only a lease that still runs matters: one that is over is anybody's. Both lanes have an index by time,
and none has one by owner."""

READ = "SELECT bytes FROM smtp2cf_message JOIN smtp2cf_mail USING (id) WHERE queue_id = $1"

FINISH = "DELETE FROM smtp2cf_mail WHERE queue_id = ANY($1::text[]) AND owner = $2 RETURNING queue_id"

DEFER = """
    UPDATE smtp2cf_mail SET
        status = CASE WHEN hold_reason != '' THEN 'held' WHEN attempts > $6 THEN 'deferred' ELSE 'queued' END,
        next_attempt = smtp2cf_now() + $5,
        due = CASE WHEN hold_reason != '' THEN NULL WHEN attempts > $6 THEN least(smtp2cf_now() + $5, expires)
            ELSE smtp2cf_now() + $5 END,
        attempts = attempts - $6,
        owner = '', unanswered = false, outcomes = $3, failures = $4
    WHERE queue_id = $1 AND owner = $2 RETURNING queue_id
"""

HOLD = """
    UPDATE smtp2cf_mail SET
        status = 'held', due = NULL, owner = '', unanswered = false,
        outcomes = $3, failures = $4, hold_reason = $5
    WHERE queue_id = $1 AND owner = $2 RETURNING queue_id
"""

UNTIL_DUE = """
    SELECT least(
        (SELECT min(due) FROM smtp2cf_mail WHERE attempts = 0 AND due IS NOT NULL),
        (SELECT min(due) FROM smtp2cf_mail WHERE attempts > 0 AND due IS NOT NULL)
    ) - smtp2cf_now()
"""

TOTALS = """
    SELECT status, count(*), sum(size)::bigint, smtp2cf_now() - min(received_at)
    FROM smtp2cf_mail GROUP BY status
"""

CHECK = "UPDATE smtp2cf_spool SET checked_at = now()"

KNOWN = "SELECT reply FROM smtp2cf_memory WHERE digest = $1 AND until > smtp2cf_now()"

RECALL = """
    WITH known AS (
        SELECT reply FROM smtp2cf_memory WHERE digest = $1 AND until > smtp2cf_now()
    ), noted AS (
        INSERT INTO smtp2cf_memory (digest, reply, until) VALUES ($1, '', smtp2cf_now() + $2)
        ON CONFLICT (digest) DO UPDATE SET reply = '', until = excluded.until
        WHERE smtp2cf_memory.until <= smtp2cf_now()
        RETURNING digest
    )
    SELECT reply FROM known
    UNION ALL SELECT NULL WHERE NOT EXISTS (SELECT FROM known) AND NOT EXISTS (SELECT FROM noted)
"""
"""NULL: another's note was committed after this had looked. Looking again finds it."""

REMEMBER = """
    INSERT INTO smtp2cf_memory (digest, reply, until)
    SELECT digest, reply, smtp2cf_now() + $3 FROM unnest($1::bytea[], $2::text[]) AS new (digest, reply)
    ON CONFLICT (digest) DO UPDATE SET reply = excluded.reply, until = excluded.until
"""

FORGET = "DELETE FROM smtp2cf_memory WHERE digest = ANY($1::bytea[])"

FORGET_OLD = "DELETE FROM smtp2cf_memory WHERE until < smtp2cf_now()"

_ACTIONS = {
    Action.RETRY: (
        "status IN ('queued', 'deferred')",
        f"""UPDATE smtp2cf_mail SET next_attempt = smtp2cf_now() + $2::float8 + $3::float8 * {codec.SHARE},
        due = least(smtp2cf_now() + $2::float8 + $3::float8 * {codec.SHARE},
            CASE WHEN attempts > 0 THEN expires END)""",  # noqa: S608 - a constant
    ),
    Action.HOLD: (
        "status != 'held' AND hold_reason = ''",
        """UPDATE smtp2cf_mail SET hold_reason = $2,
        status = CASE WHEN status = 'active' THEN 'active' ELSE 'held' END,
        due = CASE WHEN status = 'active' THEN due END""",
    ),
    Action.RELEASE: (
        "hold_reason != ''",
        """UPDATE smtp2cf_mail SET hold_reason = '', failures = 0,
        status = CASE WHEN status = 'active' THEN 'active'
            WHEN attempts > 0 THEN 'deferred' ELSE 'queued' END,
        next_attempt = CASE WHEN status = 'active' THEN next_attempt ELSE smtp2cf_now() END,
        due = CASE WHEN status = 'active' THEN due ELSE smtp2cf_now() END""",
    ),
    Action.DELETE: ("true", "DELETE FROM smtp2cf_mail"),
}
"""For each action: to which mail it can be done, and how. $2 is the reason to hold it; or the first moment to
retry it, and $3 the time until the last."""


def apply_page(
    action: Action, which: Filter, reason: str, after: str, within: Period
) -> tuple[str, list[object]]:
    """The statement that does `action` to the first page behind `after`, and its values."""
    values: list[object] = [after]
    if action is Action.HOLD:
        values.append(printable(reason))
    elif action is Action.RETRY:
        values += (within.first, within.last - within.first)
    where = conditions(which, values)
    able, change = _ACTIONS[action]
    statement = (
        f"{change} WHERE id IN (SELECT id FROM smtp2cf_mail WHERE queue_id > $1 AND {able} AND {where} "  # noqa: S608 - constants
        f"ORDER BY queue_id LIMIT {PAGE} FOR UPDATE) RETURNING queue_id"
    )
    return statement, values


def items_page(which: Filter, after: str) -> tuple[str, list[object]]:
    """The statement that reads the first page behind `after`, and its values."""
    values: list[object] = [after]
    where = conditions(which, values)
    statement = (
        f"SELECT smtp2cf_now(), {codec.ITEM_COLUMNS} FROM smtp2cf_mail WHERE queue_id > $1 AND {where} "  # noqa: S608 - constants
        f"ORDER BY queue_id LIMIT {PAGE}"
    )
    return statement, values


def conditions(which: Filter, values: list[object]) -> str:
    """A filter as an SQL condition; what it names is appended to `values`."""
    terms = ["true"]

    def add(term: str, value: object) -> None:
        values.append(value)
        terms.append(term.format(f"${len(values)}"))

    if which.queue_ids:
        add("queue_id = ANY({}::text[])", list(which.queue_ids))
    if which.sender is not None:
        add("sender ~ {}", codec.lookup_pattern(which.sender))
    if which.recipient is not None:
        add("recipients ~ {}", codec.lookup_pattern(which.recipient))
    if which.older_than is not None:
        add("received_at < smtp2cf_now() - {}", which.older_than)
    if which.statuses:
        add("status = ANY({}::text[])", list(which.statuses))
    return " AND ".join(terms)
