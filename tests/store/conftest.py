"""A store on a real folder, with a disk that can be told to fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2pmodels.store.room import RoomOptions
from p2pmodels.store.store import Store, StoreOptions
from p2pmodels.workers import Lane
from tests.fakes import FailingDisk, FakeClock


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def options(tmp_path: Path) -> StoreOptions:
    return StoreOptions(tmp_path / "data", RoomOptions(free_floor_bytes=0))


@pytest_asyncio.fixture
async def store(
    options: StoreOptions, lane: Lane, clock: FakeClock, disk: FailingDisk
) -> AsyncIterator[Store]:
    async with Store(options, lane, clock, disk) as running:
        yield running
