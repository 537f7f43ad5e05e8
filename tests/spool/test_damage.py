"""A spool's file that is damaged, or that this user may not use: what is said, and what can still be read."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.spool import SpoolError, SpoolUnavailable
from tests.spool.conftest import Backend, new_mail
from tests.support.command import smtp2cf
from tests.support.waiting import PATIENCE

MAIL = 300
STEPS = ("Stop the bridge", "smtp2cf queue list", "move the file away", "backup", "start the bridge")


def file_of(backend: Backend) -> Path:
    return backend.state_dir / "spool.sqlite3"


async def filled(backend: Backend) -> list[str]:
    spool = await backend.open()
    letters = [new_mail(b"x" * 6000 + b"%d" % number) for number in range(MAIL)]
    await spool.put(*letters)
    await backend.close(spool)
    return [letter.envelope.queue_id for letter in letters]


def root_of(file: Path, name: str) -> int:
    connection = sqlite3.connect(file)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    connection.close()
    return int(page)


def wreck(file: Path, page: int) -> None:
    with file.open("r+b") as opened:
        opened.seek((page - 1) * 4096)
        opened.write(b"\xff" * 4096)


def index(file: Path, _: str) -> None:
    wreck(file, root_of(file, "sqlite_autoindex_mail_1"))


def leaf(file: Path, queue_id: str) -> None:
    """The page of the table in which one message is, and some beside it."""
    octets = file.read_bytes()
    pages = [number for number in range(2, len(octets) // 4096) if octets[(number - 1) * 4096] == 0x0D]
    wreck(file, next(n for n in pages if queue_id.encode() in octets[(n - 1) * 4096 : n * 4096]))


def both(file: Path, queue_id: str) -> None:
    leaf(file, queue_id)
    index(file, queue_id)


Damage = Callable[[Path, str], None]


async def readable(spool: Any) -> set[str]:
    """What is listed, before the error says that it isn't all."""
    found = set()
    with pytest.raises(SpoolUnavailable) as raised:  # noqa: PT012 - what was found until then counts
        async for item in spool.items():
            found.add(item.queue_id)
    assert all(step in raised.value.reply.text for step in STEPS)
    return found


@pytest.mark.parametrize(("damage", "lost"), [(index, 0), (leaf, 20), (both, 20)])
async def test_a_command_reads_what_can_be_read(sqlite: Backend, damage: Damage, lost: int) -> None:
    ids = await filled(sqlite)
    damage(file_of(sqlite), ids[150])
    spool = await sqlite.open(serve=False)
    found = await readable(spool)
    assert found <= set(ids)
    assert len(found) >= MAIL - lost
    assert await spool.read(ids[10]) == b"x" * 6000 + b"10"


async def test_the_command_line_prints_it_and_says_what_to_do(sqlite: Backend) -> None:
    ids = await filled(sqlite)
    both(file_of(sqlite), ids[150])
    done = smtp2cf("queue", "list", "--json", STATE_DIR=str(sqlite.state_dir))
    assert done.status == os.EX_UNAVAILABLE
    assert len(done.out.splitlines()) >= MAIL - 20
    assert done.err.count("\n") == 1
    assert all(step in done.err for step in STEPS)


async def test_a_bridge_with_a_damaged_file_says_what_to_do(sqlite: Backend) -> None:
    ids = await filled(sqlite)
    index(file_of(sqlite), ids[0])
    with pytest.raises((SpoolError, SpoolUnavailable)) as raised:
        await (await sqlite.open()).put(new_mail())
    assert all(step in str(raised.value) for step in STEPS)


@pytest.mark.parametrize("octets", [b"", b"not a database\n" * 1000])
async def test_a_file_that_is_no_database(sqlite: Backend, octets: bytes) -> None:
    await filled(sqlite)
    with file_of(sqlite).open("r+b") as opened:
        opened.write(octets or b"\xff" * 4000)
    for serve in (True, False):
        with pytest.raises(SpoolError, match=r"cannot open the spool .*file is not a database") as raised:
            await sqlite.open(serve=serve)
        assert all(step in str(raised.value) for step in STEPS)
        assert "\n" not in str(raised.value)


# --- permissions

AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
import smtp2cf.spool.sqlite
from smtp2cf.spool import SpoolError, open_spool
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    asyncio.run(open_spool("", state_dir=Path(sys.argv[1]), serve=sys.argv[2] == "serve"))
except SpoolError as error:
    print(error)
"""


def as_nobody(directory: Path, how: str) -> str:
    if os.geteuid() != 0:
        pytest.skip("not root: cannot become another user")
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(directory), how],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("how", ["serve", "command"])
@pytest.mark.parametrize(
    ("modes", "of_what", "mend"),
    [
        ({"": 0o700}, "", "chown nobody {directory} {directory}/spool.sqlite3*"),
        ({"": 0o755}, "", "chown nobody {directory} {directory}/spool.sqlite3*"),
        ({"": 0o777, "spool.sqlite3": 0o600}, "/spool.sqlite3", "chown nobody {directory}/spool.sqlite3*"),
    ],
)
async def test_it_names_the_owner_the_user_and_the_command(
    sqlite: Backend, open_path: Path, how: str, modes: dict[str, int], of_what: str, mend: str
) -> None:
    sqlite.url, sqlite.state_dir = "", open_path / "state"
    await filled(sqlite)
    for name, bits in modes.items():
        (sqlite.state_dir / name).chmod(bits)
    text = as_nobody(sqlite.state_dir, how)
    # Whoever serves comes to the lock first.
    place = re.escape(f"{sqlite.state_dir}{of_what}") + ("(.lock)?" if of_what else "")
    whose = rf": {place} belongs to root:root \(mode 0\d{{3}}\) and this runs as nobody; run it as root, or "
    assert re.search(whose, text), text
    assert text.endswith(f"fix it as root: {mend.format(directory=sqlite.state_dir)}\n")
    assert text.count("\n") == 1
