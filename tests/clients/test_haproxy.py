"""HAProxy in front, with both versions of its protocol: the bridge sees the clients, not the proxy."""

import contextlib
import smtplib
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.bridge import Bridge, running_bridge
from tests.support.certificates import make_pair, write_pair
from tests.support.needs import needs
from tests.support.waiting import PATIENCE, free_port

pytestmark = needs("haproxy")

SENDER, RECIPIENT = "app@example.com", "anna@example.net"
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
CONFIG = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen v1
    bind 127.0.0.1:{v1}
    server bridge 127.0.0.1:{smtp} send-proxy
listen v2
    bind 127.0.0.1:{v2}
    server bridge 127.0.0.1:{smtp} send-proxy-v2
listen tls
    bind 127.0.0.1:{tls}
    server bridge 127.0.0.1:{smtps} send-proxy-v2 proxy-v2-options crc32c,unique-id
listen checked
    bind 127.0.0.1:{checked}
    option smtpchk EHLO proxy.example
    server bridge 127.0.0.1:{smtp} send-proxy-v2 check inter 100ms
listen connected
    bind 127.0.0.1:{connected}
    server bridge 127.0.0.1:{smtp} send-proxy check inter 100ms
"""


class Proxied(NamedTuple):
    """A bridge with a proxy in front. 127.0.0.2 may relay, the proxy's own address may not."""

    bridge: Bridge
    ports: dict[str, int]
    cert: Path


@pytest.fixture(scope="module")
def _proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    directory = tmp_path_factory.mktemp("haproxy")
    cert, key = write_pair(directory, make_pair())
    settings = {
        "PROXY_NETWORKS": "127.0.0.1/32",
        "ALLOW_NETWORKS": "127.0.0.2/32",
        "SMTPS_LISTEN": "127.0.0.1:0",
        "TLS_CERT_FILE": str(cert),
        "TLS_KEY_FILE": str(key),
    }
    with running_bridge(directory, **settings) as bridge:
        ready = bridge.wait_for_log("serve.ready")
        backends = {"smtp": bridge.smtp_port, "smtps": int(ready["smtps"][0].rpartition(":")[2])}
        ports = {name: free_port() for name in ("v1", "v2", "tls", "checked", "connected")}
        config = directory / "haproxy.cfg"
        config.write_text(CONFIG.format(**ports, **backends))
        with running_haproxy(config, ports["v1"]):
            yield Proxied(bridge, ports, cert)


@contextlib.contextmanager
def running_haproxy(config: Path, port: int) -> Iterator[None]:
    with config.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                break
            assert process.poll() is None, config.with_suffix(".log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def proxied(_proxied: Proxied) -> Proxied:
    """It, with its messages forgotten."""
    _proxied.bridge.clear()
    return _proxied


def connect(proxied: Proxied, way: str, source: str) -> smtplib.SMTP:
    """A client at an address, connected through the proxy."""
    at = {"host": "127.0.0.1", "port": proxied.ports[way], "source_address": (source, 0), "timeout": 30}
    if way == "tls":
        return smtplib.SMTP_SSL(**at, context=ssl.create_default_context(cafile=str(proxied.cert)))
    return smtplib.SMTP(**at)


@pytest.mark.parametrize("way", ["v1", "v2", "tls", "checked"])
def test_it_is_the_clients_address_that_counts(proxied: Proxied, way: str) -> None:
    with connect(proxied, way, "127.0.0.2") as client:
        assert client.sendmail(SENDER, RECIPIENT, MESSAGE) == {}
    with (
        connect(proxied, way, "127.0.0.3") as client,
        pytest.raises(smtplib.SMTPSenderRefused, match=r"127\.0\.0\.3 may not relay") as refused,
    ):
        client.sendmail(SENDER, RECIPIENT, MESSAGE)
    assert refused.value.smtp_code == 550
    (arrived,) = proxied.bridge.messages()
    assert arrived["mime_message"] == MESSAGE
    attempts = [entry for entry in proxied.bridge.log() if entry["event"] == "mail.attempt"]
    assert attempts[-1]["client"] == "127.0.0.2"


def test_starttls_through_the_proxy(proxied: Proxied) -> None:
    with connect(proxied, "v2", "127.0.0.2") as client:
        client.starttls(context=ssl.create_default_context(cafile=str(proxied.cert)))
        assert client.sendmail(SENDER, RECIPIENT, MESSAGE) == {}
    assert len(proxied.bridge.messages()) == 1


def test_the_proxys_looks_whether_we_live_are_nothing_to_speak_of(proxied: Proxied) -> None:
    time.sleep(0.5)  # some five of each kind
    unwelcome = [
        entry
        for entry in proxied.bridge.log()
        if entry.get("level") in ("warning", "error") and entry["event"].startswith("session.")
    ]
    assert [entry for entry in unwelcome if entry["event"] != "session.relaying_denied"] == []
    assert not [entry for entry in proxied.bridge.log() if entry["event"] == "raw"]


def test_who_goes_round_the_proxy_is_no_proxy(proxied: Proxied) -> None:
    at = ("127.0.0.1", proxied.bridge.smtp_port)
    with socket.create_connection(at, 30, source_address=("127.0.0.3", 0)) as sock:
        sock.sendall(b"PROXY TCP4 127.0.0.2 127.0.0.1 1 25\r\nEHLO a\r\n")
        said = b""
        while block := sock.recv(4096):
            said += block
    assert b"554 5.7.1 PROXY protocol not accepted from this address: see SMTP2CF_PROXY_NETWORKS" in said
