"""Claims beside others: what others bring is not fetched, and a failing origin is replaced."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodels.core.manifest import Want
from p2pmodels.core.pieces import RangeSet
from p2pmodels.demo.hub import Hub
from p2pmodels.errors import SourceFailed
from p2pmodels.sources.origin.options import OriginOptions
from p2pmodels.sources.origin.origins import Origins
from tests.fakes import FakeClock
from tests.sources.origin.fills import SIZE, Room, claims_of
from tests.sources.origin.world import MIB, Shelf, SkippingClock, options_for


@pytest.mark.asyncio
async def test_fill_ends_when_others_bring_the_rest(room: Room) -> None:
    room.claims.set(RangeSet([(0, MIB)]))
    async with room.filling(0) as task:
        await room.until_landed(0, MIB)
        await room.others_bring(MIB, SIZE)
        await task
    await room.partial.seal()
    assert room.partial.vouched == RangeSet([(0, MIB)])
    assert room.hub.file_bytes() == MIB


@pytest.mark.asyncio
async def test_fill_that_never_had_a_claim_ends_when_others_bring_everything(room: Room) -> None:
    room.claims.set(RangeSet())
    async with room.filling(0) as task:
        await room.others_bring(0, SIZE)
        await task
    await room.partial.seal()
    assert room.hub.log == []


@pytest.mark.asyncio
async def test_connection_is_not_waited_for_when_others_brought_its_bytes(room: Room) -> None:
    room.hub.faults.stall_after = 100_000
    room.claims.set(RangeSet([(0, SIZE)]))
    async with room.filling(0) as task:
        await room.until(lambda: room.partial.landed.total >= 100_000)
        async with asyncio.timeout(3):
            await room.others_bring(100_000, SIZE)
            await task
    await room.partial.seal()


@pytest.mark.asyncio
async def test_pause_after_a_failure_is_not_waited_for_when_others_brought_everything(
    hub: Hub, want: Want, shelf: Shelf
) -> None:
    """The clock of this one stands still: the pause would last for ever."""
    hub.faults.status_for_files = 500
    clock = FakeClock()
    partial, claims = await shelf.partial(want), claims_of((0, MIB))
    async with Origins([options_for(hub.url)], clock) as origins:
        room = Room(hub, origins, want, partial, claims)
        async with room.filling(0) as task:
            await clock.until_sleeping()
            await room.others_bring(0, SIZE)
            await task
    await partial.seal()


@pytest.mark.asyncio
async def test_bytes_that_landed_from_elsewhere_are_not_written_again(room: Room) -> None:
    room.hub.faults.rate_bytes_per_s = 4e6
    room.claims.set(RangeSet([(0, 2 * MIB)]))
    async with room.filling(0):
        await room.until(lambda: room.partial.landed.total > 0)
        await room.others_bring(MIB, MIB + MIB // 2)
        await room.until_landed(0, 2 * MIB)
    assert room.partial.vouched == RangeSet([(0, MIB), (MIB + MIB // 2, 2 * MIB)])


@pytest.mark.asyncio
async def test_failing_origin_ends_the_fill_and_the_next_one_takes_the_claims_over(
    hub: Hub, want: Want, shelf: Shelf
) -> None:
    partial, claims = await shelf.partial(want), claims_of((MIB, 2 * MIB))
    async with Hub() as broken:
        broken.faults.status_for_files = 500
        options: list[OriginOptions] = [
            options_for(broken.url),
            options_for(hub.url, kind="mirror", priority=1),
        ]
        async with Origins(options, SkippingClock()) as origins:
            room = Room(hub, origins, want, partial, claims)
            async with room.filling(0):
                await room.until_landed(MIB, 2 * MIB)
    assert {kind for kind, _ in room.counted} == {"mirror"}
    assert partial.landed == RangeSet([(MIB, 2 * MIB)])


@pytest.mark.asyncio
async def test_errors_are_those_of_a_fill_without_claims(room: Room) -> None:
    room.hub.faults.status_for_files = 500
    room.claims.set(RangeSet([(0, MIB)]))
    with pytest.raises(SourceFailed, match="status 500"):
        await room.origins.fill(room.want, room.partial, lambda: [0], claims=room.claims)
    assert room.claims.requests == 4
    assert room.claims.under_way() == []
