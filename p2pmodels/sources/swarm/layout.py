"""Where the files of a torrent lie among its pieces. Every file starts on a piece (BEP 47, 52)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import MIB, RangeSet, piece_length
from p2pmodels.core.torrent import Torrent

LOOK_AHEAD = 32 * MIB  # bytes in front of a reader that come before the rest
SOON = 8 * MIB  # bytes in front of a reader that come before the look-ahead
AT_ONCE = 2 * MIB  # bytes in front of a reader that come before everything
PRIORITIES = ((AT_ONCE, 7), (SOON, 6), (LOOK_AHEAD, 5))  # libtorrent's: 0 never … 7 at once
ALONG = 4  # the priority of what the whole-file hash needs next
ALONG_BYTES = 256 * MIB  # bytes; more than a fast line brings between two ticks
WANTED = 3  # the priority of the rest


class Layout:
    """The map of one torrent, in both directions."""

    def __init__(self, torrent: Torrent) -> None:
        self.piece_length = piece_length(sum(file.size for file in torrent.files))
        self._first: list[int] = []
        self._files = [file for file in torrent.files if file.size]
        self._spans: dict[FilePath, range] = {}
        position = 0
        for file in self._files:
            count = -(-file.size // self.piece_length)
            self._first.append(position)
            self._spans[file.path] = range(position, position + count)
            position += count
        self.pieces = position
        self._sizes = {file.path: file.size for file in torrent.files}

    def pieces_of(self, path: FilePath) -> range:
        """The pieces of a file; none for an empty one."""
        return self._spans.get(path, range(0))

    def pieces_in(self, path: FilePath, start: int, stop: int) -> range:
        """The pieces that hold bytes start … stop-1 of a file."""
        span = self.pieces_of(path)
        last = span.start + (stop - 1) // self.piece_length
        return range(span.start + start // self.piece_length, min(last + 1, span.stop))

    def file_of(self, piece: int) -> FilePath:
        """The file that a piece belongs to."""
        return self._files[bisect_right(self._first, piece) - 1].path

    def range_of(self, piece: int) -> tuple[int, int]:
        """The first and the last-but-one byte of a piece, counted from the start of its file."""
        path = self.file_of(piece)
        start = (piece - self._spans[path].start) * self.piece_length
        return start, min(start + self.piece_length, self._sizes[path])

    def missing(self, path: FilePath, landed: RangeSet) -> tuple[set[int], set[int]]:
        """The pieces of which nothing has landed, and those of which a part has."""
        empty: set[int] = set()
        begun: set[int] = set()
        for piece in self.pieces_of(path):
            start, stop = self.range_of(piece)
            gaps = list(landed.gaps(start, stop))
            if gaps:
                (empty if gaps == [(start, stop)] else begun).add(piece)
        return empty, begun

    def priorities(self, path: FilePath, positions: Iterable[int]) -> dict[int, int]:
        """The pieces in front of the readers with their priority; all others are `WANTED`."""
        found: dict[int, int] = {}
        for position in positions:
            for reach, priority in reversed(PRIORITIES):
                for piece in self.pieces_in(path, position, position + reach):
                    found[piece] = max(priority, found.get(piece, 0))
        return found
