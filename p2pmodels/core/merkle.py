"""The hashes of pieces as BitTorrent wants them, over bytes in hand.

1. A leaf is the SHA-256 of a block of 16 KiB; a tree over leaves is binary and filled up with
   `NO_BLOCK` to a power of two (BEP 52).
2. The root of a piece is as wide as a full piece, also when the piece is the last, shorter one;
   only a file of at most one piece has a root just as wide as its own blocks need.
3. From the roots of small pieces follow those of larger ones. For SHA-1 (BEP 3) that is not so:
   every piece length needs its own.

Nothing here reads a file or waits; what hashes megabytes belongs in a lane.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from p2pmodels.core.pieces import KIB

BLOCK = 16 * KIB  # bytes; leaf of the v2 hash tree (BEP 52)
SHA1_BYTES = 20
SHA256_BYTES = 32
NO_BLOCK = bytes(SHA256_BYTES)  # stands for a leaf beyond the end of the file (BEP 52)


@dataclass(frozen=True, slots=True)
class PieceHash:
    """The hashes of one piece; `padded` is the SHA-1 with zeros up to the full piece length.

    In a hybrid torrent of many files all but the last start and end on a piece (BEP 47), in one of
    a single file the last piece just ends. Only a short last piece has two different ones.
    """

    root: bytes
    sha1: bytes
    padded: bytes


@dataclass(frozen=True, slots=True)
class V1Pieces:
    """SHA-1 of each piece of a file, 20 bytes each, and that of the last one when padded."""

    pieces: bytes
    padded_last: bytes

    def text(self, *, is_padded: bool) -> bytes:
        """The hashes one after the other."""
        return self.pieces[:-SHA1_BYTES] + self.padded_last if is_padded else self.pieces


@dataclass(frozen=True, slots=True)
class FileHashes:
    """All hashes of a complete file that is not empty.

    `roots` are those of its pieces of `length` bytes, 32 bytes each; `v1` is by piece length.
    """

    size: int
    length: int
    roots: bytes
    v1: Mapping[int, V1Pieces]

    @property
    def root(self) -> bytes:
        """The v2 `pieces root` of the file, whatever the piece length of a torrent."""
        return layer_root(self.pieces, self.length) if self.size > self.length else self.roots

    def layer(self, length: int) -> tuple[bytes, ...]:
        """One root for each piece of `length` bytes, a multiple of our own; none if one piece."""
        if self.size <= length:
            return ()
        layer, wide = self.pieces, length // self.length
        groups = (layer[at : at + wide] for at in range(0, len(layer), wide))
        absent = absent_piece(self.length)
        return tuple(tree_root(group, absent, wide) for group in groups)

    @property
    def pieces(self) -> list[bytes]:
        """The roots, one by one."""
        return [
            self.roots[at : at + SHA256_BYTES] for at in range(0, len(self.roots), SHA256_BYTES)
        ]


class V1Hasher:
    """SHA-1 of each piece of a file that is taken from its first byte to its last."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._done = bytearray()
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._left = length

    def update(self, data: memoryview) -> None:
        """Hash on, across the ends of pieces; blocks for about 0.6 milliseconds a megabyte."""
        while data:
            part = data[: self._left]
            self._sha1.update(part)
            self._left -= len(part)
            data = data[len(part) :]
            if not self._left:
                self._done += self._sha1.digest()
                self._sha1, self._left = hashlib.sha1(usedforsecurity=False), self.length

    def result(self) -> V1Pieces:
        """The hashes of what was taken, which must be something."""
        if self._left == self.length:
            return V1Pieces(bytes(self._done), bytes(self._done[-SHA1_BYTES:]))
        padded = self._sha1.copy()
        padded.update(bytes(self._left))
        return V1Pieces(bytes(self._done) + self._sha1.digest(), padded.digest())


class PieceHasher:
    """Takes the bytes of one piece in order, in parts of any length."""

    def __init__(self, size: int, length: int) -> None:
        """For a piece of a file of `size` bytes in pieces of `length`."""
        self._width = length // BLOCK if size > length else 0
        self._leaves: list[bytes] = []
        self._begun = b""  # the bytes of a block that is not complete yet
        self._v1 = V1Hasher(length)

    def update(self, data: memoryview) -> None:
        """Hash on; blocks for about 1.2 milliseconds a megabyte."""
        self._v1.update(data)
        if self._begun:
            missing = BLOCK - len(self._begun)
            self._begun += data[:missing]
            data = data[missing:]
            if len(self._begun) < BLOCK:
                return
            self._leaves += leaves(memoryview(self._begun))
        whole = len(data) // BLOCK * BLOCK
        self._leaves += leaves(data[:whole])
        self._begun = bytes(data[whole:])

    def result(self) -> PieceHash:
        """The hashes of what was taken, which must be something."""
        v1 = self._v1.result()
        hashes = self._leaves + leaves(memoryview(self._begun))
        return PieceHash(tree_root(hashes, NO_BLOCK, self._width), v1.pieces, v1.padded_last)


_NOTHING_YET = hashlib.sha256()  # a copy costs less than a new one, above all in many threads


def leaves(data: memoryview) -> list[bytes]:
    """The SHA-256 of each block."""
    found = []
    for at in range(0, len(data), BLOCK):
        block = _NOTHING_YET.copy()
        block.update(data[at : at + BLOCK])
        found.append(block.digest())
    return found


def layer_root(layer: Sequence[bytes], length: int) -> bytes:
    """The root over one hash for each piece of `length`; absent pieces are trees of absent blocks.

    `layer` must not be empty.
    """
    return tree_root(layer, absent_piece(length), 0)


def absent_piece(length: int) -> bytes:
    """The root of a piece that lies beyond the end of the file."""
    absent = NO_BLOCK
    for _ in range((length // BLOCK).bit_length() - 1):
        absent = hashlib.sha256(absent + absent).digest()
    return absent


def tree_root(hashes: Sequence[bytes], absent: bytes, width: int) -> bytes:
    """The root of a tree over `hashes`, filled up with `absent` to `width` or a power of two."""
    level = list(hashes)
    target = max(width, 1 << (len(level) - 1).bit_length())
    level.extend([absent] * (target - len(level)))
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [hashlib.sha256(left + right).digest() for left, right in pairs]
    return level[0]
