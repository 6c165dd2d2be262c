"""Making, reading and checking .torrent files.

1. A torrent is a pure function of names and bytes: two daemons that never met make the same one,
   whatever their version of any library.
2. `read_torrent` accepts exactly what `make_torrent` can make: the info dictionary is built again
   from what it says and must come out byte for byte the same. So no symlink, attribute, odd pad
   file, renamed path, unknown key or difference between the v1 and v2 lists gets through.
3. What stands beside the info dictionary and the piece layers (trackers, web seeds, nodes, dates,
   comments) is dropped: only configured trackers are used.

File order is that of the v2 file tree, segment by segment (BEP 52); libtorrent refuses a hybrid
torrent whose v1 list has another one. It differs from the order of whole paths only around
characters below "/": what is in the folder `a` stands before the file `a.txt`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from p2pmodels.core.digests import Sha256
from p2pmodels.core.manifest import FILE_SIZE_LIMIT, FILES_LIMIT, FileEntry, Manifest
from p2pmodels.core.merkle import SHA1_BYTES, SHA256_BYTES, FileHashes, layer_root
from p2pmodels.core.names import Commit, FilePath
from p2pmodels.core.pieces import piece_length
from p2pmodels.core.torrent import TORRENT_BYTES_LIMIT, Torrent, TorrentFile, TorrentName
from p2pmodels.errors import NameRefused, ProtocolError
from p2pmodels.sources.swarm.bencode import Bencoded, decode, encode
from p2pmodels.sources.swarm.hashing import HashedFile, from_kept, hash_file

PIECES_LIMIT = 262_144  # pieces of one torrent; 4 TiB in pieces of 16 MiB
PAD_FOLDER = ".pad"  # the folder of pad files in a v1 list (BEP 47)
META_VERSION = 2  # BEP 52


def tree_order(path: FilePath) -> tuple[bytes, ...]:
    """The key by which a torrent sorts its files: BEP 52's file tree, segment by segment."""
    return tuple(segment.encode() for segment in path.segments)


def make_torrent(
    name: TorrentName,
    files: Sequence[tuple[FilePath, int, Path]],
    kept: Mapping[FilePath, FileHashes] | None = None,
) -> Torrent:
    """Make the torrent of these files. Blocks: call it in a lane.

    Files whose hashes were `kept` since they landed are not read: all of a blob torrent, and those
    of a snapshot whose own piece length is the snapshot's, or which were hashed for it as well.
    The others are read once. Raises ProtocolError when there is nothing to share or too much,
    SizeMismatch when a file is not as long as told, StoreDamaged when it cannot be read.
    """
    ordered = sorted(files, key=lambda file: tree_order(file[0]))
    length = _piece_length_of(name, [TorrentFile(path, size) for path, size, _ in ordered])
    last = max(index for index, (_, size, _) in enumerate(ordered) if size)
    hashed = []
    for index, (path, size, where) in enumerate(ordered):
        hashes = (kept or {}).get(path)
        is_padded = index != last
        found = from_kept(path, hashes, length, is_padded=is_padded) if hashes else None
        hashed.append(found or hash_file(path, size, where, length, is_padded=is_padded))
    return _torrent(name, length, hashed, b"".join(file.pieces for file in hashed))


def read_torrent(data: bytes) -> Torrent:
    """Read a .torrent from outside; what comes back is our own text of it.

    Raises ProtocolError, or NameRefused for a name that cannot be valid. May take a second for the
    largest ones: call it in a lane.
    """
    if len(data) > TORRENT_BYTES_LIMIT:
        raise ProtocolError(f"a torrent of {len(data)} bytes, {TORRENT_BYTES_LIMIT} at most")
    outer = _dict(decode(data), "torrent")
    info = _dict(outer.get(b"info"), "info")
    layers = _dict(outer.get(b"piece layers", {}), "piece layers")
    if info.get(b"meta version") != META_VERSION or b"file tree" not in info:
        raise ProtocolError("a v1 torrent; only hybrid ones are taken")
    if b"pieces" not in info:
        raise ProtocolError("a v2-only torrent; only hybrid ones are taken")
    name = _read_name(info.get(b"name"))
    files = list(_read_tree(_dict(info[b"file tree"], "file tree"), ()))
    length = _piece_length_of(name, [TorrentFile(file.path, file.size) for file in files])
    if info.get(b"piece length") != length:
        raise ProtocolError(f"piece length {info.get(b'piece length')!r} instead of {length}")
    hashed = [_with_layer(file, layers, length) for file in files]
    torrent = _torrent(name, length, hashed, _bytes(info[b"pieces"], "pieces"))
    if torrent.infohash != hashlib.sha1(encode(info), usedforsecurity=False).hexdigest():
        raise ProtocolError("the v1 and v2 parts differ, or it says more than ours do")
    if len(info[b"pieces"]) != SHA1_BYTES * _pieces(files, length):  # type: ignore[arg-type]
        raise ProtocolError("not one v1 hash for each piece")
    return torrent


def handed_out(torrent: Torrent, trackers: Sequence[str], web_seed: str = "") -> bytes:
    """The torrent for clients that know no peers: with trackers, and a web seed (BEP 19) if any.

    Each tracker is a tier of its own (BEP 12): a client goes on to the next when it cannot use one.
    What stands beside the info dictionary is no part of the torrent's identity.
    """
    urls = [tracker.encode() for tracker in trackers]
    before = encode(b"announce") + encode(urls[0])
    before += encode(b"announce-list") + encode([[url] for url in urls])
    after = encode(b"url-list") + encode(web_seed.encode()) if web_seed else b""
    # Keys are sorted: "announce…", then our own "info" and "piece layers", then "url-list".
    return b"d" + before + torrent.data[1:-1] + after + b"e"


def check_against(torrent: Torrent, claimed: Manifest | FileEntry) -> None:
    """Refuse a torrent that is not of this snapshot, or of this blob. Raises ProtocolError."""
    listed = [(file.path, file.size) for file in torrent.files]
    if isinstance(claimed, FileEntry):
        if (torrent.name, listed[0][1]) != (claimed.digest, claimed.size):
            raise ProtocolError(f"torrent {torrent.name} is not of {claimed.path}")
        return
    manifest = claimed
    wanted = sorted(manifest.files, key=lambda entry: tree_order(entry.path))
    if torrent.name != manifest.commit:
        raise ProtocolError(f"a torrent of {torrent.name} instead of {manifest.commit}")
    if listed != [(entry.path, entry.size) for entry in wanted]:
        raise ProtocolError(f"the torrent's files are not those of {manifest.repo}")


def _piece_length_of(name: TorrentName, files: Sequence[TorrentFile]) -> int:
    """The piece length for these files, if a torrent of them is within the limits."""
    total = sum(file.size for file in files)
    if not total:
        raise ProtocolError(f"no bytes in {name}")
    if len(files) > FILES_LIMIT or total > FILE_SIZE_LIMIT:
        raise ProtocolError(f"{len(files)} files of {total} bytes are too much for one torrent")
    if isinstance(name, Sha256) and [file.path.value for file in files] != [name.value]:
        raise ProtocolError(f"a blob torrent has one file, {name}")
    for file in files:
        if file.path.segments[0] == PAD_FOLDER:
            raise ProtocolError(f"{file.path} looks like a pad file")
    length = piece_length(total)
    if sum(-(-file.size // length) for file in files) > PIECES_LIMIT:
        raise ProtocolError(f"more than {PIECES_LIMIT} pieces in {name}")
    return length


def _pieces(files: Iterable[HashedFile], length: int) -> int:
    return sum(-(-file.size // length) for file in files)


def _torrent(name: TorrentName, length: int, files: Sequence[HashedFile], pieces: bytes) -> Torrent:
    """Write the text of a torrent; `files` are in tree order."""
    info: dict[bytes, Bencoded] = {
        b"file tree": _tree(files),
        b"meta version": META_VERSION,
        b"name": name.value.encode(),
        b"piece length": length,
        b"pieces": pieces,
    }
    if isinstance(name, Sha256):
        info[b"length"] = files[0].size
    else:
        info[b"files"] = _v1_files(files, length)
    layers: dict[bytes, Bencoded] = {
        file.root: b"".join(file.layer) for file in files if file.layer
    }
    text = encode(info)
    data = encode({b"info": info, b"piece layers": layers})
    if len(data) > TORRENT_BYTES_LIMIT:
        raise ProtocolError(f"a torrent of {len(data)} bytes, {TORRENT_BYTES_LIMIT} at most")
    return Torrent(
        name=name,
        data=data,
        infohash=hashlib.sha1(text, usedforsecurity=False).hexdigest(),
        infohash_v2=hashlib.sha256(text).hexdigest(),
        files=tuple(TorrentFile(file.path, file.size) for file in files),
    )


def _tree(files: Sequence[HashedFile]) -> dict[bytes, Bencoded]:
    """The v2 file tree: folders are dictionaries, a file is one with the empty key (BEP 52)."""
    top: dict[bytes, Bencoded] = {}
    for file in files:
        folder = top
        for segment in file.path.segments:
            inner = folder.setdefault(segment.encode(), {})
            if not isinstance(inner, dict) or b"" in inner:
                raise NameRefused(f"{file.path} is in a folder that is a file")
            folder = inner
        if folder:
            raise NameRefused(f"{file.path} is there twice")
        leaf: dict[bytes, Bencoded] = {b"length": file.size}
        if file.size:
            leaf[b"pieces root"] = file.root
        folder[b""] = leaf
    return top


def _v1_files(files: Sequence[HashedFile], length: int) -> list[Bencoded]:
    """The v1 list: every file starts on a piece, thanks to a pad file before it (BEP 47)."""
    listed: list[Bencoded] = []
    position = 0
    for file in files:
        gap = -position % length
        if gap and file.size:
            pad: list[Bencoded] = [PAD_FOLDER.encode(), str(gap).encode()]
            listed.append({b"attr": b"p", b"length": gap, b"path": pad})
            position += gap
        path: list[Bencoded] = [segment.encode() for segment in file.path.segments]
        listed.append({b"length": file.size, b"path": path})
        position += file.size
    return listed


def _read_tree(folder: dict[bytes, Bencoded], above: tuple[str, ...]) -> Iterable[HashedFile]:
    """The files of a v2 tree, without their layers; every name becomes a `FilePath`."""
    for key, inner in folder.items():
        inside = _dict(inner, "file tree")
        segments = (*above, _text(key))
        if b"" not in inside:
            yield from _read_tree(inside, segments)
            continue
        if any(not segment for segment in segments):
            raise NameRefused("a file without a name in a torrent")
        leaf = _dict(inside[b""], "file")
        size, root = leaf.get(b"length"), _bytes(leaf.get(b"pieces root", b""), "pieces root")
        if not isinstance(size, int) or not 0 <= size <= FILE_SIZE_LIMIT:
            raise ProtocolError(f"a file of {size!r} bytes")
        if len(root) != (SHA256_BYTES if size else 0):
            raise ProtocolError("a file without the root of its hash tree")
        yield HashedFile(FilePath("/".join(segments)), size, root)


def _with_layer(file: HashedFile, layers: dict[bytes, Bencoded], length: int) -> HashedFile:
    """The file with its piece hashes, which must lead to its root."""
    if file.size <= length:
        return file
    text = _bytes(layers.get(file.root, b""), "piece layer")
    layer = tuple(text[at : at + SHA256_BYTES] for at in range(0, len(text), SHA256_BYTES))
    if len(text) != SHA256_BYTES * -(-file.size // length):
        raise ProtocolError(f"the piece hashes of {file.path} are missing or too many")
    if layer_root(layer, length) != file.root:
        raise ProtocolError(f"the piece hashes of {file.path} do not lead to its root")
    return HashedFile(file.path, file.size, file.root, layer)


def _read_name(value: Bencoded | None) -> TorrentName:
    text = _text(_bytes(value, "name"))
    return Commit(text) if len(text) == 40 else Sha256(text)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise NameRefused("a name in a torrent that is not UTF-8") from error


def _dict(value: Bencoded | None, what: str) -> dict[bytes, Bencoded]:
    if not isinstance(value, dict):
        raise ProtocolError(f"a torrent whose {what} is no dictionary")
    return value


def _bytes(value: Bencoded | None, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise ProtocolError(f"a torrent whose {what} is no string")
    return value
