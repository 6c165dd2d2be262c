"""Claims: only what this machine is to fetch is asked for, and it can change at any time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmodels.core.manifest import Want
from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import KIB, RangeSet
from p2pmodels.demo.hub import Hub
from p2pmodels.errors import SourceFailed
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.sources.origin.options import OriginOptions
from p2pmodels.sources.origin.origins import Origins
from p2pmodels.sources.origin.ranges import Segment, Segments
from p2pmodels.store.partials import Partial
from tests.fakes import FakeClock
from tests.sources.contract import assert_truthful
from tests.sources.origin.world import (
    DATA,
    MIB,
    SMALL,
    Shelf,
    SkippingClock,
    hub_manifest,
    options_for,
)

SIZE = len(DATA)
WITHIN_S = 10.0


# segments


def make(
    ranges: RangeSet | None, size: int = 64 * MIB
) -> tuple[Segments, RangeSet, list[RangeSet | None]]:
    landed = RangeSet()
    claimed = [ranges]
    return Segments(size, lambda: landed, 8 * MIB, 4, lambda: claimed[0]), landed, claimed


def spans(segments: list[Segment]) -> list[tuple[int, int]]:
    return [(segment.start, segment.stop) for segment in segments]


def take_all(segments: Segments, positions: list[int]) -> list[Segment]:
    taken = []
    while (segment := segments.take(positions)) is not None:
        taken.append(segment)
    return taken


def test_each_claimed_gap_is_one_segment_however_long() -> None:
    segments, landed, _ = make(RangeSet([(0, 40 * MIB), (50 * MIB, 50 * MIB + 10)]))
    landed.add(8 * MIB, 9 * MIB)
    assert segments.spare == 3
    assert spans(take_all(segments, [])) == [
        (0, 8 * MIB),
        (9 * MIB, 40 * MIB),
        (50 * MIB, 50 * MIB + 10),
    ]
    assert segments.spare == 0


def test_claimed_gap_that_a_reader_comes_to_is_first_and_stays_whole() -> None:
    segments, _, _ = make(RangeSet([(0, MIB), (8 * MIB, 10 * MIB), (30 * MIB, 40 * MIB)]))
    taken = take_all(segments, [35 * MIB, 2 * MIB])
    assert spans(taken) == [(30 * MIB, 40 * MIB), (8 * MIB, 10 * MIB), (0, MIB)]


def test_reader_that_waits_takes_no_claimed_segment_apart() -> None:
    segments, _, _ = make(RangeSet([(0, 40 * MIB)]))
    (segment,) = take_all(segments, [0])
    assert not segments.should_yield(segment, [30 * MIB])
    assert segments.take([30 * MIB]) is None
    assert segment.stop == 40 * MIB


def test_segment_ends_where_its_claim_ends() -> None:
    segments, landed, claimed = make(RangeSet([(0, 8 * MIB)]))
    (segment,) = take_all(segments, [])
    landed.add(0, MIB)
    segment.at = MIB
    claimed[0] = RangeSet([(0, 3 * MIB), (4 * MIB, 8 * MIB)])
    segments.shrink()
    assert segments.under_way() == [(MIB, 3 * MIB)]
    assert spans(take_all(segments, [])) == [(4 * MIB, 8 * MIB)]
    claimed[0] = RangeSet([(2 * MIB, 8 * MIB)])
    segments.shrink()
    assert segment.is_over
    assert segments.under_way() == [(4 * MIB, 8 * MIB)]


def test_segment_whose_rest_landed_from_elsewhere_is_over() -> None:
    segments, landed, _ = make(RangeSet([(0, 8 * MIB)]))
    (segment,) = take_all(segments, [])
    landed.add(MIB, 8 * MIB)
    segments.shrink()
    assert not segment.is_over
    landed.add(0, MIB)
    segments.shrink()
    assert segment.is_over


def test_segments_taken_alone_shrink_to_the_first_claims() -> None:
    segments, _, claimed = make(None)
    taken = [segment for segment in (segments.take([]) for _ in range(4)) if segment is not None]
    claimed[0] = RangeSet([(9 * MIB, 17 * MIB)])
    for segment in taken:
        segment.at += MIB
    segments.shrink()
    assert segments.under_way() == [(9 * MIB, 16 * MIB)]
    claimed[0] = None
    assert segments.take([]) is not None


CLAIM = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda run: (run[0], run[0] + run[1])),
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 50),
    st.lists(st.one_of(st.none(), CLAIM), min_size=1, max_size=8),
    st.lists(st.integers(0, 50), max_size=3),
    st.randoms(use_true_random=False),
)
def test_never_outside_the_claims_and_never_twice_whatever_they_become(
    size: int,
    changes: list[list[tuple[int, int]] | None],
    readers: list[int],
    rng: random.Random,
) -> None:
    """Bytes stand for 64 KiB here, so that a step is a read; others bring bytes as well."""
    grain = 64 * KIB
    length = size * grain - 7
    segments, landed, claimed = make(RangeSet(), length)
    positions = [reader * grain % length for reader in readers]
    running: list[Segment] = []
    for change in changes:
        claimed[0] = None if change is None else RangeSet((a * grain, b * grain) for a, b in change)
        segments.shrink()
        for _ in range(12):
            wanted = claimed[0]
            if len(running) < 4 and (segment := segments.take(positions)) is not None:
                assert not landed.holds(segment.start, segment.start + 1)
                running.append(segment)
            assert segments.under_way() == sorted((s.at, s.stop) for s in running if not s.is_over)
            assert all(a[1] <= b[0] for a, b in pairwise(segments.under_way()))
            for start, stop in segments.under_way():
                assert wanted is None or wanted.holds(start, stop)
            if rng.random() < 0.2:
                start = rng.randrange(length)
                landed.add(start, min(length, start + 3 * grain))
                segments.shrink()
            if running:
                segment = rng.choice(running)
                stop = min(segment.stop, segment.at + rng.choice([grain, 5 * grain]))
                if stop > segment.at:
                    landed.add(segment.at, stop)
                    segment.at = stop
                if segment.is_over or segments.should_yield(segment, positions):
                    running.remove(segment)
                    segments.release(segment)
    for segment in running:
        segments.release(segment)
    claimed[0] = RangeSet([(0, length)])
    for segment in take_all(segments, positions):
        landed.add(segment.start, segment.stop)
    assert landed.holds(0, length)


# downloads


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


@pytest_asyncio.fixture
async def want(hub: Hub) -> Want:
    found = (await hub_manifest(hub)).want(FilePath("model.safetensors"))
    await hub.quiet()
    hub.clear_log()
    return found


@asynccontextmanager
async def room_with(
    claims: Claims, hub: Hub, want: Want, shelf: Shelf, **options: object
) -> AsyncIterator[Room]:
    partial = await shelf.partial(want)
    clock = SkippingClock()
    async with Origins([options_for(hub.url, stall_timeout_s=5.0, **options)], clock) as origins:
        yield Room(hub, origins, want, partial, claims)
    assert_truthful(partial, DATA)


@pytest_asyncio.fixture
async def room(hub: Hub, want: Want, shelf: Shelf) -> AsyncIterator[Room]:
    async with room_with(Claims(), hub, want, shelf) as room:
        yield room


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


@pytest.mark.asyncio
async def test_set_of_the_owner_is_copied() -> None:
    owned = RangeSet([(0, 10)])
    claims = Claims(owned)
    owned.add(10, 20)
    assert claims.ranges == RangeSet([(0, 10)])
    claims.set(owned)
    owned.add(20, 30)
    assert claims.ranges == RangeSet([(0, 20)])
