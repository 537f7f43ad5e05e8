"""What strangers can cause is a few log lines and a number, not a flood."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from smtp2cf.smtpd import log_limit
from smtp2cf.smtpd.log_limit import LimitedLog
from tests.smtpd.conftest import Start
from tests.smtpd.dialog import until
from tests.support.reach import kept_by

Lines = list[MutableMapping[str, Any]]


def _of(logged: Lines, event: str) -> Lines:
    return [line for line in logged if line["event"] == event]


async def test_the_first_lines_are_written_and_the_others_counted(
    logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_limit, "INTERVAL", 0.05)
    told = LimitedLog()
    for number in range(log_limit.BURST + 7):
        told.warning("session.refused", client="10.0.0.1", number=number)
    told.info("session.refused", client="10.0.0.2")
    written = _of(logged, "session.refused")
    assert [line.get("number") for line in written] == [*range(log_limit.BURST), None]
    await until(lambda: bool(_of(logged, "session.left_out")))
    (summed,) = _of(logged, "session.left_out")
    assert (summed["of"], summed["client"], summed["lines"]) == ("session.refused", "10.0.0.1", 7)
    told.warning("session.refused", client="10.0.0.1")
    assert len(_of(logged, "session.refused")) == log_limit.BURST + 2


async def test_a_million_clients_share_the_last_count(logged: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_limit, "KEYS", 5)
    told = LimitedLog()
    for number in range(1000):
        told.info("session.timeout", client=f"2001:db8::{number:x}")
    assert len(_of(logged, "session.timeout")) == 5 + log_limit.BURST
    assert len([found for found in kept_by(told) if isinstance(found, tuple)]) <= 6
    await asyncio.sleep(0)


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_session_that_is_refused_again_and_again_fills_no_log(start: Start, logged: Lines) -> None:
    service = await start(allow_networks=())
    client = await service.greeted()
    await client.send(b"MAIL FROM:<anna@example.com>\r\n" * 1000)
    for _ in range(1000):
        assert (await client.reply()).startswith("550 5.7.1")
    assert len(_of(logged, "session.relaying_denied")) == log_limit.BURST


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_flood_of_strangers_fills_no_log(start: Start, logged: Lines) -> None:
    service = await start(max_sessions=1)
    await service.greeted()
    for _ in range(100):
        client = await service.connect()
        assert (await client.reply()).startswith("421 4.3.2 too many sessions")
        client.reset()
    assert len(_of(logged, "session.refused")) == log_limit.BURST
