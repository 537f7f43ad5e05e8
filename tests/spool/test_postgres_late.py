"""What a killed process had asked the database for, and what becomes of it after that process is dead.

Its server process goes on without it. Here a second connection stands for that: it has done the dead one's
statement and not committed it yet, or does it only after everything else.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from smtp2cf.reply import Reply
from smtp2cf.spool import Answer, Memory, NewMail, postgres_sql
from tests.spool import inside
from tests.spool.conftest import Backend, new_mail

asyncpg = pytest.importorskip("asyncpg", reason="not installed: asyncpg")

OURS, THEIRS = Reply(250, "2.0.0", "ours queued"), Reply(250, "2.0.0", "theirs queued")
DIGEST = b"the same"


@pytest.fixture
async def spool(postgres: Backend) -> Any:
    return await postgres.open()


@pytest.fixture
async def dead(spool: Any, postgres: Backend) -> AsyncIterator[Any]:
    """The connection of a process that is dead."""
    connection = await asyncpg.connect(postgres.url)
    yield connection
    await connection.close()


def noting(reply: Reply, digest: bytes = DIGEST, *, unless_noted: bool = True) -> NewMail:
    return new_mail(answer=Answer(digest, reply, unless_noted=unless_noted))


async def put(connection: Any, spool: Any, mail: NewMail) -> None:
    """What the dead one asked for."""
    await connection.fetch(postgres_sql.PUT, *inside.put_values(spool, mail))


async def until_locked(asking: "asyncio.Task[Any]", spool: Any) -> None:
    """Until the database lets it wait for the transaction of another."""
    async with asyncio.timeout(10):
        while not await inside.ask_database(spool, "SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not asking.done()
            await asyncio.sleep(0.01)


async def test_mail_that_is_being_committed_is_not_kept_again(spool: Any, dead: Any) -> None:
    transaction = dead.transaction()
    await transaction.start()
    theirs = noting(THEIRS)
    await put(dead, spool, theirs)
    assert await spool.recall(DIGEST, begin=False) is None
    putting = asyncio.create_task(spool.put(noting(OURS)))
    await until_locked(putting, spool)
    await transaction.commit()
    assert await putting == THEIRS
    assert [item.envelope async for item in spool.items()] == [theirs.envelope]
    assert await spool.recall(DIGEST, begin=False) == Memory(THEIRS)


async def test_a_put_whose_answer_was_lost_says_again_what_it_did_not_keep(spool: Any, dead: Any) -> None:
    theirs, ours = noting(Reply(550, "5.1.1", "theirs bounced")), noting(OURS)
    await put(dead, spool, theirs)
    for kept in (noting(OURS, b"another"), ours):
        values = inside.put_values(spool, kept)
        first, again = [await dead.fetch(postgres_sql.PUT, *values) for _ in range(2)]
        assert again == first
    assert [row["queue_id"] for row in first] == [ours.envelope.queue_id]
    assert ours.envelope.queue_id not in {item.queue_id async for item in spool.items()}


async def test_mail_that_the_dead_gave_up_is_kept(spool: Any, dead: Any) -> None:
    transaction = dead.transaction()
    await transaction.start()
    await put(dead, spool, noting(THEIRS))
    putting = asyncio.create_task(spool.put(ours := noting(OURS)))
    await until_locked(putting, spool)
    await transaction.rollback()
    assert await putting is None
    assert [item.envelope async for item in spool.items()] == [ours.envelope]
    assert await spool.recall(DIGEST, begin=False) == Memory(OURS)


async def test_mail_that_comes_from_the_dead_after_all_is_not_kept_again(spool: Any, dead: Any) -> None:
    ours = noting(OURS)
    assert await spool.put(ours) is None
    await put(dead, spool, noting(THEIRS))
    assert [item.envelope async for item in spool.items()] == [ours.envelope]
    assert await spool.recall(DIGEST, begin=False) == Memory(OURS)


async def test_only_the_mail_that_was_there_is_left_out(spool: Any) -> None:
    """Several put theirs with one statement."""
    await spool.put(first := noting(THEIRS))
    new = noting(OURS, b"another")
    alone = new_mail()
    on_purpose = [noting(OURS, b"twice"), noting(THEIRS, b"twice", unless_noted=False)]
    jobs = [[noting(OURS)], [new], [alone], *([one] for one in on_purpose)]
    assert await inside.put_together(spool, jobs) == [THEIRS, None, None, None, None]
    kept = [first, new, alone, *on_purpose]
    assert {item.queue_id async for item in spool.items()} == {mail.envelope.queue_id for mail in kept}


async def test_who_begins_learns_what_is_being_committed(spool: Any, dead: Any) -> None:
    async def recalled_during(what: Any) -> Memory | None:
        transaction = dead.transaction()
        await transaction.start()
        await what
        asking: asyncio.Task[Memory | None] = asyncio.create_task(spool.recall(DIGEST))
        await until_locked(asking, spool)
        await transaction.commit()
        return await asking

    assert await recalled_during(dead.fetch(postgres_sql.RECALL, DIGEST, 600.0)) == Memory(None)
    spool.forget(DIGEST)
    await inside.write_notes(spool)
    assert await recalled_during(put(dead, spool, noting(THEIRS))) == Memory(THEIRS)
