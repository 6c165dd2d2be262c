"""What the operator says of one origin, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from yarl import URL

from p2pmodels.core.pieces import MIB
from p2pmodels.core.secret import Secret
from p2pmodels.errors import ConfigError
from p2pmodels.sources.origin.addresses import parse_host

CONNECTIONS_LIMIT = 32  # connections of one fetch; more only annoys the origin


class OriginKind(StrEnum):
    """A hub says what a snapshot consists of; a mirror only gives the bytes."""

    HUB = "hub"
    MIRROR = "mirror"


@dataclass(frozen=True)
class OriginOptions:
    """One origin; the lowest `priority` is asked first, equal ones in their order.

    Raises ConfigError when it is made of values that cannot be used.
    """

    url: str
    token: Secret | None = field(default=None, repr=False)
    kind: str = "hub"
    connections: int = 4
    segment_bytes: int = 8 * MIB
    connect_timeout_s: float = 4.0  # DNS, TCP and TLS together
    first_byte_timeout_s: float = 6.0  # until the head of an answer
    stall_timeout_s: float = 6.0  # between two reads of a body; clients themselves give up at 10
    priority: int = 0
    use_proxy_env: bool = False  # HTTP_PROXY and its like are another way out of the machine
    takes_caller_tokens: bool = True  # a hub's callers' own tokens; a mirror never gets them

    def __post_init__(self) -> None:
        if self.kind not in tuple(OriginKind):
            raise ConfigError(f"origin kind {self.kind[:40]!r}, not hub or mirror")
        if not 1 <= self.connections <= CONNECTIONS_LIMIT:
            raise ConfigError(f"{self.connections} connections, not 1 to {CONNECTIONS_LIMIT}")
        if self.segment_bytes < 64 * 1024:
            raise ConfigError(f"segments of {self.segment_bytes} bytes, not 64 KiB or more")
        waits = (self.connect_timeout_s, self.first_byte_timeout_s, self.stall_timeout_s)
        if min(waits) <= 0:
            raise ConfigError("a time-out must be more than 0 seconds")
        _ = self.base

    @property
    def base(self) -> URL:
        """The URL, without a slash at its end. Raises ConfigError."""
        text = self.url.rstrip("/")
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            raise ConfigError("an origin's URL that cannot be read") from None
        # The text of a refused URL is not repeated: somebody may have put a password into it.
        if parts.scheme not in ("http", "https"):
            raise ConfigError("an origin's URL must begin with https:// or http://")
        if parts.username is not None or parts.password is not None:
            raise ConfigError("an origin's URL must not hold a user name or password")
        if parts.query or parts.fragment or not text.isascii() or not text.isprintable():
            raise ConfigError("an origin's URL must be scheme, host, port and path only")
        if parse_host(parts.hostname or "") is None:
            raise ConfigError(f"origin host {(parts.hostname or '')[:80]!r}")
        return URL(text, encoded=True)

    @property
    def name(self) -> str:
        """host[:port], for people."""
        url = self.base
        host = url.host or ""
        host = f"[{host}]" if ":" in host else host
        return host if url.is_default_port() else f"{host}:{url.port}"
