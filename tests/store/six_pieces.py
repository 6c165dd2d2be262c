"""A file of six pieces and their true hashes, on a disk that counts what is read."""

from __future__ import annotations

from collections.abc import Callable

from p2pmodels.core.merkle import PieceHasher
from p2pmodels.core.pieces import piece_length
from p2pmodels.store.disk import Buffer
from p2pmodels.store.partials import Partial
from tests.fakes import FailingDisk

LENGTH = piece_length(1)
SIZE = 5 * LENGTH + 777


class CountingDisk(FailingDisk):
    """Counts the bytes that are read back; `meanwhile` runs in the thread of the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.read_bytes = 0
        self.meanwhile: Callable[[], None] | None = None

    def _pause(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()

    def read(self, fd: int, length: int, offset: int) -> bytes:
        data = super().read(fd, length, offset)
        self.read_bytes += len(data)
        self._pause()
        return data

    def write(self, fd: int, data: Buffer, offset: int) -> None:
        self._pause()
        super().write(fd, data, offset)


def roots(partial: Partial) -> dict[int, bytes | None]:
    return {index: partial.pieces.root(index) for index in sorted(partial.pieces.landed)}


def true_roots(data: bytes) -> dict[int, bytes | None]:
    found: dict[int, bytes | None] = {}
    for index, start in enumerate(range(0, len(data), LENGTH)):
        hasher = PieceHasher(len(data), LENGTH)
        hasher.update(memoryview(data)[start : start + LENGTH])
        found[index] = hasher.result().root
    return found
