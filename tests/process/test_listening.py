"""Where the bridge listens: unix sockets, and sockets it is handed at the start."""

import os
import smtplib
import socket
import stat
import urllib.request
from pathlib import Path

import pytest

from tests.support.bridge import running_bridge
from tests.support.command import smtp2cf
from tests.support.waiting import PATIENCE

MESSAGE = b"From: app@example.com\r\nSubject: where\r\n\r\nHello\r\n"
NOT_OURS = "192.0.2.1:25"
"""An address that no host has: to listen there fails."""


class UnixSMTP(smtplib.SMTP):
    """smtplib on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), 25, timeout=PATIENCE)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(host)
        return sock


def deliver(client: smtplib.SMTP) -> None:
    with client:
        assert client.sendmail("app@example.com", ["anna@example.net"], MESSAGE) == {}


def test_mail_comes_in_on_a_unix_socket_with_mode_and_group(tmp_path: Path) -> None:
    path = tmp_path / "smtp"
    group = str(os.getegid())
    with running_bridge(
        tmp_path, SMTP_LISTEN=f"unix:{path}", SOCKET_MODE="0666", SOCKET_GROUP=group
    ) as bridge:
        found = path.lstat()
        assert stat.S_IMODE(found.st_mode) == 0o666
        assert found.st_gid == os.getegid()
        deliver(UnixSMTP(path))
        assert len(bridge.messages()) == 1
        assert bridge.stop() == 0
        assert not path.exists(), "nothing is left of it at a clean stop"


def test_the_admin_may_be_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with running_bridge(tmp_path, ADMIN_LISTEN=f"unix:{path}") as bridge:
        assert stat.S_IMODE(path.lstat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").read().endswith(b"\r\n\r\nok\n")
        assert bridge.stop() == 0
    assert not path.exists()


def test_a_group_that_is_not_there_stops_the_start() -> None:
    done = smtp2cf("serve", "--sandbox", SMTP_LISTEN="127.0.0.1:0", SOCKET_GROUP="no-such-group")
    assert done.status == os.EX_CONFIG
    assert done.err == "smtp2cf: SMTP2CF_SOCKET_GROUP: there is no group 'no-such-group' on this host\n"


def test_a_path_that_is_too_long_stops_the_start() -> None:
    done = smtp2cf("serve", "--sandbox", SMTP_LISTEN=f"unix:/{'x' * 107}")
    assert done.status == os.EX_CONFIG
    assert done.err.startswith("smtp2cf: SMTP2CF_SMTP_LISTEN: ")
    assert "may have 107 octets, but" in done.err
    assert done.err.count("\n") == 1


def test_sockets_handed_over_take_the_place_of_those_in_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "handed"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        address, handing = tcp.getsockname(), [("smtp", tcp), ("smtp2cf.socket", unix)]
        with running_bridge(tmp_path, handing=handing, SMTP_LISTEN=NOT_OURS) as bridge:
            ready = bridge.wait_for_log("serve.ready")
            assert ready["smtp"] == [f"127.0.0.1:{address[1]}", f"unix:{path}"]
            deliver(smtplib.SMTP(*address, timeout=PATIENCE))
            deliver(UnixSMTP(path))
            assert len(bridge.messages()) == 2
            assert bridge.stop() == 0
        assert path.exists(), "systemd listens there still"


def test_the_admin_listens_on_the_socket_it_is_handed(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as admin,
        running_bridge(tmp_path, handing=[("admin", admin)], ADMIN_LISTEN=NOT_OURS) as bridge,
    ):
        assert bridge.admin_url == f"http://127.0.0.1:{admin.getsockname()[1]}"
        with urllib.request.urlopen(f"{bridge.admin_url}/readyz") as answer:
            assert answer.read() == b"ok\n"
        deliver(bridge.client())


def test_a_socket_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(AssertionError), running_bridge(tmp_path, handing=[("smtp", datagrams)]):
            pass
    said = (tmp_path / "bridge.log").read_text()
    assert said.startswith(
        "smtp2cf: file descriptor 3 (smtp) from systemd is not a listening stream socket: "
    )
    assert said.count("\n") == 1
