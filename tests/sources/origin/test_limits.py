"""Limits of a hub: what it said itself, and what peers say that it said to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from p2pmodels.core.manifest import Want
from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import RangeSet
from p2pmodels.demo.hub import Hub
from p2pmodels.errors import Overloaded
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.sources.origin.limits import DEFER_CAP_S
from p2pmodels.sources.origin.origins import Origins
from tests.sources.origin.world import MAIN, REPO, Shelf, SkippingClock, options_for


@dataclass
class Fills:
    """Fills of one want, in company or alone."""

    hub: Hub
    origins: Origins
    shelf: Shelf
    want: Want

    async def run(self, *, is_in_company: bool) -> None:
        claims = Claims(RangeSet([(0, self.want.entry.size)])) if is_in_company else None
        async with asyncio.timeout(10):
            await self.origins.fill(
                self.want, await self.shelf.partial(self.want), lambda: [0], claims=claims
            )

    async def asked(self) -> int:
        """How many requests the hub itself has had."""
        await self.hub.quiet()
        return len(self.hub.requests(listener="hub"))


@asynccontextmanager
async def fills_from(
    hub: Hub, shelf: Shelf, clock: SkippingClock, *mirrors: Hub
) -> AsyncIterator[Fills]:
    options = [options_for(mirror.url, kind="mirror", priority=1) for mirror in mirrors]
    async with Origins([options_for(hub.url), *options], clock) as origins:
        want = (await origins.manifest(REPO, MAIN)).want(FilePath("model.safetensors"))
        fills = Fills(hub, origins, shelf, want)
        await fills.asked()
        hub.clear_log()
        yield fills


@pytest_asyncio.fixture
async def fills(hub: Hub, shelf: Shelf, clock: SkippingClock) -> AsyncIterator[Fills]:
    async with fills_from(hub, shelf, clock) as running:
        yield running


@pytest.mark.asyncio
async def test_hub_is_left_alone_as_long_as_a_peer_was_told_to(
    fills: Fills, clock: SkippingClock
) -> None:
    origins = fills.origins
    assert origins.wait_s == 0
    origins.defer(40)
    assert 39 < origins.wait_s <= 40
    origins.defer(10)
    assert origins.wait_s > 39
    clock.skipped += 40
    assert origins.wait_s == 0


@pytest.mark.asyncio
async def test_what_peers_say_is_not_passed_on_to_others(fills: Fills) -> None:
    fills.origins.defer(40)
    assert fills.origins.told_wait_s == 0


@pytest.mark.asyncio
async def test_mirror_is_asked_while_the_hub_is_left_alone(
    hub: Hub, shelf: Shelf, clock: SkippingClock
) -> None:
    async with Hub() as mirror, fills_from(hub, shelf, clock, mirror) as fills:
        fills.origins.defer(40)
        assert fills.origins.wait_s == 0


@pytest.mark.asyncio
async def test_told_to_wait_a_fill_in_company_asks_nothing(fills: Fills) -> None:
    fills.origins.defer(40)
    with pytest.raises(Overloaded) as told:
        await fills.run(is_in_company=True)
    assert 30 < told.value.retry_after_s <= 40
    assert await fills.asked() == 0
    assert fills.origins.states()[0].state != "down"


@pytest.mark.asyncio
async def test_lie_about_limits_stops_neither_a_machine_alone_nor_a_proof(fills: Fills) -> None:
    fills.origins.defer(300)
    await fills.origins.prove(fills.want)
    await fills.run(is_in_company=False)


@pytest.mark.asyncio
@pytest.mark.parametrize("seconds", [1e9, float("inf")])
async def test_lies_about_limits_are_believed_for_one_window_in_all(
    fills: Fills, clock: SkippingClock, seconds: float
) -> None:
    origins = fills.origins
    origins.defer(seconds)
    assert DEFER_CAP_S - 1 < origins.wait_s <= DEFER_CAP_S
    clock.skipped += DEFER_CAP_S / 2
    origins.defer(seconds)
    assert origins.wait_s <= DEFER_CAP_S / 2
    clock.skipped += DEFER_CAP_S / 2
    origins.defer(seconds)
    assert origins.wait_s == 0, "the hub itself has to be asked once"
    await fills.run(is_in_company=True)
    origins.defer(seconds)
    assert origins.wait_s > DEFER_CAP_S - 1


@pytest.mark.asyncio
@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("-inf")])
async def test_nonsense_about_limits_changes_nothing(fills: Fills, seconds: float) -> None:
    fills.origins.defer(seconds)
    assert fills.origins.wait_s == 0


@pytest.mark.asyncio
async def test_last_request_that_the_hub_grants_is_heeded_before_it_refuses_one(
    fills: Fills,
) -> None:
    """`r=0` on a good answer says the same as a 429, and costs nobody one."""
    fills.hub.faults.request_limit = 2  # the manifest was the first
    await fills.run(is_in_company=True)
    assert 200 < fills.origins.told_wait_s <= 300
    with pytest.raises(Overloaded):
        await fills.run(is_in_company=True)
    assert await fills.asked() == 1
    assert fills.hub.requests(status=429) == []
