"""What the PostgreSQL spool sets aside, so that its mail can still go out when the server's disk is full.

To change a row the server writes another; with no room for that, nothing could be claimed any more. So a
table of nothing is kept, which gives its room to the disk at once when it is dropped; from then on what
goes out leaves room for the rest, once the server has looked for it. Older versions do
not know it and need not: it is no new schema.

Knows nothing of mail.
"""

import contextlib
import os
from typing import Any

import asyncpg  # type: ignore[import-untyped]

RESERVE = 4 * 2**20
"""Octets set aside."""
ROOM = 2**20
"""Octets for which there must be room after the disk was full, before mail is taken again."""

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
    """Set room aside where none is. Raises asyncpg.DiskFullError where there is too little.

    A user who may make no tables any more has none set aside.
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
    """Give the room back to the disk, and find what mail that is gone has left. In no transaction."""
    if await _is_there(connection):
        await connection.execute("DROP TABLE smtp2cf_reserve")  # to empty it would need a page
    await connection.execute("VACUUM smtp2cf_mail")


async def try_for_room(connection: Any) -> None:
    """See whether there is room for mail, and leave nothing there. Raises asyncpg.DiskFullError."""

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
