"""Notes in a PostgreSQL spool: short texts that every process changes and none may lose a change of.

A change is read, made and written back only if nobody else has written meanwhile; else it is made again.

Knows nothing of what the notes say.
"""

from typing import Any, TypeVar

from smtp2cf.spool.protocol import Change

T = TypeVar("T")

_READ = """
SELECT coalesce(note.version, 0), coalesce(note.text, ''), extract(epoch FROM clock_timestamp())::float8
FROM (VALUES ($1)) AS wanted (name) LEFT JOIN smtp2cf_note AS note ON note.name = wanted.name
"""
_WRITE = """
INSERT INTO smtp2cf_note AS note (name, version, text) VALUES ($1, $2 + 1, $3)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, text = excluded.text WHERE note.version = $2
RETURNING true
"""


async def amend(connection: Any, name: str, change: Change[T]) -> T:
    """See protocol.Spool. Somebody's change always succeeds, so this ends."""
    while True:
        version, text, now = await connection.fetchrow(_READ, name)
        amended, result = change(text, now)
        if await connection.fetchval(_WRITE, name, version, amended):
            return result
