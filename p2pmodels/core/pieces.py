"""Pieces and ranges of bytes.

`piece_length` is part of the contract between daemons: the same function everywhere, for ever,
or two daemons that never met would make different torrents of the same snapshot.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

KIB = 1024
MIB = 1024 * KIB

PIECE_LENGTH_MIN = 256 * KIB  # bytes
PIECE_LENGTH_MAX = 16 * MIB  # bytes; larger ones cost too much when one is bad
PIECES_AIMED_AT = 2048  # pieces; keeps the torrent of any model small


def piece_length(size: int) -> int:
    """size / 2048 rounded up to a power of two, clamped to 256 KiB … 16 MiB; sizes in bytes."""
    wanted = -(-size // PIECES_AIMED_AT)
    power = 1 << max(0, wanted - 1).bit_length()
    return max(PIECE_LENGTH_MIN, min(PIECE_LENGTH_MAX, power))


class RangeSet:
    """A set of byte positions kept as sorted, disjoint, non-touching half-open ranges."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Add the positions start … stop-1."""
        if start < 0 or stop < start:
            raise ValueError(f"range {start}…{stop}")
        if start == stop:
            return
        # every kept range that overlaps or touches the new one melts into it
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def remove(self, start: int, stop: int) -> None:
        """Take the positions start … stop-1 out."""
        if start >= stop:
            return
        kept = []
        for left, right in self:
            if left < start:
                kept.append((left, min(right, start)))
            if right > stop:
                kept.append((max(left, stop), right))
        self._starts = [left for left, right in kept if left < right]
        self._stops = [right for left, right in kept if left < right]

    def holds(self, start: int, stop: int) -> bool:
        """Whether every position of start … stop-1 is in the set."""
        return start >= stop or self.run_end(start) >= stop

    def run_end(self, start: int) -> int:
        """Where the unbroken run that holds `start` ends; `start` itself when it is not held."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and self._stops[index] > start:
            return self._stops[index]
        return start

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The ranges of start … stop-1 that are not in the set, in order."""
        position = start
        for left, right in self:
            if right <= position:
                continue
            if left >= stop:
                break
            if left > position:
                yield position, left
            position = right
        if position < stop:
            yield position, stop

    @property
    def total(self) -> int:
        """How many positions are in the set."""
        return sum(self._stops) - sum(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(tuple(zip(self._starts, self._stops, strict=True)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"
