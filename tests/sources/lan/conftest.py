"""A room in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.link_fakes import Room, memory_room


@pytest_asyncio.fixture
async def room() -> AsyncIterator[Room]:
    async with memory_room() as made:
        yield made
