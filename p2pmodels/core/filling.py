"""A buffer on its way from the wire to a sink: what a pull does, whatever carries its bytes."""

from __future__ import annotations

from collections.abc import Callable

from p2pmodels.core.pieces import PIECE_LENGTH_MIN

Sink = Callable[[int, memoryview], None]
"""Takes bytes from an offset on; the view is valid during the call only."""


class Filling:
    """The caller's buffer on its way from `start` to `stop`, handed on in parts to the sink."""

    def __init__(self, buffer: bytearray, start: int, stop: int, sink: Sink) -> None:
        self._view = memoryview(buffer)
        self._stop, self._sink = stop, sink
        self._begin(start)

    def _begin(self, base: int) -> None:
        """Put the blob's byte `base` first; the buffer then ends at a multiple of its length."""
        self._base, self._handed, self._filled = base, 0, 0
        length = len(self._view)
        self._limit = min(self._stop, (base // length + 1) * length) - base

    @property
    def is_done(self) -> bool:
        """Whether everything has been handed on."""
        return self._base == self._stop

    @property
    def room(self) -> memoryview:
        """Where the next bytes go."""
        return self._view[self._filled : self._limit]

    def add(self, count: int) -> None:
        """So many bytes have come."""
        self._filled += count
        if self._filled == self._limit:
            self._hand(self._limit)
            self._begin(self._base + self._limit)

    def hand_whole_pieces(self) -> None:
        """Hand on what is whole although the buffer is not full."""
        end = self._base + self._filled
        self._hand(end - end % PIECE_LENGTH_MIN - self._base)

    def _hand(self, end: int) -> None:
        if end > self._handed:
            self._sink(self._base + self._handed, self._view[self._handed : end])
            self._handed = end
