"""Which addresses may be contacted because the network suggested them (reliability D9).

1. mDNS is not authenticated: a suggestion may lead to the home networks only, never to a broadcast,
   multicast or metadata address, never below port 1024 (`PeerAddress` sees to that).
2. Loopback is suggested by nobody but a daemon that can be reached only there; it counts when we
   are such a daemon ourselves.
3. An address that the operator configured may be anywhere, except at a metadata service.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from p2pmodels.core.torrent import PeerAddress
from p2pmodels.errors import ConfigError, NameRefused

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

HOME_NETWORKS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7")
)  # private (RFC 1918), link-local (RFC 3927), unique local (RFC 4193)
METADATA_SERVICES = frozenset(
    ipaddress.ip_address(text) for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")
)  # they hand out a cloud machine's credentials


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks in CIDR form. Raises ConfigError."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise ConfigError(f"networks: {error}") from error


def parse_addresses(hosts: Iterable[str], port: int) -> list[PeerAddress]:
    """The well-formed ones among addresses that somebody suggested."""
    addresses = []
    for host in hosts:
        try:
            addresses.append(PeerAddress(host, port))
        except NameRefused:
            continue  # one bad record says nothing about the others
    return addresses


@dataclass(frozen=True)
class AddressRule:
    """Where a peer may be; `interfaces` are this machine's own addresses with their networks."""

    interfaces: tuple[Interface, ...] = ()
    networks: tuple[Network, ...] = ()
    """Further home networks, such as the public range of a campus."""
    is_loopback: bool = False
    """Whether we ourselves can be reached on loopback only."""

    def allows_found(self, address: PeerAddress) -> bool:
        """Whether an address that mDNS suggested may be contacted."""
        ip = _ip(address)
        if not self._is_host(ip):
            return False
        if ip.is_loopback:
            return self.is_loopback
        home = (*HOME_NETWORKS, *self.networks, *(own.network for own in self.interfaces))
        return any(ip in network for network in home)

    def allows_configured(self, address: PeerAddress) -> bool:
        """Whether an address that the operator named may be contacted."""
        return self._is_host(_ip(address))

    def _is_host(self, ip: IpAddress) -> bool:
        """Whether it is one machine's address, and not a metadata service's."""
        if ip.is_multicast or ip.is_unspecified or ip in METADATA_SERVICES:
            return False
        if isinstance(ip, ipaddress.IPv6Address):
            return True
        if ip.is_reserved or int(ip) >> 24 == 0:  # 240/4 with 255.255.255.255, and 0/8
            return False
        return all(
            ip != own.network.broadcast_address
            for own in self.interfaces
            if own.network.num_addresses > 2  # a /31 or /32 has no broadcast address (RFC 3021)
        )


def _ip(address: PeerAddress) -> IpAddress:
    """The address; an IPv4 address in IPv6 clothes is judged as what it is."""
    ip = ipaddress.ip_address(address.host)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip
