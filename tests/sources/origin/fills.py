"""A fill with claims, as the exchange runs it, and what a test waits for in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from p2pmodels.core.manifest import Want
from p2pmodels.core.pieces import RangeSet
from p2pmodels.demo.hub import Hub
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.sources.origin.origins import Origins
from p2pmodels.store.partials import Partial
from tests.sources.contract import assert_truthful
from tests.sources.origin.world import DATA, Shelf, SkippingClock, options_for

SIZE = len(DATA)
WITHIN_S = 10.0


@dataclass
class Room:
    """A fill with claims, as the exchange runs it."""

    hub: Hub
    origins: Origins
    want: Want
    partial: Partial
    claims: Claims
    counted: list[tuple[str, int]] = field(default_factory=list)

    @asynccontextmanager
    async def filling(self, *positions: int) -> AsyncIterator[asyncio.Task[None]]:
        """The fill under way; it is given up at the end of the block if it still runs."""
        async with asyncio.timeout(2 * WITHIN_S), asyncio.TaskGroup() as group:
            task = group.create_task(
                self.origins.fill(
                    self.want,
                    self.partial,
                    lambda: positions,
                    on_bytes=lambda kind, count: self.counted.append((kind, count)),
                    claims=self.claims,
                )
            )
            try:
                yield task
            finally:
                task.cancel()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds; looked at whenever bytes land."""
        async with asyncio.timeout(WITHIN_S), self.partial.changed:
            await self.partial.changed.wait_for(condition)

    async def until_more(self) -> None:
        before = self.partial.landed.total
        await self.until(lambda: self.partial.landed.total > before)

    async def until_landed(self, start: int, stop: int) -> None:
        await self.until(lambda: self.partial.landed.holds(start, stop))

    async def others_bring(self, start: int, stop: int) -> None:
        await self.partial.write(start, DATA[start:stop], vouched=False)

    async def until_quiet(self) -> None:
        """Wait until no connection carries anything, although the fill goes on."""
        await self.hub.until(lambda: self.hub.active == 0, WITHIN_S)

    async def ranges(self) -> list[str]:
        """What was asked of the store behind the hub, in order of the bytes."""
        await self.hub.quiet()
        hits = self.hub.requests(listener="cdn")
        return sorted((hit.range for hit in hits), key=lambda text: (len(text), text))


def claims_of(*ranges: tuple[int, int]) -> Claims:
    return Claims(RangeSet(ranges))


@asynccontextmanager
async def room_with(
    claims: Claims, hub: Hub, want: Want, shelf: Shelf, **options: object
) -> AsyncIterator[Room]:
    partial = await shelf.partial(want)
    clock = SkippingClock()
    async with Origins([options_for(hub.url, stall_timeout_s=5.0, **options)], clock) as origins:
        yield Room(hub, origins, want, partial, claims)
    assert_truthful(partial, DATA)
