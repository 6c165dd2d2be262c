"""Fixtures that several layers share, and which tests may run beside each other."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2pmodels.workers import Lane, workers

TESTS = Path(__file__).parent
# Those that go by the clock of the real world, one after the other. All the others run beside them
# in `make test` and leave them the processor.
BY_THE_CLOCK = (
    "faults/",
    "lab/",
    "sources/lan/",
    "sources/origin/",
    "sources/swarm/",
    "system/",
    "transfer/",
)
BESIDE, NICENESS = "beside", 10


def pytest_configure() -> None:
    """Let tests interrupt what they start, even where this was started in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _group(item: pytest.Item) -> str:
    place = item.path.relative_to(TESTS).as_posix()
    return "by the clock" if place.startswith(BY_THE_CLOCK) else BESIDE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two groups, for the two processes of `make test`."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """In a process of its own, what runs beside steps back."""
    if "PYTEST_XDIST_WORKER" in os.environ and _group(item) == BESIDE:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


@pytest_asyncio.fixture
async def lane() -> AsyncIterator[Lane]:
    """The worker threads of a daemon."""
    async with workers() as running:
        yield running
