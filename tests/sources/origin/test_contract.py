"""An origin keeps the promises of every source."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import pytest_asyncio

from p2pmodels.core.manifest import Want
from p2pmodels.core.names import FilePath
from p2pmodels.demo.hub import Hub
from p2pmodels.sources.origin.origin import Origin
from p2pmodels.store.partials import Partial
from tests.sources.contract import SourceContract
from tests.sources.origin.world import DATA, MAIN, REPO, origin_at


@dataclass
class HubSubject:
    hub: Hub
    origin: Origin
    want: Want
    data: bytes = DATA

    async def fill(self, partial: Partial, positions: Callable[[], Sequence[int]]) -> None:
        await self.origin.fill(self.want, partial, positions)

    def break_after(self, count: int) -> None:
        self.hub.faults.cut_after = min(count, 100_000)
        self.hub.faults.manifests_only = True

    def hold_after(self, count: int) -> None:
        self.hub.faults.stall_after = min(count, 100_000)


class TestOriginKeepsTheContract(SourceContract):
    @pytest_asyncio.fixture
    async def subject(self, hub: Hub) -> AsyncIterator[HubSubject]:
        async with origin_at(hub.url, stall_timeout_s=15.0) as origin:
            want = (await origin.manifest(REPO, MAIN)).want(FilePath("model.safetensors"))
            yield HubSubject(hub, origin, want)
