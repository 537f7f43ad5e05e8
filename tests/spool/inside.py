"""What the tests have to do inside of a spool, all in one place: what no process can do to itself.

Nothing else in the tests reaches for a spool's private names (pyproject.toml, SLF).
"""

import sqlite3
from typing import Any

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
