"""What systemd is told, on a datagram socket of its kind: tests/process/test_notify.py has a whole bridge."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from smtp2cf.listen.notify import INTERVAL, Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Where the service manager listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def told(manager: socket.socket) -> list[str]:
    """The variables of the next datagram."""
    return manager.recv(4096).decode().split("\n")


def environment(manager: socket.socket, **variables: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **variables, "HOME": "/"}


def test_each_step_is_told(manager: socket.socket) -> None:
    environ = environment(manager)
    notifier = Notifier(environ)
    assert environ == {"HOME": "/"}, "no child talks in its name"
    notifier.ready()
    assert told(manager) == ["READY=1"]
    with notifier.reloading():
        reloading, when = told(manager)
        assert (reloading, when.rpartition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert told(manager) == ["READY=1"]
    with contextlib.suppress(ZeroDivisionError), notifier.reloading():
        told(manager)
        raise ZeroDivisionError
    assert told(manager) == ["READY=1"], "it goes on with what it had"
    notifier.stopping(30)
    assert told(manager) == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=40000000"]


def test_a_socket_without_a_file_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel chooses an abstract name
        Notifier({"NOTIFY_SOCKET": f"@{os.fsdecode(sock.getsockname()[1:])}"}).ready()
        assert told(sock) == ["READY=1"]


@pytest.mark.parametrize(
    ("variables", "pause"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "60000000"}, INTERVAL),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, INTERVAL),
        ({"WATCHDOG_USEC": "0"}, INTERVAL),
        ({"WATCHDOG_USEC": "soon"}, INTERVAL),
        ({}, INTERVAL),
    ],
)
def test_it_shows_life_twice_as_often_as_the_watchdog_wants(
    manager: socket.socket, variables: dict[str, str], pause: float
) -> None:
    assert Notifier(environment(manager, **variables)).pause == pause


async def test_the_status_is_told_when_it_has_changed_and_life_every_time(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager, WATCHDOG_USEC="1000"))
    lines = iter(["1 waiting", "1 waiting", "none waiting"])
    with pytest.raises(RuntimeError):  # the lines are used up
        await notifier.watch(lambda: next(lines))
    assert [told(manager) for _ in range(3)] == [
        ["STATUS=1 waiting", "WATCHDOG=1"],
        ["WATCHDOG=1"],
        ["STATUS=none waiting", "WATCHDOG=1"],
    ]


async def test_without_a_service_manager_nothing_is_told() -> None:
    notifier = Notifier({})
    notifier.ready()
    await notifier.watch(lambda: "never asked for")


def test_a_service_manager_that_is_gone_is_logged_and_stops_nothing(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logged:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert [(line["event"], line["untold"]) for line in logged] == [("serve.not_notified", ["READY=1"])]
