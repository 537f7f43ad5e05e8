"""Memory that is free goes back to the system: not by itself, where the C library is glibc."""

import asyncio
import subprocess
import sys

import pytest

from smtp2cf.smtpd import memory
from tests.support.waiting import PATIENCE

RUSH = """
import asyncio
from smtp2cf.smtpd import memory

memory.INTERVAL = 0.05

async def main():
    watch = asyncio.create_task(memory.give_back())
    await asyncio.sleep(0)
    idle = memory.resident()
    # Freed in between others that stay, as blocks of messages are.
    blocks = [b"x" * (100_000 if number % 2 else 1_000 + number) for number in range(4_000)]
    rush = memory.resident()
    for number in range(1, 4_000, 2):
        blocks[number] = b""
    freed = memory.resident()
    async with asyncio.timeout(60):
        while memory.resident() > idle + (40 << 20):
            await asyncio.sleep(0.02)
    print(rush - idle, freed - idle)
    watch.cancel()

asyncio.run(main())
"""


@pytest.mark.skipif(memory.malloc_trim() is None or not memory.resident(), reason="not glibc on Linux")
def test_a_process_is_small_again_after_a_rush() -> None:
    done = subprocess.run([sys.executable, "-c", RUSH], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    rush, freed = map(int, done.stdout.split())
    assert rush > 150 << 20
    assert freed > 100 << 20, "it comes back by itself: there is nothing to do"


async def test_where_nothing_can_be_given_back_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "malloc_trim", lambda: None)
    async with asyncio.timeout(PATIENCE):
        await memory.give_back()
