"""Counts in a PostgreSQL spool, which every process changes: see protocol.Spool.recount.

They are read, changed and written back only if nobody has written one of them meanwhile; else all of it is
done again. So nobody holds a lock while he thinks. The disk is not waited for: what a server that loses its
power forgets is the last moment.

Knows nothing of what is counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from smtp2cf.spool.protocol import MOST_COUNTS, Kept, Recount

T = TypeVar("T")

_NOW = "extract(epoch FROM clock_timestamp())::float8"
_READ = f"""
SELECT wanted.name, coalesce(count.version, 0), coalesce(count.text, ''), {_NOW}
FROM unnest($1::text[]) AS wanted (name) LEFT JOIN smtp2cf_count AS count ON count.name = wanted.name
"""  # noqa: S608 - constants
_BEGIN = f"""
INSERT INTO smtp2cf_count (name, version, text, until)
SELECT name, 0, '', {_NOW} + 60 FROM unnest($1::text[]) AS new (name) ORDER BY name
ON CONFLICT (name) DO NOTHING
"""  # noqa: S608 - constants
_WRITE = f"""
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::float8[])
        AS one (name, version, text, lasts)
), held AS MATERIALIZED (
    SELECT count.name, count.version FROM smtp2cf_count AS count JOIN wanted USING (name)
    ORDER BY count.name FOR UPDATE OF count
), unchanged AS MATERIALIZED (
    SELECT count(*) = cardinality($1::text[]) AS all_of_them FROM held JOIN wanted USING (name, version)
), written AS (
    UPDATE smtp2cf_count AS count
    SET version = wanted.version + 1, text = wanted.text, until = {_NOW} + wanted.lasts
    FROM wanted, unchanged WHERE unchanged.all_of_them AND count.name = wanted.name
    RETURNING 1
)
SELECT unchanged.all_of_them, (SELECT count(*) FROM written), set_config('synchronous_commit', 'off', true)
FROM unchanged
"""  # noqa: S608 - constants
ALL = f"""
SELECT clock.now, count.name, count.text FROM (SELECT {_NOW} AS now) AS clock
LEFT JOIN smtp2cf_count AS count ON count.until > clock.now ORDER BY count.until
"""  # noqa: S608 - constants
FORGET = f"""
DELETE FROM smtp2cf_count WHERE until <= {_NOW} OR name IN (
    SELECT name FROM smtp2cf_count ORDER BY until DESC OFFSET {MOST_COUNTS}
)
"""  # noqa: S608 - constants


async def recount(connection: Any, names: Sequence[str], change: Recount[T]) -> T:
    """Somebody's change always succeeds, so this ends."""
    while True:
        rows = await connection.fetch(_READ, names)
        texts = {name: text for name, _, text, _ in rows}
        changed, result = change(texts, rows[0][3])
        versions = {name: version for name, version, _, _ in rows}
        if not changed or await _write(connection, changed, versions):
            return result


async def _write(connection: Any, changed: Mapping[str, Kept], versions: Mapping[str, int]) -> bool:
    """Write all, or nothing and return False if another has changed one of them."""
    # In one order, so that two who write the same ones don't wait for each other.
    names = sorted(changed)
    if new := [name for name in names if not versions[name]]:
        await connection.execute(_BEGIN, new)
    texts, lasts = zip(*(changed[name] for name in names), strict=True)
    row = await connection.fetchrow(_WRITE, names, [versions[name] for name in names], texts, lasts)
    return bool(row[0])
