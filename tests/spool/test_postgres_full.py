"""PostgreSQL on a disk that is full: it says so, and when there is room again, mail is taken."""

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.spool import SpoolFull, SpoolUnavailable
from tests.spool.conftest import Backend, new_mail
from tests.spool.test_postgres import execute
from tests.support.small_disk import SmallDisk, small_disk

_numbers = itertools.count()


def reachable_directory() -> Path:
    """For the server's user, too."""
    place = Path(tempfile.mkdtemp(prefix="smtp2cf-small-"))
    place.chmod(0o755)
    return place


@pytest.fixture
async def disk(postgres: Backend) -> AsyncIterator[SmallDisk]:
    """A small one, on which are the tables; a server's log stays where it is, or it could not even run."""
    place = reachable_directory()
    name = f"small_{os.getpid()}_{next(_numbers)}"
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, place)
        made = undo.enter_context(small_disk(place / "disk", 16))
        tables = made.path / "tables"
        tables.mkdir()
        if postgres.server is not None and postgres.server.user:
            shutil.chown(tables, postgres.server.user)
        await execute(postgres, f"CREATE TABLESPACE {name} LOCATION '{tables}'")
        url, postgres.url = postgres.url, f"{postgres.url}&default_tablespace={name}"
        try:
            yield made
        finally:
            await postgres.close_all()
            (made.path / "filling").unlink(missing_ok=True)
            postgres.url = url
            schema = url.rpartition("=")[2]
            await execute(postgres, f"DROP SCHEMA {schema} CASCADE")
            await execute(postgres, f"DROP TABLESPACE {name}")


async def filled(postgres: Backend, spool: Any, disk: SmallDisk, size: int) -> int:
    put = 0
    for _ in range(30):
        await spool.put(new_mail())
        put += 1
    await spool.check()
    for table in ("smtp2cf_mail", "smtp2cf_message"):  # which makes the map of free room, and needs some
        await execute(postgres, f"VACUUM {table}")
    for together in (max(1, 50_000 // size), 1):  # small ones many at a time first
        with pytest.raises(SpoolFull) as raised:  # noqa: PT012 - one of them is refused
            while True:
                await spool.put(*(new_mail(os.urandom(size)) for _ in range(together)))
                put += together
    assert raised.value.reply.code == 452
    disk.fill()
    return put


async def test_it_takes_no_mail_until_there_is_room(postgres: Backend, disk: SmallDisk) -> None:
    spool = await postgres.open()
    assert spool.refusal() is None
    put = await filled(postgres, spool, disk, 200_000)
    assert spool.refusal() is not None
    for _ in range(2):
        with pytest.raises(SpoolFull):
            await spool.check()
        assert str(spool.refusal().reply).startswith("452 4.3.1")
    assert await spool.count() == put
    disk.make_room()
    # The filling found next to nothing left: the table itself has the disk.
    while claimed := await spool.claim(50):
        for item in claimed:
            assert await spool.settle(item.queue_id, {})
    for table in ("smtp2cf_mail", "smtp2cf_message"):
        await execute(postgres, f"VACUUM {table}")
    await spool.check()
    assert spool.refusal() is None
    await spool.put(new_mail(os.urandom(200_000)))
    disk.fill()


@pytest.mark.parametrize("size", [1_000, 200_000])
async def test_what_waits_goes_out(postgres: Backend, disk: SmallDisk, size: int) -> None:
    spool = await postgres.open()
    put = await filled(postgres, spool, disk, size)
    sent = 0
    while claimed := await spool.claim(50):
        for item in claimed:
            assert await spool.begin(item.queue_id)
            assert await spool.read(item.queue_id)
            assert await spool.settle(item.queue_id, {})
            sent += 1
    assert sent == put


async def test_a_database_that_is_away_is_not_full(postgres: Backend) -> None:
    spool = await postgres.open()
    await postgres.close(spool)
    with pytest.raises(SpoolUnavailable):
        await spool.put(new_mail())
    assert spool.refusal() is None
