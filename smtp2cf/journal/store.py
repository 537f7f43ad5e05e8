"""Store: opens the journal of a spool, beside its file or in its database. Connects to nothing yet."""

from pathlib import Path

from smtp2cf.journal.record import Journal, JournalError
from smtp2cf.journal.sqlite_journal import SqliteJournal

FILE = "journal.sqlite3"


def open_journal(spool: Path | str, place: str = "", *, create: bool, min_free: int = 0) -> Journal:
    """The journal of the spool in this file, or in the PostgreSQL database at this URL.

    place: the database's name for people. create: make it where there is none, as the process does that
    serves. min_free: octets that have to be free on the disk of the file. Raises JournalError.
    """
    if isinstance(spool, Path):
        return SqliteJournal(beside(spool), create=create, min_free=min_free)
    try:
        from smtp2cf.journal.postgres_journal import PostgresJournal
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise JournalError("a PostgreSQL journal needs asyncpg: pip install 'smtp2cf[postgres]'") from error
    return PostgresJournal(spool, place, create=create)


def beside(spool: Path) -> Path:
    """The file of the journal of a spool's file."""
    name = FILE if spool.name == "spool.sqlite3" else f"{spool.name.removesuffix('.sqlite3')}-{FILE}"
    return spool.with_name(name)
