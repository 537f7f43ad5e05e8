"""Never an open relay: what lets everybody send stops the start, what lets nobody send is said loudly."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtp2cf.endpoint import Endpoint, listen
from smtp2cf.exposure import beyond_loopback, everybody_in, reachable
from tests.access.hashes import line
from tests.process.command import smtp2cf
from tests.support.bridge import running_bridge


def networks(text: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(part) for part in text.split()]


@pytest.mark.parametrize(
    "everybody",
    [
        "0.0.0.0/0",
        "127.0.0.0/8 0.0.0.0/0",
        "0.0.0.0/1 128.0.0.0/1",
        "0.0.0.0/2 64.0.0.0/2 128.0.0.0/1 10.0.0.0/8",
        "::/0",
        "::/1 8000::/1",
        "2000::/3",
        "2000::/4 3000::/4",
        "::ffff:0:0/96",
        "::ffff:0.0.0.0/97 ::ffff:128.0.0.0/97",
        "::ffff:0.0.0.0/97 128.0.0.0/1",
        "::/64",
        "::/80",
    ],
)
def test_networks_that_hold_everybody_are_found(everybody: str) -> None:
    assert everybody_in(networks(everybody)) is not None


@pytest.mark.parametrize(
    "some",
    [
        "",
        "127.0.0.0/8 ::1/128",
        "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fe80::/10",
        "0.0.0.0/1",
        "2001:db8::/32",
        "::ffff:10.0.0.0/104",
        "::/128",
    ],
)
def test_networks_that_do_not_are_not(some: str) -> None:
    assert everybody_in(networks(some)) is None


@pytest.mark.parametrize(
    ("some", "beyond"),
    [
        ("", False),
        ("127.0.0.0/8 ::1/128", False),
        ("127.0.0.1/32 ::ffff:127.0.0.1/128", False),
        ("127.0.0.0/8 10.0.0.0/8", True),
        ("fd00::/8", True),
        ("::/127", True),
        ("126.0.0.0/7", True),
    ],
)
def test_what_is_beyond_loopback(some: str, beyond: bool) -> None:
    assert beyond_loopback(networks(some)) is beyond


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Sockets that are closed after."""
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


def test_loopback_by_number_or_name_and_unix_sockets_can_not_be_reached(
    opened: list[socket.socket], tmp_path: Path
) -> None:
    for endpoint in (
        Endpoint("127.0.0.1", 0),
        Endpoint("127.8.8.8", 0),
        Endpoint("localhost", 0),
        Endpoint(path=f"{tmp_path}/sock"),
    ):
        opened += listen(endpoint)
    assert reachable(opened) == []
    everywhere = listen(Endpoint("0.0.0.0", 0))
    opened += everywhere
    assert reachable(opened) == [f"0.0.0.0:{everywhere[0].getsockname()[1]}"]


NOBODY, EVERYBODY = "serve.nobody_may_relay", "serve.open_relay"


def warnings(directory: Path, **settings: str) -> dict[str, dict]:
    """What a start warns of, by event."""
    with running_bridge(directory, **settings) as bridge:
        return {line["event"]: line for line in bridge.log() if line["event"] in (NOBODY, EVERYBODY)}


def test_a_listener_that_others_reach_and_nobody_may_use_is_said_loudly(tmp_path: Path) -> None:
    warned = warnings(tmp_path, SMTP_LISTEN="0.0.0.0:0")
    assert set(warned) == {NOBODY}
    assert warned[NOBODY]["level"] == "warning"
    assert "SMTP2CF_ALLOW_NETWORKS" in warned[NOBODY]["note"]
    assert "SMTP2CF_USERS_FILE" in warned[NOBODY]["note"]


def test_one_that_users_or_networks_may_use_is_not(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(line("anna", "secret"))
    assert not warnings(tmp_path, SMTP_LISTEN="0.0.0.0:0", USERS_FILE=str(users))
    assert not warnings(tmp_path, SMTP_LISTEN="0.0.0.0:0", ALLOW_NETWORKS="127.0.0.0/8,10.0.0.0/8")


def test_an_open_relay_does_not_start_unless_it_is_meant(tmp_path: Path) -> None:
    done = smtp2cf("serve", "--sandbox", ALLOW_NETWORKS="0.0.0.0/1,128.0.0.0/1")
    assert done.status == os.EX_CONFIG
    assert done.err.startswith("smtp2cf: SMTP2CF_ALLOW_NETWORKS holds 0.0.0.0/0: ")
    assert "SMTP2CF_I_AM_AN_OPEN_RELAY=yes" in done.err
    assert done.err.count("\n") == 1
    warned = warnings(tmp_path, ALLOW_NETWORKS="0.0.0.0/0,::/0", I_AM_AN_OPEN_RELAY="yes")
    assert set(warned) == {EVERYBODY}
    assert warned[EVERYBODY]["level"] == "warning"
