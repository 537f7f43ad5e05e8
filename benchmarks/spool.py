"""The spool itself with much in it: does it get slower, does it need memory, when does a list begin?

Rates are taken of two spools in turn, one with a thousand waiting messages and one with a hundred thousand,
and compared within each round, so that whatever else the machine does meets both alike.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.api import FastApi
from benchmarks.contenders import Contender
from benchmarks.processes import BrokenError, environment
from smtp2cf.envelope import Envelope
from smtp2cf.spool import NewMail, Spool, open_spool

FEW, MANY = 1_000, 100_000
PUT_AT_ONCE = 20
CLAIMED_AT_ONCE = 50
BATCH = 1_000
"""Messages of one measurement, put in and then claimed."""
SETTLING = 8.0
"""Seconds after the start at which memory is read: the spool has been counted once by then."""
MESSAGE = b"Subject: benchmark\r\n\r\n" + b"x" * 4074


class Rates(NamedTuple):
    """Medians of the rounds: messages a second with many waiting, and the ratio to those with few."""

    put: float
    put_ratio: float
    claim: float
    claim_ratio: float


class Full(NamedTuple):
    """memory, idle: MB with a hundred thousand waiting and with none. listed: seconds until a list begins."""

    memory: float
    idle: float
    listed: float


def rates(url: str, rounds: int) -> Rates:
    """Put and claim rates of the spools below `url`, which ends in a name."""
    return asyncio.run(_rates(url, rounds))


def full(contender: Contender, api: FastApi, directory: Path, filled: str) -> Full:
    """What a bridge with the SQLite spool `filled` needs, and how soon a list of it begins."""
    idle = _memory(contender, api, directory / "idle")
    there = replace(contender, env={**contender.env, "SMTP2CF_SPOOL_URL": filled})
    memory = _memory(there, api, directory / "full")
    command = [sys.executable, "-m", "smtp2cf", "queue", "list"]
    listed = min(_first_line(command, {"SMTP2CF_SPOOL_URL": filled}) for _ in range(3))
    return Full(memory, idle, listed)


def _memory(contender: Contender, api: FastApi, directory: Path) -> float:
    with contender.start(directory, api.url) as one:
        time.sleep(SETTLING)
        one.process.check()
        return one.process.memory("VmRSS")


def _first_line(command: Sequence[str], env: dict[str, str]) -> float:
    start = time.monotonic()
    with subprocess.Popen(command, env=environment(env), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise BrokenError("queue list printed nothing")
        seconds = time.monotonic() - start
        process.kill()
    return seconds


async def _rates(url: str, rounds: int) -> Rates:
    few, many = [await _open(f"{url}_{name}") for name in ("few", "many")]
    try:
        await _fill(few, FEW)
        await _fill(many, MANY)
        puts, claims = [], []
        for turn in range(rounds + 1):
            both = {}
            for spool in (few, many) if turn % 2 else (many, few):
                both[spool] = await _put(spool), await _claim(spool)
            if turn:  # the first warms up
                puts.append((both[many][0], both[few][0]))
                claims.append((both[many][1], both[few][1]))
    finally:
        await few.close()
        await many.close()
    return Rates(*_medians(puts), *_medians(claims))


def _medians(pairs: Sequence[tuple[float, float]]) -> Iterator[float]:
    yield statistics.median(mine for mine, _ in pairs)
    yield statistics.median(mine / theirs for mine, theirs in pairs)


async def _open(url: str) -> Spool:
    return await open_spool(url, state_dir=Path(tempfile.gettempdir()))


def _letter(delay: float = 0.0) -> NewMail:
    envelope = Envelope(
        reverse_path="bench@example.com", forward_paths=("anna@example.org",), client="127.0.0.1"
    )
    return NewMail(envelope=envelope, message=MESSAGE, expires_in=86400, delay=delay, attempts=int(delay > 0))


async def fill(url: str) -> None:
    """Make a spool in which MANY messages wait for tomorrow."""
    spool = await _open(url)
    await _fill(spool, MANY)
    await spool.close()


async def _fill(spool: Spool, count: int) -> None:
    for _ in range(0, count, BATCH):
        await spool.put(*(_letter(delay=80_000.0) for _ in range(BATCH)))


async def _put(spool: Spool) -> float:
    """Messages a second, each put by itself, as sessions do."""

    async def session() -> None:
        for _ in range(BATCH // PUT_AT_ONCE):
            await spool.put(_letter())

    start = time.monotonic()
    await asyncio.gather(*(session() for _ in range(PUT_AT_ONCE)))
    return BATCH / (time.monotonic() - start)


async def _claim(spool: Spool) -> float:
    """Messages a second; they are settled afterwards."""
    start = time.monotonic()
    claimed = []
    while items := await spool.claim(CLAIMED_AT_ONCE):
        claimed += items
    seconds = time.monotonic() - start
    if len(claimed) != BATCH:
        raise BrokenError(f"{BATCH} messages were put in, {len(claimed)} could be claimed")
    await asyncio.gather(*(spool.settle(item.queue_id, {}) for item in claimed))
    return BATCH / seconds
