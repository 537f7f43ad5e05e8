"""A spool's file that is moved, replaced, overwritten or cut short while a bridge has it open.

Nothing is taken, nothing is written to what came into its place, and nothing that was acknowledged is lost
by it: it is in the old file, wherever that went.
"""

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.spool import Action, Filter, SpoolError, SpoolUnavailable, sqlite_file
from tests.spool.conftest import Backend, new_mail
from tests.support.waiting import PATIENCE

Act = Callable[[Path], None]
BEFORE, AFTER = 3, 5
"""Messages in the spool when the backup was made, and when it is put into place."""


def beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def with_log(act: Act) -> Act:
    return lambda file: act(beside(file, "-wal"))


def with_index(act: Act) -> Act:
    return lambda file: act(beside(file, "-shm"))


def move(file: Path) -> None:
    file.rename(beside(file, ".away"))


def delete(file: Path) -> None:
    file.unlink()


def move_and_copy_back(file: Path) -> None:
    move(file)
    shutil.copy2(beside(file, ".away"), file)


def replace_by_hard_link(file: Path) -> None:
    shutil.copy2(file, beside(file, ".copy"))
    file.unlink()
    os.link(beside(file, ".copy"), file)


def replace_by_symbolic_link(file: Path) -> None:
    shutil.copy2(file, beside(file, ".copy"))
    file.unlink()
    file.symlink_to(beside(file, ".copy"))


def rename_backup_into_place(file: Path) -> None:
    move(file)
    (file.parent / "backup").rename(file)


def copy_backup_over(file: Path) -> None:
    shutil.copyfile(file.parent / "backup", file)


def copy_earlier_self_over(file: Path) -> None:
    shutil.copyfile(file.parent / "earlier", file)


def cut_to_nothing(file: Path) -> None:
    os.truncate(file, 0)


def cut_short(file: Path) -> None:
    os.truncate(file, 8192)


def overwrite(file: Path) -> None:
    octets = file.stat().st_size
    with file.open("r+b") as opened:
        opened.write(os.urandom(octets))


def move_directory(file: Path) -> None:
    file.parent.rename(file.parent.with_name("away"))


def replace_directory(file: Path) -> None:
    move_directory(file)
    shutil.copytree(file.parent.with_name("away"), file.parent)


WRONG: dict[str, Act] = {
    "moved": move,
    "deleted": delete,
    "moved and copied back": move_and_copy_back,
    "replaced by a hard link to a copy": replace_by_hard_link,
    "replaced by a symbolic link to a copy": replace_by_symbolic_link,
    "replaced by a backup": rename_backup_into_place,
    "overwritten by a backup": copy_backup_over,
    "overwritten by itself as it was": copy_earlier_self_over,
    "cut to nothing": cut_to_nothing,
    "cut short": cut_short,
    "overwritten": overwrite,
    "its directory moved": move_directory,
    "its directory replaced by a copy": replace_directory,
    "log moved": with_log(move),
    "log deleted": with_log(delete),
    "log moved and copied back": with_log(move_and_copy_back),
    "log replaced by a hard link to a copy": with_log(replace_by_hard_link),
    "log cut to nothing": with_log(cut_to_nothing),
    "log cut short": with_log(cut_short),
    "log overwritten": with_log(overwrite),
    "index moved": with_index(move),
    "index deleted": with_index(delete),
    "index moved and copied back": with_index(move_and_copy_back),
    "index cut to nothing": with_index(cut_to_nothing),
    "index cut short": with_index(cut_short),
}
IN_PLACE = {name for name in WRONG if "overwritten" in name or "cut" in name}
PASSING = {"moved", "its directory moved", "replaced by a backup", "moved and copied back", "log moved"}


@pytest.fixture
def place(sqlite: Backend, tmp_path: Path) -> Path:
    """The spool's file, in a directory of its own."""
    (tmp_path / "state").mkdir()
    sqlite.url = ""
    sqlite.state_dir = tmp_path / "state"
    return sqlite.state_dir / "spool.sqlite3"


async def in_use(sqlite: Backend, file: Path) -> Any:
    """A spool with mail of which some is in the file, some in the log, and a backup of it beside."""
    spool = await sqlite.open()
    for _ in range(BEFORE):
        await spool.put(new_mail())
    script = f"import sqlite3; sqlite3.connect({str(file)!r}).execute('VACUUM INTO ?', (sys.argv[1],))"
    run("import sys; " + script, str(file.parent / "backup"))
    checkpoint = f"import sqlite3; sqlite3.connect({str(file)!r}).execute('PRAGMA wal_checkpoint').fetchall()"
    run(checkpoint)
    run("import shutil, sys; shutil.copyfile(*sys.argv[1:])", str(file), str(file.parent / "earlier"))
    await spool.put(new_mail(b"x" * 20_000))
    run(checkpoint)
    for _ in range(AFTER - BEFORE - 1):
        await spool.put(new_mail())
    return spool


def run(script: str, *arguments: str) -> str:
    """Another process: one that closes a file lets go of SQLite's locks on it."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def kept_in(file: Path) -> int:
    """The messages in a database by itself, which must be sound."""
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        count: int = connection.execute("SELECT count(*) FROM mail").fetchone()[0]
        return count
    finally:
        connection.close()


async def refuses(spool: Any) -> str:
    for call in (lambda: spool.put(new_mail()), spool.check, spool.count, lambda: spool.claim(5)):
        with pytest.raises(SpoolUnavailable) as raised:
            await call()
        assert raised.value.reply.code == 451
    assert spool.refusal() is not None
    return raised.value.reply.text


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "spool.sqlite3.lock"}


@pytest.mark.parametrize("what", WRONG)
async def test_nothing_is_taken_and_nothing_written(sqlite: Backend, place: Path, what: str) -> None:
    spool = await in_use(sqlite, place)
    WRONG[what](place)
    text = await refuses(spool)
    assert "restart the bridge" in text or "stop the bridge" in text
    assert str(place) in text
    now = contents(place.parent) if place.parent.exists() else {}
    await refuses(spool)
    await sqlite.close(spool)
    later = contents(place.parent) if place.parent.exists() else {}
    assert later == now


CHECKPOINT = """
import sqlite3, sys
sqlite3.connect(sys.argv[1]).execute("PRAGMA wal_checkpoint").fetchone()
"""


def changes_in(file: Path) -> bytes:
    return file.read_bytes()[24:28]


async def test_an_earlier_self_is_told_by_more_than_its_count_of_changes(
    sqlite: Backend, place: Path
) -> None:
    """Which SQLite need not raise while it keeps a log: then only what the pages hold is different."""
    spool = await sqlite.open()
    earlier = beside(place, ".earlier")
    for size in (50_000, 20_000, 90_000):
        await spool.put(new_mail(b"x" * size))
        run(CHECKPOINT, str(place))
        if not earlier.exists():
            run("import shutil, sys; shutil.copyfile(*sys.argv[1:])", str(place), str(earlier))
    await spool.put(new_mail())
    assert changes_in(earlier) == changes_in(place)
    shutil.copyfile(earlier, place)
    await refuses(spool)


@pytest.mark.parametrize("what", sorted(PASSING - {"log moved"}))
async def test_what_was_acknowledged_is_in_the_old_file_alone(
    sqlite: Backend, place: Path, what: str
) -> None:
    spool = await in_use(sqlite, place)
    WRONG[what](place)
    await refuses(spool)
    old = place.parent.with_name("away") / place.name if "directory" in what else beside(place, ".away")
    assert kept_in(old) == AFTER


@pytest.mark.parametrize("what", ["log moved", "log deleted", "index deleted", "log moved and copied back"])
async def test_without_its_log_the_file_has_everything(sqlite: Backend, place: Path, what: str) -> None:
    spool = await in_use(sqlite, place)
    WRONG[what](place)
    await refuses(spool)
    await sqlite.close(spool)
    beside(place, "-wal").unlink(missing_ok=True)
    assert await (await sqlite.open(serve=True)).count() == AFTER


@pytest.mark.parametrize(
    ("what", "kept"),
    [("index cut to nothing", AFTER), ("index cut short", AFTER), ("log cut short", BEFORE + 1)],
)
async def test_a_restart_reads_what_is_whole_of_the_log(
    sqlite: Backend, place: Path, what: str, kept: int
) -> None:
    spool = await in_use(sqlite, place)
    WRONG[what](place)
    await refuses(spool)
    await sqlite.close(spool)
    spool = await sqlite.open(serve=True)
    assert await spool.count() >= kept
    await spool.put(new_mail())
    await sqlite.close(spool)
    assert kept_in(place) >= kept + 1


@pytest.mark.parametrize("what", sorted(PASSING))
async def test_when_the_old_file_is_back_it_goes_on(sqlite: Backend, place: Path, what: str) -> None:
    spool = await in_use(sqlite, place)
    WRONG[what](place)
    await refuses(spool)
    if "directory" in what:
        place.parent.with_name("away").rename(place.parent)
    else:
        moved = beside(place, "-wal") if "log" in what else place
        beside(moved, ".away").replace(moved)
    await spool.check()
    assert spool.refusal() is None
    await spool.put(new_mail())
    assert await spool.count() == AFTER + 1
    await sqlite.close(spool)
    assert kept_in(place) == AFTER + 1


@pytest.mark.parametrize("what", ["replaced by a backup", "overwritten by a backup"])
async def test_a_restart_uses_the_backup_as_it_is(sqlite: Backend, place: Path, what: str) -> None:
    spool = await in_use(sqlite, place)
    WRONG[what](place)
    await refuses(spool)
    await sqlite.close(spool)
    spool = await sqlite.open(serve=True)
    assert await spool.count() == BEFORE
    await spool.put(new_mail())
    await sqlite.close(spool)
    assert kept_in(place) == BEFORE + 1


async def test_a_command_does_not_open_what_came_into_a_bridges_place(sqlite: Backend, place: Path) -> None:
    await in_use(sqlite, place)
    rename_backup_into_place(place)
    before = contents(place.parent)
    with pytest.raises(SpoolError, match=rf"another file has replaced {place} while pid \d+ on .* has"):
        await sqlite.open()
    assert contents(place.parent) == before


def point(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


async def test_a_file_behind_a_symbolic_link_is_told_from_another(
    sqlite: Backend, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    real, other = tmp_path / "real" / "mail.db", tmp_path / "real" / "other.db"
    point(place, real)
    spool = await in_use(sqlite, place)
    assert beside(real, "-wal").exists()
    run("import shutil, sys; shutil.copy2(*sys.argv[1:])", str(real), str(other))
    point(place, other)
    await refuses(spool)
    point(place, real)
    await spool.put(new_mail())
    assert await spool.count() == AFTER + 1


OTHERS = """
import random, sqlite3, sys, time
for _ in range(60):
    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
    mode = random.choice(("PASSIVE", "FULL", "RESTART", "TRUNCATE"))
    connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM mail").fetchall()
    time.sleep(random.uniform(0, 0.02))
    connection.execute("COMMIT")
    connection.execute("UPDATE mail SET next_attempt = next_attempt + 1 WHERE id % 7 = 0")
    connection.close()
    time.sleep(random.uniform(0, 0.02))
"""


def start_others(place: Path) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", OTHERS, str(place)]) for _ in range(2)]


async def test_programs_that_write_and_checkpoint_beside_it_are_no_alarm(
    sqlite: Backend, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As replication does; the log is short, so that everybody works it into the file all the time."""
    monkeypatch.setattr(sqlite_file, "WAL_PAGES", 100)
    spool = await sqlite.open()
    others = start_others(place)
    put = sent = 0
    while any(other.poll() is None for other in others):
        sizes = (100, 5_000, 200_000)
        await asyncio.gather(*(spool.put(new_mail(b"x" * size)) for size in sizes))
        put += len(sizes)
        for item in await spool.claim(random.randint(0, 6)):
            assert await spool.read(item.queue_id)
            assert await spool.settle(item.queue_id, {})
            sent += 1
        await spool.totals()
    assert await spool.count() == put - sent
    assert [other.returncode for other in others] == [0, 0]


def link(file: Path) -> None:
    os.link(file, beside(file, ".link"))


def copy(file: Path) -> None:
    for path in tuple(file.parent.iterdir()):
        run("import shutil, sys; shutil.copy2(*sys.argv[1:])", str(path), f"{path}.copy")


def sql(statement: str) -> Act:
    script = f"import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute({statement!r}).fetchall()"
    return lambda file: run(script, str(file)) and None


SAME = "import sys; f = open(sys.argv[1], 'r+b'); octets = f.read(); f.seek(0); f.write(octets)"
HARMLESS: dict[str, Act] = {
    "a hard link to it": link,
    "a hard link over it, which is itself": lambda file: (link(file), beside(file, ".link").replace(file))[0],
    "its mode": lambda file: file.chmod(0o640),
    "its times": os.utime,
    "its contents over itself": lambda file: run(SAME, str(file)) and None,
    "a copy of everything": copy,
    "a checkpoint by another program": sql("PRAGMA wal_checkpoint(TRUNCATE)"),
    "a restart of the log by another program": sql("PRAGMA wal_checkpoint(RESTART)"),
    "another program that rebuilds it": sql("VACUUM"),
    "another program that reads it": sql("SELECT count(*) FROM mail"),
}


@pytest.mark.parametrize("what", HARMLESS)
async def test_what_does_no_harm_is_let_be(sqlite: Backend, place: Path, what: str) -> None:
    spool = await in_use(sqlite, place)
    for round_ in range(3):
        HARMLESS[what](place)
        await spool.put(new_mail())
        assert await spool.count() == AFTER + round_ + 1
        for path in place.parent.glob("*.link"):
            path.unlink()
        command = await sqlite.open()
        assert [page async for page in command.apply(Action.HOLD, Filter())] or round_
        await sqlite.close(command)
    await sqlite.close(spool)
    assert kept_in(place) == AFTER + 3
