"""The PROXY protocol (HAProxy's, versions 1 and 2): whom it names is who is there, if a proxy says so."""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.smtpd.conftest import Service, Start, arriving
from tests.smtpd.dialog import Client, dotted, until
from tests.smtpd.rude_tls import RudeTls
from tests.support.certificates import Certificates

Lines = list[MutableMapping[str, Any]]
PROXIES = (ipaddress.ip_network("127.0.0.1/32"),)
EVERYBODY = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
SESSION = b"EHLO a\r\nMAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.net>\r\nDATA\r\n" + dotted(
    b"x\r\n"
)


def _events(logged: Lines) -> list[str]:
    return [line["event"] for line in logged if line["log_level"] != "debug"]


def v2(addresses: bytes, *, family: int = 0x11, command: int = 0x21, length: int | None = None) -> bytes:
    """A header of version 2 (§2.2)."""
    size = len(addresses) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, family, size) + addresses


def v2_ip(source: str, *, tlvs: bytes = b"", protocol: int = 1) -> bytes:
    address = ipaddress.ip_address(source)
    family = (0x10 if address.version == 4 else 0x20) | protocol
    return v2(address.packed * 2 + struct.pack("!HH", 40000, 25) + tlvs, family=family)


TLVS = b"\x01\x00\x02h2" + b"\x20\x00\x05\x01\x00\x00\x00\x00" + b"\xee\x00\x03abc"
NAMED = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n", "192.0.2.7"),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 25\r\n", "2001:db8::7"),
    "v1 of 107 octets": (
        b"PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".replace(
            b"ffff:f...f:ffff", b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        ),
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    "v2 TCP4": (v2_ip("192.0.2.7"), "192.0.2.7"),
    "v2 TCP6": (v2_ip("2001:db8::7"), "2001:db8::7"),
    "v2 with TLVs": (v2_ip("192.0.2.7", tlvs=TLVS), "192.0.2.7"),
    "v2 with TLVs that are none": (v2_ip("192.0.2.7", tlvs=b"\x01\xff\xff"), "192.0.2.7"),
    "v2 as long as can be": (v2_ip("192.0.2.7", tlvs=b"\x04" * 65523), "192.0.2.7"),
}
ITSELF = {
    "v1 UNKNOWN": b"PROXY UNKNOWN\r\n",
    "v1 UNKNOWN with addresses": b"PROXY UNKNOWN 192.0.2.7 198.51.100.1 56324 25\r\n",
    "v2 LOCAL": v2(b"", family=0, command=0x20),
    "v2 LOCAL with an address": v2(bytes(12), command=0x20),
    "v2 unspecified": v2(b"", family=0),
    "v2 unspecified with octets": v2(b"whatever", family=0),
    "v2 unix": v2(b"/run/a\0".ljust(108, b"\0") * 2, family=0x31),
}


async def proxied(start: Start, **options: Any) -> Service:
    """A server behind a proxy on 127.0.0.1; everybody may relay unless it is said otherwise."""
    return await start(**{"proxy_networks": PROXIES, "allow_networks": EVERYBODY, **options})


async def in_pieces(client: Client, octets: bytes, size: int) -> None:
    for position in range(0, len(octets), size):
        client.writer.write(octets[position : position + size])
        await asyncio.sleep(0)


# ---- who it is


@pytest.mark.parametrize(("header", "address"), NAMED.values(), ids=NAMED)
async def test_the_client_is_who_the_proxy_names(start: Start, header: bytes, address: str) -> None:
    service = await proxied(start)
    client = await service.connect(ahead=header)
    await client.send(SESSION + b"QUIT\r\n")
    assert (await client.everything()).startswith("220 bridge.example ESMTP")
    assert service.envelope.client == address


@pytest.mark.parametrize("header", ITSELF.values(), ids=ITSELF)
async def test_a_proxy_may_speak_for_itself(start: Start, logged: Lines, header: bytes) -> None:
    service = await proxied(start)
    client = await service.connect(ahead=header)
    await client.send(SESSION + b"QUIT\r\n")
    assert (await client.everything()).startswith("220 bridge.example ESMTP")
    assert service.envelope.client == "127.0.0.1"
    assert _events(logged) == []


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("header", [NAMED["v1 TCP4"][0], NAMED["v2 with TLVs"][0]], ids=["v1", "v2"])
async def test_a_header_comes_in_pieces_or_along_with_all_the_rest(
    start: Start, header: bytes, size: int
) -> None:
    service = await proxied(start)
    client = await service.connect()
    await in_pieces(client, header + SESSION + b"QUIT\r\n", size)
    assert (await client.everything()).endswith("221 2.0.0 goodbye\r\n")
    assert (service.envelope.client, service.message) == ("192.0.2.7", b"x\r\n")


async def test_the_greeting_comes_behind_the_header(start: Start) -> None:
    client = await (await proxied(start)).connect()
    await client.send(b"PROXY TCP4 192.0.2.7 198.5")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.reader.read(1)
    await client.send(b"1.100.1 56324 25\r\n")
    assert (await client.reply()).startswith("220")


async def test_lmtp_too(start: Start) -> None:
    service = await proxied(start, protocol="lmtp")
    client = await service.greeted(ahead=NAMED["v2 TCP6"][0])
    for command in ("MAIL FROM:<anna@example.com>", "RCPT TO:<bert@example.net>", "DATA", "."):
        await client.ask(command)
    assert service.envelope.client == "2001:db8::7"


@pytest.mark.parametrize("header", [NAMED["v1 TCP4"][0], NAMED["v2 with TLVs"][0]], ids=["v1", "v2"])
@pytest.mark.parametrize("size", [1, 100_000])
async def test_the_handshake_begins_right_behind_the_header(
    start: Start, certificates: Certificates, header: bytes, size: int
) -> None:
    service = await proxied(start, protocol="smtps", tls=certificates.server)
    client = await service.connect()
    rude = RudeTls(client, certificates.client)
    await in_pieces(client, header + rude.hello(), size)
    await client.send(await rude.finished() + rude.seal(SESSION + b"QUIT\r\n"))
    heard = await rude.heard(17)
    assert (heard[0][:4], heard[-1][:4]) == (b"220 ", b"221 ")
    assert service.envelope.client == "192.0.2.7"
    client.end()


async def test_starttls_behind_a_header(start: Start, certificates: Certificates) -> None:
    service = await proxied(start, tls=certificates.server)
    client = await service.greeted(ahead=NAMED["v1 TCP4"][0])
    await client.ask("STARTTLS")
    await client.start_tls(certificates.client)
    await client.send(SESSION)
    await until(lambda: bool(service.taken))
    assert service.envelope.client == "192.0.2.7"


# ---- who may relay


async def test_it_is_the_named_address_that_may_relay_or_not(start: Start, logged: Lines) -> None:
    service = await proxied(start, allow_networks=(ipaddress.ip_network("192.0.2.0/24"),))
    inside = await service.greeted(ahead=v2_ip("192.0.2.7"))
    assert (await inside.ask("MAIL FROM:<anna@example.com>")).startswith("250")
    for header, address in (
        (v2_ip("198.51.100.7"), "198.51.100.7"),
        (v2_ip("127.0.0.1"), "127.0.0.1"),
        (ITSELF["v2 LOCAL"], "127.0.0.1"),
        (ITSELF["v1 UNKNOWN with addresses"], "127.0.0.1"),
    ):
        outside = await service.greeted(ahead=header)
        refused = await outside.ask("MAIL FROM:<anna@example.com>")
        assert refused.startswith(f"550 5.7.1 {address} may not relay here")
        assert logged[-1]["client"] == address


async def test_who_checks_passwords_is_told_the_named_address(start: Start) -> None:
    asked: list[str] = []

    async def authenticate(client: str, *_: str) -> None:
        asked.append(client)

    service = await proxied(start, authenticate=authenticate, auth_without_tls=True)
    client = await service.greeted(ahead=v2_ip("2001:db8::7"))
    await client.ask("AUTH PLAIN AGFubmEAYQ==")
    assert asked == ["2001:db8::7"]


@pytest.mark.parametrize("header", [NAMED["v1 TCP4"][0], NAMED["v2 TCP4"][0], NAMED["v2 TCP6"][0]])
@pytest.mark.parametrize("networks", [PROXIES, ()], ids=["other proxies", "no proxies"])
async def test_from_anybody_else_a_header_is_refused(
    start: Start, logged: Lines, header: bytes, networks: Any
) -> None:
    service = await start(proxy_networks=networks, allow_networks=EVERYBODY)
    client = await service.connect(source="127.0.0.2")
    await client.send(header + SESSION)
    assert (await client.everything()).splitlines()[1:] == [
        "554 5.7.1 PROXY protocol not accepted from this address: see SMTP2CF_PROXY_NETWORKS"
    ]
    assert service.taken == []
    await until(lambda: not service.server.sessions)
    (line,) = [line for line in logged if line["log_level"] != "debug"]
    assert (line["event"], line["client"]) == ("session.not_smtp", "127.0.0.2")


@pytest.mark.parametrize(
    ("header", "goodbye"),
    [(b"PROXY ", "554 5.7.1 PROXY protocol"), (SIGNATURE, "221 2.0.0 goodbye")],
)
async def test_octet_by_octet_too(start: Start, header: bytes, goodbye: str) -> None:
    """Version 2 begins with a QUIT for those who don't know it."""
    service = await start(allow_networks=EVERYBODY)
    client = await service.connect()
    await in_pieces(client, header, 1)
    assert (await client.everything()).splitlines()[-1].startswith(goodbye)


async def test_anybody_else_needs_none(start: Start) -> None:
    service = await proxied(start)
    client = await service.greeted(source="127.0.0.2")
    await client.send(SESSION)
    await until(lambda: bool(service.taken))
    assert service.envelope.client == "127.0.0.2"


async def test_a_second_header_is_refused(start: Start) -> None:
    """What the client of a proxy sends first is as good as what comes from anybody."""
    service = await proxied(start)
    client = await service.connect(ahead=NAMED["v1 TCP4"][0] + NAMED["v2 TCP4"][0])
    assert (await client.everything()).splitlines()[1].startswith("554 5.7.1 PROXY protocol not accepted")


async def test_on_a_unix_socket_nobody_is_a_proxy(start: Start) -> None:
    service = await proxied(start, unix=True)
    client = await service.connect(ahead=NAMED["v1 TCP4"][0])
    assert "554 5.7.1 PROXY protocol not accepted" in await client.everything()


# ---- what is no header

WRONG = {
    "SMTP": b"EHLO client.example\r\n",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "empty lines": b"\r\n\r\n\r\n\r\n",
    "v1 in lower case": b"proxy TCP4 192.0.2.7 198.51.100.1 56324 25\r\n",
    "v1 with a word too many": b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25 x\r\n",
    "v1 with words missing": b"PROXY TCP4 192.0.2.7\r\n",
    "v1 without anything": b"PROXY\r\n",
    "v1 without a space": b"PROXYTCP4 192.0.2.7 198.51.100.1 56324 25\r\n",
    "v1 of UDP": b"PROXY UDP4 192.0.2.7 198.51.100.1 56324 25\r\n",
    "v1 with another family": b"PROXY TCP4 2001:db8::7 2001:db8::1 56324 25\r\n",
    "v1 with a name": b"PROXY TCP4 client.example 198.51.100.1 56324 25\r\n",
    "v1 with a port that is none": b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n",
    "v1 ending in LF": b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\n",
    "v1 of 108 octets": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "v1 without end": b"PROXY TCP4 " + b"1" * 5000,
    "v1 with control characters": b"PROXY TCP4 \x1b[31m\x00 198.51.100.1 56324 25\r\n",
    "v2 of version 3": v2(bytes(12), command=0x31),
    "v2 with an unknown command": v2(bytes(12), command=0x2F),
    "v2 with an unknown family": v2(bytes(12), family=0x41),
    "v2 with an unknown protocol": v2(bytes(12), family=0x13),
    "v2 too short for its address": v2(bytes(11)),
    "v2 with a broken signature": SIGNATURE[:-1] + b"x" + bytes(20),
}


@pytest.mark.parametrize("header", WRONG.values(), ids=WRONG)
async def test_what_is_no_header_is_refused_with_one_line(start: Start, logged: Lines, header: bytes) -> None:
    service = await proxied(start)
    client = await service.connect(ahead=header)
    await client.send(SESSION)
    assert await client.everything() == (
        "554 5.7.1 127.0.0.1 is in SMTP2CF_PROXY_NETWORKS, but sent no PROXY header\r\n"
    )
    assert _events(logged) == ["session.proxy_refused"]
    assert logged[-1]["client"] == "127.0.0.1"
    assert logged[-1]["reason"].isprintable()
    assert service.taken == []


async def test_on_a_tls_port_nothing_is_said_that_the_client_could_not_read(
    start: Start, certificates: Certificates, logged: Lines
) -> None:
    service = await proxied(start, protocol="smtps", tls=certificates.server)
    client = await service.connect(ahead=WRONG["SMTP"])
    assert await client.line() == "<closed>"
    assert _events(logged) == ["session.proxy_refused"]


@pytest.mark.parametrize(
    "sent", [b"", b"PROXY TCP4 192", SIGNATURE, v2(b"", length=40), v2(bytes(12), length=40)]
)
async def test_a_header_has_its_time(
    start: Start, logged: Lines, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.handshake.HANDSHAKE_TIMEOUT", 0.15)
    service = await proxied(start)
    client = await service.connect(ahead=sent)
    assert (await client.everything()).startswith("554 5.7.1")
    assert [(line["event"], line["reason"]) for line in logged] == [
        ("session.proxy_refused", "no PROXY header in time")
    ]


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("sent", [b"", b"PRO", b"PROXY TCP4 192", SIGNATURE, v2(bytes(12), length=40)])
async def test_a_proxy_that_leaves_before_its_header_is_whole(
    start: Start, logged: Lines, sent: bytes, how: str
) -> None:
    service = await proxied(start)
    client = await service.connect(ahead=sent)
    getattr(client, how)()
    await until(lambda: bool(logged) and not arriving())
    assert _events(logged) == ["session.proxy_refused"]


async def test_a_proxy_that_does_not_hang_up_is_hung_up_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.before_session.GOODBYE_WAIT", 0.1)
    service = await proxied(start)
    client = await service.connect(ahead=WRONG["SMTP"])
    await until(lambda: not arriving())
    assert (await client.everything()).startswith("554")


# ---- many, and anything


async def test_many_at_once_each_with_its_own(start: Start) -> None:
    service = await proxied(start)

    async def send(number: int) -> None:
        client = await service.connect(ahead=v2_ip(f"192.0.2.{number}"))
        await client.send(SESSION.replace(b"bert", b"n%d" % number) + b"QUIT\r\n")
        await client.everything()

    await asyncio.gather(*(send(number) for number in range(200)))
    pairs = {(envelope.client, envelope.forward_paths[0]) for envelope, _ in service.taken}
    assert pairs == {(f"192.0.2.{number}", f"n{number}@example.net") for number in range(200)}


async def test_those_without_a_header_are_bounded(start: Start, logged: Lines) -> None:
    service = await proxied(start, max_sessions=3)
    for _ in range(3):
        await service.connect()
    await until(lambda: len(arriving()) == 3)
    assert await (await service.connect()).reader.read() == b""
    assert _events(logged) == ["session.refused"]


async def test_the_end_of_the_server(start: Start, logged: Lines) -> None:
    service = await proxied(start)
    named, unnamed = await service.greeted(ahead=NAMED["v1 TCP4"][0]), await service.connect(ahead=b"PROX")
    await until(lambda: len(arriving()) == 1)
    await service.server.drain(5)
    assert (await named.everything()).startswith("421 4.3.2")
    assert (await unnamed.everything()).startswith("421 4.3.2")
    assert _events(logged) == []


async def test_out_of_files_is_not_the_end(
    start: Start, logged: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.smtpd.before_session.OUT_OF_FILES_WAIT", 0.01)
    loop = asyncio.get_running_loop()
    left = 2

    class Loop:
        """A loop that has no files left at first."""

        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

        async def sock_accept(self, listener: socket.socket) -> Any:
            nonlocal left
            left -= 1
            if left >= 0:
                raise OSError(24, "Too many open files")
            return await loop.sock_accept(listener)

    with monkeypatch.context() as patched:
        patched.setattr("smtp2cf.smtpd.before_session.asyncio.get_running_loop", lambda: Loop())
        service = await proxied(start)
        await until(lambda: left < 0)
    await service.greeted(ahead=NAMED["v1 TCP4"][0])
    assert _events(logged) == ["session.not_accepted"] * 2
    assert logged[0]["reason"] == "Too many open files"


headers = st.one_of(
    st.binary(max_size=120),
    st.binary(max_size=120).map(lambda rest: SIGNATURE + rest),
    st.binary(max_size=110).map(lambda rest: b"PROXY " + rest + b"\r\n"),
    st.lists(
        st.sampled_from([b"PROXY", b"TCP4", b"TCP6", b"UNKNOWN", b"1.2.3.4", b"::1", b"25", b"", b"\xff"]),
        max_size=9,
    ).map(lambda words: b" ".join(words) + b"\r\n"),
    st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 60), st.binary(max_size=60)).map(
        lambda parts: SIGNATURE + struct.pack("!BBH", *parts[:3]) + parts[3]
    ),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(octets=headers)
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_whatever_comes_as_a_header_is_one_or_refused(
    start: Start, logged: Lines, octets: bytes
) -> None:
    logged.clear()
    service = await proxied(start)
    client = await service.connect(ahead=octets)
    client.end()
    heard = await client.everything()
    events = [line["event"] for line in logged if line["log_level"] in ("warning", "error")]
    if heard.startswith("220 "):
        assert "session.proxy_refused" not in events
        assert len(events) <= 1
    else:
        assert heard.startswith("554 5.7.1 127.0.0.1")
        assert events == ["session.proxy_refused"]
    await service.stop()
