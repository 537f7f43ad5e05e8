"""SMTP2CF_API_RATE against an API that says nothing of its limit, and refuses whoever exceeds it."""

from pathlib import Path

import pytest

from smtp2cf.sandbox import Sandbox
from smtp2cf.sandbox.limits import RateLimit
from tests.relay.harness import Harness, Zygote
from tests.spool.conftest import Backend
from tests.support.sandbox import running_sandbox
from tests.support.waiting import free_port

LATE = 1.5
"""Seconds that a call may be on its way on a machine that stands still now and then: the windows in which the
API counts are so much shorter than those that the bridge is told of."""


def check(sandbox: Sandbox, calls: int, seconds: float) -> None:
    """No call was refused, and no window holds more."""
    assert {call.status for call in sandbox.calls} == {200}
    times = sorted(call.at for call in sandbox.calls)
    for first, last in zip(times, times[calls:], strict=False):
        assert last - first > seconds


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_restart_forgets_nothing_of_the_window(
    bridges: Zygote, sqlite: Backend, tmp_path: Path, end: str
) -> None:
    limit = RateLimit(20, 5.0 - LATE, 60.0)
    with running_sandbox(token=None, rate_limit=limit, silent=True) as (sandbox, api):
        harness = Harness(bridges, sandbox, api, tmp_path, SPOOL_URL=sqlite.url, API_RATE="20/5")
        for count in (15, 30):  # numbers below 15 are known: the second bridge sends the others
            pid = harness.start(port := free_port())
            harness.send_all(port, count=count)
            harness.wait_for_clients()
            if count == 30:
                harness.wait_until_all_arrived()
            getattr(harness, end)(pid)
        check(sandbox, 20, 5.0 - LATE)
        assert set(harness.arrivals()) == set(range(30))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "count"), [("direct", 1), ("queue", 3)])
def test_bridges_on_one_database_use_no_more_than_is_allowed(
    bridges: Zygote, postgres: Backend, tmp_path: Path, mode: str, count: int
) -> None:
    """That they use nearly all of it is for cloudflare/test_budget.py, where no real time passes."""
    limit = RateLimit(20, 4.0 - LATE, 20.0)
    with running_sandbox(token=None, rate_limit=limit, silent=True, keep=1000) as (sandbox, api):
        settings = {"SPOOL_URL": postgres.url, "MODE": mode, "API_RATE": "20/4"}
        harness = Harness(bridges, sandbox, api, tmp_path, **settings)
        ports = [free_port() for _ in range(count)]
        pids = [harness.start(port) for port in ports]
        harness.send_all(*ports, clients=9, count=60)
        harness.wait_for_clients()
        harness.wait_until_all_arrived()
        for pid in pids:
            harness.terminate(pid)
        check(sandbox, 20, 4.0 - LATE)
        assert set(harness.arrivals()) == set(range(60))
