"""Open relay: who can reach the bridge, and whom it relays for. The rule behind it: never an open relay.

Knows sockets and networks, of the settings only their names, and no session.
"""

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import structlog

from smtp2cf.envelope import Network
from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.listen.interfaces import Address

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
"""IPv4 addresses as IPv6 sockets show them (RFC 4291 §2.5.5.2)."""
_LOOPBACK_V4 = ipaddress.IPv4Network("127.0.0.0/8")
_LOOPBACK_V6 = (ipaddress.IPv6Network("::1/128"), ipaddress.IPv6Network("::ffff:127.0.0.0/104"))
_EVERYBODY = (
    ipaddress.IPv4Network("0.0.0.0/0"),
    # All that is given out of IPv6 (RFC 4291 §2.4); ::/0 holds it.
    ipaddress.IPv6Network("2000::/3"),
)

log = structlog.stdlib.get_logger("smtp2cf.serve")


class RelayWarning(NamedTuple):
    """What is wrong with who may send: a log line's event, and what it is about."""

    event: str
    note: str


class Door(NamedTuple):
    """Listeners with the same rules, and who may send through them.

    listens: where other hosts reach them. networks: whose clients may send without a password; setting: what
    the operator calls these. users: clients may log in. gateways: of the container's network, if it has one.
    """

    listens: Sequence[str]
    networks: Sequence[Network]
    setting: str = "SMTP2CF_ALLOW_NETWORKS"
    users: bool = False
    gateways: Sequence[Address] = ()


def log_relay_warnings(door: Door) -> None:
    """Log a warning if everybody may send, or if nobody can who is meant to."""
    for event, note in relay_warnings(door):
        log.warning(event, listens=door.listens, note=note)


def relay_warnings(door: Door) -> Iterator[RelayWarning]:
    """What to warn of."""
    if (everybody := everybody_in(door.networks)) is not None:
        yield RelayWarning(
            "serve.open_relay",
            f"{door.setting} contains {everybody}: anybody who can reach this bridge can send mail"
            " with your account, and spammers will (SMTP2CF_I_AM_AN_OPEN_RELAY=yes)",
        )
    elif door.listens and (gateway := _allowed(door.gateways, door.networks)) is not None:
        yield RelayWarning(
            "serve.gateway_may_relay",
            f"{door.setting} contains {gateway}, the gateway of this container's network. Where a proxy"
            " publishes the port (Docker, Podman), clients from anywhere arrive with that address, and"
            " could send with your account: publish it on 127.0.0.1 only, or name your clients' networks"
            " without the gateway, use SMTP2CF_USERS_FILE, or give the container the host's network",
        )
    if door.listens and not door.users and not beyond_loopback(door.networks):
        yield RelayWarning(
            "serve.nobody_may_relay",
            "other hosts can reach this bridge, but it refuses them all: name their networks in"
            f" {door.setting}, or their users in SMTP2CF_USERS_FILE",
        )


def _allowed(addresses: Iterable[Address], networks: Sequence[Network]) -> Address | None:
    """The first of these addresses that is in one of the networks."""
    return next((each for each in addresses if any(each in network for network in networks)), None)


def refused_to_all(
    endpoint: Endpoint, allow_networks: Sequence[Network], setting: str, *, socket_mode: int
) -> str:
    """Why no client that has not logged in may send through a listener, "" if some may.

    setting: what the operator calls the networks. socket_mode: of a unix socket; whoever can connect to one
    may send.
    """
    if endpoint.path:
        return "" if socket_mode & 0o222 else f"SMTP2CF_SOCKET_MODE={socket_mode:04o} lets nobody connect"
    if not allow_networks:
        return f"{setting} is none"
    if any(
        _may_come_from(network, address) for network in allow_networks for address in _addresses(endpoint)
    ):
        return ""
    return f"no client in {setting} ({', '.join(map(str, allow_networks))}) can reach it"


def _addresses(endpoint: Endpoint) -> list[Address]:
    """The addresses of a listener; none of them is one of this host if its name is wrong."""
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        return [ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]
    return []


def _may_come_from(network: Network, address: Address) -> bool:
    """Whether a client of this network can be one that connects to this address."""
    if network.version != address.version:
        return False
    if address.is_unspecified:
        return True
    if not address.is_loopback:
        return not _is_loopback(network)
    loopbacks = (_LOOPBACK_V4,) if address.version == 4 else _LOOPBACK_V6
    return any(network.overlaps(loopback) for loopback in loopbacks)


def everybody_in(networks: Iterable[Network]) -> Network | None:
    """The whole of IPv4 or IPv6, if these networks cover it together, otherwise None."""
    v4, v6 = set(), set()
    for network in networks:
        if isinstance(network, ipaddress.IPv4Network):
            v4.add(network)
            continue
        v6.add(network)
        if network.supernet_of(_MAPPED):
            v4.add(_EVERYBODY[0])
        elif network.subnet_of(_MAPPED):
            mapped = int(network.network_address) & 0xFFFFFFFF
            v4.add(ipaddress.IPv4Network((mapped, network.prefixlen - 96)))
    for found in ipaddress.collapse_addresses(v4):
        if found.prefixlen == 0:
            return found
    for wide in ipaddress.collapse_addresses(v6):
        if wide.supernet_of(_EVERYBODY[1]):
            return wide
    return None


def beyond_loopback(networks: Iterable[Network]) -> bool:
    """Whether any of these networks holds an address other than loopback."""
    return not all(_is_loopback(network) for network in networks)


def is_beyond_loopback(endpoint: Endpoint) -> bool:
    """Whether other hosts can reach what listens there."""
    return not endpoint.path and not all(address.is_loopback for address in _addresses(endpoint))


def reachable(sockets: Sequence[socket.socket]) -> list[str]:
    """Those of these listening sockets that other hosts can reach: not loopback, not unix sockets."""
    found = []
    for sock in sockets:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            host, port = sock.getsockname()[:2]
            if not _is_loopback(ipaddress.ip_network(host.partition("%")[0])):
                found.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return found


def _is_loopback(network: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return network.subnet_of(_LOOPBACK_V4)
    return any(network.subnet_of(loopback) for loopback in _LOOPBACK_V6)
