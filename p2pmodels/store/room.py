"""Room on the disk: which blobs go when a new one needs their place.

Pure: the blobs, what holds them and the sizes are arguments; the store deletes what this names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from p2pmodels.core.digests import Sha256
from p2pmodels.errors import DiskFull
from p2pmodels.store.index import BlobRow

FREE_FLOOR_BYTES = 2 << 30  # bytes left to the rest of the machine; a full disk stops everything


@dataclass(frozen=True, slots=True)
class RoomOptions:
    """How much of the disk may be used."""

    cache_limit_bytes: int = 0
    """Bytes of blobs and partials together; 0 means no limit but the floor."""
    free_floor_bytes: int = FREE_FLOOR_BYTES
    """Bytes of the file system that are never used."""


def choose_evictions(
    need: int,
    blobs: Iterable[BlobRow],
    held: frozenset[Sha256],
    *,
    partial_bytes: int,
    free_bytes: int,
    options: RoomOptions,
) -> list[BlobRow]:
    """The blobs to evict, least recently used first, so that `need` bytes fit. Raises DiskFull.

    `held` are pinned or in use. `partial_bytes` is what partials may still grow to.
    """
    known = list(blobs)
    used = sum(row.size for row in known) + partial_bytes
    over_limit = used + need - options.cache_limit_bytes if options.cache_limit_bytes else 0
    over_floor = need + options.free_floor_bytes - free_bytes
    missing = max(over_limit, over_floor)
    chosen = []
    for row in sorted(known, key=lambda row: row.used_at):
        if missing <= 0:
            break
        if row.sha256 not in held:
            chosen.append(row)
            missing -= row.size
    if missing > 0:
        raise DiskFull(f"{need} bytes needed, {missing} too few after eviction of all that may go")
    return chosen
