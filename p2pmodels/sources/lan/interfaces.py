"""This machine's own addresses: where mDNS speaks, and what it announces.

1. Only interfaces that are up, can multicast and are no tunnels: a VPN is not the LAN, and nobody
   there should learn of this daemon. Loopback is the exception to the second.
2. A daemon bound to one address announces that one; bound to all, it announces every LAN address,
   or loopback when there is none.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import ifaddr

from p2pmodels.sources.lan.addresses import Interface

_SIOCGIFFLAGS = 0x8913  # netdevice(7)
_IFF_UP, _IFF_LOOPBACK, _IFF_POINTOPOINT, _IFF_MULTICAST = 0x1, 0x8, 0x10, 0x1000


def read_interfaces() -> tuple[Interface, ...]:
    """The addresses of this machine that may meet a LAN, loopback included."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for adapter in ifaddr.get_adapters():
            if not _is_usable(probe, adapter.name):
                continue
            for ip in adapter.ips:
                text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
                found.append(ipaddress.ip_interface(f"{text}/{ip.network_prefix}"))
    return tuple(found)


def _is_usable(probe: socket.socket, name: str) -> bool:
    try:
        answer = fcntl.ioctl(probe, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
    except OSError:
        return False  # gone since it was listed
    flags: int = struct.unpack("16sH14x", answer)[1]
    if not flags & _IFF_UP or flags & _IFF_POINTOPOINT:
        return False
    return bool(flags & (_IFF_MULTICAST | _IFF_LOOPBACK))


@dataclass(frozen=True)
class Scope:
    """Where a daemon meets others: what it announces, and the addresses it speaks mDNS from."""

    announced: tuple[str, ...]
    spoken: tuple[str, ...]
    is_ipv6: bool
    is_loopback: bool
    """Whether it can be reached on loopback only."""


def scope_of(listen_host: str, interfaces: Sequence[Interface]) -> Scope:
    """The scope of a daemon whose peer port is bound to `listen_host`."""
    bound = ipaddress.ip_address(listen_host)
    version = bound.version
    if not bound.is_unspecified:
        return Scope((listen_host,), (listen_host,), version == 6, bound.is_loopback)
    own = [item.ip for item in interfaces if item.version == version]
    loopback = [ip for ip in own if ip.is_loopback]
    # a link-local IPv6 address means nothing without the reader's own interface number
    lan = [ip for ip in own if not ip.is_loopback and not (version == 6 and ip.is_link_local)]
    announced = lan or loopback
    # IPv4 daemons on one machine that has lost its network still meet on loopback
    spoken = [*lan, *loopback] if version == 4 else announced
    return Scope(
        tuple(sorted({str(ip) for ip in announced})),
        tuple(sorted({str(ip) for ip in spoken})),
        version == 6,
        not lan,
    )
