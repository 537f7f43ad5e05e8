"""Several bridges on one PostgreSQL: each message sent once, whoever dies, whoever stops."""

import os
import signal
from pathlib import Path

import pytest

from tests.relay.harness import Harness, Zygote, is_dead
from tests.spool.conftest import Backend
from tests.support.sandbox import running_sandbox
from tests.support.waiting import free_port, wait_until

MESSAGES = 600


@pytest.mark.slow
def test_each_message_is_sent_once_while_one_replica_is_killed_and_one_stopped(
    bridges: Zygote, postgres: Backend, tmp_path: Path
) -> None:
    with running_sandbox(token=None, keep=10_000) as (sandbox, api):
        settings = {"SPOOL_URL": postgres.url, "MODE": "queue", "TEST_LEASE": "5"}
        harness = Harness(bridges, sandbox, api, tmp_path, **settings)
        ports = [free_port(), free_port(), free_port()]
        killed, stopped, last = (harness.start(port) for port in ports)
        harness.send_all(*ports, clients=8, count=MESSAGES)
        wait_until(lambda: len(harness.confirmed) > MESSAGES // 3, "a third is confirmed")
        harness.kill(killed)
        wait_until(lambda: len(harness.confirmed) > MESSAGES // 2, "half is confirmed")
        harness.terminate(stopped)
        harness.wait_for_clients()
        harness.wait_until_all_arrived()
        harness.terminate(last)
        harness.check()
        arrivals = harness.arrivals()
        assert set(arrivals) == set(range(MESSAGES))
        # All but what the killed one had in flight, each exactly once.
        assert {number for number, times in arrivals.items() if times > 1} <= harness.possible_duplicates()
        assert sum(arrivals.values()) - MESSAGES <= 50


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["direct", "queue"])
def test_nothing_is_lost_when_the_database_restarts(
    bridges: Zygote, postgres: Backend, tmp_path: Path, mode: str
) -> None:
    count = 400
    with running_sandbox(token=None, keep=10_000) as (sandbox, api):
        harness = Harness(bridges, sandbox, api, tmp_path, SPOOL_URL=postgres.url, MODE=mode)
        port = free_port()
        pid = harness.start(port)
        harness.send_all(port, count=count)
        wait_until(lambda: len(harness.confirmed) > count // 4, "a quarter is confirmed")
        postgres.server.stop("immediate")
        postgres.server.start()
        harness.wait_for_clients()
        harness.wait_until_all_arrived()
        harness.terminate(pid)
        arrivals = harness.arrivals()
        assert set(arrivals) == set(range(count))
        assert {number for number, times in arrivals.items() if times > 1} <= harness.possible_duplicates()


def test_a_stopped_bridge_leaves_nothing_in_limbo(bridges: Zygote, backend: Backend, tmp_path: Path) -> None:
    with running_sandbox(token=None, delay=0.1) as (sandbox, api):
        settings = {"SPOOL_URL": backend.url, "MODE": "queue", "API_CONCURRENCY": "4"}
        harness = Harness(bridges, sandbox, api, tmp_path, **settings)
        port = free_port()
        pid = harness.start(port)
        harness.send_all(port, clients=8, count=60)
        harness.wait_for_clients()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: is_dead(pid), "it has stopped")
        assert harness.events("serve.stopped")
        # What had been begun was finished: the next one has no doubts about any of it.
        pid = harness.start(port)
        harness.wait_until_all_arrived()
        harness.terminate(pid)
        assert set(harness.arrivals().values()) == {1}
        assert harness.possible_duplicates() == set()


def test_the_second_bridge_on_an_sqlite_spool_learns_who_has_it(
    bridges: Zygote, sqlite: Backend, tmp_path: Path
) -> None:
    with running_sandbox(token=None) as (sandbox, api):
        first = Harness(bridges, sandbox, api, tmp_path, SPOOL_URL=sqlite.url)
        pid = first.start(free_port())
        other = tmp_path / "other"
        other.mkdir()
        second = Harness(bridges, sandbox, api, other, SPOOL_URL=sqlite.url)
        refused = second.start(free_port())
        wait_until(lambda: is_dead(refused), "it has refused to start")
        assert f"the spool is in use by pid {pid} on " in second.log.read_text()
        first.terminate(pid)
        pid = second.start(free_port())
        second.terminate(pid)
