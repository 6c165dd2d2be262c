"""The piece hashes of complete blobs, handed over by their partials.

In memory only and within a bound: they save a second read when a torrent is made, and whoever does
not find them here reads the file. After a restart the torrents themselves are kept.
"""

from __future__ import annotations

from p2pmodels.core.digests import Sha256
from p2pmodels.core.merkle import FileHashes
from p2pmodels.core.pieces import MIB

KEPT_HASHES_BYTES = 32 * MIB  # bytes; 10 TB in pieces of 16 MiB, or 30,000 small files
ENTRY_BYTES = 1024  # bytes that an entry counts for beside its hashes: objects and dictionaries


class KeptHashes:
    """By blob; those used longest ago go first."""

    def __init__(self, limit: int = KEPT_HASHES_BYTES) -> None:
        self._limit = limit
        self._kept: dict[Sha256, FileHashes] = {}
        self._bytes = 0

    def put(self, sha256: Sha256, hashes: FileHashes | None) -> None:
        """Keep the hashes of a blob; an empty one has none."""
        self.drop(sha256)
        if hashes is None:
            return
        self._kept[sha256] = hashes
        self._bytes += _cost(hashes)
        while self._bytes > self._limit:
            self.drop(next(iter(self._kept)))

    def find(self, sha256: Sha256) -> FileHashes | None:
        """What is kept of a blob."""
        hashes = self._kept.pop(sha256, None)
        if hashes is not None:
            self._kept[sha256] = hashes  # last in line now
        return hashes

    def drop(self, sha256: Sha256) -> None:
        """The blob is gone, or in doubt."""
        hashes = self._kept.pop(sha256, None)
        if hashes is not None:
            self._bytes -= _cost(hashes)


def _cost(hashes: FileHashes) -> int:
    return ENTRY_BYTES + len(hashes.roots) + sum(len(v1.pieces) for v1 in hashes.v1.values())
