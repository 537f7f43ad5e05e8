"""The SQLite spool on a disk that has not one octet left: mail goes out and can be deleted all the same."""

import asyncio
import contextlib
import random
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.reply import Reply
from smtp2cf.spool import Action, Filter, SpoolFull, Status
from tests.spool.conftest import Backend, new_mail
from tests.spool.inside import has_spent_its_reserve
from tests.spool.test_survival import line, victim
from tests.support.command import clean_environment, run
from tests.support.small_disk import SmallDisk, small_disk

LATER = Reply(451, "4.3.0", "later, and why takes " + "many words " * 30)
RECIPIENTS = tuple(f"recipient-{number}@example.org" for number in range(20))


@pytest.fixture
def disk(tmp_path: Path, sqlite: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    """A small one, on which the spool is, and whatever SQLite might want to put elsewhere."""
    with small_disk(tmp_path / "disk", 64) as made:
        sqlite.url, sqlite.state_dir = "", made.path
        monkeypatch.setenv("SQLITE_TMPDIR", str(made.path))
        yield made


def letter(size: int, **fields: Any) -> Any:
    return new_mail(b"x" * size, forward_paths=RECIPIENTS, **fields)


async def filled(spool: Any, disk: SmallDisk, *sizes: int) -> None:
    """Mail until no more of it goes in, then nothing left on the disk."""
    for size in sizes:
        with contextlib.suppress(SpoolFull):
            for _ in range(400):
                await spool.put(letter(size))
    disk.fill()
    assert disk.free == 0


async def send_all(spool: Any) -> int:
    """As the queue does it: each message fails once, then goes out; the number of those."""
    sent = 0
    while await spool.count(Filter(statuses=(Status.QUEUED, Status.DEFERRED))):
        for item in await spool.claim(50):
            assert await spool.begin(item.queue_id)
            assert await spool.read(item.queue_id)
            if item.attempts == 0:
                outcomes = dict.fromkeys(RECIPIENTS, LATER)
                assert await spool.settle(item.queue_id, outcomes, retry_in=0.0)
            else:
                assert await spool.settle(item.queue_id, {})
                sent += 1
    return sent


def sound(file: Path) -> bool:
    connection = sqlite3.connect(file)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


@pytest.mark.parametrize("sizes", [(300,), (20_000,), (3_000_000, 300), (5_000_000, 50_000, 300)])
async def test_everything_goes_out(sqlite: Backend, disk: SmallDisk, sizes: tuple[int, ...]) -> None:
    spool = await sqlite.open()
    await filled(spool, disk, *sizes)
    waiting = await spool.count()
    assert waiting
    with pytest.raises(SpoolFull):
        await spool.put(letter(disk.path.stat().st_size + 8_000_000))
    assert await send_all(spool) == waiting
    await sqlite.close(spool)
    disk.make_room()
    assert sound(disk.path / "spool.sqlite3")


async def test_a_report_about_what_goes_out_finds_room(sqlite: Backend, disk: SmallDisk) -> None:
    spool = await sqlite.open()
    await filled(spool, disk, 2_000_000)
    for item in await spool.claim(5):
        assert await spool.settle(item.queue_id, {}, dsns=(letter(2_000_000, is_dsn=True),))
    assert sum([item.is_dsn async for item in spool.items()]) == 5


async def test_mail_is_taken_again_when_there_is_room(sqlite: Backend, disk: SmallDisk) -> None:
    spool = await sqlite.open(min_free=2**20)
    await spool.put(letter(200_000))
    disk.fill()
    with pytest.raises(SpoolFull):
        await spool.check()
    with pytest.raises(SpoolFull):
        await spool.put(letter(20_000_000))
    disk.make_room()
    await spool.check()
    assert spool.refusal() is None
    await spool.put(letter(1_000_000))


async def test_what_is_deleted_makes_room_for_mail(sqlite: Backend, disk: SmallDisk) -> None:
    spool = await sqlite.open(min_free=2**20)
    await filled(spool, disk, 200_000)
    async for _ in spool.apply(Action.DELETE, Filter()):
        pass
    await spool.check()
    assert spool.refusal() is None
    for _ in range(20):
        await spool.put(letter(200_000))


async def test_a_used_reserve_takes_no_mail_and_comes_back(sqlite: Backend, disk: SmallDisk) -> None:
    spool = await sqlite.open()
    for _ in range(60):
        await asyncio.gather(*(spool.put(letter(300)) for _ in range(50)))
    disk.fill()
    # Answers for which no page is left make every row longer.
    while not has_spent_its_reserve(spool):
        for item in await spool.claim(50):
            await spool.settle(item.queue_id, dict.fromkeys(RECIPIENTS, LATER), retry_in=60)
    with pytest.raises(SpoolFull):
        await spool.put(letter(10))
    disk.make_room()
    await spool.check()
    await spool.put(letter(10))
    assert not has_spent_its_reserve(spool)


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_start_on_a_full_disk_sends(sqlite: Backend, disk: SmallDisk, how: str) -> None:
    async with victim("put", sqlite) as process:
        for _ in range(200):
            await line(process)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    if how == "stopped":
        await sqlite.close(await sqlite.open())
    disk.fill()
    for _ in range(3):
        spool = await sqlite.open(serve=True)
        (item, *_) = await spool.claim(1)
        assert await spool.settle(item.queue_id, {})
        disk.fill()
        await sqlite.close(spool)
        disk.fill()
    spool = await sqlite.open(serve=True)
    waiting = await spool.count()
    assert waiting >= 197
    assert await send_all(spool) == waiting
    await sqlite.close(spool)
    assert sound(disk.path / "spool.sqlite3")


async def test_the_first_start_on_a_full_disk_says_what_is_needed(sqlite: Backend, disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(ValueError, match=r"the disk is full, .*: free \d+ MiB in "):
        await sqlite.open()


def queue(disk: SmallDisk, *arguments: str) -> str:
    settings = {"SMTP2CF_STATE_DIR": str(disk.path), "SQLITE_TMPDIR": str(disk.path)}
    done = run(["queue", *arguments], clean_environment(settings))
    assert done.status == 0
    assert done.err == "" or "done, but not noted in the journal" in done.err
    return done.out


@pytest.mark.parametrize("running", [True, False])
async def test_commands_work_on_a_full_disk(sqlite: Backend, disk: SmallDisk, running: bool) -> None:
    spool = await sqlite.open()
    await filled(spool, disk, 20_000)
    ids = [item.queue_id async for item in spool.items()]
    if not running:
        await sqlite.close(spool)
        disk.fill()
    for queue_id in ids[:3]:
        assert len((await asyncio.to_thread(queue, disk, "list", "--json")).splitlines()) >= len(ids) - 3
        assert await asyncio.to_thread(queue, disk, "delete", queue_id) == "1 deleted\n"
        disk.fill()
    for action, done in (("hold", "held"), ("release", "released"), ("delete", "deleted")):
        left = len(ids) - 3
        assert await asyncio.to_thread(queue, disk, action, "--all") == f"{left} {done}\n"
        disk.fill()
    if running:
        assert await spool.count() == 0
        await sqlite.close(spool)
    disk.make_room()
    assert sound(disk.path / "spool.sqlite3")


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_done_in_whatever_order(sqlite: Backend, disk: SmallDisk, seed: int) -> None:
    """Nothing that was acknowledged is lost, nothing that goes out fails, and the file stays sound."""
    dice = random.Random(seed)
    kept: set[str] = set()
    spool = await sqlite.open()
    full = False
    for _ in range(120):
        match dice.choice(("put", "put", "send", "defer", "check", "fill", "room", "restart", "report")):
            case "put":
                letters = [
                    letter(dice.choice((100, 5_000, 200_000, 3_000_000))) for _ in range(dice.randint(1, 30))
                ]
                results = await asyncio.gather(*map(spool.put, letters), return_exceptions=True)
                assert {type(result) for result in results} <= {type(None), SpoolFull}
                kept |= {
                    mail.envelope.queue_id
                    for mail, result in zip(letters, results, strict=True)
                    if not result
                }
            case "send" | "defer" | "report" as what:
                items = await spool.claim(20)
                delay = {"retry_in": 0.0} if what == "defer" else {}
                outcomes = dict.fromkeys(RECIPIENTS, LATER)
                settling = [
                    spool.settle(
                        item.queue_id,
                        outcomes,
                        dsns=(letter(500, is_dsn=True),) if what == "report" else (),
                        **delay,
                    )
                    for item in items
                ]
                done = await asyncio.gather(*settling, return_exceptions=True)
                for item, result in zip(items, done, strict=True):
                    if isinstance(result, SpoolFull):  # more words or reports than there is room for
                        assert full
                        assert what != "send"
                        await spool.give_back(item.queue_id)
                    else:
                        assert result is True
                        if what != "defer":
                            kept.discard(item.queue_id)
            case "check":
                with contextlib.suppress(SpoolFull):
                    await spool.check()
            case "fill":
                disk.fill()
                full = True
            case "room" if full:
                disk.make_room()
                full = False
            case "restart":
                await sqlite.close(spool)
                if full:
                    disk.fill()
                spool = await sqlite.open()
    assert kept <= {item.queue_id async for item in spool.items()}
    await sqlite.close(spool)
    if full:
        disk.make_room()
    assert sound(disk.path / "spool.sqlite3")
