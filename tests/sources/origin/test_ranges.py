"""What is asked for next: readers first, nothing twice, everything in the end."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmodels.core.pieces import KIB, MIB, RangeSet
from p2pmodels.sources.origin.ranges import NEAR, SEGMENT_MIN, Segment, Segments

SIZE = 64 * MIB


def make(size: int = SIZE, connections: int = 4) -> tuple[Segments, RangeSet]:
    landed = RangeSet()
    return Segments(size, lambda: landed, 8 * MIB, connections), landed


def take(segments: Segments, positions: list[int]) -> Segment:
    segment = segments.take(positions)
    assert segment is not None
    return segment


def test_first_segment_begins_where_the_reader_stands() -> None:
    segments, _ = make()
    assert take(segments, [40 * MIB + 123]).start == 40 * MIB + 123


def test_without_readers_the_file_is_fetched_in_order() -> None:
    segments, _ = make()
    taken = [take(segments, []) for _ in range(4)]
    assert [(s.start, s.stop) for s in taken] == [
        (n * 8 * MIB, (n + 1) * 8 * MIB) for n in range(4)
    ]


def test_gap_nearest_behind_any_reader_is_first() -> None:
    segments, landed = make()
    landed.add(0, 20 * MIB)
    landed.add(32 * MIB, 33 * MIB)
    assert take(segments, [0, 32 * MIB]).start == 33 * MIB
    assert take(segments, [0, 41 * MIB]).start == 41 * MIB
    assert take(segments, [19 * MIB]).start == 20 * MIB


def test_gaps_in_front_of_every_reader_come_last() -> None:
    segments, landed = make()
    landed.add(32 * MIB, SIZE)
    assert take(segments, [40 * MIB]).start == 0


def test_end_is_dealt_out_evenly() -> None:
    segments, _ = make(size=10 * MIB)
    taken = [take(segments, []) for _ in range(4)]
    assert max(s.stop - s.start for s in taken) <= 10 * MIB // 4 + 1


def test_small_file_is_one_segment() -> None:
    segments, _ = make(size=SEGMENT_MIN + 100)
    assert (take(segments, []).stop, segments.take([])) == (SEGMENT_MIN + 100, None)


def test_last_long_segment_is_shared() -> None:
    segments, _ = make(size=8 * MIB, connections=1)
    first = take(segments, [])
    assert first.stop == 8 * MIB
    second = take(segments, [])
    assert (first.stop, second.start, second.stop) == (4 * MIB, 4 * MIB, 8 * MIB)


def test_reader_waiting_far_inside_a_segment_gets_a_connection_of_its_own() -> None:
    segments, _ = make()
    first = take(segments, [0])
    need = first.at + 4 * NEAR
    second = take(segments, [need])
    assert (first.stop, second.start, second.stop) == (need, need, 8 * MIB)


def test_segment_farthest_from_readers_yields_to_one_that_waits() -> None:
    segments, landed = make()
    running = [take(segments, [0]) for _ in range(4)]
    for segment in running:
        landed.add(segment.start, segment.start + MIB)
        segment.at = segment.start + MIB
    positions = [0, 60 * MIB]
    yielding = [segment for segment in running if segments.should_yield(segment, positions)]
    assert yielding == [running[3]]
    segments.release(running[3])
    assert take(segments, positions).start == 60 * MIB
    assert not any(segments.should_yield(segment, positions) for segment in running[:3])


def test_segment_that_a_reader_follows_closely_never_yields() -> None:
    segments, _ = make(connections=1)
    segment = take(segments, [0])
    assert not segments.should_yield(segment, [0, 60 * MIB])


def test_reader_with_bytes_in_front_of_it_disturbs_nobody() -> None:
    segments, landed = make()
    landed.add(60 * MIB, 61 * MIB)
    segment = take(segments, [0])
    segment.at = segment.start + 4 * MIB
    assert not segments.should_yield(segment, [60 * MIB])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40 * MIB),
    st.lists(st.integers(0, 40 * MIB), max_size=3),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_every_byte_is_fetched_and_none_twice_at_once(
    size: int, readers: list[int], connections: int, rng: random.Random
) -> None:
    landed = RangeSet()
    segments = Segments(size, lambda: landed, 8 * MIB, connections)
    positions = [reader % size for reader in readers]
    running: list[Segment] = []
    for _ in range(4000):
        if landed.holds(0, size):
            break
        if len(running) < connections:
            segment = segments.take(positions)
            if segment is not None:
                assert not landed.holds(segment.start, segment.start + 1)
                running.append(segment)
        spans = sorted((s.at, s.stop) for s in running if s.at < s.stop)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        if not running:
            continue
        segment = rng.choice(running)
        step = min(segment.stop - segment.at, rng.choice([64 * KIB, MIB, 8 * MIB]))
        landed.add(segment.at, segment.at + max(0, step))
        segment.at += max(0, step)
        if segment.at >= segment.stop or segments.should_yield(segment, positions):
            running.remove(segment)
            segments.release(segment)
    assert landed.holds(0, size)
