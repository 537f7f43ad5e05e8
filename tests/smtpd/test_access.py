"""Who may relay: clients in the allowed networks, and those on a unix socket."""

import ipaddress
import socket
from typing import Any

import pytest

from smtp2cf.smtpd import Policy
from smtp2cf.smtpd.connection import Connection
from tests.smtpd.conftest import LOOPBACK, Start

ONE_CLIENT = (ipaddress.ip_network("127.0.0.1/32"),)


async def test_a_client_outside_the_networks_is_refused_by_name(start: Start) -> None:
    service = await start(allow_networks=ONE_CLIENT)
    outside = await service.connect(source="127.0.0.2")
    await outside.play("""
        S: 220
        C: HELO outside.example
        S: 250
        C: MAIL FROM:<anna@example.com>
        S: 550 5.7.1 127.0.0.2 may not relay here: it is not in SMTP2CF_ALLOW_NETWORKS
        C: RCPT TO:<bert@example.net>
        S: 503 5.5.1 send MAIL
        C: DATA
        S: 503 5.5.1 send MAIL
        C: MAIL FROM:<>
        S: 550 5.7.1 127.0.0.2
    """)
    inside = await service.connect(source="127.0.0.1")
    await inside.start_message()


async def test_nobody_may_where_no_network_is_given(start: Start) -> None:
    client = await (await start(allow_networks=())).greeted()
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("550 5.7.1 127.0.0.1 may not")


async def test_a_client_on_a_unix_socket_may(start: Start) -> None:
    service = await start(unix=True, allow_networks=())
    client = await service.connect()
    await client.start_message()
    assert await client.ask(".") == "250 2.0.0 taken"
    assert service.envelope.client == ""


async def test_an_ipv4_client_of_an_ipv6_socket_is_what_it_is(start: Start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this host has no IPv6")
    service = await start(ipv6=True, allow_networks=ONE_CLIENT)
    assert (await (await service.greeted()).ask("MAIL FROM:<anna@example.com>")).startswith("250")
    outside = await service.connect(source="127.0.0.2")
    await outside.play(
        "S: 220\nC: HELO a\nS: 250\nC: MAIL FROM:<a@b.c>\nS: 550 5.7.1 ::ffff:127.0.0.2 may not"
    )


@pytest.mark.parametrize(
    ("client", "networks", "may"),
    [
        ("127.0.0.1", LOOPBACK, True),
        ("127.255.255.254", LOOPBACK, True),
        ("128.0.0.1", LOOPBACK, False),
        ("::1", LOOPBACK, True),
        ("::2", LOOPBACK, False),
        ("::ffff:127.0.0.1", LOOPBACK, True),
        ("::ffff:192.0.2.1", LOOPBACK, False),
        ("fe80::1%eth0", (ipaddress.ip_network("fe80::/10"),), True),
        ("fe80::1%eth0", LOOPBACK, False),
        ("2001:db8::7", (ipaddress.ip_network("2001:db8::/32"),), True),
        ("192.0.2.1", (ipaddress.ip_network("::/0"),), False),
        ("192.0.2.1", (ipaddress.ip_network("0.0.0.0/0"),), True),
        ("", (), True),
    ],
)
def test_networks(client: str, networks: tuple[Any, ...], may: bool) -> None:
    policy = Policy(
        hostname="bridge.example",
        allow_networks=networks,
        max_message_size=1000,
        max_recipients=10,
        session_timeout=10.0,
    )
    assert policy.may_relay(client) is may


async def test_a_client_whose_address_is_not_known_is_no_unix_client(start: Start) -> None:
    """The kernel forgets the address of a client that reset its connection before it was accepted."""

    class Reset:
        aborted = False

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return nameless if name == "socket" else default

        def abort(self) -> None:
            self.aborted = True

    service = await start(allow_networks=())
    session, transport = Connection(service.server.sessions, service.listener), Reset()
    with socket.socket(socket.AF_INET) as nameless:
        session.connection_made(transport)  # type: ignore[arg-type]
    assert transport.aborted
    assert not service.server.sessions
    session.connection_lost(None)
