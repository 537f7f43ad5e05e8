"""kill -9 at random moments and at every point that matters: every 250 is kept.

SMTP2CF_TEST_KILLS=1000 kills that often at random instead of a few times for each mode and backend.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.relay.harness import Harness, Zygote, is_dead, pause_before_kill, zygote
from tests.relay.killable import POINTS
from tests.spool.conftest import Backend
from tests.support.sandbox import running_sandbox
from tests.support.waiting import free_port, wait_until

RANDOM_KILLS = int(os.environ.get("SMTP2CF_TEST_KILLS", "8"))
KEEP = 200_000


@pytest.fixture(scope="module")
def bridges() -> Iterator[Zygote]:
    with zygote() as started:
        yield started


MODES = {
    "direct": {"MODE": "direct"},
    "queue": {"MODE": "queue"},
    # Nearly every call takes longer than the client waits.
    "late": {"MODE": "direct", "REPLY_TIMEOUT": "0.01"},
}


def run(harness: Harness, kill_points: list[str]) -> None:
    """A bridge after the other, each killed at its point, "" for a random moment; then one to the end."""
    port = free_port()
    pid = harness.start(port)
    harness.send_all(port)
    for point in kill_points:
        harness.kill(pid)
        started = time.monotonic()
        pid = harness.start(port, point)
        if point:
            wait_until(lambda: is_dead(pid), f"it dies when {point}")  # noqa: B023
            harness.died(pid, started)
        else:
            time.sleep(pause_before_kill())
    harness.kill(pid)
    pid = harness.start(port)
    wait_until(lambda: len(harness.confirmed) > len(kill_points), "mail goes on")
    harness.confirm_all()
    harness.wait_until_all_arrived()
    harness.terminate(pid)
    harness.check()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_lost_whenever_it_is_killed(
    bridges: Zygote, backend: Backend, tmp_path: Path, mode: str
) -> None:
    with running_sandbox(token=None, keep=KEEP) as (sandbox, api):
        harness = Harness(bridges, sandbox, api, tmp_path, SPOOL_URL=backend.url, **MODES[mode])
        run(harness, [""] * RANDOM_KILLS)
        assert len(harness.kills) > RANDOM_KILLS


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_lost_wherever_it_is_killed(
    bridges: Zygote, backend: Backend, tmp_path: Path, mode: str
) -> None:
    points = [
        f"{name}:{number}"
        for name, point in POINTS.items()
        for number in (1, 3)
        if mode in point.modes or (mode == "late" and "direct" in point.modes)
        if backend.is_sqlite or name != "the mail is written"
    ]
    with running_sandbox(token=None, keep=KEEP) as (sandbox, api):
        harness = Harness(bridges, sandbox, api, tmp_path, SPOOL_URL=backend.url, **MODES[mode])
        run(harness, points)
