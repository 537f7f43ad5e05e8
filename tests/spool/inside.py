"""What the tests have to do inside of a spool, all in one place: what no process can do to itself.

Nothing else in the tests reaches for a spool's private names (pyproject.toml, SLF).
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from smtp2cf.reply import Reply
from smtp2cf.spool import NewMail
from smtp2cf.spool.writer import Kind


async def abandon(spool: Any) -> None:
    """As if its process had been killed: what it would have written at its end is not written."""
    await spool._claims.close()
    let_go(spool)


def let_go(spool: Any) -> None:
    """What the kernel takes from a process that dies: the lock, and the connections of those who read."""
    lock, spool._lock = getattr(spool, "_lock", None), None
    if lock is not None:
        spool._connections.close()
        answers, spool._answers = spool._answers, None
        answers._unwritten.clear()
        answers.close()
        lock.release()


async def renew(spool: Any) -> None:
    """What it does three times in a lease."""
    await spool._renew(tuple(spool._claims))


def has_spent_its_reserve(spool: Any) -> bool:
    """Whether an SQLite spool lives on what it had put aside for a full disk."""
    exhausted: bool = spool._space.exhausted
    return exhausted


async def ask_writer(spool: Any, statement: str) -> Any:
    """What a statement gives in the connection that writes to an SQLite file, before its transaction."""

    def run(connection: sqlite3.Connection, jobs: list[Any]) -> list[Any]:
        return [connection.execute(statement).fetchone()[0] for _ in jobs]

    return await spool._writer.do(Kind(99, run, durable=False), None)


async def ask_database(spool: Any, statement: str) -> Any:
    """What a statement gives in one of a PostgreSQL spool's own sessions."""
    ((found,),) = await spool._database.fetch(statement)
    return found


def put_values(spool: Any, *mail: NewMail) -> Sequence[object]:
    """What a PostgreSQL spool would hand to postgres_sql.PUT."""
    values: Sequence[object] = spool._put_values(list(mail))
    return values


async def put_together(spool: Any, jobs: Sequence[Sequence[NewMail]]) -> Sequence[Reply | None]:
    """As several who put mail into a PostgreSQL spool at once."""
    found: Sequence[Reply | None] = await spool._put_together(jobs)
    return found


async def write_notes(spool: Any) -> None:
    """Until what a PostgreSQL spool was told to remember or forget is written."""
    await spool._answers.finish()
