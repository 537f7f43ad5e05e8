"""A bridge under systemd: what a whole `serve` tells its service manager, from its start to its end."""

import signal
import smtplib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bridge import running_bridge
from tests.support.waiting import PATIENCE

MESSAGE = b"From: app@example.com\r\nSubject: status\r\n\r\nHello\r\n"
NOBODY = "http://127.0.0.1:1/client/v4"
"""An API that can't be reached."""


def test_systemd_is_told_how_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        monkeypatch.setenv("WATCHDOG_USEC", "200000")

        def until(is_it: Callable[[str], bool]) -> str:
            """Read datagrams until one has that line, which is returned."""
            while True:
                for line in manager.recv(4096).decode().split("\n"):
                    if is_it(line):
                        return line

        with running_bridge(
            tmp_path,
            sandbox=False,
            constants={"smtp2cf.spool.health:INTERVAL": 0.1},
            API_BASE_URL=NOBODY,
            ACCOUNT_ID="a",
            STATE_DIR=str(tmp_path / "state"),
        ) as bridge:
            until("READY=1".__eq__)
            with smtplib.SMTP(bridge.smtp_host, bridge.smtp_port, timeout=PATIENCE) as client:
                client.sendmail("app@example.com", ["anna@example.net"], MESSAGE)
            until(lambda line: line.startswith("STATUS=1 waiting, API unreachable for "))
            until("WATCHDOG=1".__eq__)
            bridge.process.send_signal(signal.SIGHUP)
            until("RELOADING=1".__eq__)
            until("READY=1".__eq__)
            bridge.process.send_signal(signal.SIGTERM)
            until("STOPPING=1".__eq__)
            assert bridge.process.wait(PATIENCE) == 0
