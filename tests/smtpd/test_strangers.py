"""Those who knock on the wrong listener: HTTP, TLS and noise. A goodbye, one log line, no traceback."""

import random
from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.smtpd.conftest import Start
from tests.smtpd.dialog import until

Lines = list[MutableMapping[str, Any]]

HTTP = "554 5.5.0 this is an SMTP server, not HTTP"
TLS = "554 5.5.0 this is SMTP without TLS"

CLIENT_HELLO = (
    bytes.fromhex("1603010200010001fc0303") + bytes(range(1, 10)) + bytes(range(11, 256)) + bytes(200)
)


@pytest.mark.parametrize(
    ("opening", "goodbye"),
    [
        (b"GET / HTTP/1.1\r\nHost: bridge.example\r\n\r\n", HTTP),
        (b"GET / HTTP/1.1\r\n", HTTP),
        (b"POST /x HTTP/1.1\r\nContent-Length: 24\r\n\r\nMAIL FROM:<a@b.c>\r\nQUIT\r\n", HTTP),
        (b"get / http/1.0\n\n", HTTP),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", HTTP),
        (b"CONNECT a.example:443 HTTP/1.1\r\n\r\n", HTTP),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP),
        (b"GET /" + b"x" * 600 + b" HTTP/1.1\r\n\r\n", HTTP),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", HTTP),
        (CLIENT_HELLO, TLS),
        (CLIENT_HELLO[:5], TLS),
        (CLIENT_HELLO + b"\n" + CLIENT_HELLO, TLS),
    ],
    ids=lambda value: repr(value[:12]),
)
@pytest.mark.parametrize("hello", [b"", b"EHLO a\r\nMAIL FROM:<anna@example.com>\r\n"])
async def test_another_protocol_gets_a_goodbye(
    start: Start, logged: Lines, hello: bytes, opening: bytes, goodbye: str
) -> None:
    service = await start()
    client = await service.connect()
    await client.send(hello + opening)
    lines = (await client.everything()).splitlines()
    assert lines[-1].startswith(goodbye)
    assert [line for line in lines if line[:1] in "45"] == lines[-1:]
    assert [line["event"] for line in logged if line["log_level"] != "debug"] == ["session.not_smtp"]
    await until(lambda: not service.server.sessions)


@pytest.mark.parametrize("seed", range(10))
async def test_noise_is_refused_and_the_server_lives(start: Start, logged: Lines, seed: int) -> None:
    service = await start()
    client = await service.connect()
    noise = random.Random(seed).randbytes(100_000).replace(b"\x16\x03", b"")
    await client.send(noise)
    client.end()
    lines = (await client.everything()).splitlines()
    assert lines[0].startswith("220")
    assert all(line[:3] in ("500", "421") for line in lines[1:])
    assert lines[-1].startswith("421 4.7.0 too many errors")
    assert [line["event"] for line in logged if line["log_level"] != "debug"] == ["session.too_many_errors"]
    await service.greeted()
