"""kill -9 at random moments and at every point that matters: every 250 is kept.

SMTP2CF_TEST_KILLS=1000 kills that often at random instead of a few times for each mode and backend.
"""

import os
import time
from pathlib import Path

import pytest

from tests.relay.harness import Harness, Zygote, is_dead, pause_before_kill
from tests.relay.killable import POINTS
from tests.relay.test_database_away import ask
from tests.spool.conftest import Backend
from tests.support.sandbox import running_sandbox
from tests.support.waiting import free_port, wait_until

RANDOM_KILLS = int(os.environ.get("SMTP2CF_TEST_KILLS", "8"))
KEEP = 200_000


MODES = {
    "direct": {"MODE": "direct"},
    "queue": {"MODE": "queue"},
    # Nearly every call takes longer than the client waits.
    "late": {"MODE": "direct", "REPLY_TIMEOUT": "0.01"},
}

COMMITS_WAIT = (
    "CREATE TABLE closed AS SELECT 1",
    """CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN WHILE EXISTS (SELECT FROM closed) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END $$""",
    """CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON smtp2cf_mail DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait()""",
)
COMMITTING = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
BLOCKED = "SELECT FROM pg_locks WHERE NOT granted"


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


def test_mail_whose_commit_outlives_its_bridge_is_sent_once(
    bridges: Zygote, postgres: Backend, tmp_path: Path
) -> None:
    """The next bridge looks for the mail before the database shows it."""
    with running_sandbox(token=None) as (sandbox, api):
        harness = Harness(bridges, sandbox, api, tmp_path, SPOOL_URL=postgres.url, MODE="queue")
        port = free_port()
        pid = harness.start(port)
        wait_until(lambda: harness.events("serve.ready"), "it has made its tables")
        for statement in COMMITS_WAIT:
            ask(postgres.url, statement)
        harness.send_all(port, clients=1, count=1)
        wait_until(lambda: ask(postgres.url, COMMITTING), "the mail is committed")
        harness.kill(pid)
        pid = harness.start(port)
        wait_until(lambda: ask(postgres.url, BLOCKED), "the next one wants to keep it")
        ask(postgres.url, "DELETE FROM closed")
        harness.wait_for_clients()
        harness.wait_until_all_arrived()
        wait_until(lambda: not ask(postgres.url, "SELECT FROM smtp2cf_mail"), "nothing waits")
        harness.terminate(pid)
        assert harness.arrivals() == {0: 1}
        assert len(harness.events("mail.answer_repeated")) == 1


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
