"""Several write the same pieces at once: what lands has the hash of what is in the file."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from p2pmodels.core.pieces import RangeSet
from p2pmodels.errors import DiskFull, SizeMismatch, StoreFailed
from p2pmodels.store.store import Store
from p2pmodels.workers import Lane
from tests.contents import content
from tests.store.six_pieces import LENGTH, SIZE, CountingDisk, roots, true_roots


@pytest.fixture
def disk() -> CountingDisk:
    return CountingDisk()


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
