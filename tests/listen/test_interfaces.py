"""Interfaces: which networks are this host's own, and through which gateway a container is reached."""

import ipaddress
import json
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from smtp2cf.listen.interfaces import connected, container_gateways, networks_in
from smtp2cf.listen.open_relay import Door, relay_warnings
from tests.support.needs import needs


def test_loopback_is_always_connected() -> None:
    assert ipaddress.ip_network("127.0.0.0/8") in connected()


@needs("ip")
def test_they_are_those_that_ip_lists() -> None:
    listed = json.loads(subprocess.run(["ip", "-j", "addr"], stdout=subprocess.PIPE, check=True).stdout)
    expected = {
        ipaddress.ip_network((address["local"], address["prefixlen"]), strict=False)
        for interface in listed
        for address in interface["addr_info"]
    }
    assert expected <= set(connected())


def message(kind: int, body: bytes = b"") -> bytes:
    """One of the kernel's messages."""
    padding = b"\0" * (-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body + padding


def address(prefix: int, *attributes: tuple[int, bytes]) -> bytes:
    body = struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, 1)
    for kind, value in attributes:
        body += struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
    return message(20, body)


@pytest.mark.parametrize(
    ("answer", "networks", "is_last"),
    [
        (b"", [], False),
        (message(3), [], True),
        (address(24, (1, b"\x0a\0\0\x07"), (3, b"eth0\0")), ["10.0.0.0/24"], False),
        # A point-to-point link: the other end, and this one.
        (address(32, (1, b"\x0a\0\0\x01"), (2, b"\x0a\0\0\x02")), ["10.0.0.1/32", "10.0.0.2/32"], False),
        (address(64, (1, bytes.fromhex("fd") + b"\0" * 15)) + message(3), ["fd00::/64"], True),
        (message(99, b"what is not known yet") + address(8, (2, b"\x7f\0\0\1")), ["127.0.0.0/8"], False),
    ],
)
def test_what_the_kernel_answers_is_read(answer: bytes, networks: list[str], is_last: bool) -> None:
    found, last = networks_in(answer)
    assert ([str(network) for network in found], last) == (networks, is_last)


def test_an_error_of_the_kernel_is_an_error() -> None:
    with pytest.raises(OSError, match="the kernel does not say"):
        networks_in(message(2, struct.pack("=i", -1)))


# ---- containers

HEADING = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
BRIDGE = (
    f"{HEADING}eth0 00000000 010011AC 0003 0 0 0 00000000 0 0 0\n"
    "eth0 000011AC 00000000 0001 0 0 0 0000FFFF 0 0 0\n"
)
IPV6 = f"{'0' * 32} 00 {'0' * 32} 00 fd00{'0' * 27}1 00000400 00000002 00000000 00000003 eth0\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container that has one end of a pair, eth0, as its way out."""
    monkeypatch.delenv("container", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name in ("proc/net", "sys/class/net/eth0", "run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(BRIDGE)
    (tmp_path / "proc/net/ipv6_route").write_text(IPV6)
    (tmp_path / "sys/class/net/eth0/iflink").write_text("17\n")
    (tmp_path / "sys/class/net/eth0/ifindex").write_text("2\n")
    (tmp_path / ".dockerenv").touch()
    return tmp_path


def test_the_gateways_of_a_containers_network_are_found(root: Path) -> None:
    assert [str(gateway) for gateway in container_gateways(root)] == ["172.17.0.1", "fd00::1"]


def test_podman_and_kubernetes_are_containers_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".dockerenv").unlink()
    assert container_gateways(root) == ()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert container_gateways(root)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    (root / "run/.containerenv").touch()
    assert container_gateways(root)


def test_the_hosts_own_network_has_no_such_gateway(root: Path) -> None:
    (root / "sys/class/net/eth0/iflink").write_text("2\n")
    assert container_gateways(root) == ()
    (root / "sys/class/net/eth0/tun_flags").touch()  # rootless: a program makes the interface
    assert container_gateways(root)


def test_a_host_without_routes_has_none(root: Path) -> None:
    (root / "proc/net/route").unlink()
    (root / "proc/net/ipv6_route").write_text("")
    assert container_gateways(root) == ()


@pytest.mark.parametrize(
    ("networks", "events"),
    [
        (["127.0.0.0/8", "172.17.0.0/16"], ["serve.gateway_may_relay"]),
        (["172.16.0.0/12"], ["serve.gateway_may_relay"]),
        (["172.17.0.1/32"], ["serve.gateway_may_relay"]),
        (["172.17.0.2/31", "10.0.0.0/8"], []),
        (["0.0.0.0/0"], ["serve.open_relay"]),
    ],
)
def test_a_gateway_that_may_send_is_warned_of(networks: Sequence[str], events: list[str]) -> None:
    gateways = (ipaddress.ip_address("fd00::1"), ipaddress.ip_address("172.17.0.1"))
    allowed = tuple(ipaddress.ip_network(text) for text in networks)
    found = [*relay_warnings(Door(["0.0.0.0:2525"], allowed, gateways=gateways))]
    assert [warning.event for warning in found] == events


def test_a_gateway_matters_only_to_what_others_can_reach() -> None:
    gateway = ipaddress.ip_address("172.17.0.1")
    allowed = (ipaddress.ip_network("172.17.0.0/16"),)
    assert not [*relay_warnings(Door([], allowed, gateways=(gateway,)))]
