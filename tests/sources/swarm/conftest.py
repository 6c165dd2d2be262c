"""The bench as a fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane
from tests.sources.swarm.places import Bench, BenchFactory


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
