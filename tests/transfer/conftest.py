"""A store, fake sources and a fetcher between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2pmodels.clock import RealClock
from p2pmodels.core.peer import PeerId
from p2pmodels.sources.lan.links import LinkOptions
from p2pmodels.store.room import RoomOptions
from p2pmodels.store.store import Store, StoreOptions
from p2pmodels.transfer.exchange import Exchange
from p2pmodels.transfer.fetcher import Fetcher
from p2pmodels.transfer.flows import Flows
from p2pmodels.transfer.uploads import Uploads
from p2pmodels.workers import Lane
from tests.fakes import FakeClock
from tests.sources_fakes import FakeNearby, FakeOrigins, FakePolicy, FakeShares


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


@pytest.fixture
def policy() -> FakePolicy:
    return FakePolicy()


@pytest_asyncio.fixture
async def rooms(store: Store) -> AsyncIterator[Exchange]:
    """The real exchange of a machine that is alone; its rooms look at their boards by real time."""
    clock = RealClock()
    async with Exchange(
        LinkOptions(PeerId("0" * 32), "0.1.0", 7879),
        FakeShares(),
        store.blobs,
        Uploads(clock),
        Flows(clock),
        clock,
        told_wait_s=lambda: 0.0,
        on_peers_wait=lambda _seconds: None,
    ) as running:
        yield running


@pytest_asyncio.fixture
async def fetcher(
    store: Store,
    origins: FakeOrigins,
    nearby: FakeNearby,
    rooms: Exchange,
    clock: FakeClock,
    policy: FakePolicy,
) -> AsyncIterator[Fetcher]:
    async with Fetcher(
        store.blobs,
        store.figures,
        origins,
        nearby,
        rooms,
        Flows(clock),
        clock,
        policy,
    ) as running:
        yield running
