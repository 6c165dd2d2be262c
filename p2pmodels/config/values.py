"""The types of single values: a bad one raises `ValueError`, which becomes a `ConfigError`.

1. What is text in a file is a parsed type here: listen addresses, URLs, web origins, folders.
2. No URL carries a user name or a password: URLs are printed and logged.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator
from pydantic_settings import NoDecode

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PORT_LIMIT = 65535  # the largest TCP port
URL_LIMIT = 2048  # characters; what common servers accept

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9-]{1,63})*\.?")
_WEB_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s?#@\x00-\x20]+")
_LISTEN = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a server listens: a host name or address and a port; port 0 lets the system choose."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= PORT_LIMIT:
            raise ValueError(f"port {self.port} is not between 0 and {PORT_LIMIT}")
        parse_host(self.host)

    @classmethod
    def parse(cls, text: object) -> ListenAddress:
        """Read `host:port`; an IPv6 address stands in brackets. Raises ValueError."""
        if isinstance(text, ListenAddress):
            return text
        match = _LISTEN.fullmatch(text) if isinstance(text, str) else None
        if not match:
            raise ValueError("expected HOST:PORT, such as 127.0.0.1:7878 or [::1]:7878")
        six = match["six"]
        if six is not None:
            ipaddress.IPv6Address(six)
        return cls(six or match["host"].lower(), int(match["port"]))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback_host(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback_host(host: str) -> bool:
    """Whether `host` (without brackets) names this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def parse_host(text: str) -> str:
    """Read a host name or an IP address without brackets. Raises ValueError."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        # All digits and dots but no address: a mistyped one, not a name.
        if not _HOST_NAME.fullmatch(text.lower()) or re.fullmatch(r"[0-9.]+", text):
            raise ValueError(f"{text[:80]!r} is neither an address nor a host name") from None
    return text.lower()


def parse_http_url(text: str) -> str:
    """Read an http(s) base URL without credentials, query or fragment. Raises ValueError."""
    return _parse_url(text, ("http", "https"))


def parse_tracker_url(text: str) -> str:
    """Read the announce URL of a BitTorrent tracker. Raises ValueError."""
    return _parse_url(text, ("http", "https", "udp", "ws", "wss"), may_query=True)


def _parse_rendezvous_url(text: str) -> str:
    return _parse_url(text, ("ws", "wss"))


def _parse_url(text: str, schemes: tuple[str, ...], may_query: bool = False) -> str:
    if len(text) > URL_LIMIT or not text.isprintable() or " " in text:
        raise ValueError("not a URL")
    parts = urlsplit(text)
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"expected a URL that begins with {' or '.join(schemes)}")
    if parts.username is not None or parts.password is not None:
        # The text is left out on purpose: it holds what looks like a password.
        raise ValueError("a URL must not carry a user name or password; name a token_file")
    if parts.fragment or (parts.query and not may_query):
        raise ValueError("a base URL has no ?query and no #fragment")
    parse_host(parts.hostname)
    _ = parts.port  # the property raises ValueError when it is out of range
    return text.rstrip("/")


def _parse_web_origin(text: str) -> str:
    origin = text.lower()
    if not _WEB_ORIGIN.fullmatch(origin):
        raise ValueError("expected a web origin without a path, such as https://chat.webllm.ai")
    return origin


def _parse_host_header(text: str) -> str:
    """A host with an optional port, as browsers send it."""
    parts = urlsplit(f"//{text.lower()}")
    if parts.netloc != text.lower() or not parts.hostname or "@" in text:
        raise ValueError("expected a host name, such as models.example.org or 10.0.0.5:7878")
    _ = parts.port
    parse_host(parts.hostname)
    return text.lower()


def _parse_network(value: object) -> Network:
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    if not isinstance(value, str):
        raise ValueError("expected a network, such as 10.20.0.0/16")
    return ipaddress.ip_network(value)


def _parse_path(value: object) -> Path:
    if isinstance(value, Path):
        path = value
    elif isinstance(value, str) and value and "\0" not in value:
        path = Path(value)
    else:
        raise ValueError("expected the path of a file or folder")
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _refuse_bool(value: object) -> object:
    """`true` is the number 1 to Python; in a size or a port it is a mistake."""
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    return value


def _split_list(value: object) -> object:
    """In the environment a list is JSON or words with commas between them."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return tuple(json.loads(value))
    return tuple(word.strip() for word in value.split(",") if word.strip())


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _as_texts(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values]


Listen = Annotated[
    ListenAddress,
    NoDecode,
    BeforeValidator(ListenAddress.parse),
    PlainSerializer(str, return_type=str),
]
Folder = Annotated[Path, BeforeValidator(_parse_path), PlainSerializer(str, return_type=str)]
Port = Annotated[int, BeforeValidator(_refuse_bool), Field(ge=0, le=PORT_LIMIT)]
Count = Annotated[int, BeforeValidator(_refuse_bool), Field(ge=0, lt=1 << 63)]
HttpUrl = Annotated[str, AfterValidator(parse_http_url)]
Seconds = Annotated[float, BeforeValidator(_refuse_bool), Field(ge=0, le=366 * 86400)]

HttpUrls = Annotated[
    tuple[HttpUrl, ...], NoDecode, BeforeValidator(_split_list), AfterValidator(_unique)
]
RendezvousUrls = Annotated[
    tuple[Annotated[str, AfterValidator(_parse_rendezvous_url)], ...],
    NoDecode,
    BeforeValidator(_split_list),
    AfterValidator(_unique),
]
TrackerUrls = Annotated[
    tuple[Annotated[str, AfterValidator(parse_tracker_url)], ...],
    NoDecode,
    BeforeValidator(_split_list),
    AfterValidator(_unique),
]
WebOrigins = Annotated[
    tuple[Annotated[str, AfterValidator(_parse_web_origin)], ...],
    NoDecode,
    BeforeValidator(_split_list),
    AfterValidator(_unique),
]
HostHeaders = Annotated[
    tuple[Annotated[str, AfterValidator(_parse_host_header)], ...],
    NoDecode,
    BeforeValidator(_split_list),
    AfterValidator(_unique),
]
Networks = Annotated[
    tuple[Annotated[Network, PlainValidator(_parse_network)], ...],
    NoDecode,
    BeforeValidator(_split_list),
    PlainSerializer(_as_texts, return_type=list[str]),
]
