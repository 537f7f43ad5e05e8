"""The promise of docs/spool.md: the rule is in scenario.py. More: `make fuzz TARGET=model`."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from smtp2cf.relay import spooled
from smtp2cf.spool.protocol import MEMORY, SpoolItem
from smtp2cf.spool.sqlite import SqliteSpool
from tests.model.api import Fate
from tests.model.scenario import Kill, Next, Pause, Scenario, Send, Wait, play, scenarios

SHM = Path("/dev/shm")
"""Where a file costs no disk."""


def played(scenario: Scenario) -> list[str]:
    with tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as directory:
        return play(scenario, Path(directory))


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(scenarios)
def test_nothing_is_lost_and_nothing_goes_out_twice_unsaid(scenario: Scenario) -> None:
    assert played(scenario) == []


# ---- the model notices what it is there for

FIVE = Send(("good",) * 5)
KILLED_OVER_A_CALL = Scenario(
    "direct", (Next((Fate.SILENT,)), Send(("good",)), Wait(12.0), Kill(0, 5.0, False))
)
BOUNCED = Scenario("queue", (Send(("good", "gone")),))
IN_THREE_ATTEMPTS = Scenario(
    "queue", (Next((Fate.FINE, Fate.ERROR, Fate.ERROR, Fate.FINE, Fate.ERROR)), FIVE, Wait(700.0))
)
VANISHED = Scenario("direct", (dataclasses.replace(FIVE, vanishes=True),))
REPEATED_TOO_LATE = Scenario(
    "queue", (Send(("good",)), Kill(1, 30.0, False), Send(("good",)), Pause(MEMORY + 100.0))
)


@pytest.mark.parametrize(
    "scenario", [KILLED_OVER_A_CALL, BOUNCED, IN_THREE_ATTEMPTS, VANISHED, REPEATED_TOO_LATE]
)
def test_as_it_is_all_is_well(scenario: Scenario) -> None:
    assert played(scenario) == []


def test_it_notices_a_duplicate_that_is_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SqliteSpool.claim

    async def forgetful(self: SqliteSpool, limit: int, *, expired: bool = False) -> list[SpoolItem]:
        items = await real(self, limit, expired=expired)
        return [dataclasses.replace(item, unanswered=False) for item in items]

    monkeypatch.setattr(SqliteSpool, "claim", forgetful)
    assert played(KILLED_OVER_A_CALL) == [
        "sent 2 times, 0 possible duplicates logged: ('t0', 'good+0@example.org')"
    ]


def test_it_notices_a_report_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp2cf.relay.bounces.dsns_for", lambda *_, **__: [])
    assert played(BOUNCED) == ["acknowledged, not sent and not reported: ('t0', 'gone+1@example.org')"]


def test_it_notices_an_outcome_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spooled.settle

    def forgetful(envelope: Any, _: Any, attempt: Any, situation: Any) -> Any:
        return real(envelope, {}, attempt, situation)

    monkeypatch.setattr(spooled, "settle", forgetful)
    assert all(line.startswith("sent 2 times") for line in played(IN_THREE_ATTEMPTS))
    assert played(IN_THREE_ATTEMPTS)


def test_it_notices_an_answer_that_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteSpool, "recall", _nothing)
    assert all(line.startswith("sent 2 times") for line in played(VANISHED))
    assert played(VANISHED)


async def _nothing(*_: Any, **__: Any) -> None:
    return None
