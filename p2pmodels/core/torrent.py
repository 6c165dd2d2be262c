"""What the rest of the daemon knows of a torrent: plain values, no library object.

Always hybrid v1+v2. Two kinds, both deterministic: the *snapshot torrent* (all files of a commit
sorted by path, named by the commit) and the *blob torrent* (one file named by its sha256).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import Commit, FilePath
from p2pmodels.errors import NameRefused

TORRENT_BYTES_LIMIT = 8 * 1024 * 1024  # bytes of a .torrent; ours stay under 1 MiB for 1 TB
BLOB_TORRENT_FROM = 64 * 1024 * 1024  # bytes; smaller blobs travel in snapshots or by HTTP

_HEX = re.compile(r"[0-9a-f]+")

TorrentName = Commit | Sha256  # the commit of a snapshot torrent, the sha256 of a blob torrent


@dataclass(frozen=True, slots=True)
class TorrentFile:
    """A file as the torrent lists it; pad files are not listed."""

    path: FilePath
    size: int


@dataclass(frozen=True, slots=True)
class Torrent:
    """A checked .torrent: `data` is its bencoded text, infohashes are hexadecimal (BEP 3, 52)."""

    name: TorrentName
    data: bytes
    infohash: str
    infohash_v2: str
    files: tuple[TorrentFile, ...]

    def __post_init__(self) -> None:
        if len(self.infohash) != 40 or len(self.infohash_v2) != 64:
            raise NameRefused("a torrent that is not hybrid")
        if not _HEX.fullmatch(self.infohash + self.infohash_v2):
            raise NameRefused("infohash")

    @property
    def magnet(self) -> str:
        """The magnet link with both infohashes (BEP 9, BEP 52)."""
        return (
            f"magnet:?xt=urn:btih:{self.infohash}&xt=urn:btmh:1220{self.infohash_v2}&dn={self.name}"
        )


@dataclass(frozen=True, slots=True, order=True)
class PeerAddress:
    """Where a BitTorrent peer listens."""

    host: str
    port: int

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.host)
        except ValueError as error:
            raise NameRefused(f"peer address {self.host[:60]!r}") from error
        if not 1024 <= self.port <= 65535:  # a list of peers must not aim us at a system service
            raise NameRefused(f"peer port {self.port}")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
