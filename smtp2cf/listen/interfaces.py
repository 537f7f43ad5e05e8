"""Interfaces: this host's own networks, and the gateway through which a container is reached.

The addresses come from the kernel (rtnetlink(7)), which Python's library has nothing for. Routes would not
do: those of a VPN can hold half of the Internet. Knows no settings.
"""

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from smtp2cf.envelope import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence number, port."""
_ADDRESS = struct.Struct("=BBBBI")
"""ifaddrmsg: family, prefix length, flags, scope, interface."""
_ATTRIBUTE = struct.Struct("=HH")
"""rtattr: length, type."""
_ERROR, _DONE, _NEW_ADDRESS, _GET_ADDRESS = 2, 3, 20, 22
_REQUEST_ALL = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_PATIENCE = 5.0
"""Seconds for the kernel's answer."""
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
_CONTAINER_VARIABLES = ("container", "KUBERNETES_SERVICE_HOST")


def connected() -> tuple[Network, ...]:
    """The networks of this host's interfaces, loopback among them. Raises OSError."""
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError("this system does not say")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.settimeout(_PATIENCE)
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _GET_ADDRESS, _REQUEST_ALL, 1, 0) + body)
        found: list[Network] = []
        is_last = False
        while not is_last:
            some, is_last = networks_in(kernel.recv(1 << 16))
            found += some
        return tuple(dict.fromkeys(found))


def networks_in(answer: bytes) -> tuple[list[Network], bool]:
    """The networks in a part of the kernel's answer, and whether it is the last. Raises OSError."""
    found: list[Network] = []
    is_last = False
    for kind, message in _messages(answer):
        if kind == _ERROR:
            raise OSError(-struct.unpack_from("=i", message)[0], "the kernel does not say")
        is_last = is_last or kind == _DONE
        if kind == _NEW_ADDRESS:
            found += _networks(message)
    return found, is_last


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the content of each message in a datagram."""
    while len(datagram) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(datagram)
        yield kind, datagram[_HEADER.size : length]
        datagram = datagram[max(_HEADER.size, _aligned(length)) :]


def _networks(message: bytes) -> Iterator[Network]:
    """The network of an address; of a point-to-point link, both ends."""
    _, prefix, *_ = _ADDRESS.unpack_from(message)
    attributes = message[_ADDRESS.size :]
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind in (_IFA_ADDRESS, _IFA_LOCAL):
            yield ipaddress.ip_network((attributes[_ATTRIBUTE.size : length], prefix), strict=False)
        attributes = attributes[max(_ATTRIBUTE.size, _aligned(length)) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def container_gateways(root: Path = Path("/")) -> tuple[Address, ...]:
    """The gateways of a container's own network, none where this is no container or it has the host's.

    Published ports may let clients arrive with their address: those of Docker's and Podman's proxies do, and
    then nothing tells clients of the whole world from one another. root: where /proc and /sys are.
    """
    is_container = any((root / file).exists() for file in _CONTAINER_FILES)
    if not is_container and not any(os.environ.get(name) for name in _CONTAINER_VARIABLES):
        return ()
    found = [*_ipv4_gateways(root), *_ipv6_gateways(root)]
    return tuple(dict.fromkeys(address for name, address in found if _leads_out(root, name)))


def _ipv4_gateways(root: Path) -> Iterator[tuple[str, Address]]:
    for interface, destination, gateway, *more in _rows(root / "proc/net/route"):
        if destination == "00000000" and gateway != "00000000" and more[4] == "00000000":
            yield interface, ipaddress.IPv4Address(struct.pack("=I", int(gateway, 16)))


def _ipv6_gateways(root: Path) -> Iterator[tuple[str, Address]]:
    for destination, prefix, _source, _length, gateway, *more in _rows(root / "proc/net/ipv6_route"):
        if int(destination, 16) == 0 and prefix == "00" and int(gateway, 16):
            yield more[-1], ipaddress.IPv6Address(bytes.fromhex(gateway))


def _rows(file: Path) -> Iterator[list[str]]:
    """The rows of a file of /proc, without its heading."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if len(fields := line.split()) >= 8 and fields[0] != "Iface":
            yield fields


def _leads_out(root: Path, interface: str) -> bool:
    """It is one end of a pair, or made by a program: what leads out of a host's own network is neither."""
    directory = root / "sys/class/net" / interface
    try:
        if (directory / "tun_flags").exists():
            return True
        return (directory / "iflink").read_text() != (directory / "ifindex").read_text()
    except OSError:
        return True
