"""The spool: waiting mail, in an SQLite file or in a PostgreSQL that several processes share.

`open_spool` opens one of the two; protocol.py says what both promise. Knows nothing of the relay.
"""

from pathlib import Path

from smtp2cf.spool.following import Followed, Following, FollowingSpool
from smtp2cf.spool.postings import Posting, Postings
from smtp2cf.spool.protocol import (
    ANOTHER_SPOOL,
    EVERYTHING,
    LEASE,
    MEMORY,
    NOW,
    PAGE,
    Action,
    Answer,
    Filter,
    Memory,
    NewMail,
    Period,
    Spool,
    SpoolError,
    SpoolFull,
    SpoolItem,
    SpoolUnavailable,
    Status,
    Total,
)
from smtp2cf.spool.url import is_sqlite, place, sqlite_path

__all__ = [
    "ANOTHER_SPOOL",
    "EVERYTHING",
    "LEASE",
    "MEMORY",
    "NOW",
    "PAGE",
    "Action",
    "Answer",
    "Filter",
    "Followed",
    "Following",
    "FollowingSpool",
    "Memory",
    "NewMail",
    "Period",
    "Posting",
    "Postings",
    "Spool",
    "SpoolError",
    "SpoolFull",
    "SpoolItem",
    "SpoolUnavailable",
    "Status",
    "Total",
    "is_sqlite",
    "open_spool",
    "place",
    "sqlite_path",
]


async def open_spool(
    url: str, *, state_dir: Path, serve: bool = True, lease: float = LEASE, min_free: int = 0
) -> FollowingSpool:
    """Open the spool at `url`; create it if there is none.

    url: `sqlite:///path`, `postgresql://…`, or "" for SQLite in `state_dir`. serve: this process
    sends mail, so it takes SQLite's lock, and a database that can't be reached now is opened in the
    background as soon as it can. Without it the spool can be listed and changed beside the process that
    serves. lease: seconds. min_free: bytes that must be free on SQLite's disk to accept new mail. Raises
    SpoolError.
    """
    if is_sqlite(url):
        from smtp2cf.spool.sqlite import SqliteSpool

        return await SqliteSpool.open(
            sqlite_path(url, state_dir), serve=serve, lease=lease, min_free=min_free
        )
    scheme = url.partition("://")[0]
    if scheme in ("postgresql", "postgres"):
        try:
            from smtp2cf.spool.postgres import PostgresSpool
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise SpoolError("a PostgreSQL spool needs asyncpg: pip install 'smtp2cf[postgres]'") from error
        return await PostgresSpool.open(url, patient=serve, lease=lease)
    raise SpoolError(f"invalid spool URL {scheme or url!r}: use sqlite:///path or postgresql://host/database")
