"""Real processes: a hub with the real model, and daemons that use it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2pmodels.demo.processes import DaemonProcess, HubProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts real processes."""
    for item in items:
        if "system" in item.path.parts:
            item.add_marker(pytest.mark.system)


@pytest_asyncio.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubProcess]:
    """A hub with the real MiniLM."""
    folder = tmp_path / "hub"
    folder.mkdir()
    async with HubProcess(folder, "--minilm") as running:
        yield running


@pytest_asyncio.fixture
async def daemon(tmp_path: Path, hub: HubProcess) -> AsyncIterator[DaemonProcess]:
    """A daemon of that hub, alone."""
    async with DaemonProcess(tmp_path / "a", "--origin", hub.url, "--no-mdns") as running:
        yield running


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    """32 MB that are nowhere else."""
    path = tmp_path / "big.bin"
    path.write_bytes(random.Random(7).randbytes(32_000_000))
    return path
