"""A piece that is found wrong is given up and fetched anew; the others and their hashes stay."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodels.core.pieces import RangeSet
from p2pmodels.errors import DigestMismatch, SizeMismatch
from p2pmodels.store.partials import CHECKPOINT_BYTES
from p2pmodels.store.store import Store
from p2pmodels.workers import Lane
from tests.contents import content
from tests.store.six_pieces import LENGTH, SIZE, CountingDisk, roots, true_roots


@pytest.fixture
def disk() -> CountingDisk:
    return CountingDisk()


@pytest.mark.asyncio
async def test_a_rejected_piece_is_fetched_anew(store: Store, lane: Lane) -> None:
    data, sha256 = content(SIZE)
    wrong = bytearray(data)
    wrong[LENGTH + 9] ^= 1
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data[:LENGTH], vouched=True)
    await lane.run(partial.put, LENGTH, wrong[LENGTH : 3 * LENGTH])
    await partial.mark(LENGTH, 3 * LENGTH)
    await partial.hash_on()
    assert partial.pieces.root(1) != true_roots(data)[1]
    assert partial.reject(1)
    assert not partial.reject(1)
    assert sorted(partial.pieces.landed) == [0, 2]
    assert partial.landed == RangeSet([(0, LENGTH), (2 * LENGTH, 3 * LENGTH)])
    assert partial.vouched == RangeSet([(0, LENGTH)])
    await partial.write(LENGTH, data[LENGTH:], vouched=True)
    assert await partial.seal() == sha256  # so the whole-file hash did begin anew
    assert roots(partial) == true_roots(data)
    assert partial.path.read_bytes() == data
    with pytest.raises(IndexError):
        partial.reject(6)
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_a_piece_rejected_before_the_whole_hash_came_to_it_costs_no_second_pass(
    store: Store, disk: CountingDisk
) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data[:LENGTH], vouched=True)
    await partial.write(3 * LENGTH, bytes(LENGTH), vouched=False)
    assert partial.reject(3)
    await partial.write(LENGTH, data[LENGTH : 3 * LENGTH], vouched=True)
    await partial.write(3 * LENGTH, data[3 * LENGTH :], vouched=True)
    assert await partial.seal() == sha256
    assert disk.read_bytes == 0
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_a_piece_may_be_rejected_as_soon_as_it_is_hashed(store: Store) -> None:
    size = 4 * LENGTH
    data, sha256 = content(size)
    right = true_roots(data)
    partial = await store.blobs.partial(sha256, size)

    def check(index: int) -> None:
        if partial.pieces.root(index) != right[index]:
            partial.reject(index)

    partial.on_piece = check
    await partial.write(0, bytes(LENGTH), vouched=False)  # hashed before anybody can read it
    assert partial.landed.total == 0
    for start in reversed(range(0, size, 50_000)):
        await partial.write(start, bytes(min(50_000, size - start)), vouched=False)
    assert partial.is_full
    with pytest.raises(SizeMismatch):
        await partial.seal()
    assert partial.landed.total == 0
    await partial.write(0, data, vouched=True)
    assert await partial.seal() == sha256
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_a_rejected_piece_soon_leaves_the_checkpoint(store: Store) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data[: 2 * LENGTH], vouched=False)
    await partial.checkpoint()
    assert SIZE < CHECKPOINT_BYTES
    partial.reject(0)
    await partial.write(4 * LENGTH, data[4 * LENGTH :], vouched=False)
    await store.blobs.close(partial)
    again = await store.blobs.partial(sha256, SIZE)
    assert again.landed == RangeSet([(LENGTH, 2 * LENGTH), (4 * LENGTH, SIZE)])
    await store.blobs.close(again)


@pytest.mark.asyncio
async def test_void_keeps_the_hashes_of_what_the_origin_gave(
    store: Store, disk: CountingDisk
) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data[: 2 * LENGTH], vouched=True)
    await partial.write(2 * LENGTH, bytes(SIZE - 2 * LENGTH), vouched=False)
    with pytest.raises(DigestMismatch):
        await partial.seal()
    assert partial.void()
    await partial.restart()
    assert sorted(partial.pieces.landed) == [0, 1]
    await partial.write(2 * LENGTH, data[2 * LENGTH :], vouched=True)
    assert await partial.seal() == sha256
    assert roots(partial) == true_roots(data)
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_a_piece_rejected_while_the_whole_hash_reads_it_is_read_anew(
    store: Store, disk: CountingDisk
) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    with partial.path.open("r+b") as file:
        file.write(bytes(LENGTH) + data[LENGTH:])
    await partial.mark(0, SIZE)
    loop = asyncio.get_running_loop()

    async def reject() -> None:
        assert partial.reject(0)

    for _ in range(2):  # once the read of the pieces is hit, once that of the whole
        disk.meanwhile = lambda: asyncio.run_coroutine_threadsafe(reject(), loop).result(5)
        await partial.hash_on()
        assert partial.landed == RangeSet([(LENGTH, SIZE)])
        await partial.write(0, data[:LENGTH], vouched=True)
    assert await partial.seal() == sha256
    assert roots(partial) == true_roots(data)
    await store.blobs.close(partial)
