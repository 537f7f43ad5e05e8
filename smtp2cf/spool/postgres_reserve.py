"""The PostgreSQL spool's reserve: lets its mail go out when the server's disk is full.

To change a row the server writes a new one; without room for that, nothing could be claimed. So there is a
table of random bytes, whose room is free as soon as the table is dropped. From then on, mail that goes out
leaves room for the rest once it is vacuumed. Older versions needn't know the table, so it is not part of the
schema.

Knows nothing of mail.
"""

import contextlib
import os
from typing import Any

import asyncpg  # type: ignore[import-untyped]

RESERVE = 4 * 2**20
"""Bytes in reserve."""
ROOM = 2**20
"""Bytes for which there must be room after the disk was full, before mail is accepted again."""

_LOCK = 0x53324347
_MAKE = """
    CREATE TABLE smtp2cf_reserve (nothing bytea NOT NULL);
    ALTER TABLE smtp2cf_reserve ALTER nothing SET STORAGE EXTERNAL
"""
_TRY = "INSERT INTO smtp2cf_memory (digest, reply, until) VALUES ($1, $2, 0)"
_INSERT = "INSERT INTO smtp2cf_reserve (nothing) VALUES ($1)"


class _Tried(Exception):  # noqa: N818 - no error: it takes back what was tried
    """There is room."""


async def keep(connection: Any) -> None:
    """Create the reserve if there is none. Raises asyncpg.DiskFullError if there is too little room.

    If the user may no longer create tables, there is none.
    """
    if await _is_there(connection):
        return
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            if not await connection.fetchval("SELECT to_regclass('smtp2cf_reserve') IS NOT NULL"):
                await connection.execute(_MAKE)
            if not await _is_there(connection):
                await connection.execute(_INSERT, os.urandom(RESERVE))


async def spend(connection: Any) -> None:
    """Give the room back to the disk, and vacuum what removed mail has left. Not in a transaction."""
    if await _is_there(connection):
        await connection.execute("DROP TABLE smtp2cf_reserve")  # to empty it would need a page
    await connection.execute("VACUUM smtp2cf_mail")


async def try_for_room(connection: Any) -> None:
    """Check that there is room for mail, by writing and rolling back. Raises asyncpg.DiskFullError."""

    async def write_and_take_back() -> None:
        async with connection.transaction():
            await connection.execute(_TRY, os.urandom(24), os.urandom(ROOM // 2).hex())
            raise _Tried

    try:
        await write_and_take_back()
    except _Tried:
        return


async def _is_there(connection: Any) -> bool:
    if not await connection.fetchval("SELECT to_regclass('smtp2cf_reserve') IS NOT NULL"):
        return False
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM smtp2cf_reserve)"))
