"""The bench and a torrent as fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2pmodels.core.torrent import Torrent
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane
from tests.sources.swarm.places import Bench, BenchFactory, shelve, torrent_of
from tests.sources.swarm.torrent_files import FILES


@pytest.fixture
def bench(tmp_path: Path) -> BenchFactory:
    """`async with bench() as b:` everything it started has ended afterwards."""

    @asynccontextmanager
    async def factory() -> AsyncIterator[Bench]:
        async with Lane("bench", 4) as lane, Tasks() as tasks:
            made = Bench(tmp_path, lane, tasks)
            try:
                yield made
            finally:
                for partial in made.open_partials:
                    await partial.close()

    return factory


@pytest.fixture
def torrent(tmp_path: Path) -> Torrent:
    return torrent_of(shelve(tmp_path, FILES))
