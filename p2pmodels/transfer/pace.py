"""When a room looks at its board again: soon after news, never too often."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from p2pmodels.clock import Clock

STEP_EVERY_S = 0.04  # seconds between two looks at a board; what comes meanwhile is seen together
STEP_APART_S = 0.01  # seconds that every member adds to that: as many frames come in less looks
STEP_YOUNG_S = 0.01  # the same while a fetch begins: a client waits for its first byte
YOUNG_S = 0.5  # seconds for which that is so


class Pace:
    """The waiting of one room."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._news, self._slack = asyncio.Event(), asyncio.Event()
        self._began = clock.monotonic()
        self._looked_at = self._began - STEP_EVERY_S

    def wake(self) -> None:
        """There is something to look at."""
        self._news.set()

    def slacken(self) -> None:
        """A pull has ended: its line is idle until the next look."""
        self._slack.set()

    async def pause(self, until: float, members: int) -> None:
        """Wait for news in a room of so many members, at the longest `until` (monotonic)."""
        await self._wait(self._news, until)
        crowd_s = max(STEP_EVERY_S, STEP_APART_S * members)
        is_young = self._clock.monotonic() - self._began < YOUNG_S
        await self._wait(self._slack, self._looked_at + (STEP_YOUNG_S if is_young else crowd_s))
        self._looked_at = self._clock.monotonic()
        self._news.clear()
        self._slack.clear()

    async def _wait(self, event: asyncio.Event, until: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - self._clock.monotonic())):
                await event.wait()
