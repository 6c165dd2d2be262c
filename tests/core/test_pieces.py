"""Pieces and range sets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.pieces import KIB, MIB, RangeSet, piece_length

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 256 * KIB),
        (1, 256 * KIB),
        (512 * MIB, 256 * KIB),
        (512 * MIB + 1, 512 * KIB),
        (1 * GIB, 512 * KIB),
        (8 * GIB, 4 * MIB),
        (32 * GIB, 16 * MIB),
        (1024 * GIB, 16 * MIB),
        (90_868_376, 256 * KIB),
    ],
)
def test_piece_length_is_fixed_for_ever(size: int, expected: int) -> None:
    assert piece_length(size) == expected


@given(st.integers(0, 1 << 45))
def test_piece_length_is_a_power_of_two_within_its_bounds(size: int) -> None:
    length = piece_length(size)
    assert length & (length - 1) == 0
    assert 256 * KIB <= length <= 16 * MIB
    assert length == 16 * MIB or size <= 2048 * length


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=12)


@given(SPANS, SPANS, st.integers(0, 60), st.integers(0, 60))
def test_range_set_behaves_like_a_set(
    added: list[list[int]], removed: list[list[int]], start: int, stop: int
) -> None:
    ranges = RangeSet()
    model: set[int] = set()
    for left, right in added:
        ranges.add(left, right)
        model |= set(range(left, right))
    for left, right in removed:
        ranges.remove(left, right)
        model -= set(range(left, right))
    assert {p for left, right in ranges for p in range(left, right)} == model
    assert ranges.total == len(model)
    assert ranges.holds(start, stop) == (set(range(start, stop)) <= model)
    gaps = {p for left, right in ranges.gaps(start, stop) for p in range(left, right)}
    assert gaps == set(range(start, stop)) - model
    run = start
    while run in model:
        run += 1
    assert ranges.run_end(start) == run
    spans = list(ranges)
    assert all(a[1] < b[0] for a, b in pairwise(spans))


def test_range_set_refuses_a_backward_range() -> None:
    with pytest.raises(ValueError, match="range"):
        RangeSet().add(5, 2)
