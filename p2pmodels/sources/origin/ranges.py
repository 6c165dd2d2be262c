"""Which bytes to ask for next: a pure rule over what landed, what is under way and who reads.

1. No byte is asked for twice at the same time.
2. What a reader needs next comes first; the rest in order from the start.
3. A reader that is about to wait for bytes nobody fetches takes a connection from the segment that
   is farthest from any reader: a seek on a slow line must not wait for megabytes of others.
4. With claims only their bytes are asked for, each gap of them in one request: others fetch the
   rest, and how it is cut was decided when the claims were made. Rule 3 rests meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2pmodels.core.pieces import KIB, MIB, RangeSet

SEGMENT_MIN = 1 * MIB  # bytes; less is not worth a request of its own
CUT_FROM = 6 * MIB  # bytes still to come; cutting throws away what is in the socket's buffers
STARVING = 256 * KIB  # bytes in front of a reader; with fewer it soon waits
NEAR = 512 * KIB  # bytes that a connection under way may be behind a reader's need


@dataclass(slots=True, eq=False)
class Segment:
    """The bytes start … stop-1, asked for on one connection that stands at `at`.

    `stop` can shrink while it is under way, when another connection takes the rest over, or when
    the rest is claimed no longer. `is_whole` when the origin knows no ranges and sends the whole
    file, whatever was asked for.
    """

    start: int
    stop: int
    at: int
    is_whole: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted of its connection."""
        return self.at >= self.stop


class Segments:
    """Hands out segments of one file of `size` bytes, all of it or what is `claimed`."""

    def __init__(
        self,
        size: int,
        landed: Callable[[], RangeSet],
        segment_bytes: int,
        connections: int,
        claimed: Callable[[], RangeSet | None] = lambda: None,
    ) -> None:
        self._size, self._landed, self._claimed = size, landed, claimed
        self._segment_bytes, self._connections = segment_bytes, connections
        self._running: list[Segment] = []

    def take(self, positions: Sequence[int]) -> Segment | None:
        """The next segment, or None when everything is under way."""
        free = self._free()
        if self._claimed() is not None:
            segment = _whole_gap(free, positions)
        else:
            segment = (
                self._cut_for_reader(positions)
                or self._from_gaps(free, positions)
                or self._cut_half()
            )
        if segment is not None:
            self._running.append(segment)
        return segment

    def release(self, segment: Segment) -> None:
        """The segment's connection has ended; what did not land is free again."""
        self._running.remove(segment)

    def shrink(self) -> None:
        """End what is under way where the claims end, and where all that would come has landed."""
        claimed, landed = self._claimed(), self._landed()
        for segment in self._running:
            if claimed is not None:
                end = claimed.run_end(segment.at)
                if segment.is_whole and claimed.total > 0:
                    end = segment.stop  # to ask for the next claim would begin at nought again
                segment.stop = min(segment.stop, end)
            if landed.holds(segment.at, segment.stop):
                segment.stop = min(segment.stop, segment.at)

    def under_way(self) -> list[tuple[int, int]]:
        """The bytes (at, stop) that are asked for and still to come, in order."""
        return sorted(
            (segment.at, segment.stop) for segment in self._running if not segment.is_over
        )

    @property
    def spare(self) -> int:
        """How many more connections would have something worthwhile to do."""
        free = self._free()
        if self._claimed() is not None:
            return len(free)
        return -(-sum(stop - start for start, stop in free) // SEGMENT_MIN)

    def should_yield(self, segment: Segment, positions: Sequence[int]) -> bool:
        """Whether this connection should be given up for a reader that would wait."""
        if self._claimed() is not None or not self._starving(positions):
            return False
        farthest = max(self._running, key=lambda other: _distance(other.at, positions))
        return farthest is segment and _distance(segment.at, positions) > NEAR

    def _free(self) -> list[tuple[int, int]]:
        """The bytes to take that neither landed nor are under way."""
        taken = RangeSet(self._landed())
        for segment in self._running:
            taken.add(segment.at, max(segment.at, segment.stop))
        claimed = self._claimed()
        if claimed is not None:
            for start, stop in claimed.gaps(0, self._size):
                taken.add(start, stop)
        return list(taken.gaps(0, self._size))

    def _from_gaps(
        self, free: Sequence[tuple[int, int]], positions: Sequence[int]
    ) -> Segment | None:
        if not free:
            return None
        best = (self._size + 1, *free[0])
        for position in positions:
            for start, stop in free:
                if stop > position:
                    start = max(start, position)
                    best = min(best, (start - position, start, stop))
                    break
        _, start, stop = best
        # Towards the end the rest is dealt out evenly, so that all connections end together.
        share = -(-sum(b - a for a, b in free) // self._connections)
        length = min(self._segment_bytes, max(SEGMENT_MIN, share))
        if stop - start < length + SEGMENT_MIN // 4:
            length = stop - start
        return Segment(start, start + length, start)

    def _starving(self, positions: Sequence[int]) -> list[int]:
        """The bytes that readers need next, soon, and that no connection is about to bring."""
        needs = []
        landed = self._landed()
        for position in positions:
            need = landed.run_end(position)
            is_soon = need < self._size and need - position < STARVING
            if is_soon and not any(
                segment.at <= need < segment.stop and need - segment.at <= NEAR
                for segment in self._running
            ):
                needs.append(need)
        return needs

    def _cut_for_reader(self, positions: Sequence[int]) -> Segment | None:
        """The rest of a segment under way, from where a reader waits in its middle."""
        for need in self._starving(positions):
            for segment in self._running:
                if segment.at < need < segment.stop:
                    return self._cut(segment, need)
        return None

    def _cut_half(self) -> Segment | None:
        """Half of the longest segment under way, so that the last one is not waited for alone."""
        longest = max(self._running, key=lambda s: s.stop - s.at, default=None)
        if longest is None or longest.stop - longest.at < CUT_FROM:
            return None
        return self._cut(longest, (longest.at + longest.stop) // 2)

    def _cut(self, segment: Segment, at: int) -> Segment:
        rest = Segment(at, segment.stop, at)
        segment.stop = at
        return rest


def _whole_gap(free: Sequence[tuple[int, int]], positions: Sequence[int]) -> Segment | None:
    """The gap that a reader comes to first, else the first one."""

    def steps(gap: tuple[int, int]) -> int:
        ahead = (max(0, gap[0] - position) for position in positions if gap[1] > position)
        return min(ahead, default=1 << 62)

    if not free:
        return None
    start, stop = min(free, key=lambda gap: (steps(gap), gap))
    return Segment(start, stop, start)


def _distance(at: int, positions: Sequence[int]) -> int:
    """How far behind the nearest reader `at` lies; what no reader will come to is farthest."""
    return min((at - position for position in positions if position <= at), default=1 << 62)
