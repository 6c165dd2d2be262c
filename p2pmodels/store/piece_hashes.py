"""The hashes of a partial's pieces, made as the pieces land.

1. A hash here is that of the bytes in the file: a piece has one only once it landed completely, and
   loses it when its bytes are given up.
2. A piece that is written from its first byte to its last, in one write or in several one after the
   other, is hashed from their buffers: that is a `Run`. What it finds waits in `_early` until the
   piece has landed. Whoever writes over bytes of a run, or of what it found, ends it first.
3. All other landed pieces are due: somebody reads them back and feeds them, in steps.
4. `_runs` and `_early` are touched under `_mutex`; everything else is the event loop's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, KeysView, Mapping

from p2pmodels.core.merkle import FileHashes, PieceHash, PieceHasher, V1Pieces
from p2pmodels.core.pieces import MIB, RangeSet, piece_length

HASH_STEP = 4 * MIB  # bytes hashed in one go, so that a worker is never held for long


class PieceWork:
    """One landed piece that is being hashed; may be fed by one thread after another."""

    def __init__(self, index: int, span: tuple[int, int], hasher: PieceHasher) -> None:
        self.index = index
        self._mutex = threading.Lock()
        self._position, self._stop = span
        self._hasher = hasher
        self.result: PieceHash | None = None

    @property
    def left(self) -> int:
        """Bytes that still have to be read."""
        return self._stop - self._position

    def feed(self, read: Callable[[int, int], bytes], limit: int) -> int:
        """Hash at most `limit` bytes on; returns how many it took. Blocks."""
        with self._mutex:
            length = min(limit, self.left)
            if length > 0:
                self._hasher.update(memoryview(read(self._position, length)))
                self._position += length
            if not self.left and self.result is None:
                self.result = self._hasher.result()
            return length


class Run:
    """A piece that is hashed while it is written: up to `position`, soon up to `claimed`."""

    def __init__(self, index: int, start: int, stop: int, hasher: PieceHasher) -> None:
        self.index, self.stop, self.hasher = index, stop, hasher
        self.position = self.claimed = start
        self.mutex = threading.Lock()


class PieceHashes:
    """Of a file of `size` bytes, in pieces of `length` bytes (`piece_length`)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.length = piece_length(size)
        self.count = -(-size // self.length)
        self._hashed: dict[int, PieceHash] = {}
        self._due: dict[int, PieceWork | None] = {}  # the work is made when its turn comes
        self._mutex = threading.Lock()
        self._runs: dict[int, Run] = {}
        self._early: dict[int, PieceHash] = {}

    # what others ask

    @property
    def landed(self) -> KeysView[int]:
        """The pieces that have landed and are hashed; it changes along."""
        return self._hashed.keys()

    def root(self, index: int) -> bytes | None:
        """The BEP 52 root of a piece (32 bytes), once it is hashed."""
        found = self._hashed.get(index)
        return found.root if found else None

    def written_root(self, index: int) -> bytes | None:
        """The root of a piece that was written, if it was hashed with that; it may not be here."""
        with self._mutex:
            found = self._hashed.get(index) or self._early.get(index)
        return found.root if found else None

    def sha1(self, index: int) -> bytes | None:
        """The SHA-1 of a piece (20 bytes, without padding), once it is hashed."""
        found = self._hashed.get(index)
        return found.sha1 if found else None

    def span(self, index: int) -> tuple[int, int]:
        """The first byte of a piece and the one after its last. Raises IndexError."""
        if not 0 <= index < self.count:
            raise IndexError(f"piece {index} of {self.count}")
        return index * self.length, min((index + 1) * self.length, self.size)

    def touched(self, start: int, stop: int) -> range:
        """The pieces that have bytes in start … stop-1."""
        return range(start // self.length, -(-stop // self.length) if stop > start else 0)

    def file_hashes(self, v1: Mapping[int, V1Pieces]) -> FileHashes | None:
        """All of them with what is known of other piece lengths; None while some are missing."""
        if not self.count or len(self._hashed) < self.count:
            return None
        hashed = [self._hashed[index] for index in range(self.count)]
        own = V1Pieces(b"".join(piece.sha1 for piece in hashed), hashed[-1].padded)
        roots = b"".join(piece.root for piece in hashed)
        return FileHashes(self.size, self.length, roots, {**v1, self.length: own})

    # what lands and goes; on the event loop

    def settle(self, landed: RangeSet, start: int, stop: int) -> list[int]:
        """Bytes start … stop-1 have landed: returns the pieces that are hashed with that."""
        fresh = []
        for index in self.touched(start, stop):
            if index in self._hashed or index in self._due or not landed.holds(*self.span(index)):
                continue
            with self._mutex:
                early = self._early.pop(index, None)
                self._runs.pop(index, None)
            if early is None:
                self._due[index] = None
            else:
                self._hashed[index] = early
                fresh.append(index)
        return fresh

    def due(self, batches: int) -> list[list[PieceWork]]:
        """The next pieces to read back, in at most so many batches of about one `HASH_STEP`."""
        chosen: list[list[PieceWork]] = []
        left = 0
        for index, work in self._due.items():
            if left <= 0 and len(chosen) == batches:
                break
            if left <= 0:
                chosen.append([])
                left = HASH_STEP
            if work is None:
                work = PieceWork(index, self.span(index), self._hasher())
                self._due[index] = work
            chosen[-1].append(work)
            left -= work.left
        return chosen

    def finish(self, work: PieceWork) -> bool:
        """Take over what a work has found; whether the piece is hashed with that."""
        if work.result is None or self._due.get(work.index) is not work:
            return False  # not done yet, or its piece was given up meanwhile
        del self._due[work.index]
        self._hashed[work.index] = work.result
        return True

    def forget(self, index: int) -> None:
        """The bytes of a piece are given up."""
        self._hashed.pop(index, None)
        self._due.pop(index, None)
        with self._mutex:
            self._early.pop(index, None)
            self._runs.pop(index, None)

    def keep(self, landed: RangeSet) -> None:
        """Forget every piece that is not in `landed`."""
        with self._mutex:
            begun = [*self._early, *self._runs]
        for index in [*self._hashed, *self._due, *begun]:
            if not landed.holds(*self.span(index)):
                self.forget(index)

    # what is at hand; in threads, `overwrite` and `claim` by one at a time

    def overwrite(self, start: int, stop: int) -> None:
        """Bytes start … stop-1 are about to be written: what was hashed of them is void."""
        with self._mutex:
            for index in self.touched(start, stop):
                self._early.pop(index, None)
                run = self._runs.get(index)
                if run is not None and start < run.claimed:
                    del self._runs[index]

    def claim(self, start: int, stop: int) -> list[tuple[Run, int, int]]:
        """Bytes start … stop-1 were written: the parts of them that `feed` must be given now."""
        parts = []
        with self._mutex:
            for index in self.touched(start, stop):
                first, last = self.span(index)
                begin, end = max(first, start), min(last, stop)
                if begin == first:
                    self._runs[index] = Run(index, first, last, self._hasher())
                run = self._runs.get(index)
                if run is not None and run.claimed == begin:
                    run.claimed = end
                    parts.append((run, begin, end))
        return parts

    def feed(self, run: Run, start: int, part: memoryview) -> None:
        """Hash what was claimed. Blocks for about 1.2 milliseconds a megabyte."""
        with run.mutex:
            is_next = run.position == start  # else another thread was faster; it is read back then
            with self._mutex:
                if self._runs.get(run.index) is not run:
                    return
                if not is_next:
                    del self._runs[run.index]
                    return
            run.hasher.update(part)
            run.position += len(part)
            if run.position < run.stop:
                return
            found = run.hasher.result()
            with self._mutex:
                if self._runs.get(run.index) is run:
                    del self._runs[run.index]
                    self._early[run.index] = found

    def _hasher(self) -> PieceHasher:
        return PieceHasher(self.size, self.length)
