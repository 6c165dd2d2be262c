"""Pieces are hashed as they land: rightly, once, and only what is in the file."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pmodels.core.merkle import BLOCK, PieceHasher
from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import MIB, RangeSet, piece_length
from p2pmodels.errors import DigestMismatch, DiskFull, SizeMismatch, StoreFailed
from p2pmodels.sources.swarm.hashing import HashedFile, from_kept, hash_file
from p2pmodels.store.disk import Buffer
from p2pmodels.store.partials import CHECKPOINT_BYTES, Partial
from p2pmodels.store.piece_hashes import PieceWork
from p2pmodels.store.store import Store
from p2pmodels.workers import Lane
from tests.contents import content, small
from tests.fakes import FailingDisk

LENGTH = piece_length(1)
SIZE = 5 * LENGTH + 777
NAME = FilePath("file")


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


@pytest.fixture
def disk() -> CountingDisk:
    return CountingDisk()


def expected(data: bytes, folder: Path, length: int, *, is_padded: bool) -> HashedFile:
    where = folder / "expected"
    where.write_bytes(data)
    return hash_file(NAME, len(data), where, length, is_padded=is_padded)


def roots(partial: Partial) -> dict[int, bytes | None]:
    return {index: partial.pieces.root(index) for index in sorted(partial.pieces.landed)}


def true_roots(data: bytes) -> dict[int, bytes | None]:
    found: dict[int, bytes | None] = {}
    for index, start in enumerate(range(0, len(data), LENGTH)):
        hasher = PieceHasher(len(data), LENGTH)
        hasher.update(memoryview(data)[start : start + LENGTH])
        found[index] = hasher.result().root
    return found


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
async def test_a_piece_written_by_two_at_once_has_the_hash_of_what_is_there(
    store: Store, lane: Lane
) -> None:
    """Parts of two sources in turn, one of them a liar: never the hash of what one of them sent."""
    data, sha256 = content(SIZE)
    half = LENGTH // 2
    partial = await store.blobs.partial(sha256, SIZE)
    for lie_first in (True, False):
        first, second = (bytes(SIZE), data) if lie_first else (data, bytes(SIZE))
        base = LENGTH * lie_first
        for at, source in ((base, first), (base, second), (base + half, first)):
            await lane.run(partial.put, at, source[at : at + half])
        await lane.run(partial.put, base + half, second[base + half : base + LENGTH])
    await partial.mark(0, 2 * LENGTH)
    await partial.hash_on()
    there = partial.path.read_bytes()
    assert roots(partial) == {index: true_roots(there)[index] for index in (0, 1)}
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
async def test_a_late_put_never_changes_what_has_landed(store: Store, lane: Lane) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    lie = bytes(SIZE)
    await lane.run(partial.put, 0, lie)  # of a peer that nobody marks: it was too slow
    await partial.write(0, data[: 3 * LENGTH + 9], vouched=True)
    await lane.run(partial.put, 0, lie)
    assert not partial.pieces.landed - {0, 1, 2}
    await partial.write(3 * LENGTH, data[3 * LENGTH :], vouched=True)
    await lane.run(partial.put, 0, lie)
    await partial.mark(0, SIZE)
    assert await partial.seal() == sha256
    assert roots(partial) == true_roots(data)
    assert partial.path.read_bytes() == data
    assert partial.vouched == RangeSet([(0, SIZE)])
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_of_two_puts_the_hash_is_that_of_the_bytes_in_the_file(
    store: Store, lane: Lane
) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await lane.run(partial.put, 0, bytes(LENGTH))
    await lane.run(partial.put, 0, data[:LENGTH])
    await lane.run(partial.put, LENGTH, data[LENGTH : 2 * LENGTH])
    await lane.run(partial.put, LENGTH + 7, b"lie")
    await partial.mark(0, 2 * LENGTH)
    await partial.hash_on()
    found = roots(partial)
    assert found[0] == true_roots(data)[0]
    assert found[1] != true_roots(data)[1]
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_bytes_that_are_being_written_over_do_not_land(
    store: Store, lane: Lane, disk: CountingDisk
) -> None:
    """Two peers send the same piece: it lands after both writes, with the hash of the last."""
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await lane.run(partial.put, 0, bytes(LENGTH))
    began, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        go_on.wait(5)

    disk.meanwhile = hold
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        late = group.create_task(lane.run(partial.put, 0, data[:LENGTH]))
        await lane.run(began.wait, 5)
        marking = group.create_task(partial.mark(0, LENGTH))
        await lane.run(lambda: None)
        assert not marking.done()
        assert partial.landed.total == 0
        go_on.set()
        await late
    await partial.hash_on()
    assert partial.pieces.root(0) == true_roots(data)[0]
    assert partial.path.read_bytes()[:LENGTH] == data[:LENGTH]
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


@pytest.mark.asyncio
async def test_a_write_that_ends_after_void_does_not_count(
    store: Store, disk: CountingDisk
) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    loop = asyncio.get_running_loop()

    async def void() -> None:
        partial.void()

    disk.meanwhile = lambda: asyncio.run_coroutine_threadsafe(void(), loop).result(5)
    await partial.write(0, bytes(SIZE), vouched=True)
    assert (partial.landed, partial.vouched) == (RangeSet(), RangeSet())
    await partial.restart()
    await partial.write(0, data, vouched=True)
    assert await partial.seal() == sha256
    assert partial.path.read_bytes() == data
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_bytes_of_a_cancelled_write_land_with_the_next_one(
    store: Store, lane: Lane, disk: CountingDisk
) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    began, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        go_on.wait(5)

    disk.meanwhile = hold
    async with asyncio.timeout(10):
        task = asyncio.ensure_future(partial.write(0, data[:LENGTH], vouched=False))
        await lane.run(began.wait, 5)
        task.cancel()
        await asyncio.wait({task})
        go_on.set()
        await partial.write(0, data, vouched=True)
    assert partial.is_full
    assert not partial.vouched.holds(0, LENGTH)  # the first one's bytes, who was no origin
    assert await partial.seal() == sha256
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_many_threads_may_put_while_others_write(store: Store, lane: Lane) -> None:
    """Liars and honest sources at once: what lands is what was hashed, whoever was first."""
    size = 40 * LENGTH
    data, sha256 = content(size)
    right = true_roots(data)
    partial = await store.blobs.partial(sha256, size)

    def check(index: int) -> None:
        if partial.pieces.root(index) != right[index]:
            partial.reject(index)

    partial.on_piece = check

    async def pull(source: bytes, seed: int) -> None:
        order = list(range(partial.pieces.count))
        random.Random(seed).shuffle(order)
        for index in order:
            start, stop = partial.pieces.span(index)
            if not partial.landed.holds(start, stop):
                with partial.borrow():
                    await lane.run(partial.put, start, source[start:stop])
                    await partial.mark(start, stop)

    async def origin() -> None:
        for start in range(0, size, 100_000):
            await partial.write(start, data[start : start + 100_000], vouched=True)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for seed in range(3):
            group.create_task(pull(data, seed))
            group.create_task(pull(bytes(size), seed))
        group.create_task(origin())
    await partial.hash_on()
    while not partial.is_full:
        for start, stop in list(partial.landed.gaps(0, size)):
            await partial.write(start, data[start:stop], vouched=True)
        await partial.hash_on()
    assert await partial.seal() == sha256
    assert roots(partial) == right
    assert partial.path.read_bytes() == data
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_a_put_lands_only_when_it_is_marked(store: Store, lane: Lane) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await lane.run(partial.put, 0, data[:LENGTH])
    assert partial.landed.total == 0
    assert not partial.pieces.landed
    await partial.mark(0, LENGTH)
    assert sorted(partial.pieces.landed) == [0]
    assert partial.vouched.total == 0
    with pytest.raises(SizeMismatch):
        await lane.run(partial.put, SIZE - 1, b"xx")
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_a_failed_put_has_no_hash(store: Store, lane: Lane, disk: CountingDisk) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await lane.run(partial.put, 0, data[:LENGTH])
    disk.fail_at("write", 1, 28)
    with pytest.raises(DiskFull):
        await lane.run(partial.put, 0, data[:LENGTH])
    before = disk.read_bytes
    await partial.mark(0, LENGTH)
    await partial.hash_on()
    assert disk.read_bytes - before >= LENGTH  # what is there now is hashed, not what was meant
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_closing_waits_for_borrowers_and_refuses_later_puts(store: Store, lane: Lane) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    async with asyncio.timeout(5):
        with partial.borrow():
            closing = asyncio.ensure_future(store.blobs.close(partial))
            while partial.is_open:
                await asyncio.sleep(0)
            assert not closing.done()
        await closing
    with pytest.raises(StoreFailed):
        await lane.run(partial.put, 0, data)
    with pytest.raises(StoreFailed), partial.borrow():
        pass


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
