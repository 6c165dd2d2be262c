"""A hub with a tiny repo, a clock that skips, a shelf for partials, a fill with claims."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2pmodels.core.manifest import Want
from p2pmodels.core.names import FilePath
from p2pmodels.demo.hub import Hub
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.sources.origin.origin import Origin
from p2pmodels.workers import Lane
from tests.sources.origin.fills import Room, room_with
from tests.sources.origin.world import FILES, Shelf, SkippingClock, hub_manifest, origin_at


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as running:
        running.add_repo("acme/tiny", FILES)
        yield running


@pytest_asyncio.fixture
async def origin(hub: Hub, clock: SkippingClock) -> AsyncIterator[Origin]:
    async with origin_at(hub.url, clock) as running:
        yield running


@pytest_asyncio.fixture
async def shelf(tmp_path: Path, lane: Lane) -> AsyncIterator[Shelf]:
    shelf = Shelf(tmp_path, lane)
    yield shelf
    await shelf.close()


@pytest_asyncio.fixture
async def want(hub: Hub) -> Want:
    found = (await hub_manifest(hub)).want(FilePath("model.safetensors"))
    await hub.quiet()
    hub.clear_log()
    return found


@pytest_asyncio.fixture
async def room(hub: Hub, want: Want, shelf: Shelf) -> AsyncIterator[Room]:
    async with room_with(Claims(), hub, want, shelf) as room:
        yield room
