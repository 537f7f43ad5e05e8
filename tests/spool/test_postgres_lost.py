"""Answers that get lost: what was done stays done once, and nothing is claimed that nobody knows of."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.reply import Reply
from smtp2cf.spool import Answer, SpoolUnavailable, Status, claims, postgres_database
from tests.spool.conftest import Backend, new_mail
from tests.spool.cutting_proxy import CuttingProxy, tagged
from tests.spool.inside import ask_database
from tests.spool.test_postgres import execute
from tests.support.waiting import PATIENCE

asyncpg = pytest.importorskip("asyncpg", reason="not installed: asyncpg")

SENT, LATER = Reply(250, "2.0.0", "sent"), Reply(451, "4.3.0", "later")


class Line:
    """The way from a spool to its database. lose: the tags of the answers that get lost, and how many."""

    def __init__(self) -> None:
        self.tags: tuple[str, ...] = ()
        self.left = 0
        self.url = ""

    def lose(self, *tags: str, times: int = 1) -> None:
        self.tags, self.left = tags, times

    def cut(self, octets: bytes) -> bool:
        if self.left and tagged(*self.tags)(octets):
            self.left -= 1
            return True
        return False


@pytest.fixture
async def line(postgres: Backend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Line]:
    monkeypatch.setattr(postgres_database, "RECONNECT_EVERY", 0.01)
    line = Line()
    directory = postgres.url.partition("host=")[2].partition("&")[0]
    proxy = CuttingProxy(Path(directory), line.cut)
    await proxy.start()
    line.url = postgres.url.replace(directory, str(proxy.directory))
    yield line
    line.left = 0
    await proxy.stop()


@pytest.fixture
async def spool(line: Line, postgres: Backend) -> AsyncIterator[Any]:
    behind = Backend(line.url, postgres.state_dir, postgres.server)
    yield await behind.open()
    line.left = 0
    await behind.close_all()


async def items(spool: Any) -> list[Any]:
    return [item async for item in spool.items()]


async def test_mail_is_kept_once(spool: Any, line: Line) -> None:
    mail = [new_mail(answer=Answer(b"%d" % number, SENT, unless_noted=True)) for number in range(3)]
    line.lose("SELECT 0", times=2)
    assert await asyncio.gather(*map(spool.put, mail)) == [None, None, None]
    assert line.left == 0
    assert [item.envelope for item in await items(spool)] == [letter.envelope for letter in mail]
    assert await spool.read(mail[0].envelope.queue_id) == mail[0].message


async def test_mail_that_is_sent_before_its_sender_hears_that_it_is_kept_does_not_come_again(
    spool: Any, line: Line, postgres: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_database, "RECONNECT_EVERY", 0.5)
    other = await postgres.open()
    line.lose("SELECT 0")
    putting = asyncio.create_task(spool.put(new_mail(), new_mail()))
    async with asyncio.timeout(PATIENCE):
        while not (claimed := await other.claim(5)):  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)
    assert not putting.done()
    for item in claimed:
        assert await other.settle(item.queue_id, {"ben@example.org": SENT})
    await putting
    assert await other.count() == 0


async def test_what_was_claimed_is_claimed_again_at_once(spool: Any, line: Line) -> None:
    mail = [new_mail() for _ in range(5)]
    await spool.put(*mail)
    line.lose("UPDATE 5", times=2)
    claimed = await asyncio.wait_for(spool.claim(10), PATIENCE)
    assert line.left == 0
    assert [item.envelope for item in claimed] == [letter.envelope for letter in mail]
    assert not any(item.unanswered for item in claimed)
    assert all([await spool.begin(item.queue_id) for item in claimed])


async def test_a_claim_that_failed_is_given_back_by_the_next(
    spool: Any, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spool.put(*(new_mail() for _ in range(10)))
    with monkeypatch.context() as patch:
        patch.setattr(postgres_database, "PATIENCE", 0.3)
        line.lose("UPDATE 5", times=1000)
        with pytest.raises(SpoolUnavailable) as raised:
            await spool.claim(5)
        assert raised.value.unanswered
        line.left = 0
    assert len(await spool.claim(10)) == 10


async def test_what_came_of_a_claim_long_after_is_given_back(postgres: Backend) -> None:
    """As if the server had been frozen with the statement: rows are ours that no answer told us of."""
    spool = await postgres.open(lease=3)
    other = await postgres.open(lease=60)
    late, known = new_mail(), new_mail(claimed=True, attempts=1)
    await spool.put(late, known)
    await execute(
        postgres,
        "UPDATE smtp2cf_mail SET status = 'active', due = smtp2cf_now() + 2.5, "
        f"owner = (SELECT owner FROM smtp2cf_mail WHERE queue_id = '{known.envelope.queue_id}') "
        f"WHERE queue_id = '{late.envelope.queue_id}'",
    )
    async with asyncio.timeout(PATIENCE):
        while not (claimed := await other.claim(5)):  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)
    assert [item.envelope for item in claimed] == [late.envelope]
    assert {item.status for item in await items(other) if item.envelope == known.envelope} == {Status.ACTIVE}


async def test_an_attempt_is_begun(spool: Any, line: Line) -> None:
    await spool.put(new_mail())
    (item,) = await spool.claim(1)
    line.lose("UPDATE 1")
    assert await spool.begin(item.queue_id)
    assert line.left == 0
    assert await spool.settle(item.queue_id, {"ben@example.org": SENT})


async def test_what_is_done_with_is_gone(spool: Any, line: Line) -> None:
    await spool.put(new_mail())
    (item,) = await spool.claim(1)
    line.lose("DELETE 1")
    await spool.settle(item.queue_id, {"ben@example.org": SENT})
    assert line.left == 0
    assert await spool.count() == 0


@pytest.mark.parametrize("retry_in", [None, 60.0])
async def test_a_server_that_closes_in_the_middle_of_a_commit(
    spool: Any, line: Line, retry_in: float | None
) -> None:
    await spool.put(new_mail())
    (item,) = await spool.claim(1)
    assert await spool.begin(item.queue_id)
    outcomes = {"ben@example.org": LATER if retry_in else SENT}
    line.lose("COMMIT")
    await spool.settle(item.queue_id, outcomes, retry_in=retry_in, dsns=[new_mail(is_dsn=True)])
    assert line.left == 0
    left = await items(spool)
    assert [found.is_dsn for found in left] == ([False, True] if retry_in else [True])
    if retry_in:
        assert left[0].outcomes == outcomes
        assert left[0].status is Status.DEFERRED


DRIVER_ERRORS = [
    asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    asyncpg.CrashShutdownError("terminating connection because of crash of another server process"),
    ConnectionResetError("reset"),
    AttributeError("'NoneType' object has no attribute 'send'"),
    RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
    asyncio.InvalidStateError("invalid state"),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("error", DRIVER_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("done", [True, False], ids=["after it was done", "before it was done"])
async def test_whatever_the_driver_raises_is_a_lost_answer(
    postgres: Backend, monkeypatch: pytest.MonkeyPatch, error: BaseException, done: bool
) -> None:
    monkeypatch.setattr(postgres_database, "RECONNECT_EVERY", 0.01)
    spool = await postgres.open()
    execute: Callable[..., Any] = asyncpg.connection.Connection._execute
    failures = 0

    async def failing(self: Any, query: str, *args: Any, **options: Any) -> Any:
        nonlocal failures
        ours = "smtp2cf_mail" in query
        fails = ours and failures > 0
        failures -= fails
        result = await execute(self, query, *args, **options) if done or not fails else None
        if fails:
            raise error
        return result

    monkeypatch.setattr(asyncpg.connection.Connection, "_execute", failing)
    mail = new_mail()
    failures = 2
    await spool.put(mail)
    failures = 2
    (item,) = await spool.claim(5)
    assert item.envelope == mail.envelope
    failures = 1
    assert await spool.begin(item.queue_id)
    failures = 1
    await spool.settle(item.queue_id, {"ben@example.org": LATER}, retry_in=60.0)
    (left,) = await items(spool)
    assert (left.status, left.outcomes) == (Status.DEFERRED, {"ben@example.org": LATER})


async def test_outcomes_replace_what_may_have_been_kept_of_an_attempt_under_way(
    spool: Any, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Direct mode: kept while the call goes on, and that answer is lost; then the call's outcome is kept."""
    mail = new_mail(forward_paths=("ann@example.org", "ben@example.org"), attempts=1)
    with monkeypatch.context() as patch:
        patch.setattr(postgres_database, "PATIENCE", 0.3)
        line.lose("SELECT 0", times=1000)
        with pytest.raises(SpoolUnavailable) as raised:
            await spool.put(replace(mail, claimed=True))
        assert raised.value.unanswered
        line.left = 0
    outcomes = {"ann@example.org": SENT, "ben@example.org": LATER}
    await spool.put(replace(mail, delay=30.0, outcomes=outcomes))
    (left,) = await items(spool)
    assert (left.status, left.outcomes, left.owner, left.unanswered) == (Status.DEFERRED, outcomes, "", False)


async def test_mail_that_is_at_work_is_not_replaced_by_a_late_repetition(postgres: Backend) -> None:
    spool = await postgres.open()
    mail = new_mail()
    await spool.put(mail)
    (item,) = await spool.claim(1)
    await spool.put(mail)
    assert await spool.begin(item.queue_id)
    await spool.put(mail)
    assert await spool.settle(item.queue_id, {"ben@example.org": LATER}, retry_in=60.0)
    await spool.put(mail)
    (left,) = await items(spool)
    assert (left.status, left.attempts) == (Status.DEFERRED, 1)


async def test_a_queue_id_that_other_mail_has_is_no_250(postgres: Backend) -> None:
    here, there = await postgres.open(), await postgres.open()
    first = new_mail(b"Subject: first\r\n\r\n")
    same = new_mail(b"Subject: second\r\n\r\n", queue_id=first.envelope.queue_id)
    innocent = new_mail()
    same = replace(same, answer=Answer(b"second", Reply(250, "2.0.0", "queued")))
    await here.put(first)
    refused, with_it, kept = await asyncio.gather(
        there.put(same), there.put(new_mail(), same), there.put(innocent), return_exceptions=True
    )
    for error in (refused, with_it):
        assert isinstance(error, SpoolUnavailable)
        assert "belongs to other mail" in error.reply.text
        assert not error.unanswered
    assert kept is None
    assert [item.envelope for item in await items(here)] == [first.envelope, innocent.envelope]
    assert await here.read(first.envelope.queue_id) == first.message
    assert await here.recall(b"second", begin=False) is None


async def test_due_mail_that_another_has_locked_costs_a_look_now_and_then(
    postgres: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "IN_VAIN", 0.2)
    spool = await postgres.open()
    await spool.put(new_mail())
    frozen = await asyncpg.connect(postgres.url)
    transaction = frozen.transaction()
    await transaction.start()
    await frozen.execute("SELECT * FROM smtp2cf_mail FOR UPDATE")
    looks: list[float] = []

    async def look() -> list[Any]:
        while not (claimed := await spool.claim(5)):
            looks.append(time.monotonic())
            await spool.wait_due(3600)
        return claimed

    looking = asyncio.create_task(look())
    async with asyncio.timeout(PATIENCE):
        while len(looks) < 9:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)
    assert looks[-1] - looks[0] > 3 * 0.2, "every second look is a vain one"
    await transaction.rollback()
    assert len(await asyncio.wait_for(looking, PATIENCE)) == 1
    await frozen.close()
    # And what becomes due later is found at once again.
    monkeypatch.setattr(claims, "IN_VAIN", 3600)
    await spool.put(new_mail(attempts=1, delay=0.2))
    assert len(await asyncio.wait_for(look(), PATIENCE)) == 1


async def test_a_session_that_freezes_in_a_transaction_loses_its_locks(postgres: Backend) -> None:
    spool = await postgres.open()
    assert await ask_database(spool, "SHOW idle_in_transaction_session_timeout") == "30s"


async def test_a_stop_without_the_database_ends(postgres: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_database, "PATIENCE", 0.1)
    spool = await postgres.open()
    await spool.put(new_mail())
    await spool.claim(1)
    postgres.server.stop("immediate")
    try:
        await asyncio.wait_for(spool.close(), PATIENCE)
    finally:
        postgres.server.start()
    postgres.opened.remove(spool)
