"""A bridge on a disk that fills up: it refuses new mail in time, sends what it has, and recovers."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bridge import Bridge, running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.waiting import free_port, wait_until

LOW = 4 * 2**20
LOOKING_OFTEN = {"smtp2cf.spool.health:INTERVAL": 0.2}
"""How often a bridge looks whether its spool works; in earnest every five seconds."""
SETTINGS = {"MAX_MESSAGE_SIZE": "1MiB", "SPOOL_MIN_FREE": str(LOW), "API_RATE": "none"}


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
    settings = {"STATE_DIR": str(disk.path / "state"), "MODE": mode, **SETTINGS}
    with running_bridge(tmp_path, constants=LOOKING_OFTEN, **settings) as bridge:
        wait_until(lambda: ready(bridge)[0] == 200, "ready")
        for _ in range(2):
            disk.fill(leave=LOW // 2)
            wait_until(lambda: mail(bridge)[0] == 452, "refused")
            _, text = mail(bridge)
            assert text.startswith(b"4.3.1 the spool takes no more mail: ")
            assert b"SMTP2CF_SPOOL_MIN_FREE" in text
            wait_until(lambda: ready(bridge)[0] == 503, "not ready")
            assert "SMTP2CF_SPOOL_MIN_FREE" in ready(bridge)[1]
            disk.make_room()
            wait_until(lambda: mail(bridge)[0] == 250, "taken")
            wait_until(lambda: ready(bridge)[0] == 200, "ready again")
        events = [line["event"] for line in bridge.log()]
        assert (events.count("spool.broken"), events.count("spool.recovered")) == (2, 2)
        assert not [line for line in bridge.log() if line["event"] == "raw"]


def send(bridge: Bridge, count: int) -> None:
    with bridge.client() as client:
        for number in range(count):
            client.sendmail(
                "anna@example.com", [f"n{number}@example.org"], f"Subject: {number}\r\n\r\n{'x' * 30_000}\r\n"
            )


def waiting(bridge: Bridge) -> int:
    with urllib.request.urlopen(f"{bridge.admin_url}/queue") as answer:
        return len(answer.read().splitlines())


def away(port: int) -> dict[str, str]:
    """Settings of a bridge whose API is not there."""
    return {"API_BASE_URL": f"http://127.0.0.1:{port}/client/v4", "ACCOUNT_ID": "test"}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_bridge_that_starts_on_a_full_disk_sends_what_waits(
    tmp_path: Path, disk: SmallDisk, end: int
) -> None:
    settings = {"STATE_DIR": str(disk.path / "state"), **SETTINGS}
    with running_bridge(tmp_path, sandbox=False, RETRY_MIN="0.5", **away(free_port()), **settings) as bridge:
        send(bridge, 65)
        disk.fill()
        bridge.stop(end)
    disk.fill()
    (tmp_path / "second").mkdir()
    with (
        running_sandbox(token=None) as (sandbox, url),
        running_bridge(
            tmp_path / "second",
            sandbox=False,
            constants=LOOKING_OFTEN,
            RETRY_MIN="0.5",
            ACCOUNT_ID="test",
            API_BASE_URL=url,
            **settings,
        ) as bridge,
    ):
        assert mail(bridge)[0] == 452
        wait_until(lambda: len(sandbox.messages) == 65, "all sent")
        wait_until(lambda: waiting(bridge) == 0, "all settled")
        disk.fill()
        assert ready(bridge)[0] == 503
        disk.make_room()
        wait_until(lambda: mail(bridge)[0] == 250, "taken")
        assert bridge.stop() == 0
        assert not [line for line in bridge.log() if line["event"] in ("raw", "queue.error")]


def test_what_waits_goes_out_while_the_disk_is_full(tmp_path: Path, disk: SmallDisk) -> None:
    settings = {"STATE_DIR": str(disk.path / "state"), "RETRY_MIN": "0.5", "RETRY_MAX": "1", **SETTINGS}
    drop = disk.path / "drop"
    drop.mkdir(mode=0o3733)
    port = free_port()
    with running_bridge(
        tmp_path,
        sandbox=False,
        constants=LOOKING_OFTEN,
        SENDMAIL_DROP_DIR=str(drop),
        **away(port),
        **settings,
    ) as bridge:
        send(bridge, 65)
        head = {"version": 1, "size": 6, "reverse_path": "a@x.example", "forward_paths": ["drop@y.example"]}
        (drop / ".A.part").write_bytes(json.dumps(head | {"body": "7BIT"}).encode() + b"\n\r\nhi\r\n")
        disk.fill()
        wait_until(lambda: mail(bridge)[0] == 452, "refused")
        (drop / ".A.part").rename(drop / "A.drop")
        with running_sandbox(port, token=None) as (sandbox, _):
            wait_until(lambda: len(sandbox.messages) == 65, "all sent")
            wait_until(lambda: waiting(bridge) == 0, "none waits")
            assert (drop / "A.drop").exists()
            disk.make_room()
            wait_until(lambda: len(sandbox.messages) == 66, "what was dropped is sent")
            wait_until(lambda: mail(bridge)[0] == 250, "taken")
            wait_until(lambda: not (drop / "A.drop").exists(), "what was dropped is removed")
