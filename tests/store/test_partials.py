"""Partials: what is claimed is there, whatever happens on the way."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from p2pmodels.core.pieces import RangeSet
from p2pmodels.errors import DigestMismatch, DiskFull, SizeMismatch, StoreDamaged, StoreFailed
from p2pmodels.store.partials import CHECKPOINT_S, Partial
from p2pmodels.store.store import Store, StoreOptions
from p2pmodels.workers import WORKER_THREADS, Lane
from tests.contents import content, small
from tests.fakes import FailingDisk, FakeClock

SIZE = 1_000_000


@pytest.mark.asyncio
async def test_bytes_in_any_order_make_the_whole(store: Store) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    cuts = list(range(0, SIZE, 70_001))
    random.Random(3).shuffle(cuts)
    for start in cuts:
        await partial.write(start, data[start : start + 70_001], vouched=True)
    assert partial.is_full
    assert await partial.seal() == sha256
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_a_small_file_is_checked_by_git_id_and_named_by_sha256(store: Store) -> None:
    data, git = small(5_000)
    partial = await store.blobs.partial(git, len(data))
    await partial.write(0, data, vouched=True)
    blob = await store.blobs.commit(partial)
    await store.blobs.settle(partial)
    assert blob.sha256 == content(5_000)[1]
    assert store.blobs.find(git) == blob
    assert blob.path.read_bytes() == data


@pytest.mark.asyncio
async def test_one_wrong_bit_is_found(store: Store) -> None:
    data, sha256 = content(SIZE)
    wrong = bytearray(data)
    wrong[123_456] ^= 1
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, wrong, vouched=False)
    with pytest.raises(DigestMismatch):
        await store.blobs.commit(partial)
    assert store.blobs.find(sha256) is None
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_bytes_beyond_the_declared_size_are_refused(store: Store) -> None:
    _, sha256 = content(100)
    partial = await store.blobs.partial(sha256, 100)
    with pytest.raises(SizeMismatch):
        await partial.write(90, b"x" * 11, vouched=True)
    assert partial.landed.total == 0
    assert partial.path.stat().st_size == 100
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_an_unfinished_partial_is_not_sealed(store: Store) -> None:
    data, sha256 = content(100)
    partial = await store.blobs.partial(sha256, 100)
    await partial.write(0, data[:99], vouched=True)
    with pytest.raises(SizeMismatch):
        await partial.seal()
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_a_checkpoint_is_taken_up_again(store: Store) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data[:400_000], vouched=True)
    await partial.write(600_000, data[600_000:700_000], vouched=False)
    await partial.checkpoint()
    await partial.write(700_000, data[700_000:800_000], vouched=False)
    await store.blobs.close(partial)

    again = await store.blobs.partial(sha256, SIZE)
    assert again.landed == RangeSet([(0, 400_000), (600_000, 700_000)])
    assert again.vouched == RangeSet([(0, 400_000)])
    for start, stop in again.landed.gaps(0, SIZE):
        await again.write(start, data[start:stop], vouched=True)
    assert await again.seal() == sha256
    await store.blobs.close(again)


@pytest.mark.asyncio
async def test_a_checkpoint_comes_by_itself_with_time(store: Store, clock: FakeClock) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data[:10], vouched=True)
    assert not partial.checkpoint_path.exists()
    clock.advance(CHECKPOINT_S)
    await partial.write(10, data[10:20], vouched=True)
    assert json.loads(partial.checkpoint_path.read_text())["landed"] == [[0, 20]]
    await store.blobs.close(partial)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"size": 1}', '{"landed": [[0, 9]], "vouched": [], "size": 100}',
        '{"digest": "x", "size": 100, "landed": [[0, 100]], "vouched": []}',
        "\x00" * 50, '{"landed": 5}', "[" * 100_000,
    ],
)  # fmt: skip
@pytest.mark.asyncio
async def test_a_damaged_checkpoint_counts_as_none(store: Store, text: str) -> None:
    _, sha256 = content(100)
    partial = await store.blobs.partial(sha256, 100)
    await store.blobs.close(partial)
    partial.checkpoint_path.write_text(text)
    again = await store.blobs.partial(sha256, 100)
    assert again.landed.total == 0
    await store.blobs.close(again)


@pytest.mark.asyncio
async def test_a_checkpoint_never_claims_more_than_the_file_holds(store: Store) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data, vouched=True)
    await partial.checkpoint()
    await store.blobs.close(partial)
    with partial.path.open("r+b") as file:
        file.truncate(500_000)
    again = await store.blobs.partial(sha256, SIZE)
    assert again.landed == RangeSet([(0, 500_000)])
    await store.blobs.close(again)


@pytest.mark.asyncio
async def test_a_full_disk_is_told_and_loses_nothing(store: Store, disk: FailingDisk) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data[:1000], vouched=True)
    disk.fail_at("write", 1, errno.ENOSPC)
    with pytest.raises(DiskFull):
        await partial.write(1000, data[1000:], vouched=True)
    assert partial.landed == RangeSet([(0, 1000)])
    await partial.write(1000, data[1000:], vouched=True)
    assert await partial.seal() == sha256
    await store.blobs.close(partial)


@pytest.mark.parametrize("operation", ["write", "sync", "link", "sync_folder", "unlink"])
@pytest.mark.asyncio
async def test_every_step_of_a_commit_may_fail_and_be_repeated(
    store: Store, disk: FailingDisk, operation: str
) -> None:
    data, sha256 = content(SIZE)
    disk.fail_at(operation, 1)
    failures = 0
    for _ in range(3):
        try:
            partial = await store.blobs.partial(sha256, SIZE)
            for start, stop in list(partial.landed.gaps(0, SIZE)):
                await partial.write(start, data[start:stop], vouched=True)
            blob = await store.blobs.commit(partial)
            await store.blobs.settle(partial)
        except StoreFailed:
            failures += 1
            assert store.blobs.find(sha256) is None or operation == "unlink"
        else:
            break
    assert failures == 1
    assert blob.path.read_bytes() == data


@pytest.mark.asyncio
async def test_wrong_bytes_of_peers_go_and_those_of_the_origin_stay(store: Store) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    await partial.write(0, data[:300_000], vouched=True)
    await partial.write(300_000, bytes(SIZE - 300_000), vouched=False)
    with pytest.raises(DigestMismatch):
        await partial.seal()
    assert partial.void()
    await partial.restart()
    assert partial.landed == RangeSet([(0, 300_000)])
    await partial.write(300_000, data[300_000:], vouched=True)
    assert await partial.seal() == sha256
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_a_cancelled_write_never_hurts_the_digest(store: Store) -> None:
    data, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    step = SIZE // 20
    for start in range(0, SIZE, step):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(partial.write(start, data[start : start + step], vouched=True))
            await asyncio.sleep(0)
            task.cancel()
    for start, stop in list(partial.landed.gaps(0, SIZE)):
        await partial.write(start, data[start:stop], vouched=True)
    assert await partial.seal() == sha256
    await store.blobs.close(partial)


@pytest.mark.asyncio
async def test_who_is_cancelled_while_the_file_is_opened_leaves_no_open_file(
    store: Store, disk: FailingDisk, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that opens it cannot be stopped, and comes to its end later."""
    opening, go_on, opened = threading.Event(), threading.Event(), list[int]()
    really_open = disk.open

    def slowly(path: Path, flags: int) -> int:
        opening.set()
        go_on.wait()
        opened.append(really_open(path, flags))
        return opened[-1]

    monkeypatch.setattr(disk, "open", slowly)
    _, sha256 = content(SIZE)
    task = asyncio.create_task(store.blobs.partial(sha256, SIZE))
    await lane.run(opening.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert store.blobs.find(sha256) is None
    await closed(opened)


@pytest.mark.asyncio
async def test_who_is_cancelled_while_it_waits_for_a_thread_to_close_leaves_no_open_file(
    store: Store, lane: Lane
) -> None:
    _, sha256 = content(SIZE)
    partial = await store.blobs.partial(sha256, SIZE)
    with partial.borrow() as fd:
        assert isinstance(fd, int)
    go_on = threading.Event()
    for _ in range(WORKER_THREADS):
        lane.submit(go_on.wait)
    closing = asyncio.create_task(store.blobs.close(partial))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    go_on.set()
    await closed([fd])


@pytest.mark.asyncio
async def test_what_nobody_closed_is_closed_with_the_store(
    options: StoreOptions, lane: Lane, clock: FakeClock, disk: FailingDisk
) -> None:
    _, sha256 = content(SIZE)
    async with Store(options, lane, clock, disk) as store:
        partial = await store.blobs.partial(sha256, SIZE)
        with partial.borrow() as fd:
            assert isinstance(fd, int)
    assert is_closed(fd) and not partial.is_open


async def closed(fds: Sequence[int]) -> None:
    """Wait until a file that may still be opened is closed."""
    async with asyncio.timeout(5):
        while not (fds and all(is_closed(fd) for fd in fds)):
            await asyncio.sleep(0.001)


def is_closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


@pytest.mark.asyncio
async def test_a_planted_link_is_never_followed(store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    _, sha256 = content(100)
    store.blobs.partial_path(sha256).symlink_to(victim)
    with pytest.raises(StoreDamaged):
        await store.blobs.partial(sha256, 100)
    assert victim.read_bytes() == b"precious"


@pytest.mark.asyncio
async def test_readers_are_woken_by_what_lands(store: Store) -> None:
    data, sha256 = content(100)
    partial: Partial = await store.blobs.partial(sha256, 100)

    async def reader() -> int:
        async with partial.changed:
            await partial.changed.wait_for(lambda: partial.landed.holds(0, 100))
        return partial.landed.total

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(reader())
        await partial.write(0, data[:50], vouched=True)
        await partial.write(50, data[50:], vouched=True)
    assert waiting.result() == 100
    await store.blobs.close(partial)
