"""The digest of a whole file, computed from its first byte to its last while it is filled.

1. It only takes bytes that the partial's file keeps, so that what was hashed is what is there.
2. `reach` is raised before it is asked what is kept, and only then are bytes taken. So who makes a
   file give up bytes first and then looks at `reach` knows whether they were, or will be, hashed.
3. It is never taken back: a wrong one is thrown away and another begun. (Going back would need
   copies of its state; beginning anew costs 0.7 s a gigabyte, and only when a peer lied.)
"""

from __future__ import annotations

import threading

from p2pmodels.core.digests import Digest, Hasher, Sha256
from p2pmodels.core.merkle import V1Hasher, V1Pieces
from p2pmodels.core.pieces import MIB
from p2pmodels.errors import DigestMismatch
from p2pmodels.store.disk import Buffer
from p2pmodels.store.partial_file import PartialFile
from p2pmodels.store.piece_hashes import HASH_STEP

READ_ON_BYTES = 32 * MIB  # bytes that one thread takes; a turn of the event loop between them costs


class WholeHash:
    """Threads take turns on it; with `also` it makes SHA-1 pieces of that length on the way."""

    def __init__(self, digest: Digest, size: int, also: int | None) -> None:
        self.position = 0
        self.reach = 0
        self._digest = digest
        self._mutex = threading.Lock()
        # One hash serves an LFS file; a small file needs git's for the check, sha256 as its name.
        self._check = digest.hasher(size)
        is_named = isinstance(digest, Sha256)
        self._sha256: Hasher = self._check if is_named else Sha256("0" * 64).hasher(size)
        self._v1 = V1Hasher(also) if also else None

    def follow(self, offset: int, data: Buffer, file: PartialFile) -> None:
        """Take bytes at hand that were just written, if it is their turn. Blocks."""
        if self._mutex.acquire(blocking=False):
            try:
                if self.position == offset:
                    self.reach = offset + len(data)
                    if file.keeps(offset, self.reach):
                        self._update(data)
            finally:
                self.reach = self.position
                self._mutex.release()

    def catch_up(self, file: PartialFile) -> None:
        """Read on for at most `READ_ON_BYTES`. Blocks; raises SizeMismatch, StoreFailed."""
        end = self.position + READ_ON_BYTES
        while self.position < end and self._step(file):
            pass

    def _step(self, file: PartialFile) -> bool:
        """Take at most `HASH_STEP` bytes; whether there were any."""
        with self._mutex:
            try:
                self.reach = self.position + HASH_STEP
                stop = min(self.reach, file.kept_until(self.position))
                if stop == self.position:
                    return False
                self._update(file.read(self.position, stop - self.position))
                return True
            finally:
                self.reach = self.position

    def _update(self, data: Buffer) -> None:
        self._check.update(data)
        if self._sha256 is not self._check:
            self._sha256.update(data)
        if self._v1 is not None:
            self._v1.update(memoryview(data))
        self.position += len(data)

    def check(self) -> Sha256:
        """The sha256 of the whole file. Raises DigestMismatch."""
        actual = self._check.hexdigest()
        if actual != self._digest.value:
            raise DigestMismatch(f"{actual} instead of {self._digest.value}")
        return Sha256(self._sha256.hexdigest())

    def v1(self) -> dict[int, V1Pieces]:
        """The SHA-1 pieces of the other piece length, if one was asked for."""
        return {self._v1.length: self._v1.result()} if self._v1 and self.position else {}
