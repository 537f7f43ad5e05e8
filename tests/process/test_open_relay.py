"""Never an open relay: what lets everybody send stops the start, what lets nobody send is said loudly."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from smtp2cf.listen.endpoint import Endpoint, listen
from smtp2cf.listen.open_relay import Door, beyond_loopback, everybody_in, log_relay_warnings, reachable
from smtp2cf.settings import fields
from smtp2cf.settings.check import check
from tests.support.bridge import running_bridge
from tests.support.command import smtp2cf


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


def warned_of(sockets: list[socket.socket], **settings: Any) -> dict[str, Any]:
    """What a start with these listening sockets warns of, by event."""
    read = fields.Settings(**settings)
    with capture_logs() as lines:
        log_relay_warnings(Door(reachable(sockets), read.allow_networks, users=read.users_file is not None))
    assert {line["log_level"] for line in lines} <= {"warning"}
    return {line["event"]: line for line in lines}


def test_a_listener_that_others_reach_and_nobody_may_use_is_said_loudly(
    opened: list[socket.socket],
) -> None:
    opened += listen(Endpoint("127.0.0.1", 0))
    assert not warned_of(opened)
    opened += listen(Endpoint("0.0.0.0", 0))
    warned = warned_of(opened)
    assert set(warned) == {NOBODY}
    assert warned[NOBODY]["listens"] == [f"0.0.0.0:{opened[-1].getsockname()[1]}"]
    assert "SMTP2CF_ALLOW_NETWORKS" in warned[NOBODY]["note"]
    assert "SMTP2CF_USERS_FILE" in warned[NOBODY]["note"]
    assert not warned_of(opened, users_file=Path("users"))
    assert not warned_of(opened, allow_networks="127.0.0.0/8,10.0.0.0/8")
    assert set(warned_of(opened, allow_networks="127.0.0.0/8")) == {NOBODY}


def test_an_open_relay_is_said_loudly(opened: list[socket.socket]) -> None:
    assert set(warned_of(opened, allow_networks="0.0.0.0/0")) == {EVERYBODY}


@pytest.mark.parametrize("everybody", ["0.0.0.0/1,128.0.0.0/1", "0.0.0.0/0", "10.0.0.0/8,::ffff:0:0/96"])
def test_an_open_relay_does_not_start_unless_it_is_meant(everybody: str) -> None:
    with pytest.raises(fields.SettingsError) as error:
        check(fields.Settings(allow_networks=everybody), sandbox=True)
    assert str(error.value).startswith("SMTP2CF_ALLOW_NETWORKS contains 0.0.0.0/0: ")
    assert str(error.value).endswith("SMTP2CF_I_AM_AN_OPEN_RELAY=yes")
    assert "\n" not in str(error.value)
    check(fields.Settings(allow_networks=everybody, i_am_an_open_relay="yes"), sandbox=True)


def test_the_start_says_it(tmp_path: Path) -> None:
    done = smtp2cf("serve", "--sandbox", ALLOW_NETWORKS="0.0.0.0/0")
    assert done.status == os.EX_CONFIG
    assert done.err.startswith("smtp2cf: SMTP2CF_ALLOW_NETWORKS contains 0.0.0.0/0: ")
    assert done.err.count("\n") == 1
    with running_bridge(tmp_path, SMTP_LISTEN="0.0.0.0:0") as bridge:
        assert bridge.wait_for_log(NOBODY)["level"] == "warning"


def test_proxies_everywhere_are_an_open_relay_too() -> None:
    settings = fields.Settings(proxy_networks="0.0.0.0/0")  # type: ignore[arg-type]
    with pytest.raises(fields.SettingsError, match=r"SMTP2CF_PROXY_NETWORKS contains 0\.0\.0\.0/0"):
        check(settings, sandbox=True)
    check(settings.model_copy(update={"i_am_an_open_relay": True}), sandbox=True)


def test_none_is_no_network() -> None:
    assert fields.Settings(allow_networks="none").allow_networks == ()  # type: ignore[arg-type]
