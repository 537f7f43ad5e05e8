"""Programs that hang up as they do, each twice with the same bytes: both messages go out, no reply is lost.

Every way of closing by itself, and what is a loss: tests/smtpd/test_reply_arrival.py.
"""

import contextlib
import os
import smtplib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.bridge import Bridge, running_bridge
from tests.support.certificates import make_pair, write_pair
from tests.support.needs import needs
from tests.support.postfix import DAEMONS, running_postfix
from tests.support.waiting import PATIENCE, free_port

pytestmark = pytest.mark.slow

SENDER, RECIPIENT = "app@example.com", "anna@example.net"
MESSAGE = b"From: app@example.com\r\nSubject: door open\r\n\r\nThe door is open.\r\n"
COMMANDS = [
    b"EHLO client.example",
    f"MAIL FROM:<{SENDER}>".encode(),
    f"RCPT TO:<{RECIPIENT}>".encode(),
    b"DATA",
]
WAYS = ["plain 1.3", "STARTTLS 1.2", "STARTTLS 1.3", "SMTPS 1.2", "SMTPS 1.3"]
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Target(NamedTuple):
    """A bridge, how it is reached, and its certificate."""

    bridge: Bridge
    way: str
    version: str
    port: int
    cert: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """A bridge on either loop, its certificate and its port for SMTPS."""
    directory = tmp_path_factory.mktemp("hanging-up")
    cert, key = write_pair(directory, make_pair())
    settings = {"SMTPS_LISTEN": "127.0.0.1:0", "TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key)}
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asyncio":
            (directory / "without" / "uvloop").mkdir(parents=True)
            (directory / "without" / "uvloop" / "__init__.py").write_text("raise ImportError")
            patch.setenv("PYTHONPATH", str(directory / "without"))
        with running_bridge(directory, STATE_DIR=str(directory / "state"), **settings) as bridge:
            ready = bridge.wait_for_log("serve.ready")
            yield bridge, cert, int(ready["smtps"][0].rpartition(":")[2])


@pytest.fixture(params=WAYS)
def target(request: pytest.FixtureRequest, running: tuple) -> Target:
    bridge, cert, smtps_port = running
    bridge.clear()
    way, _, version = request.param.partition(" ")
    return Target(bridge, way, version, smtps_port if way == "SMTPS" else bridge.smtp_port, cert)


def arrive_twice(target: Target, send: Callable[[], None]) -> None:
    """Both go out, one right behind the other, and no reply is taken for lost."""
    before = len([line for line in target.bridge.log() if line["event"] == "session.reply_lost"])
    send()
    send()
    assert [message["recipients"] for message in target.bridge.wait_for(2)] == [[RECIPIENT]] * 2
    lost = [line for line in target.bridge.log() if line["event"] == "session.reply_lost"]
    assert len(lost) == before


# ---- Go


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("go")
    client = directory / "hang_up"
    environ = {**os.environ, "GO111MODULE": "off", "CGO_ENABLED": "0"}
    source = Path(__file__).parent / "go" / "hang_up.go"
    subprocess.run(["go", "build", "-o", client, source], env=environ, check=True, timeout=300)
    return client


@needs("go")
@pytest.mark.parametrize("ending", ["Quit", "Close"])
def test_gos_net_smtp(target: Target, go_client: Path, ending: str) -> None:
    command = [go_client, target.address, target.cert, target.way, target.version, ending]
    arrive_twice(target, lambda: subprocess.run(command, check=True, timeout=PATIENCE))


# ---- OpenSSL


def _say(client: subprocess.Popen[bytes], line: bytes) -> None:
    assert client.stdin is not None
    client.stdin.write(line + b"\r\n")
    client.stdin.flush()


def _hear(client: subprocess.Popen[bytes]) -> bytes:
    assert client.stdout is not None
    while (line := client.stdout.readline())[3:4] == b"-" or not line[:3].isdigit():
        assert line, "s_client ended"
    return line


@needs("openssl")
@pytest.mark.parametrize("target", WAYS[1:], indirect=True)
@pytest.mark.parametrize("ending", ["QUIT", "QUIT and close", "end of input", "kill"])
def test_openssls_s_client(target: Target, ending: str) -> None:
    version = f"-tls{target.version.replace('.', '_')}"
    command = ["openssl", "s_client", "-connect", target.address, version, "-quiet", "-no_ign_eof"]
    if target.way == "STARTTLS":
        command += ["-starttls", "smtp"]

    def send() -> None:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as client:
            assert client.stdin is not None
            patience = threading.Timer(20, client.kill)
            patience.start()
            try:
                if target.way == "SMTPS":
                    assert _hear(client).startswith(b"220")
                for line in COMMANDS:
                    _say(client, line.lower())  # to s_client itself, a line with R is a command
                    assert _hear(client)[:1] in b"23"
                _say(client, MESSAGE + b".")
                assert _hear(client).startswith(b"250")
                if ending.startswith("QUIT"):
                    _say(client, b"quit")
                if ending == "QUIT":
                    assert _hear(client).startswith(b"221")
                if ending != "kill":
                    client.stdin.close()
                    client.wait(PATIENCE)
            finally:
                patience.cancel()
                client.kill()

    arrive_twice(target, send)


# ---- Python


def _connect(target: Target) -> smtplib.SMTP:
    context = ssl.create_default_context(cafile=str(target.cert))
    context.maximum_version = VERSIONS[target.version]
    if target.way == "SMTPS":
        return smtplib.SMTP_SSL("127.0.0.1", target.port, context=context, timeout=PATIENCE)
    client = smtplib.SMTP("127.0.0.1", target.port, timeout=PATIENCE)
    if target.way == "STARTTLS":
        client.starttls(context=context)
    return client


@pytest.mark.parametrize("ending", ["quit", "close", "QUIT and close", "goodbye", "exit", "shutdown"])
def test_pythons_smtplib(target: Target, ending: str) -> None:
    def send() -> None:
        client = _connect(target)
        client.sendmail(SENDER, RECIPIENT, MESSAGE)
        assert client.sock is not None
        if ending == "quit":
            client.quit()
        elif ending == "QUIT and close":
            client.putcmd("quit")
        elif ending == "goodbye" and isinstance(client.sock, ssl.SSLSocket):
            client.sock.settimeout(0.01)  # it says goodbye, and does not wait for the answer to that
            with contextlib.suppress(OSError):
                client.sock.unwrap()
        elif ending == "shutdown":
            client.sock.shutdown(socket.SHUT_RDWR)
        client.close()

    arrive_twice(target, send)


# ---- Postfix


@needs("postfix", str(DAEMONS / "smtp"))
@pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts as root only")
def test_postfix(target: Target, open_path: Path) -> None:
    """It pipelines the dot and QUIT, and closes when it has the 250."""
    port = free_port()
    version = f"TLSv{target.version}"
    main = {
        "default_transport": f"smtp:[127.0.0.1]:{target.port}",
        "smtp_tls_security_level": {"plain": "none", "STARTTLS": "may", "SMTPS": "encrypt"}[target.way],
        "smtp_tls_wrappermode": "yes" if target.way == "SMTPS" else "no",
        "smtp_tls_protocols": version,
        "smtp_tls_mandatory_protocols": version,
        "smtp_tls_loglevel": "1",
    }
    count = 10
    with running_postfix(open_path, port, "".join(f"{k} = {v}\n" for k, v in main.items())) as postfix:
        for number in range(count):
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.sendmail(SENDER, f"n{number}@example.net", MESSAGE)
        fates = postfix.fates(count)
        assert (version in postfix.log()) is (target.way != "plain"), postfix.log()
    assert {status for status, _ in fates.values()} == {"sent"}
    tell = [line for line in target.bridge.log() if line["event"] == "session.reply_lost"]
    assert tell == []
