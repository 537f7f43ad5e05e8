"""Which bridge can use which spool: the rule for both databases.

A schema changes by addition: a migration may add tables, indexes, columns with a default, and fields of the
JSON in `envelope`, all of which an older bridge ignores. So an older bridge starts on a newer one's spool,
replicas can be updated one by one, and an update can be rolled back. What an older bridge could not live with
(a new status, say, or a column with another meaning) raises MIN_READER beside the migrations: bridges that
know fewer of them then refuse to start.

Knows nothing of either database.
"""

from typing import NamedTuple

from smtp2cf.spool.protocol import SpoolError


class Schema(NamedTuple):
    """What a spool says of its schema.

    version: how many migrations it has seen. min_reader: how many a bridge has to know to use it.
    """

    version: int
    min_reader: int


def require_readable(schema: Schema, known: int, spool: str) -> None:
    """Raise SpoolError where a bridge that knows `known` migrations can't use this spool.

    spool: its name for people.
    """
    if schema.min_reader > known:
        raise SpoolError(
            f"the spool {spool} was written by a newer smtp2cf (it needs schema {schema.min_reader}, this one"
            f" knows {known}): upgrade smtp2cf, or set another SMTP2CF_SPOOL_URL"
        )
