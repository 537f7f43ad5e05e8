"""Sockets handed over at the start: which are taken, for what, and which stop it."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtp2cf.listen import systemd
from smtp2cf.listen.systemd import HandedOverError, handed_over

FIRST = 600
"""Where the descriptors are here: those from 3 on are pytest's own."""


@pytest.fixture(autouse=True)
def _first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "FIRST", FIRST)


@pytest.fixture
def given() -> Iterator[list[socket.socket]]:
    """Two sockets that listen, and are handed over when `environment` is."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        hand_over(*sockets)
        yield sockets
        for number in (FIRST, FIRST + 1):
            with contextlib.suppress(OSError):
                os.close(number)


def hand_over(*sockets: socket.socket) -> None:
    for number, sock in enumerate(sockets, FIRST):
        os.dup2(sock.fileno(), number, inheritable=True)


def environment(count: int | str = 2, names: str | None = None) -> dict[str, str]:
    found = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "HOME": "/"}
    return found if names is None else {**found, "LISTEN_FDNAMES": names}


def closed(found: dict[str, list[socket.socket]]) -> dict[str, list[object]]:
    """Where the sockets were, by what is spoken; they are closed."""
    addresses = {protocol: [sock.getsockname() for sock in sockets] for protocol, sockets in found.items()}
    for sockets in found.values():
        for sock in sockets:
            sock.close()
    return addresses


@pytest.mark.parametrize(
    ("names", "spoken"),
    [
        ("smtp:lmtp", ["smtp", "lmtp"]),
        ("smtps:admin", ["smtps", "admin"]),
        ("smtp:printers", ["smtp", "printers"]),
        ("unknown:smtp2cf.socket", ["smtp", "smtp"]),
        (":", ["smtp", "smtp"]),
        (None, ["smtp", "smtp"]),
    ],
)
def test_a_name_says_what_is_spoken(given: list[socket.socket], names: str | None, spoken: list[str]) -> None:
    expected: dict[str, list[object]] = {}
    for protocol, sock in zip(spoken, given, strict=True):
        expected.setdefault(protocol, []).append(sock.getsockname())
    assert closed(handed_over(environment(names=names))) == expected


def test_they_do_not_block_and_are_for_this_process_alone(given: list[socket.socket]) -> None:
    environ = environment()
    found = handed_over(environ)["smtp"]
    assert [sock.getblocking() for sock in found] == [False, False]
    assert [sock.get_inheritable() for sock in found] == [False, False]
    assert environ == {"HOME": "/"}, "no child takes them for its own"
    closed({"smtp": found})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "2"},
        {"LISTEN_FDS": "2"},
        {"LISTEN_PID": str(os.getpid())},
    ],
    ids=["no variables", "another's", "no process", "no number"],
)
def test_what_is_not_for_this_process_is_left_alone(
    given: list[socket.socket], environ: dict[str, str]
) -> None:
    assert handed_over(environ) == {}
    assert environ == {}
    os.fstat(FIRST)


def test_a_unix_socket_keeps_its_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "smtp"))
        sock.listen()
        hand_over(sock)
    assert closed(handed_over(environment(1))) == {"smtp": [str(tmp_path / "smtp")]}
    assert (tmp_path / "smtp").exists(), "systemd listens on it, and hands it to the next"


# ---- what can't be used


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(HandedOverError) as refused:
        handed_over(environ)
    return str(refused.value)


def test_names_and_sockets_are_as_many(given: list[socket.socket]) -> None:
    assert refusal(environment(names="smtp")) == "LISTEN_FDNAMES has 1 names for 2 sockets"


@pytest.mark.parametrize("count", ["two", "-1", "99999999999", "²"])
def test_the_number_is_a_number(count: str) -> None:
    assert refusal(environment(count)) == f"LISTEN_FDS is {count!r}, not a number of sockets"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["not listening", "datagrams"])
def test_a_socket_that_takes_no_connections_is_refused(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        hand_over(sock)
    assert refusal(environment(1, "smtp")) == (
        f"file descriptor {FIRST} (smtp) from systemd is not a listening stream socket:"
        " use ListenStream= with Accept=no"
    )


def test_a_file_is_no_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), FIRST)
    try:
        said = refusal(environment(1))
        assert (
            said == f"file descriptor {FIRST} (unknown) from systemd is not a socket:"
            " Socket operation on non-socket"
        )
    finally:
        os.close(FIRST)


def test_a_descriptor_that_is_not_open_is_named() -> None:
    said = refusal(environment(1, "lmtp"))
    assert said == f"file descriptor {FIRST} (lmtp) from systemd is not a socket: Bad file descriptor"
