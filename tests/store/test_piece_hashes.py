"""Pieces are hashed as they land: rightly, and read back once at most."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from p2pmodels.core.merkle import BLOCK, PieceHasher
from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import MIB
from p2pmodels.sources.swarm.hashing import HashedFile, from_kept, hash_file
from p2pmodels.store.piece_hashes import PieceWork
from p2pmodels.store.store import Store
from p2pmodels.workers import Lane
from tests.contents import content, small
from tests.store.six_pieces import LENGTH, SIZE, CountingDisk, roots, true_roots

NAME = FilePath("file")


@pytest.fixture
def disk() -> CountingDisk:
    return CountingDisk()


def expected(data: bytes, folder: Path, length: int, *, is_padded: bool) -> HashedFile:
    where = folder / "expected"
    where.write_bytes(data)
    return hash_file(NAME, len(data), where, length, is_padded=is_padded)


def cuts(size: int, random_: random.Random) -> list[tuple[int, int]]:
    """The file in pieces, or in runs of any length."""
    step = random_.choice([LENGTH, 3 * LENGTH, 70_001, 16_384, size])
    return [(start, min(start + step, size)) for start in range(0, size, step)]


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.asyncio
async def test_hashes_equal_those_of_the_file_read(
    store: Store, lane: Lane, tmp_path: Path, seed: int
) -> None:
    random_ = random.Random(seed)
    size = random_.choice(
        [1, BLOCK, LENGTH - 1, LENGTH, LENGTH + 1, 4 * LENGTH, random_.randrange(1, 3 * MIB)]
    )
    data, sha256 = content(size, seed)
    also = random_.choice([None, LENGTH, 2 * LENGTH, 4 * LENGTH])
    partial = await store.blobs.partial(sha256, size, also)
    told: list[int] = []
    partial.on_piece = told.append
    runs = cuts(size, random_)
    if seed % 3:
        random_.shuffle(runs)
    for start, stop in runs:
        way = random_.randrange(4)
        if way == 0:
            await lane.run(partial.put, start, data[start:stop])
            await partial.mark(start, stop)
        elif way == 1:  # as libtorrent does
            with partial.path.open("r+b") as file:
                file.seek(start)
                file.write(data[start:stop])
            await partial.mark(start, stop)
        else:
            await partial.write(start, data[start:stop], vouched=way == 2)
        if random_.randrange(3) == 0:
            await partial.hash_on()
    blob = await store.blobs.commit(partial)
    await store.blobs.settle(partial)
    assert sorted(told) == list(range(partial.pieces.count))
    kept = store.blobs.hashes.find(sha256)
    assert kept is not None
    for length in {LENGTH, also or LENGTH}:
        for is_padded in (False, True):
            read = expected(data, tmp_path, length, is_padded=is_padded)
            assert from_kept(NAME, kept, length, is_padded=is_padded) == read
    assert blob.path.read_bytes() == data
    if also is None:
        assert from_kept(NAME, kept, 2 * LENGTH, is_padded=False) is None


@pytest.mark.asyncio
async def test_a_small_file_and_an_empty_one(store: Store) -> None:
    for size in (0, 100):
        data, git = small(size)
        partial = await store.blobs.partial(git, size)
        await partial.write(0, data, vouched=True)
        blob = await store.blobs.commit(partial)
        await store.blobs.settle(partial)
        assert blob.sha256 == content(size)[1]
        assert (store.blobs.hashes.find(blob.sha256) is None) == (size == 0)
    await store.blobs.evict(blob.sha256)
    assert store.blobs.hashes.find(blob.sha256) is None


@pytest.mark.asyncio
async def test_whole_pieces_in_order_are_never_read_back(store: Store, disk: CountingDisk) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE, 2 * LENGTH)
    for start in range(0, SIZE, LENGTH):
        await partial.write(start, data[start : start + LENGTH], vouched=True)
        assert start // LENGTH in partial.pieces.landed
    assert await partial.seal() == sha256
    assert partial.file_hashes() is not None
    assert disk.read_bytes == 0
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_whole_pieces_in_any_order_are_read_once_for_the_whole(
    store: Store, disk: CountingDisk
) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    for start in reversed(range(0, SIZE, LENGTH)):
        await partial.write(start, data[start : start + LENGTH], vouched=True)
        await partial.hash_on()
    assert await partial.seal() == sha256
    assert disk.read_bytes <= SIZE
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_pieces_written_in_parts_one_after_the_other_are_never_read_back(
    store: Store, lane: Lane, disk: CountingDisk
) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    for start in range(0, SIZE, 50_000):
        if start < SIZE // 2:
            await lane.run(partial.put, start, data[start : start + 50_000])
        else:
            await partial.write(start, data[start : start + 50_000], vouched=True)
    assert partial.pieces.written_root(0) == true_roots(data)[0]
    assert not set(partial.pieces.landed) & {0, 1}
    await partial.mark(0, SIZE)
    assert roots(partial) == true_roots(data)
    assert disk.read_bytes == 0
    assert await partial.seal() == sha256
    assert disk.read_bytes <= SIZE  # for the whole: puts are not kept before they are marked
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_pieces_written_out_of_order_are_read_once(store: Store, disk: CountingDisk) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    for start in reversed(range(0, SIZE, 50_000)):
        await partial.write(start, data[start : start + 50_000], vouched=True)
    await partial.hash_on()
    assert roots(partial) == true_roots(data)
    assert disk.read_bytes <= 2 * SIZE  # once for the pieces, once for the whole
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_pieces_of_before_a_restart_are_read_once_and_offered_only_then(
    store: Store, disk: CountingDisk
) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data[: 2 * LENGTH + 5], vouched=True)
    await partial.write(4 * LENGTH, data[4 * LENGTH :], vouched=False)
    await partial.checkpoint()
    await store.blobs.close(partial)
    again = await store.blobs.partial(sha256, SIZE)
    told: list[int] = []
    again.on_piece = told.append
    assert not again.pieces.landed
    assert again.pieces.root(0) is None
    before = disk.read_bytes
    await again.hash_on()
    assert sorted(told) == [0, 1, 4, 5]
    assert roots(again) == {i: r for i, r in true_roots(data).items() if i in told}
    assert disk.read_bytes - before == (2 * LENGTH + SIZE - 4 * LENGTH) + (2 * LENGTH + 5)
    await again.hash_on()
    assert len(told) == 4
    await store.blobs.close(again)


@pytest.mark.asyncio
async def test_hashing_may_be_cancelled_and_taken_up_again(store: Store) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    for start in range(0, SIZE, 60_000):
        await partial.write(start, data[start : start + 60_000], vouched=True)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(partial.hash_on())
            for _ in range(start % 5):
                await asyncio.sleep(0)
            task.cancel()
    assert await partial.seal() == sha256
    assert roots(partial) == true_roots(data)
    await store.blobs.close(partial)


def test_a_large_piece_is_hashed_in_steps() -> None:
    data, _ = content(LENGTH + 9)
    steps: list[int] = []

    def read(start: int, length: int) -> bytes:
        steps.append(length)
        return data[start : start + length]

    work = PieceWork(0, (0, len(data)), PieceHasher(len(data), 2 * LENGTH))
    while work.result is None:
        work.feed(read, 5 * BLOCK + 100)  # a budget that a short piece has used a part of
    whole = PieceHasher(len(data), 2 * LENGTH)
    whole.update(memoryview(data))
    assert work.result == whole.result()
    assert max(steps) == 5 * BLOCK + 100
