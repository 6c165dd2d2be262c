"""The file of a partial, written by many threads.

1. Bytes that are *kept* are never written over: a peer that is late, or lies, cannot change what
   was hashed or read. They are kept until `give_up` or `begin_anew`.
2. One write at a time, and nobody keeps bytes of a range that is being written, so that what is
   found not kept stays so while it is written.
3. `_writing` may be held for a whole write, so the event loop never takes it; `_books` only for
   moments. Whoever needs both takes them in this order.
4. Whoever uses the descriptor has borrowed the file; `close` waits for all of them, so that the
   number is never reused under a late write. After it every use raises StoreFailed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pmodels.core.pieces import RangeSet
from p2pmodels.errors import SizeMismatch, StoreFailed
from p2pmodels.store.disk import Buffer, Disk
from p2pmodels.store.piece_hashes import HASH_STEP, PieceHashes


class PartialFile:
    """States: new, open, closed for good.

    All methods block, but only `open`, `close`, `write`, `keep`, `read` and `sync` for longer than
    a moment.
    """

    def __init__(self, path: Path, size: int, disk: Disk, pieces: PieceHashes) -> None:
        self.epoch = 0
        self._path, self._size, self._disk, self._pieces = path, size, disk, pieces
        self._fd = -1
        self._kept = RangeSet()
        self._under_way = (0, 0)
        self._writing = threading.Lock()
        self._books = threading.Lock()
        self._returned = threading.Condition()
        self._borrowers = 0
        self._is_over = False

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def open(self) -> int:
        """Open or create it at full size; returns how many bytes it had."""
        fd = self._disk.open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            present = self._disk.size(fd)
            self._disk.truncate(fd, self._size)
            with self._returned:
                if self._is_over:
                    raise StoreFailed(f"{self._path.name} was closed before it was open")
                self._fd = fd
        except BaseException:
            self._disk.close(fd)
            raise
        return present

    @contextmanager
    def borrow(self) -> Iterator[int]:
        """The descriptor, which stays open in the block. Raises StoreFailed once it is closed."""
        with self._returned:
            if self._fd < 0:
                raise StoreFailed(f"{self._path.name} is closed")
            self._borrowers += 1
            fd = self._fd
        try:
            yield fd
        finally:
            with self._returned:
                self._borrowers -= 1
                self._returned.notify_all()

    def close(self) -> None:
        """Let it go when the last borrower has returned it; new ones are refused at once.

        For good: an `open` that is under way in another thread fails as well.
        """
        with self._returned:
            self._is_over = True
            fd, self._fd = self._fd, -1
            while self._borrowers:
                self._returned.wait()
        if fd >= 0:
            self._disk.close(fd)

    def write(
        self, offset: int, data: Buffer, *, keep_since: int | None = None
    ) -> list[tuple[int, int]]:
        """Write what is not kept yet, and hash it; returns the ranges written.

        With `keep_since` all of it is kept from then on; nothing happens if that epoch is over.
        """
        view, stop, parts = memoryview(data), offset + len(data), []
        with self.borrow() as fd, self._writing:
            with self._books:
                if keep_since not in (None, self.epoch):
                    return []
                gaps = list(self._kept.gaps(offset, stop))
                self._under_way = (offset, stop)
            try:
                for start, end in gaps:
                    self._pieces.overwrite(start, end)
                    self._disk.write(fd, view[start - offset : end - offset], start)
                    parts += self._pieces.claim(start, min(end, offset + HASH_STEP))
            finally:
                self._under_way = (0, 0)
            if keep_since is not None:
                self._keep(offset, stop, keep_since)
        for run, start, end in parts:
            self._pieces.feed(run, start, view[start - offset : end - offset])
        return gaps

    def keep(self, start: int, stop: int) -> None:
        """Nobody writes over start … stop-1 from now on."""
        with self._writing:
            self._keep(start, stop, self.epoch)

    def keep_at_once(self, start: int, stop: int) -> bool:
        """`keep`, unless somebody is writing there: then nothing happens, and it says False."""
        with self._books:
            left, right = self._under_way
            if start < right and left < stop:
                return False
            self._kept.add(start, stop)
            return True

    def _keep(self, start: int, stop: int, epoch: int) -> None:
        with self._books:
            if epoch == self.epoch:
                self._kept.add(start, stop)

    def keeps(self, start: int, stop: int) -> bool:
        """Whether all of start … stop-1 is kept."""
        with self._books:
            return self._kept.holds(start, stop)

    def kept(self, start: int, stop: int) -> list[tuple[int, int]]:
        """What of start … stop-1 is kept, in order."""
        with self._books:
            gaps = RangeSet(self._kept.gaps(start, stop))
        return list(gaps.gaps(start, stop))

    def kept_until(self, start: int) -> int:
        """Where the unbroken run that is kept from `start` on ends."""
        with self._books:
            return self._kept.run_end(start)

    def give_up(self, start: int, stop: int) -> None:
        """These bytes are wrong: they may be written over."""
        with self._books:
            self._kept.remove(start, stop)

    def begin_anew(self, kept: RangeSet) -> None:
        """Only `kept` is right; writes that began before no longer count."""
        with self._books:
            self.epoch += 1
            self._kept = RangeSet(kept)

    def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises SizeMismatch when the file is shorter."""
        with self.borrow() as fd:
            data = self._disk.read(fd, length, start)
        if len(data) != length:
            raise SizeMismatch(f"{self._path.name} ends at {start + len(data)}")
        return data

    def sync(self) -> None:
        """Have what was written survive a power cut."""
        with self.borrow() as fd:
            self._disk.sync(fd)
