"""Check and repair: find every damaged byte, and put right what needs no expert.

`check` re-reads every blob. `repair` also sets damaged ones aside (so that they are fetched again)
and takes in blob files that the index had lost. Both can be interrupted at any point and repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from p2pmodels.core.digests import Sha256
from p2pmodels.store.store import Store


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """One blob has been looked at."""

    sha256: Sha256
    size: int
    is_good: bool
    was_repaired: bool


async def scrub(
    store: Store, only: Iterable[Sha256] | None = None, *, repair: bool
) -> AsyncIterator[Scrubbed]:
    """Re-read the blobs (all, or `only` these) and tell of each."""
    if repair and only is None:
        unknown, store.unknown = store.unknown, []
        for path in unknown:
            size = path.stat().st_size
            is_good = await store.blobs.adopt_unknown(path)
            yield Scrubbed(Sha256(path.name), size, is_good, True)
    chosen = None if only is None else frozenset(only)
    for row in store.blobs.rows():
        if chosen is not None and row.sha256 not in chosen:
            continue
        is_good = await store.blobs.verify(row.sha256)
        if not is_good and repair:
            await store.blobs.quarantine(row.sha256)
        yield Scrubbed(row.sha256, row.size, is_good, repair and not is_good)
