"""A bridge with few file descriptors, and clients that wait to be accepted when it stops."""

import os
import resource
import signal
import socket
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.support.bridge import Bridge, running_bridge
from tests.support.waiting import PATIENCE, wait_until

LIMIT = 160
CLIENTS = 320


def _first_words(sock: socket.socket) -> str:
    with sock:
        sock.settimeout(PATIENCE)
        try:
            return sock.recv(1000)[:3].decode()
        except ConnectionError:
            return "reset"


def _connect(bridge: Bridge) -> socket.socket:
    return socket.create_connection((bridge.smtp_host, bridge.smtp_port), timeout=PATIENCE)


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What smtp2cf starts with from here on: a limit that can't be raised."""
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "sitecustomize.py").write_text(
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))"
    )
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path / "few"))


@pytest.mark.usefixtures("few_files")
def test_clients_beyond_the_limit_are_told_and_probes_are_answered(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 2 * LIMIT
    with running_bridge(tmp_path, SPOOL_URL="none", MAX_SESSIONS="500") as bridge:
        warning = bridge.wait_for_log("serve.few_files")
        assert warning["limit"] == LIMIT
        assert "SMTP2CF_MAX_SESSIONS is 500" in warning["note"]
        clients = []
        for _ in range(LIMIT + 20):  # one after the other: with few files only few may wait to be accepted
            clients.append(_connect(bridge))
            assert clients[-1].recv(1, socket.MSG_PEEK) in (b"2", b"4")
        bridge.wait_for_log("session.no_files")
        for probe in ("livez", "readyz"):
            with urllib.request.urlopen(f"{bridge.admin_url}/{probe}", timeout=PATIENCE) as answer:
                assert answer.status == 200
        words = Counter(map(_first_words, clients))
        assert set(words) == {"220", "421"}, words
        assert words["220"] > LIMIT // 3
        assert len([line for line in bridge.log() if line["event"] == "session.no_files"]) == 1
        wait_until(lambda: _first_words(_connect(bridge)) == "220", "the bridge noticed that others are gone")


def test_with_enough_of_them_nothing_is_said(tmp_path: Path) -> None:
    with running_bridge(tmp_path, SPOOL_URL="none") as bridge:
        assert [line for line in bridge.log() if line["event"] == "serve.few_files"] == []


def test_who_waits_to_be_accepted_when_the_bridge_stops_is_told(tmp_path: Path) -> None:
    with running_bridge(tmp_path, SPOOL_URL="none") as bridge:
        # It accepts nobody meanwhile: all of these wait in the kernel.
        os.kill(bridge.process.pid, signal.SIGSTOP)
        clients = [_connect(bridge) for _ in range(CLIENTS)]
        os.kill(bridge.process.pid, signal.SIGTERM)
        os.kill(bridge.process.pid, signal.SIGCONT)
        words = Counter()
        for sock in clients:
            with sock:
                heard = b""
                sock.settimeout(PATIENCE)
                while block := sock.recv(1000):
                    heard += block
                words[heard.splitlines()[-1][:3]] += 1
        assert words == {b"421": CLIENTS}
        assert bridge.process.wait(PATIENCE) == 0
