"""Clients that are closed after the test, and certificates of a CA that nobody knows."""

import asyncio
import contextlib
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from smtp2cf.cloudflare import Client
from smtp2cf.cloudflare.client import Sent
from smtp2cf.reply import SendError
from tests.support.secret import TOKEN

ACCOUNT = "0123456789abcdef0123456789abcdef"
SENDER = "a@example.com"
RECIPIENT = "b@example.net"
MESSAGE = b"From: a@example.com\r\nTo: b@example.net\r\n\r\nhello\r\n"

MakeClient = Callable[..., Client]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' servers are on loopback, whatever the environment says."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """Make a client for a base URL; closed after the test."""
    async with contextlib.AsyncExitStack() as opened:

        def make(base_url: str, **changes: Any) -> Client:
            settings = {"account_id": ACCOUNT, "token": TOKEN, "timeout": 10.0, "concurrency": 10} | changes
            client = Client(base_url=base_url, **settings)
            opened.push_async_callback(client.aclose)
            return client

        yield make
        await asyncio.sleep(0)


async def send(
    client: Client, *recipients: str, message: bytes = MESSAGE, sender: str = SENDER, wait: float = 30.0
) -> Sent:
    """One send_raw, to RECIPIENT where nobody is named."""
    return await client.send(sender, recipients or (RECIPIENT,), message, time.monotonic() + wait)


async def failed_send(client: Client, *recipients: str, **changes: Any) -> SendError:
    """The error of a send_raw that must fail."""
    with pytest.raises(SendError) as caught:
        await send(client, *recipients, **changes)
    return caught.value


class Certificates(NamedTuple):
    """A server's TLS context for 127.0.0.1, and the file that names who signed it."""

    server: ssl.SSLContext
    ca_file: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A self-signed certificate for 127.0.0.1."""
    return make_certificates(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


def make_certificates(directory: Path, name: str) -> Certificates:
    """A self-signed certificate for `name`, made by the openssl command."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={name}"]
    command += ["-addext", "basicConstraints=critical,CA:TRUE"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return Certificates(context, certificate)
