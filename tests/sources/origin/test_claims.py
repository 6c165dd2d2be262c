"""Claims: only what this machine is to fetch is asked for, and it can change at any time."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodels.core.manifest import Want
from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import RangeSet
from p2pmodels.demo.hub import Hub
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.sources.origin.origins import Origins
from tests.sources.origin.fills import SIZE, WITHIN_S, Room, claims_of, room_with
from tests.sources.origin.world import (
    MIB,
    SMALL,
    Shelf,
    SkippingClock,
    hub_manifest,
    options_for,
)


@pytest.mark.asyncio
async def test_only_claims_are_fetched_each_in_one_request(room: Room) -> None:
    room.claims.set(RangeSet([(MIB, 3 * MIB), (4 * MIB, 5 * MIB)]))
    async with room.filling(0) as task:
        await room.until(lambda: room.partial.landed.total == 3 * MIB)
        await room.until_quiet()
        assert not task.done()
        assert room.claims.under_way() == []
    assert room.partial.landed == RangeSet([(MIB, 3 * MIB), (4 * MIB, 5 * MIB)])
    assert await room.ranges() == [
        f"bytes={MIB}-{3 * MIB - 1}",
        f"bytes={4 * MIB}-{5 * MIB - 1}",
    ]
    assert room.claims.requests == 2
    assert sum(count for _, count in room.counted) == room.hub.file_bytes() == 3 * MIB


@pytest.mark.asyncio
async def test_claims_that_grow_while_nothing_is_to_do_are_fetched_at_once(room: Room) -> None:
    room.claims.set(RangeSet())
    async with room.filling(0) as task:
        for start in range(0, SIZE, MIB):
            room.claims.set(RangeSet([(0, start + MIB)]))
            await room.until_landed(0, start + MIB)
        await task
    await room.partial.seal()
    assert room.claims.requests == SIZE // MIB
    assert room.hub.file_bytes() == SIZE


@pytest.mark.asyncio
async def test_claims_that_grow_under_way_get_connections_of_their_own(room: Room) -> None:
    room.hub.faults.rate_bytes_per_s = 4e6
    room.claims.set(RangeSet([(0, 2 * MIB)]))
    async with room.filling(0):
        await room.until(lambda: room.partial.landed.total > 0)
        room.claims.set(RangeSet([(0, 2 * MIB), (3 * MIB, 4 * MIB), (5 * MIB, SIZE)]))
        await room.until(lambda: len(room.claims.under_way()) == 3)
        assert room.partial.landed.total < MIB
        (at, stop), *_ = room.claims.under_way()
        assert 0 < at < stop == 2 * MIB


@pytest.mark.asyncio
async def test_never_more_connections_than_the_option_says(
    hub: Hub, want: Want, shelf: Shelf
) -> None:
    hub.faults.rate_bytes_per_s = 8e6
    claims = claims_of(*((n * MIB // 2, n * MIB // 2 + MIB // 4) for n in range(12)))
    async with room_with(claims, hub, want, shelf, connections=3) as room, room.filling(0):
        seen = 0
        while room.partial.landed.total < 3 * MIB:
            seen = max(seen, len(claims.under_way()))
            await room.until_more()
        assert seen == 3
        await room.until_quiet()
    assert claims.requests == 12


@pytest.mark.asyncio
async def test_claim_that_shrinks_ends_its_connection_where_it_ends(room: Room) -> None:
    room.hub.faults.rate_bytes_per_s = 3e6
    room.claims.set(RangeSet([(0, SIZE - 1)]))
    async with room.filling(0):
        await room.until(lambda: room.partial.landed.total > 0)
        room.claims.set(RangeSet([(0, MIB)]))
        assert [stop for _, stop in room.claims.under_way()] == [MIB]
        await room.until_landed(0, MIB)
        await room.until_quiet()
    assert room.partial.landed == RangeSet([(0, MIB)])
    assert await room.ranges() == [f"bytes=0-{SIZE - 2}"]
    assert room.hub.file_bytes() < SIZE, "the rest was not sent"


@pytest.mark.asyncio
@pytest.mark.parametrize("stall_after", [0, 100_000])
async def test_claims_that_are_emptied_end_a_silent_connection_at_once(
    room: Room, stall_after: int
) -> None:
    """Neither the wait for the first byte nor one for the next holds it."""
    room.hub.faults.stall_after = stall_after
    room.claims.set(RangeSet([(0, 2 * MIB), (3 * MIB, 4 * MIB)]))
    async with room.filling(0) as task:
        await room.hub.until(lambda: room.hub.active >= 2, WITHIN_S)
        await room.until(lambda: room.partial.landed.total >= min(1, stall_after))
        room.claims.set(RangeSet())
        assert room.claims.under_way() == []
        async with asyncio.timeout(2):
            await room.until_quiet()
        assert not task.done()
        room.hub.faults.stall_after = None
        room.claims.set(RangeSet([(5 * MIB, SIZE)]))
        await room.until_landed(5 * MIB, SIZE)


@pytest.mark.asyncio
async def test_wait_for_an_answer_ends_with_its_claim(room: Room) -> None:
    room.hub.faults.delay_s = 30
    room.claims.set(RangeSet([(0, MIB)]))
    async with room.filling(0) as task:
        await room.hub.until(lambda: room.hub.active == 1, WITHIN_S)
        room.hub.faults.delay_s = 0
        room.claims.set(RangeSet([(2 * MIB, 3 * MIB)]))
        await room.until_landed(2 * MIB, 3 * MIB)
        assert not task.done()
    assert room.partial.landed.total == MIB


@pytest.mark.asyncio
async def test_machine_alone_gets_company_and_loses_it_again(room: Room) -> None:
    room.hub.faults.rate_bytes_per_s = 6e6
    async with room.filling(0) as task:
        await room.until(lambda: len(room.claims.under_way()) == 4)
        assert room.partial.landed.total < 2 * MIB
        room.claims.set(RangeSet([(2 * MIB, 3 * MIB)]))
        assert all(2 * MIB <= at < stop <= 3 * MIB for at, stop in room.claims.under_way())
        await room.until_landed(2 * MIB, 3 * MIB)
        await room.until_quiet()
        assert not task.done()
        alone_from = room.partial.landed.total
        assert alone_from < 4 * MIB
        room.claims.set(None)
        await room.until(lambda: len(room.claims.under_way()) > 1)
        await task
    await room.partial.seal()
    assert room.hub.file_bytes() < SIZE + 3 * MIB


@pytest.mark.asyncio
async def test_origin_that_ignores_ranges_gives_everything_on_one_connection(room: Room) -> None:
    """To ask for each claim anew would begin at the first byte each time."""
    room.hub.faults.ignore_range = True
    room.claims.set(RangeSet([(2 * MIB, 3 * MIB)]))
    async with room.filling(0) as task:
        await task
    await room.partial.seal()
    assert await room.ranges() == [f"bytes={2 * MIB}-{3 * MIB - 1}"]
    assert room.hub.file_bytes() == SIZE


@pytest.mark.asyncio
async def test_origin_that_ignores_ranges_is_left_when_nothing_is_claimed(room: Room) -> None:
    room.hub.faults.ignore_range = True
    room.hub.faults.rate_bytes_per_s = 3e6
    room.claims.set(RangeSet([(2 * MIB, 3 * MIB)]))
    async with room.filling(0) as task:
        await room.until(lambda: room.partial.landed.total > 0)
        room.claims.set(RangeSet())
        assert room.claims.under_way() == []
        await room.until_quiet()
        assert not task.done()
    assert room.partial.landed.total < 2 * MIB


@pytest.mark.asyncio
async def test_whole_small_file_is_asked_for_without_a_range(hub: Hub, shelf: Shelf) -> None:
    want = (await hub_manifest(hub)).want(FilePath("config.json"))
    await hub.quiet()
    hub.clear_log()
    claims = claims_of((0, len(SMALL)))
    async with Origins([options_for(hub.url)], SkippingClock()) as origins:
        partial = await shelf.partial(want)
        await origins.fill(want, partial, lambda: [0], claims=claims)
    await partial.seal()
    await hub.quiet()
    assert [hit.range for hit in hub.log] == [""]
    assert claims.requests == 1


@pytest.mark.asyncio
async def test_whole_claim_of_a_large_file_can_shrink_as_well(room: Room) -> None:
    room.hub.faults.rate_bytes_per_s = 3e6
    room.claims.set(RangeSet([(0, SIZE)]))
    async with room.filling(0):
        await room.until(lambda: room.partial.landed.total > 0)
        room.claims.set(RangeSet([(0, MIB), (5 * MIB, SIZE)]))
        await room.until(lambda: len(room.claims.under_way()) == 2)
        assert room.claims.under_way()[1][1] == SIZE
        await room.until_landed(5 * MIB, SIZE)
        await room.until_landed(0, MIB)
        await room.until_quiet()
    assert room.partial.landed == RangeSet([(0, MIB), (5 * MIB, SIZE)])
    assert await room.ranges() == ["", f"bytes={5 * MIB}-{SIZE - 1}"]


@pytest.mark.asyncio
async def test_set_of_the_owner_is_copied() -> None:
    owned = RangeSet([(0, 10)])
    claims = Claims(owned)
    owned.add(10, 20)
    assert claims.ranges == RangeSet([(0, 10)])
    claims.set(owned)
    owned.add(20, 30)
    assert claims.ranges == RangeSet([(0, 20)])
