"""A place with files, and swarms over loopback that are pumped while a test runs."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodels.clock import RealClock
from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import Commit, FilePath
from p2pmodels.core.torrent import PeerAddress, Torrent
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.sources.swarm.torrents import make_torrent
from p2pmodels.store.disk import RealDisk
from p2pmodels.store.partials import Partial
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane

COMMIT = Commit("c0ffee00" * 5)
MIB = 1 << 20
LOOPBACK = SwarmOptions(listen_host="127.0.0.1", port=0)

Shelf = dict[FilePath, Path]


def random_bytes(size: int, seed: int = 7) -> bytes:
    """The same bytes on every run."""
    return random.Random(seed).randbytes(size)


def shelve(folder: Path, files: Mapping[str, bytes]) -> Shelf:
    """Put files into a folder as a store does: named by their sha256, read-only."""
    shelf: Shelf = {}
    for name, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        where = folder / "blobs" / digest[:2] / digest
        where.parent.mkdir(parents=True, exist_ok=True)
        if not where.exists():
            where.write_bytes(data)
            where.chmod(0o444)
        shelf[FilePath(name)] = where
    return shelf


def torrent_of(shelf: Shelf, name: Commit | Sha256 = COMMIT) -> Torrent:
    """The torrent of everything on a shelf."""
    return make_torrent(name, [(path, at.stat().st_size, at) for path, at in shelf.items()])


@dataclass
class Bench:
    """What a test of two daemons needs: folders, a lane and running swarms."""

    folder: Path
    lane: Lane
    tasks: Tasks
    clock: RealClock = field(default_factory=RealClock)
    open_partials: list[Partial] = field(default_factory=list)

    @asynccontextmanager
    async def swarm(self, options: SwarmOptions = LOOPBACK) -> AsyncIterator[Swarm]:
        """A swarm whose events are taken in."""
        async with Swarm(options, self.lane, self.clock) as swarm:
            running = self.tasks.start(swarm.run(), "swarm")
            try:
                yield swarm
            finally:
                running.cancel()
                await asyncio.wait([running])

    @asynccontextmanager
    async def seed(self, shelf: Shelf, torrent: Torrent) -> AsyncIterator[PeerAddress]:
        """A swarm that seeds a shelf; its address."""
        async with self.swarm() as swarm:
            await swarm.seed(torrent, shelf)
            yield PeerAddress("127.0.0.1", swarm.port)

    async def partial(self, data: bytes, name: str = "") -> Partial:
        """An empty partial for these bytes."""
        digest = hashlib.sha256(data).hexdigest()
        folder = self.folder / "partials"
        folder.mkdir(exist_ok=True)
        partial = Partial(
            Sha256(digest), len(data), folder / (name or digest), RealDisk(), self.lane, self.clock
        )
        await partial.open()
        self.open_partials.append(partial)
        return partial


BenchFactory = Callable[[], AbstractAsyncContextManager[Bench]]
