"""Torrents from the hashes that were made as files landed: the same text, and no file is read."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2pmodels.core.digests import Sha256
from p2pmodels.core.merkle import FileHashes
from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import piece_length
from p2pmodels.errors import StoreDamaged
from p2pmodels.sources.swarm.hashing import from_kept, hash_file
from p2pmodels.sources.swarm.torrents import make_torrent
from p2pmodels.store.room import RoomOptions
from p2pmodels.store.store import Store, StoreOptions
from p2pmodels.workers import Lane
from tests.fakes import FakeClock
from tests.sources.swarm.places import COMMIT, MIB, random_bytes

FILES = {
    "README.md": random_bytes(1234, 1),
    "a/weights.bin": random_bytes(700_000, 2),
    "empty": b"",
    "exact.bin": random_bytes(262_144, 5),
    "model.safetensors": random_bytes(3 * MIB + 5, 4),
    "zero-at-end": b"",
}
NOWHERE = Path("/nowhere/at/all")


@pytest_asyncio.fixture
async def store(tmp_path: Path, lane: Lane) -> AsyncIterator[Store]:
    options = StoreOptions(tmp_path / "data", RoomOptions(free_floor_bytes=0))
    async with Store(options, lane, FakeClock()) as running:
        yield running


async def landed(store: Store, data: bytes, also: int | None = None) -> FileHashes | None:
    """The hashes that a blob leaves behind when it comes in runs of 100,000 bytes."""
    sha256 = Sha256(hashlib.sha256(data).hexdigest())
    partial = await store.blobs.partial(sha256, len(data), also)
    for start in reversed(range(0, len(data), 100_000)):
        await partial.write(start, data[start : start + 100_000], vouched=True)
    await store.blobs.commit(partial)
    await store.blobs.settle(partial)
    return store.blobs.hashes.find(sha256)


async def all_landed(store: Store, also: int | None = None) -> dict[FilePath, FileHashes]:
    found = {FilePath(name): await landed(store, data, also) for name, data in FILES.items()}
    return {path: hashes for path, hashes in found.items() if hashes is not None}


def on_disk(folder: Path) -> list[tuple[FilePath, int, Path]]:
    listed = []
    for number, (name, data) in enumerate(FILES.items()):
        where = folder / str(number)
        where.write_bytes(data)
        listed.append((FilePath(name), len(data), where))
    return listed


@pytest.mark.asyncio
async def test_a_snapshot_torrent_needs_no_file_when_all_hashes_were_kept(
    store: Store, tmp_path: Path
) -> None:
    kept = await all_landed(store)
    read = make_torrent(COMMIT, on_disk(tmp_path))
    nowhere = [(FilePath(name), len(data), NOWHERE) for name, data in FILES.items()]
    assert make_torrent(COMMIT, nowhere, kept) == read


@pytest.mark.asyncio
async def test_a_blob_torrent_needs_no_file(store: Store, tmp_path: Path) -> None:
    data = FILES["model.safetensors"]
    name = Sha256(hashlib.sha256(data).hexdigest())
    path, where = FilePath(name.value), tmp_path / "blob"
    where.write_bytes(data)
    hashes = await landed(store, data)
    assert hashes is not None
    read = make_torrent(name, [(path, len(data), where)])
    assert make_torrent(name, [(path, len(data), NOWHERE)], {path: hashes}) == read


@pytest.mark.asyncio
async def test_files_whose_hashes_are_missing_are_read(store: Store, tmp_path: Path) -> None:
    kept = await all_landed(store)
    files = on_disk(tmp_path)
    read = make_torrent(COMMIT, files)
    del kept[FilePath("a/weights.bin")]
    assert make_torrent(COMMIT, files, kept) == read
    nowhere = [(path, size, NOWHERE) for path, size, _ in files]
    with pytest.raises(StoreDamaged):
        make_torrent(COMMIT, nowhere, kept)


@pytest.mark.parametrize("times", [2, 4, 16, 64])
@pytest.mark.asyncio
async def test_other_piece_lengths_are_hashed_along_when_told(
    store: Store, tmp_path: Path, times: int
) -> None:
    length = times * piece_length(1)
    kept = await all_landed(store, length)
    for path, size, where in on_disk(tmp_path):
        for is_padded in (False, True):
            read = hash_file(path, size, where, length, is_padded=is_padded)
            if size:
                assert from_kept(path, kept[path], length, is_padded=is_padded) == read
                assert from_kept(path, kept[path], 2 * length, is_padded=is_padded) is None
                assert from_kept(path, kept[path], length // times, is_padded=is_padded)
