"""Endpoints: how they are written, and the sockets that are opened for them."""

import contextlib
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from smtp2cf.listen.endpoint import SEND_BUFFER, Endpoint, group_id, listen, overlaps
from smtp2cf.listen.sockets import ListeningSockets, NamedTwiceError

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a unix socket may be."""
    return tmp_path / "smtp"


def at(path: Path) -> Endpoint:
    return Endpoint(path=str(path))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


# ---- permissions


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
def test_a_unix_socket_has_the_mode_it_is_to_have(path: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        (sock,) = listen(at(path), mode=mode)
    finally:
        assert os.umask(before) == umask, "the process keeps its own umask"
    with sock:
        assert mode_of(path) == mode


def test_its_owner_and_its_group_may_connect_by_default(path: Path) -> None:
    with listen(at(path))[0]:
        assert mode_of(path) == 0o660


def test_it_is_never_open_to_more_than_it_is_to_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(os, "umask", _noting(os.umask, lambda: seen.append((path.exists(), connects(path)))))
    monkeypatch.setattr(os, "chown", lambda *_, **__: seen.append((mode_of(path) == 0o600, connects(path))))
    before = os.umask(0)
    try:
        with listen(at(path), mode=0o600, group=12)[0]:
            assert connects(path)
    finally:
        os.umask(before)
    assert (True, False) in seen
    assert not any(connected for _, connected in seen), "nobody gets in before mode and group are set"


def _noting(function: object, note: object) -> object:
    def noted(*arguments: object) -> object:
        note()
        return function(*arguments)

    return noted


@ROOT_ONLY
def test_it_gets_the_group_it_is_to_have(path: Path) -> None:
    with listen(at(path), group=12)[0]:
        assert path.stat().st_gid == 12


@ROOT_ONLY
def test_a_group_that_may_not_be_given_is_named_and_nothing_is_left() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "smtp")
        path.parent.chmod(0o777)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError) as refused:
                listen(at(path), group=12)
        finally:
            os.seteuid(0)
        assert refused.value.strerror == (
            f"cannot listen on unix:{path}: can't give it to group 12 (SMTP2CF_SOCKET_GROUP):"
            " only root and members of it can"
        )
        assert not path.exists()


@pytest.mark.parametrize(("name", "found"), [("", None), ("12", 12), ("root", 0)])
def test_a_group_is_given_by_name_or_number(name: str, found: int | None) -> None:
    assert group_id(name) == found


def test_a_group_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="there is no group 'no-such-group' on this host"):
        group_id("no-such-group")


# ---- the file


def test_the_file_goes_away_with_its_socket(path: Path) -> None:
    listen(at(path))[0].close()
    assert not path.exists()


def test_a_file_that_another_has_put_in_its_place_stays(path: Path) -> None:
    (first,) = listen(at(path))
    path.rename(path.with_name("moved"))
    with listen(at(path))[0]:
        first.close()
        assert connects(path)


def test_a_directory_that_is_gone_is_no_trouble(path: Path) -> None:
    (sock,) = listen(at(path))
    path.unlink()
    sock.close()


def test_a_stale_file_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen(at(path))[0]:
        assert connects(path)


def test_a_socket_on_which_somebody_listens_is_left_alone(path: Path) -> None:
    with listen(at(path))[0]:
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: Address already in use"):
            listen(at(path))
        assert connects(path)


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(OSError, match=f"cannot listen on unix:{path}: "):
        listen(at(path))
    assert path.read_text() == "precious"


# ---- as text


def test_a_path_has_as_many_octets_as_the_kernel_takes(tmp_path: Path) -> None:
    longest = f"/{'é' * 53}"
    assert Endpoint.parse(f"unix:{longest}") == Endpoint(path=longest)
    with pytest.raises(ValueError, match=r"may have 107 octets, but .* has 108"):
        Endpoint.parse(f"unix:{longest}x")
    directory = tmp_path / ("d" * (104 - len(str(tmp_path))))
    directory.mkdir()
    path = directory / "s"
    assert len(str(path)) == 107
    listen(at(path))[0].close()


@pytest.mark.parametrize(
    ("family", "address", "text"),
    [
        (socket.AF_INET, ("127.0.0.1", 0), "127.0.0.1:{port}"),
        (socket.AF_INET6, ("::1", 0), "[::1]:{port}"),
        (socket.AF_UNIX, "\0smtp2cf-test", "unix:@smtp2cf-test"),
    ],
)
def test_an_endpoint_is_known_by_its_socket(
    family: socket.AddressFamily, address: tuple[str, int] | str, text: str
) -> None:
    with socket.socket(family) as sock:
        try:
            sock.bind(address)
        except OSError as error:
            pytest.skip(f"this host has none: {error}")
        name = sock.getsockname()
        assert str(Endpoint.of(sock)) == text.format(port=name[1])


def test_an_endpoint_on_a_unix_socket_is_known_by_its_path(path: Path) -> None:
    with listen(at(path))[0] as sock:
        assert Endpoint.of(sock) == at(path)


def test_a_connection_made_before_anybody_accepts_has_the_small_buffer() -> None:
    (listener,) = listen(Endpoint("127.0.0.1"))
    with listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER


# ---- places that another setting has already


@pytest.mark.parametrize(
    ("host", "other", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::1", False),
    ],
)
def test_a_place_overlaps_another_in_whatever_form_it_is_named(host: str, other: str, expected: bool) -> None:
    sockets = listen(Endpoint(host, 0))
    try:
        port = sockets[0].getsockname()[1]
        assert overlaps(Endpoint(other, port), sockets) == expected
        assert not overlaps(Endpoint(other, port - 1), sockets)
        assert not overlaps(Endpoint(path="/x"), sockets)
    finally:
        for sock in sockets:
            sock.close()


def test_a_place_of_ours_is_not_called_another_process(path: Path) -> None:
    with contextlib.ExitStack() as opened:
        ours = ListeningSockets({}, opened, mode=0o600, group=None)
        ours.open("lmtp", (at(path),), "SMTP2CF_LMTP_LISTEN")
        port = ours.open("smtp", (Endpoint("127.0.0.1", 0),), "SMTP2CF_SMTP_LISTEN").endpoints[0].port
        for name, endpoint in (("smtps", Endpoint("0.0.0.0", port)), ("admin", at(path))):
            with pytest.raises(NamedTwiceError, match=f"what names {name}: cannot listen on .*: SMTP2CF_"):
                ours.open(name, (endpoint,), f"what names {name}")
