"""Figures: bytes by source, per blob and in all; written to the index from time to time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from p2pmodels.core.digests import Sha256
from p2pmodels.store.index import Index
from p2pmodels.workers import Lane

SERVED = "served"  # bytes given to local clients
FROM_STORE = "store"  # of these, answered from the cache
SHARED = "shared"  # bytes given to peers


class Figures:
    """Counters that survive a restart."""

    def __init__(self, index: Index, lane: Lane) -> None:
        self._index, self._lane = index, lane
        self._counters: Counter[str] = Counter()
        self._received: dict[str, Counter[str]] = {}

    async def load(self) -> None:
        self._counters.update(await self._lane.run(self._index.counters))
        for (sha256, source), count in (await self._lane.run(self._index.received)).items():
            self._received.setdefault(sha256, Counter())[source] += count

    def count(self, name: str, amount: int) -> None:
        """Add to one of the named counters."""
        self._counters[name] += amount

    def counter(self, name: str) -> int:
        return self._counters[name]

    async def add_received(self, sha256: Sha256, sources: Mapping[str, int]) -> None:
        """Note where the bytes of a blob came from."""
        self._received.setdefault(sha256.value, Counter()).update(sources)
        await self._lane.run(self._index.add_received, sha256, sources)

    def received(self, sha256: Sha256) -> Mapping[str, int]:
        return self._received.get(sha256.value, Counter())

    def received_in_all(self) -> Mapping[str, int]:
        """Bytes by source over all blobs ever received."""
        total: Counter[str] = Counter()
        for sources in self._received.values():
            total.update(sources)
        return total

    async def flush(self) -> None:
        await self._lane.run(self._index.put_counters, dict(self._counters))
