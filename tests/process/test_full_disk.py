"""A bridge on a disk that fills up: it refuses new mail in time, sends what it has, and recovers."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.queue.harness import wait_until
from tests.support.bridge import Bridge, running_bridge
from tests.support.small_disk import SmallDisk, small_disk

LOW = 4 * 2**20
SETTINGS = {"MAX_MESSAGE_SIZE": "1MiB", "SPOOL_MIN_FREE": str(LOW)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 64) as made:
        yield made


def ready(bridge: Bridge) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{bridge.admin_url}/readyz") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def mail(bridge: Bridge) -> tuple[int, bytes]:
    """The answer to MAIL."""
    with bridge.client() as client:
        client.ehlo()
        return client.mail("anna@example.com")


@pytest.mark.parametrize("mode", ["direct", "queue"])
def test_mail_is_refused_at_mail_before_the_disk_is_full(tmp_path: Path, disk: SmallDisk, mode: str) -> None:
    with running_bridge(tmp_path, STATE_DIR=str(disk.path / "state"), MODE=mode, **SETTINGS) as bridge:
        wait_until(lambda: ready(bridge)[0] == 200, "ready")
        for _ in range(2):
            disk.fill(leave=LOW // 2)
            wait_until(lambda: mail(bridge)[0] == 452, "refused", timeout=2)
            _, text = mail(bridge)
            assert text.startswith(b"4.3.1 The spool takes no more mail: ")
            assert b"SMTP2CF_SPOOL_MIN_FREE" in text
            wait_until(lambda: ready(bridge)[0] == 503, "not ready")
            assert "SMTP2CF_SPOOL_MIN_FREE" in ready(bridge)[1]
            disk.make_room()
            wait_until(lambda: mail(bridge)[0] == 250, "taken", timeout=3)
            wait_until(lambda: ready(bridge)[0] == 200, "ready again")
        events = [line["event"] for line in bridge.log()]
        assert (events.count("spool.broken"), events.count("spool.recovered")) == (2, 2)
        assert not [line for line in bridge.log() if line["event"] == "raw"]
