"""Which networks a client is in."""

import ipaddress

from smtp2cf.envelope import Network


def is_in(client: str, networks: tuple[Network, ...]) -> bool:
    """A client's address is in one of the networks. An IPv4 client on an IPv6 socket counts as IPv4."""
    address = ipaddress.ip_address(client.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
