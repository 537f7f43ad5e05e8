"""A bridge whose spool is moved, replaced or overwritten: it takes no mail, says why, and how to go on."""

import shutil
from pathlib import Path

import pytest

from tests.process.test_full_disk import LOOKING_OFTEN, mail, ready, send, waiting
from tests.support.bridge import Bridge, running_bridge
from tests.support.waiting import free_port, wait_until


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def said(bridge: Bridge, event: str) -> int:
    """How often the log has this."""
    return [line["event"] for line in bridge.log()].count(event)


def wait_until_said(bridge: Bridge, event: str, times: int) -> None:
    """Who looks after the spool sees later than a client that it is away, or back."""
    wait_until(lambda: said(bridge, event) == times, f"{event} is said")


def test_no_mail_is_taken_until_the_old_file_is_back(tmp_path: Path, state: Path) -> None:
    file, away = state / "spool.sqlite3", state / "away"
    settings = {"STATE_DIR": str(state), "MODE": "queue"}
    with running_bridge(tmp_path, constants=LOOKING_OFTEN, **settings) as bridge:
        for times, other in enumerate((False, True), 1):
            wait_until(lambda: ready(bridge)[0] == 200, "ready")
            file.rename(away)
            if other:
                shutil.copy2(away, file)
            wait_until(lambda: mail(bridge)[0] == 451, "refused")
            wait_until(lambda: ready(bridge)[0] == 503, "not ready")
            what = "another file has replaced" if other else "was moved away or deleted"
            for text in (mail(bridge)[1].decode(), ready(bridge)[1]):
                assert what in text
                assert "move " in text
                assert "restart the bridge" in text
            wait_until_said(bridge, "spool.broken", times)
            away.replace(file)
            wait_until(lambda: mail(bridge)[0] == 250, "taken again")
            wait_until_said(bridge, "spool.recovered", times)
        wait_until(lambda: ready(bridge)[0] == 200, "ready again")
        assert bridge.stop() == 0


@pytest.mark.parametrize("how", ["renamed into place", "copied over"])
def test_a_restart_takes_what_was_put_there(tmp_path: Path, state: Path, how: str) -> None:
    settings = {"STATE_DIR": str(state), "RETRY_MIN": "3600"}
    settings |= {"API_BASE_URL": f"http://127.0.0.1:{free_port()}/client/v4", "ACCOUNT_ID": "test"}
    with running_bridge(tmp_path, sandbox=False, **settings) as bridge:
        send(bridge, 3)
        bridge.stop()
        shutil.copy2(state / "spool.sqlite3", state / "backup")
    (tmp_path / "second").mkdir()
    with running_bridge(tmp_path / "second", sandbox=False, **settings) as bridge:
        send(bridge, 5)
        assert bridge.stop() == 0
    (tmp_path / "third").mkdir()
    with running_bridge(tmp_path / "third", sandbox=False, constants=LOOKING_OFTEN, **settings) as bridge:
        send(bridge, 40)
        if how == "copied over":
            shutil.copyfile(state / "backup", state / "spool.sqlite3")
        else:
            (state / "spool.sqlite3").rename(state / "old")
            (state / "backup").rename(state / "spool.sqlite3")
        wait_until(lambda: mail(bridge)[0] == 451, "refused")
        assert bridge.stop() == 0
        assert not [line for line in bridge.log() if line["event"] == "raw"]
    (tmp_path / "fourth").mkdir()
    with running_bridge(tmp_path / "fourth", sandbox=False, **settings) as bridge:
        assert waiting(bridge) == 3
        send(bridge, 1)
        assert waiting(bridge) == 4
