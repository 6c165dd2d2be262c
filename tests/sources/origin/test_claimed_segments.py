"""Segments of what is claimed: each gap whole, never outside the claims, never twice."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmodels.core.pieces import KIB, RangeSet
from p2pmodels.sources.origin.ranges import Segment, Segments
from tests.sources.origin.world import MIB


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
