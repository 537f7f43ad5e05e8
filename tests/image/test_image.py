"""The image, built and run for real: as its user, on a read-only root, without a shell."""

import os
import re
import signal
import smtplib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.conftest import REVISION, VERSION
from tests.image.container import OUTSIDE, Container, Image
from tests.support.needs import needs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and chroot need root"),
    needs("buildah", "unshare", "nsenter", "setpriv", "ip"),
]

USER = "10025"
MESSAGE = b"From: app@example.com\r\nTo: anna@example.net\r\nSubject: from a container\r\n\r\n.\r\nbody\r\n"


@pytest.fixture(scope="module")
def container(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The image as it starts by itself, with the sandbox in Cloudflare's place."""
    command = [*image.config["Entrypoint"], *image.config["Cmd"], "--sandbox"]
    with image.run(tmp_path_factory.mktemp("container"), command) as container:
        container.wait_for_log("serve.ready")
        yield container


def test_says_what_it_is(image: Image) -> None:
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.revision"] == REVISION
    assert labels["org.opencontainers.image.title"] == "smtp2cf"
    assert labels["org.opencontainers.image.licenses"] == "MIT"


def test_tells_an_engine_how_to_run_it(image: Image) -> None:
    assert image.config["Entrypoint"] == ["smtp2cf"]
    assert image.config["Cmd"] == ["serve"]
    assert image.config["User"] == f"{USER}:{USER}"
    assert image.config["StopSignal"] == "SIGTERM"
    assert set(image.config["ExposedPorts"]) == {"2525/tcp", "8025/tcp"}
    assert set(image.config["Volumes"]) == {"/var/lib/smtp2cf"}
    assert image.config["Healthcheck"]["Test"][0] == "CMD", "CMD-SHELL would need a shell"


SIZE = 80_000_000
"""Octets that may come on top of the base."""


def test_it_is_small(image: Image) -> None:
    added = sum(path.lstat().st_size for path in (image.root / "opt/smtp2cf").rglob("*") if path.is_file())
    print(f"{added / 1e6:.0f} MB above the base")
    assert added < SIZE


def test_every_extension_can_be_loaded(container: Container) -> None:
    """Also those that a bridge needs only now and then: they were stripped."""
    names = "aiohttp, argon2.low_level, asyncpg, cryptography.x509, orjson, pydantic, uvloop, yarl"
    done = container.execute("python3", "-c", f"import {names}")
    assert (done.returncode, done.stderr) == (0, "")


def test_its_volume_belongs_to_its_user(image: Image) -> None:
    status = (image.root / "var/lib/smtp2cf").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o007) == (int(USER), int(USER), 0)


INSTALLERS = {"pip", "setuptools", "wheel", "ensurepip", "pkg_resources", "idlelib"}
SCRIPTS = re.compile(
    r"(pip|idle|pydoc|2to3|easy_install)[-0-9.]*|wheel|python.*-config|activate.*|Activate\.ps1"
)


def test_holds_no_package_installer(image: Image) -> None:
    """Neither ours nor the base's: whoever gets in brings their own."""
    libraries = re.compile(r"/(site|dist)-packages/|/python3[.0-9]*/[^/]*$")
    packed = re.compile(r"(pip|setuptools|wheel)-.*\.(whl|dist-info|egg-info)")
    found = [
        path.relative_to(image.root)
        for where in ("opt", "usr", "root")
        for path in (image.root / where).rglob("*")
        if (path.name in INSTALLERS and libraries.search(str(path))) or packed.fullmatch(path.name)
    ]
    assert found == []


def test_holds_no_stray_scripts(image: Image) -> None:
    ours = {path.name for path in (image.root / "opt/smtp2cf/bin").iterdir()}
    assert {name for name in ours if not name.startswith("python")} == {"smtp2cf", "smtp2cf-sendmail"}
    for where in ("usr/bin", "usr/local/bin", "opt/smtp2cf/bin"):
        names = [path.name for path in (image.root / where).iterdir()]
        assert [name for name in names if SCRIPTS.fullmatch(name)] == []


def test_nothing_can_be_installed_in_it(image: Image, container: Container) -> None:
    pythons = [at for at in ("/usr/bin/python3", "/usr/local/bin/python3") if (image.root / at[1:]).exists()]
    for module in ("pip", "ensurepip"):
        for python in ("python3", *pythons):
            done = container.execute(python, "-m", module, "--version", user="0:0")
            assert f"No module named {module}" in done.stderr


def test_runs_as_its_user_without_any_privilege(container: Container) -> None:
    assert container.status("Uid") == " ".join([USER] * 4)
    assert container.status("Gid") == " ".join([USER] * 4)
    assert container.status("Groups") == ""
    assert int(container.status("CapEff"), 16) == 0


def test_its_root_is_read_only_and_its_volume_is_not(container: Container) -> None:
    write = "open({!r}, 'w').write('x')"
    for path in ("/opt/smtp2cf/x", "/tmp/x", "/x"):
        refused = container.execute("python3", "-c", write.format(path), user="0:0")
        assert "Read-only file system" in refused.stderr
    assert container.execute("python3", "-c", write.format("/var/lib/smtp2cf/x")).returncode == 0


def test_sends_a_message_byte_for_byte(container: Container) -> None:
    def send() -> bytes:
        with smtplib.SMTP("127.0.0.1", 2525) as client:
            assert client.sendmail("app@example.com", ["anna@example.net"], MESSAGE) == {}
        with urllib.request.urlopen("http://127.0.0.1:8787/messages/1") as answer:
            return answer.read()

    assert container.inside(send) == MESSAGE


def test_its_command_line_reaches_it(container: Container) -> None:
    sent = container.execute("smtp2cf", "send", "--to", "anna@example.net", "--from", "app@example.com")
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith("250 2.0.0 ")


def test_is_no_open_relay(container: Container) -> None:
    """It listens beyond loopback, and relays for nobody there until it is told to."""

    def send() -> tuple[int, bytes]:
        with smtplib.SMTP(OUTSIDE, 2525) as client:
            client.ehlo()
            return client.mail("app@example.com")

    code, text = container.inside(send)
    assert code == 550
    assert text.startswith(b"5.7.1 ")
    assert OUTSIDE.encode() in text
    assert b"SMTP2CF_ALLOW_NETWORKS" in text


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_from_outside_are_answered(container: Container, path: str) -> None:
    def probe() -> int:
        with urllib.request.urlopen(f"http://{OUTSIDE}:8025{path}") as answer:
            return answer.status

    assert container.inside(probe) == 200


def test_its_health_check_sees_that_it_lives(image: Image, container: Container) -> None:
    checked = container.execute(*image.config["Healthcheck"]["Test"][1:])
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_its_health_check_sees_that_it_hangs(image: Image, container: Container) -> None:
    container.kill(signal.SIGSTOP)
    try:
        checked = container.execute(*image.config["Healthcheck"]["Test"][1:])
    finally:
        container.kill(signal.SIGCONT)
    assert checked.returncode == 1
    assert "timed out" in checked.stdout


def test_its_health_check_sees_that_it_is_down(image: Image, tmp_path: Path) -> None:
    with image.run(tmp_path, image.config["Healthcheck"]["Test"][1:]) as container:
        assert container.wait() == 1
        assert "Connection refused" in container.log()


def test_without_an_account_it_says_what_is_missing(image: Image, tmp_path: Path) -> None:
    with image.run(tmp_path, [*image.config["Entrypoint"], *image.config["Cmd"]]) as container:
        assert container.wait() == os.EX_CONFIG
        assert container.log().startswith("smtp2cf: SMTP2CF_ACCOUNT_ID is not set")


def test_stops_at_sigterm_as_the_first_process(image: Image, tmp_path: Path) -> None:
    with image.run(tmp_path, [*image.config["Entrypoint"], *image.config["Cmd"], "--sandbox"]) as container:
        container.wait_for_log("serve.ready")
        container.kill(signal.SIGTERM)
        assert container.wait() == 0
        assert "serve.stopped" in container.log()
