"""The store of one data folder: its lock, its index and the parts that use them.

Entering takes the lock, opens the index and surveys the files; leaving writes what is pending.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from p2pmodels.clock import Clock
from p2pmodels.errors import StoreFailed
from p2pmodels.store.blobs import Blobs
from p2pmodels.store.disk import Disk, RealDisk
from p2pmodels.store.figures import Figures
from p2pmodels.store.index import Index
from p2pmodels.store.lock import FolderLock, prepare_folder
from p2pmodels.store.room import RoomOptions
from p2pmodels.store.snapshots import Snapshots
from p2pmodels.workers import Lane

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 5.0  # seconds of counters and last uses that a crash may lose


@dataclass(frozen=True)
class StoreOptions:
    """Where the store is and how much it may take."""

    folder: Path
    room: RoomOptions = field(default_factory=RoomOptions)


class Store:
    """States: closed, open (inside the block)."""

    def __init__(
        self, options: StoreOptions, lane: Lane, clock: Clock, disk: Disk | None = None
    ) -> None:
        folder = options.folder
        self.folder = folder
        self.options = options
        self._clock = clock
        self._lane = lane
        self._index = Index(folder / "index.sqlite")
        self._index_lane = Lane("p2pmodels-index")
        self._lock = FolderLock(folder)
        self.blobs = Blobs(
            folder, options.room, self._index, self._index_lane, lane, disk or RealDisk(), clock
        )
        self.snapshots = Snapshots(self._index, self._index_lane, self.blobs, clock)
        self.figures = Figures(self._index, self._index_lane)
        self.unknown: list[Path] = []
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises StoreLocked, StoreDamaged, StoreFailed."""
        async with AsyncExitStack() as exits:
            await self._lane.run(prepare_folder, self.folder)
            self._lock.acquire()
            exits.callback(self._lock.release)
            await exits.enter_async_context(self._index_lane)
            await self._index_lane.run(self._index.open)
            exits.push_async_callback(self._index_lane.run, self._index.close)
            self.unknown = await self.blobs.load()
            self.blobs.pinned = self.snapshots.pinned_blobs
            await self.snapshots.load()
            await self.figures.load()
            exits.push_async_callback(self.flush)
            exits.push_async_callback(self.blobs.close_all)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(self._exits.aclose())

    async def run(self) -> None:
        """Take in blob files that the index lost, then write pending figures every few seconds."""
        unknown, self.unknown = self.unknown, []
        for path in unknown:
            try:
                await self.blobs.adopt_unknown(path)
            except StoreFailed as error:
                log.warning("%s is not taken in: %s", path.name, error)
        while True:
            await self._clock.sleep(FLUSH_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write counters and last uses; on a full disk they wait in memory for the next time."""
        try:
            await self.blobs.flush_touched()
            await self.figures.flush()
        except StoreFailed as error:
            log.warning("figures are not written for now: %s", error)
