"""A store, fake sources and a fetcher between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2pmodels.store.room import RoomOptions
from p2pmodels.store.store import Store, StoreOptions
from p2pmodels.transfer.fetcher import Fetcher
from p2pmodels.workers import Lane
from tests.fakes import FakeClock
from tests.sources_fakes import FakeNearby, FakeOrigins


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest_asyncio.fixture
async def store(tmp_path: Path, lane: Lane, clock: FakeClock) -> AsyncIterator[Store]:
    options = StoreOptions(tmp_path / "data", RoomOptions(free_floor_bytes=0))
    async with Store(options, lane, clock) as running:
        yield running


@pytest.fixture
def origins() -> FakeOrigins:
    return FakeOrigins()


@pytest.fixture
def nearby() -> FakeNearby:
    return FakeNearby()


@pytest_asyncio.fixture
async def fetcher(
    store: Store, origins: FakeOrigins, nearby: FakeNearby, clock: FakeClock
) -> AsyncIterator[Fetcher]:
    async with Fetcher(
        store.blobs, store.figures, origins, nearby, clock, origins.on_blob
    ) as running:
        yield running
