"""The certificate: which pairs it takes, who can shake hands with it, and how it is re-read."""

import asyncio
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from smtp2cf.listen.certificate import PATIENCE, POLL_INTERVAL, Certificate, CertificateError
from smtp2cf.listen.throwaway_ca import issue
from tests.cloudflare.virtual_time import run_in_virtual_time
from tests.support.certificates import Pair, make_pair, shake_hands, write_pair
from tests.support.needs import needs

GOOD, OTHER = make_pair("one.example"), make_pair("two.example")
ENCRYPTED = make_pair(passphrase="not told")
PRINTER = make_pair("printer.example", rsa_bits=2048)

Logged = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def logged() -> Iterator[Logged]:
    """The log lines of a test."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    return write_pair(tmp_path, GOOD)


def shown(context: ssl.SSLContext, *candidates: Pair) -> bytes:
    """Which of the certificates a client is shown."""
    for pair in candidates:
        try:
            shake_hands(context, pair.certificate, name_of(pair))
        except ssl.SSLCertVerificationError:
            continue
        return pair.certificate
    raise AssertionError("it is none of them")


def name_of(pair: Pair) -> str:
    return {GOOD: "one.example", OTHER: "two.example", PRINTER: "printer.example"}[pair]


# ---- pairs that can't be used

NOT_ITS_KEY = (
    "SMTP2CF_TLS_KEY_FILE: {key} is not the key of the certificate in {cert}"
    " (the server's own certificate must come first in that file)"
)
KEY_ENCRYPTED = (
    "SMTP2CF_TLS_KEY_FILE: the key in {key} is encrypted: remove its passphrase"
    " with `openssl pkey -in … -out …`"
)
BAD = {
    "no certificate file": ({"cert": None}, "SMTP2CF_TLS_CERT_FILE: {cert}: No such file or directory"),
    "no key file": ({"key": None}, "SMTP2CF_TLS_KEY_FILE: {key}: No such file or directory"),
    "no certificate in it": (
        {"cert": GOOD.key},
        "SMTP2CF_TLS_CERT_FILE: {cert} holds no certificate in PEM",
    ),
    "no key in it": ({"key": GOOD.certificate}, "SMTP2CF_TLS_KEY_FILE: {key} holds no private key in PEM"),
    "empty": ({"cert": b""}, "SMTP2CF_TLS_CERT_FILE: {cert} holds no certificate in PEM"),
    "not text": ({"key": bytes(range(256))}, "SMTP2CF_TLS_KEY_FILE: {key} holds no private key in PEM"),
    "a damaged certificate": (
        {"cert": GOOD.certificate.replace(b"\nM", b"\nx", 1)},
        "SMTP2CF_TLS_CERT_FILE: the certificate in {cert} can't be read",
    ),
    "half a certificate": (
        {"cert": GOOD.certificate[:200]},
        "SMTP2CF_TLS_CERT_FILE: the certificate in {cert} can't be read",
    ),
    "a damaged key": (
        {"key": GOOD.key.replace(b"\nM", b"\nx", 1)},
        "SMTP2CF_TLS_KEY_FILE: the key in {key} can't be read",
    ),
    "another's key": (
        {"key": OTHER.key},
        NOT_ITS_KEY,
    ),
    "another kind of key": (
        {"key": PRINTER.key},
        NOT_ITS_KEY,
    ),
    "an encrypted key": (
        {"cert": ENCRYPTED.certificate, "key": ENCRYPTED.key},
        KEY_ENCRYPTED,
    ),
    "for clients": (
        make_pair(for_servers=False)._asdict(),
        "SMTP2CF_TLS_CERT_FILE: no client can use {cert}: unsuitable certificate purpose",
    ),
    "a key that is too short": (
        make_pair(rsa_bits=1024)._asdict(),
        "SMTP2CF_TLS_CERT_FILE: {cert}: ee key too small",
    ),
}


def spoil(files: tuple[Path, Path], change: dict[str, bytes | None]) -> None:
    names = {"cert": files[0], "certificate": files[0], "key": files[1]}
    for name, content in change.items():
        if content is None:
            names[name].unlink()
        else:
            names[name].write_bytes(content)


def in_words(text: str, files: tuple[Path, Path]) -> str:
    return text.format(cert=files[0], key=files[1])


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD)
def test_a_bad_pair_is_refused_in_one_line(
    files: tuple[Path, Path], change: dict[str, bytes | None], said: str
) -> None:
    spoil(files, change)
    with pytest.raises(CertificateError) as refused:
        Certificate(*files)
    assert str(refused.value) == in_words(said, files)


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD)
def test_a_bad_pair_at_reload_leaves_the_old_one(
    files: tuple[Path, Path], change: dict[str, bytes | None], said: str, logged: Logged
) -> None:
    certificate = Certificate(*files)
    spoil(files, change)
    assert not certificate.reload()
    (line,) = logged
    assert line["event"] == "tls.reload_failed"
    assert line["reason"] == in_words(said, files)
    assert line["kept"] == "one.example"
    assert shown(certificate.context, GOOD, OTHER) == GOOD.certificate


def test_a_directory_is_no_certificate(files: tuple[Path, Path]) -> None:
    with pytest.raises(CertificateError, match="is a directory"):
        Certificate(files[0].parent, files[1])


def test_a_file_that_may_not_be_read_is_named(files: tuple[Path, Path]) -> None:
    files[0].chmod(0)
    root = os.geteuid()
    os.seteuid(root or 65534)
    try:
        with pytest.raises(CertificateError) as refused:
            Certificate(*files)
    finally:
        os.seteuid(root)
    assert str(refused.value) == f"SMTP2CF_TLS_CERT_FILE: {files[0]}: uid 65534 may not read it"


def test_one_file_may_hold_both(tmp_path: Path) -> None:
    file = tmp_path / "both.pem"
    file.write_bytes(GOOD.key + GOOD.certificate)
    assert shown(Certificate(file).context, GOOD) == GOOD.certificate


def test_without_a_key_file_the_key_is_missed_where_the_certificate_is(files: tuple[Path, Path]) -> None:
    with pytest.raises(CertificateError) as refused:
        Certificate(files[0])
    assert str(refused.value) == (
        f"SMTP2CF_TLS_CERT_FILE: {files[0]} holds no private key in PEM, and SMTP2CF_TLS_KEY_FILE is not set"
    )


def test_what_it_is_for_people(files: tuple[Path, Path]) -> None:
    certificate = Certificate(*files)
    assert certificate.subject == "one.example"
    assert str(certificate).startswith("one.example, expires 20")


# ---- who can shake hands


class Listener:
    """A server in a thread of its own that takes TLS connections one after the other."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> int:
        self._thread.start()
        serving = asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(PATIENCE)
        return self._server.sockets[0].getsockname()[1]

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def version_with(port: int, *options: str) -> str:
    """What openssl s_client and the server agree on; "" where they don't."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-brief", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    found = [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("Protocol ver")]
    return found[0] if found else ""


OLDEST = ("-cipher", "ALL:@SECLEVEL=0")


@needs("openssl")
@pytest.mark.parametrize(
    ("minimum", "spoken"),
    [
        ("1.0", ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]),
        ("1.1", ["", "TLSv1.1", "TLSv1.2", "TLSv1.3"]),
        ("1.2", ["", "", "TLSv1.2", "TLSv1.3"]),
        ("1.3", ["", "", "", "TLSv1.3"]),
    ],
)
def test_versions_from_the_oldest_that_is_wanted_on_are_spoken(
    tmp_path: Path, minimum: str, spoken: list[str]
) -> None:
    everywhere = "1.2" if minimum == "1.3" else "1.3"
    certificate = Certificate(*write_pair(tmp_path, PRINTER), everywhere, others=[minimum])
    assert certificate.context is certificate.at_least(everywhere)
    with Listener(certificate.at_least(minimum)) as port:  # one listener's own
        flags = ("-tls1", "-tls1_1", "-tls1_2", "-tls1_3")
        assert [version_with(port, flag, *OLDEST) for flag in flags] == spoken


@needs("openssl")
def test_old_versions_are_not_spoken_without_a_certificate(tmp_path: Path) -> None:
    certificate = Certificate(*write_pair(tmp_path, PRINTER), "1.0")
    with Listener(certificate.context) as port:
        assert version_with(port, "-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0") == "TLSv1", "RSA key exchange"
        for cipher in ("aNULL", "eNULL"):
            assert version_with(port, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0") == ""


def test_nothing_is_compressed_and_no_session_negotiated_anew(files: tuple[Path, Path]) -> None:
    context = Certificate(*files).context
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


# ---- re-read


def test_a_good_pair_is_shown_from_then_on(files: tuple[Path, Path], logged: Logged) -> None:
    certificate = Certificate(*files)
    write_pair(files[0].parent, OTHER)
    assert shown(certificate.context, GOOD, OTHER) == GOOD.certificate, "not before it is asked"
    assert certificate.reload()
    assert shown(certificate.context, GOOD, OTHER) == OTHER.certificate
    (line,) = logged
    assert (line["event"], line["subject"]) == ("tls.reloaded", "two.example")
    assert line["expires"].endswith("Z")


def test_a_listener_that_keeps_the_context_shows_the_newest_too(files: tuple[Path, Path]) -> None:
    certificate = Certificate(*files, others=["1.0"])
    kept = (certificate.context, certificate.at_least("1.0"))
    for pair in (OTHER, PRINTER):
        write_pair(files[0].parent, pair)
        certificate.reload()
        for context in kept:
            assert shown(context, GOOD, pair) == pair.certificate


def test_a_session_under_way_goes_on(files: tuple[Path, Path]) -> None:
    certificate = Certificate(*files)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cadata=GOOD.certificate.decode())
    client = trusting.wrap_bio(down, up, server_hostname="one.example")
    server = certificate.context.wrap_bio(up, down, server_side=True)
    for end in (client, server) * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    write_pair(files[0].parent, OTHER)
    assert certificate.reload()
    client.write(b"still here")
    assert server.read(100) == b"still here"


def test_an_expired_certificate_does_not_replace_a_good_one(files: tuple[Path, Path], logged: Logged) -> None:
    certificate = Certificate(*files)
    write_pair(files[0].parent, make_pair("old.example", starts=-10, ends=-1))
    assert not certificate.reload()
    assert logged[0]["reason"].startswith(f"SMTP2CF_TLS_CERT_FILE: {files[0]} has expired on 20")
    assert certificate.subject == "one.example"


# ---- watched

Watch = Callable[[], Coroutine[Any, Any, None]]
SETTLED = 3 * POLL_INTERVAL


def watched(files: tuple[Path, Path], meanwhile: Watch, pair: Pair | None = None) -> Certificate:
    """A certificate that is watched while something is done; no real time passes."""
    if pair is not None:
        write_pair(files[0].parent, pair)

    async def at_once(function: Callable[[], Any]) -> Any:
        """No thread: its time is real."""
        return function()

    certificate = Certificate(*files, off_loop=at_once)

    async def run() -> None:
        watch = asyncio.create_task(certificate.watch())
        await meanwhile()
        watch.cancel()

    run_in_virtual_time(run())
    return certificate


def events(logged: Logged) -> list[str]:
    return [line["event"] for line in logged]


def test_files_that_change_are_read(files: tuple[Path, Path], logged: Logged) -> None:
    async def change() -> None:
        await asyncio.sleep(60)
        write_pair(files[0].parent, OTHER)
        await asyncio.sleep(SETTLED)

    assert watched(files, change).subject == "two.example"
    assert events(logged) == ["tls.loaded", "tls.reloaded"]


def test_a_key_may_come_after_its_certificate(files: tuple[Path, Path], logged: Logged) -> None:
    async def change() -> None:
        await asyncio.sleep(60)
        files[0].write_bytes(OTHER.certificate)
        await asyncio.sleep(PATIENCE / 2)
        files[1].write_bytes(OTHER.key)
        await asyncio.sleep(SETTLED)

    assert watched(files, change).subject == "two.example"
    assert events(logged) == ["tls.loaded", "tls.reloaded"], "and nobody is alarmed"


def test_a_key_that_does_not_come_is_told_once(files: tuple[Path, Path], logged: Logged) -> None:
    async def change() -> None:
        files[0].write_bytes(OTHER.certificate)
        await asyncio.sleep(10 * PATIENCE)

    assert watched(files, change).subject == "one.example"
    assert events(logged) == ["tls.loaded", "tls.reload_failed"]


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path, logged: Logged) -> None:
    versions = [tmp_path / "first", tmp_path / "second"]
    for directory, pair in zip(versions, (GOOD, OTHER), strict=True):
        directory.mkdir()
        write_pair(directory, pair)
    current = tmp_path / "current"
    current.symlink_to(versions[0])

    async def swap() -> None:
        # As Kubernetes does it: both at once.
        (tmp_path / "next").symlink_to(versions[1])
        (tmp_path / "next").rename(current)
        await asyncio.sleep(SETTLED)

    assert watched((current / "cert.pem", current / "key.pem"), swap).subject == "two.example"
    assert events(logged) == ["tls.loaded", "tls.reloaded"]


def test_files_that_are_gone_for_a_while_are_read_when_they_are_back(
    files: tuple[Path, Path], logged: Logged
) -> None:
    async def change() -> None:
        files[0].unlink()
        await asyncio.sleep(2 * PATIENCE)
        files[0].write_bytes(GOOD.certificate)
        await asyncio.sleep(SETTLED)

    watched(files, change)
    assert events(logged) == ["tls.loaded", "tls.reload_failed", "tls.reloaded"]


def test_what_was_refused_by_hand_is_not_told_again(files: tuple[Path, Path], logged: Logged) -> None:

    async def at_once(function: Callable[[], Any]) -> Any:
        """No thread: its time is real."""
        return function()

    certificate = Certificate(*files, off_loop=at_once)

    async def run() -> None:
        watch = asyncio.create_task(certificate.watch())
        await asyncio.sleep(1)
        files[0].write_bytes(OTHER.certificate)
        certificate.reload()
        await asyncio.sleep(5 * PATIENCE)
        watch.cancel()

    run_in_virtual_time(run())
    assert events(logged) == ["tls.loaded", "tls.reload_failed"]


# ---- the end is near


@pytest.mark.parametrize(
    ("starts", "ends", "warnings"),
    [
        (-10, 15, []),
        (-10, 13, ["tls.expires_soon"]),
        (-10, -1, ["tls.expired"]),
        (2, 90, ["tls.not_yet_valid"]),
    ],
)
def test_a_certificate_that_is_not_good_for_long_is_warned_of(
    files: tuple[Path, Path], logged: Logged, starts: float, ends: float, warnings: list[str]
) -> None:
    async def a_day_and_a_bit() -> None:
        await asyncio.sleep(86400 + 60)

    certificate = watched(files, a_day_and_a_bit, make_pair(starts=starts, ends=ends))
    assert events(logged) == ["tls.loaded", *warnings * 2], "at the start, and each day"
    certificate.reload()
    assert events(logged)[1 + 2 * len(warnings) :] == ["tls.reloaded", *warnings]


# ---- one made for trying things out


@pytest.mark.parametrize("name", ["bridge.example", "localhost", "127.0.0.1", "::1"])
def test_a_certificate_made_at_start_is_good_for_this_host(tmp_path: Path, name: str) -> None:
    issued = issue("bridge.example")
    certificate = Certificate(*write_pair(tmp_path, Pair(issued.certificate, issued.key)))
    client, _ = shake_hands(certificate.context, issued.ca, name)
    assert client.version() == "TLSv1.3"
    assert certificate.subject == "bridge.example"


@pytest.mark.parametrize("hostname", ["localhost", "192.0.2.1", "[2001:db8::1]", "a" * 255, "under_score!"])
def test_any_hostname_has_one(tmp_path: Path, hostname: str) -> None:
    issued = issue(hostname)
    Certificate(*write_pair(tmp_path, Pair(issued.certificate, issued.key)))
