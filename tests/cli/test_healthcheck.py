"""The image's health check, here without the image: it asks /livez where the bridge listens."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bridge import Bridge, running_bridge
from tests.support.command import clean_environment


def healthcheck(admin_listen: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "smtp2cf.cli.healthcheck"],
        env=clean_environment({"SMTP2CF_ADMIN_LISTEN": admin_listen}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_finds_a_bridge_that_lives(bridge: Bridge) -> None:
    assert healthcheck(bridge.env["SMTP2CF_ADMIN_LISTEN"]) == (0, "", "")


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:{port}", ":{port}", "localhost:{port}", "127.0.0.1:{port},[::1]:{port}"]
)
def test_finds_it_however_the_setting_is_written(bridge: Bridge, listen: str) -> None:
    _, _, port = bridge.env["SMTP2CF_ADMIN_LISTEN"].rpartition(":")
    assert healthcheck(listen.format(port=port)) == (0, "", "")


def test_finds_it_on_a_unix_socket(tmp_path: Path) -> None:
    with running_bridge(tmp_path, ADMIN_LISTEN=f"unix:{tmp_path}/admin"):
        assert healthcheck(f"unix:{tmp_path}/admin") == (0, "", "")


def test_fails_where_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        status, out, err = healthcheck(f"127.0.0.1:{bound.getsockname()[1]}")
    assert status == 1
    assert "Connection refused" in out
    assert err == ""


def test_fails_where_something_else_answers(bridge: Bridge) -> None:
    status, out, _ = healthcheck(bridge.smtp_endpoint)
    assert status == 1
    assert out.startswith(f"/livez on {bridge.smtp_endpoint}: ")


@pytest.mark.parametrize(
    ("listen", "why"), [("none", "so nothing can be checked"), ("nonsense", "is not host:port")]
)
def test_fails_where_there_is_no_place_to_ask(listen: str, why: str) -> None:
    status, out, err = healthcheck(listen)
    assert status == 1
    assert why in out
    assert err == ""
