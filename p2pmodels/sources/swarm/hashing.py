"""The hashes of a file as BitTorrent wants them: SHA-1 of each piece (BEP 3) and a SHA-256 tree
over blocks of 16 KiB (BEP 52), both in one pass over the file.

Done here and not by libtorrent, whose Python call holds the interpreter lock from the first byte
to the last: hashing eight gigabytes would stop the daemon for ten seconds. hashlib lets it go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import KIB
from p2pmodels.errors import SizeMismatch, StoreDamaged, mapped

BLOCK = 16 * KIB  # bytes; leaf of the v2 hash tree (BEP 52)
SHA1_BYTES = 20
SHA256_BYTES = 32
NO_BLOCK = bytes(SHA256_BYTES)  # stands for a leaf beyond the end of the file (BEP 52)


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file with its hashes: v2 root, v2 layer of one hash a piece, v1 pieces in one string.

    Files of at most one piece have no layer, empty ones no hash at all.
    """

    path: FilePath
    size: int
    root: bytes = b""
    layer: tuple[bytes, ...] = ()
    pieces: bytes = b""


def hash_file(
    path: FilePath, size: int, where: Path, length: int, *, is_padded: bool
) -> HashedFile:
    """Read `where` once; with `is_padded` the last v1 piece goes on with zeros to its full length.

    Raises SizeMismatch when the file is not `size` bytes long, StoreDamaged when unreadable.
    """
    if not size:
        return HashedFile(path, 0)
    is_small = size <= length
    pieces: list[bytes] = []
    layer: list[bytes] = []
    buffer = memoryview(bytearray(min(length, size)))
    with mapped({OSError: StoreDamaged}, str(path)), FileIO(where) as file:
        for start in range(0, size, length):
            piece = buffer[: min(length, size - start)]
            if _fill(file, piece) != len(piece) or (start + len(piece) == size and file.read(1)):
                raise SizeMismatch(f"{path} is not {size} bytes long")
            sha1 = hashlib.sha1(piece, usedforsecurity=False)
            if is_padded:
                sha1.update(bytes(length - len(piece)))
            pieces.append(sha1.digest())
            layer.append(_piece_root(piece, 0 if is_small else length // BLOCK))
    if is_small:
        return HashedFile(path, size, layer[0], (), pieces[0])
    return HashedFile(path, size, layer_root(layer, length), tuple(layer), b"".join(pieces))


def layer_root(layer: Sequence[bytes], length: int) -> bytes:
    """The root over one hash a piece; absent pieces count as trees of absent blocks."""
    absent = NO_BLOCK
    for _ in range((length // BLOCK).bit_length() - 1):
        absent = hashlib.sha256(absent + absent).digest()
    return _root(layer, absent, 0)


def _fill(file: FileIO, buffer: memoryview) -> int:
    """Read until the buffer is full or the file ends; how many bytes came."""
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])
        if not count:
            break
        done += count
    return done


def _piece_root(piece: memoryview, leaves: int) -> bytes:
    """The root of a piece, as wide as `leaves` says or as its own blocks need."""
    hashes = [hashlib.sha256(piece[at : at + BLOCK]).digest() for at in range(0, len(piece), BLOCK)]
    return _root(hashes, NO_BLOCK, leaves)


def _root(hashes: Sequence[bytes], absent: bytes, width: int) -> bytes:
    """The root of a binary tree over `hashes`, filled up with `absent` to a power of two."""
    level = list(hashes)
    target = max(width, 1 << (len(level) - 1).bit_length())
    level.extend([absent] * (target - len(level)))
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [hashlib.sha256(left + right).digest() for left, right in pairs]
    return level[0]
