"""Several ways in at one server, each with its own rules, certificate and protocol."""

import asyncio
import dataclasses
import ipaddress
import socket
import ssl

from smtp2cf.reply import Reply
from smtp2cf.smtpd import Listener, Rules
from tests.smtpd.conftest import Start
from tests.smtpd.dialog import Client
from tests.support.certificates import Certificates

ANNA = (ipaddress.ip_network("127.0.0.2/32"),)


async def _nobody(*_: str) -> Reply | None:
    return Reply(535, "5.7.8", "wrong")


async def _hello(listener: Listener, tls: ssl.SSLContext | None = None) -> tuple[Client, list[str]]:
    """A client, and what its EHLO is answered."""
    (sock,) = listener.sockets
    name = {"server_hostname": "127.0.0.1"} if tls is not None else {}
    client = Client(*await asyncio.open_connection(*sock.getsockname(), ssl=tls, **name))
    assert (await client.reply()).startswith("220")
    offered = await client.ask(f"{'LHLO' if listener.lmtp else 'EHLO'} client.example")
    return client, offered.splitlines()


async def test_one_server_has_listeners_that_differ_in_everything(
    start: Start, certificates: Certificates
) -> None:
    service = await start(max_sessions=3)
    policy = service.listener.rules.policy
    elsewhere = dataclasses.replace(policy, allow_networks=ANNA, max_message_size=1000, auth_without_tls=True)
    outside = Rules(elsewhere, authenticate=_nobody)
    certificate = lambda: certificates.server  # noqa: E731 - a listener asks for it at each handshake
    made = [
        Listener(rules=service.listener.rules, certificate=certificate, starttls=False),
        Listener(rules=outside, certificate=certificate),
        Listener(rules=outside, certificate=certificate, protocol="smtps"),
    ]
    found = {}
    clients = []
    for number, listener in enumerate(made):
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        listener = dataclasses.replace(listener, sockets=[sock])
        await service.server.start(listener)
        client, offered = await _hello(listener, certificates.client if listener.tls_first else None)
        clients.append(client)
        words = {line[4:].split(" ")[0] for line in offered}
        mail = await client.ask("MAIL FROM:<anna@example.com>")
        found[number] = ("STARTTLS" in words, "AUTH" in words, mail[:9])
    assert found == {
        0: (False, False, "250 2.1.0"),
        1: (True, True, "530 5.7.0"),
        2: (False, True, "530 5.7.0"),
    }
    assert len(service.server.sessions) == 3
    late = await service.connect()  # the server's capacity is for all of them
    assert (await late.reply()).startswith("421")
    for client in clients:
        await client.close()
