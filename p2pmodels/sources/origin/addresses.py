"""Which addresses an origin may make us contact (reliability E13, E14).

1. Only the operator's own words lead to a private address: the host in the configured URL may lie
   on one, and redirect to other ports of itself. What a public origin answers never leads there.
2. Addresses are judged after resolution, and once more on the socket that is about to connect.
3. The first resolution of the named host decides what it is: public once, never private later.
4. Hosts have one spelling: no decimal or hexadecimal IPv4, no IDNA, no user name, no trailing dot.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from p2pmodels.errors import AddressRefused, NetworkFailed

LOCATION_LIMIT = 8192  # characters of a redirect; the longest signed address seen has 1500

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IsPublic = Callable[[IpAddress], bool]

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_EMBEDDING = (
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible, long dead
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 for private networks, RFC 8215
)


def parse_host(text: str) -> str | IpAddress | None:
    """A DNS name in lower case or an address; None when it is neither, or oddly spelled."""
    try:
        return ipaddress.IPv6Address(text) if ":" in text else ipaddress.IPv4Address(text)
    except ValueError:
        if ":" in text:
            return None
    text = text.lower()
    labels = text.split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    # `127.1`, `2130706433` and `0x7f000001` are addresses to the C library; a name never ends so.
    return None if _NUMBER.fullmatch(labels[-1]) else text


def is_public(address: IpAddress) -> bool:
    """Whether anybody may be sent there: not private, local, multicast or an IPv4 in disguise."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address.is_site_local or address.scope_id:
            return False
        if any(address in network for network in _EMBEDDING):
            return False
        inner = address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


class Addresses(AbstractResolver):
    """Judge and resolver of one origin's connector; `inner` does the look-up itself."""

    def __init__(
        self,
        origin: URL,
        inner: AbstractResolver,
        *,
        proxies: Collection[str] = (),
        is_public: IsPublic = is_public,
    ) -> None:
        self._own = (origin.host or "").lower()
        self._is_https = origin.scheme == "https"
        self._inner = inner
        self._proxies = frozenset(proxies)
        self._is_public = is_public
        self._granted: set[IpAddress] = set()
        self._is_own_public: bool | None = None
        # A literal address never comes to `resolve`; those the operator wrote are granted here.
        for name in (self._own, *self._proxies):
            host = parse_host(name)
            if host is not None and not isinstance(host, str):
                self._granted.add(host)
                if name == self._own:
                    self._is_own_public = is_public(host)

    # before a request

    async def is_private_origin(self) -> bool:
        """Whether the host that the operator named lies on this machine or a private network."""
        if self._is_own_public is None:
            await self.resolve(self._own, 0, socket.AF_UNSPEC)
        return self._is_own_public is False

    def follow(self, source: URL, location: str) -> URL:
        """The URL a redirect leads to. Raises AddressRefused.

        The location is read from its raw text: a URL library would first make a tidy one of it.
        """
        if len(location) > LOCATION_LIMIT or not location.isascii() or not location.isprintable():
            raise AddressRefused("a redirect that is too long or not plain text")
        if "\\" in location or " " in location:
            raise AddressRefused("a redirect with odd characters")
        try:
            parts = urlsplit(location)
            _ = parts.port
            target = source.join(URL(location, encoded=True))
        except ValueError:
            raise AddressRefused("a redirect that cannot be read") from None
        if parts.username is not None or parts.password is not None or target.user is not None:
            raise AddressRefused("a redirect with a user name")
        if target.scheme not in ("http", "https"):
            raise AddressRefused(f"a redirect to {target.scheme[:20]!r}")
        if source.scheme == "https" and target.scheme == "http":
            raise AddressRefused(f"{source.host} redirects down to plain http")
        self._check_host(target)
        return target.with_fragment(None) if target.raw_fragment else target

    def _check_host(self, target: URL) -> None:
        host = parse_host(target.raw_host or "")
        if host is None or "xn--" in str(host):
            raise AddressRefused(f"host {(target.raw_host or '')[:80]!r} in a redirect")
        if str(host) == self._own:
            return
        if str(host) in self._proxies:
            raise AddressRefused(f"a redirect to the proxy {host}")
        if not isinstance(host, str) and not self._is_public(host):
            raise AddressRefused(f"a redirect to {host}")

    # while connecting

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host` that may be contacted. Raises AddressRefused, OSError."""
        results = await self._inner.resolve(host, port, family)
        found = [(result, _literal(result["host"])) for result in results]
        name = host.lower()
        if name == self._own:
            allowed = self._allowed_of_own([address for _, address in found])
        elif name in self._proxies:
            allowed = {address for _, address in found}
        else:
            allowed = {address for _, address in found if self._is_public(address)}
        if not allowed and found:
            raise AddressRefused(f"{host} resolves to {found[0][1]}")
        if name in (self._own, *self._proxies):
            self._granted = {*self._granted, *allowed}
        return [result for result, address in found if address in allowed]

    def _allowed_of_own(self, addresses: Collection[IpAddress]) -> set[IpAddress]:
        public = {address for address in addresses if self._is_public(address)}
        if self._is_own_public is None and addresses:
            self._is_own_public = bool(public)
        if self._is_own_public:
            return public
        # It began as a private host. Over https it may move out into the world, where its
        # certificate speaks for it; over http that would take the token into the open.
        return set(addresses) if self._is_https else set(addresses) - public

    def open_socket(
        self, info: tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
    ) -> socket.socket:
        """The socket for one address; the last look before connecting. Raises AddressRefused."""
        family, kind, protocol, _, endpoint = info
        address = _literal(endpoint[0])
        if not self._is_public(address) and address not in self._granted:
            raise AddressRefused(f"{address} is not an address of {self._own}")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        await self._inner.close()


def _literal(text: str) -> IpAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise NetworkFailed(f"the resolver gave {text[:60]!r} for an address") from None
