"""The hashes of a file as a torrent has them: SHA-1 of each piece (BEP 3) and a SHA-256 tree over
blocks of 16 KiB (BEP 52), from what was hashed while it landed or in one pass over the file.

Done here and not by libtorrent, whose Python call holds the interpreter lock from the first byte
to the last: hashing eight gigabytes would stop the daemon for ten seconds. hashlib lets it go.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from p2pmodels.core.merkle import FileHashes, PieceHasher, layer_root
from p2pmodels.core.names import FilePath
from p2pmodels.errors import SizeMismatch, StoreDamaged, mapped


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


def from_kept(
    path: FilePath, kept: FileHashes, length: int, *, is_padded: bool
) -> HashedFile | None:
    """The file as `hash_file` would find it, without reading it.

    None when the SHA-1 of pieces of this length were not made: they do not follow from others.
    """
    v1 = kept.v1.get(length)
    if v1 is None or length % kept.length:
        return None
    pieces = v1.text(is_padded=is_padded)
    return HashedFile(path, kept.size, kept.root, kept.layer(length), pieces)


def hash_file(
    path: FilePath, size: int, where: Path, length: int, *, is_padded: bool
) -> HashedFile:
    """Read `where` once; with `is_padded` the last v1 piece goes on with zeros to its full length.

    Raises SizeMismatch when the file is not `size` bytes long, StoreDamaged when unreadable.
    """
    if not size:
        return HashedFile(path, 0)
    pieces: list[bytes] = []
    layer: list[bytes] = []
    buffer = memoryview(bytearray(min(length, size)))
    with mapped({OSError: StoreDamaged}, str(path)), FileIO(where) as file:
        for start in range(0, size, length):
            piece = buffer[: min(length, size - start)]
            if _fill(file, piece) != len(piece) or (start + len(piece) == size and file.read(1)):
                raise SizeMismatch(f"{path} is not {size} bytes long")
            hasher = PieceHasher(size, length)
            hasher.update(piece)
            found = hasher.result()
            layer.append(found.root)
            pieces.append(found.padded if is_padded else found.sha1)
    if size <= length:
        return HashedFile(path, size, layer[0], (), pieces[0])
    return HashedFile(path, size, layer_root(layer, length), tuple(layer), b"".join(pieces))


def _fill(file: FileIO, buffer: memoryview) -> int:
    """Read until the buffer is full or the file ends; how many bytes came."""
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])
        if not count:
            break
        done += count
    return done
