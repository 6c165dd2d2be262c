"""Fixtures that several layers share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from p2pmodels.workers import Lane, workers


@pytest_asyncio.fixture
async def lane() -> AsyncIterator[Lane]:
    """The worker threads of a daemon."""
    async with workers() as running:
        yield running
