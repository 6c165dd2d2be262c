"""Figures: bytes by source, per blob and in all; written to the index from time to time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from p2pmodels.core.digests import Sha256
from p2pmodels.errors import StoreFailed
from p2pmodels.store.index import Index
from p2pmodels.workers import Lane

log = logging.getLogger(__name__)

SERVED = "served"  # bytes given to local clients
FROM_STORE = "store"  # of these, answered from the cache
SHARED = "shared"  # bytes given to peers


class Figures:
    """Counters that survive a restart."""

    def __init__(self, index: Index, lane: Lane) -> None:
        self._index, self._lane = index, lane
        self._counters: Counter[str] = Counter()
        self._written: Mapping[str, int] = {}
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
        try:
            await self._lane.run(self._index.add_received, sha256, sources)
        except StoreFailed as error:
            log.warning("figures of %s are not written: %s", sha256, error)

    def received(self, sha256: Sha256) -> Mapping[str, int]:
        return self._received.get(sha256.value, Counter())

    def received_in_all(self) -> Mapping[str, int]:
        """Bytes by source over all blobs ever received."""
        total: Counter[str] = Counter()
        for sources in self._received.values():
            total.update(sources)
        return total

    async def flush(self) -> None:
        """Write the counters that changed."""
        counters = dict(self._counters)
        changed = {name: n for name, n in counters.items() if self._written.get(name) != n}
        if changed:
            await self._lane.run(self._index.put_counters, changed)
            self._written = counters
