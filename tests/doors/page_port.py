"""The real peer port with doors for pages, and nothing to give to daemons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from p2pmodels.clock import Clock, RealClock
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.doors.guard import GuardOptions
from p2pmodels.doors.peer import PageRoutes, peer_app
from p2pmodels.transfer.uploads import Uploads
from p2pmodels.workers import workers
from tests.peer_fakes import MemoryCatalogue, MemoryLinks, listening


@asynccontextmanager
async def peer_port(*doors: PageRoutes, clock: Clock | None = None) -> AsyncIterator[PeerAddress]:
    """The port on loopback; its address."""
    clock = clock or RealClock()
    async with workers() as lane:
        app = peer_app(
            MemoryCatalogue(),
            MemoryLinks(),
            Uploads(clock),
            lambda _host: True,
            GuardOptions(),
            clock,
            lane,
            page_doors=doors,
        )
        async with listening(app) as address:
            yield address
