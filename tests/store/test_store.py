"""The store as a whole: start, restart, room, damage."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.core.manifest import FileEntry, Manifest
from p2pmodels.core.names import Commit, FilePath, RepoId, Revision
from p2pmodels.errors import DiskFull, StoreDamaged, StoreFailed, StoreLocked
from p2pmodels.store.room import RoomOptions
from p2pmodels.store.scrub import scrub
from p2pmodels.store.store import Store, StoreOptions
from p2pmodels.workers import Lane
from tests.contents import content, put
from tests.fakes import FakeClock


@pytest.mark.asyncio
async def test_blobs_survive_a_restart_without_being_read(
    options: StoreOptions, lane: Lane, clock: FakeClock
) -> None:
    async with Store(options, lane, clock) as store:
        blob = await put(store, 100_000)
    # Flip a byte: a start that hashed everything would notice and refuse it.
    blob.path.chmod(0o600)
    with blob.path.open("r+b") as file:
        file.write(b"\xff\xfe\xfd")
    async with Store(options, lane, clock) as store:
        assert store.blobs.find(blob.sha256) == blob


@pytest.mark.asyncio
async def test_blob_files_are_read_only_and_the_folder_is_private(store: Store) -> None:
    blob = await put(store, 1000)
    assert stat.S_IMODE(blob.path.stat().st_mode) == 0o444
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


@pytest.mark.asyncio
async def test_a_missing_and_a_short_blob_are_not_believed(
    options: StoreOptions, lane: Lane, clock: FakeClock
) -> None:
    async with Store(options, lane, clock) as store:
        gone, short, good = [await put(store, 5000, seed) for seed in (1, 2, 3)]
    gone.path.unlink()
    short.path.chmod(0o600)
    os.truncate(short.path, 4999)
    async with Store(options, lane, clock) as store:
        assert store.blobs.find(gone.sha256) is None
        assert store.blobs.find(short.sha256) is None
        assert store.blobs.find(good.sha256) == good
    assert not short.path.exists()


@pytest.mark.asyncio
async def test_a_lost_index_is_built_again_from_the_files(
    options: StoreOptions, lane: Lane, clock: FakeClock
) -> None:
    async with Store(options, lane, clock) as store:
        good, bad = await put(store, 5000, 1), await put(store, 5000, 2)
    for path in options.folder.glob("index.sqlite*"):
        path.unlink()
    bad.path.chmod(0o600)
    bad.path.write_bytes(b"x" * 5000)
    async with Store(options, lane, clock) as store:
        assert store.blobs.find(good.sha256) is None
        results = [item async for item in scrub(store, repair=True)]
        assert {(item.sha256, item.is_good) for item in results} >= {
            (good.sha256, True),
            (bad.sha256, False),
        }
        assert store.blobs.find(good.sha256) == good
        assert store.blobs.find(bad.sha256) is None


@pytest.mark.asyncio
async def test_an_index_of_garbage_is_an_error_with_advice(
    options: StoreOptions, lane: Lane, clock: FakeClock
) -> None:
    options.folder.mkdir(mode=0o700, parents=True)
    (options.folder / "index.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreDamaged) as caught:
        async with Store(options, lane, clock):
            pass
    assert caught.value.hint


@pytest.mark.asyncio
async def test_a_second_name_left_by_a_crash_is_removed(
    options: StoreOptions, lane: Lane, clock: FakeClock
) -> None:
    async with Store(options, lane, clock) as store:
        data, sha256 = content(5000)
        partial = await store.blobs.partial(sha256, 5000)
        await partial.write(0, data, vouched=True)
        await partial.checkpoint()
        await store.blobs.commit(partial)
        await store.blobs.close(partial)  # as if killed before `settle`
        assert partial.path.exists()
    async with Store(options, lane, clock) as store:
        assert not partial.path.exists()
        assert not partial.checkpoint_path.exists()
        assert store.blobs.find(sha256) is not None


@pytest.mark.asyncio
async def test_a_second_daemon_on_the_folder_is_refused_with_our_pid(store: Store) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from p2pmodels.clock import RealClock\n"
        "from p2pmodels.store.store import Store, StoreOptions\n"
        "from p2pmodels.workers import workers\n"
        "async def main():\n"
        "    async with workers() as lane, Store(StoreOptions(Path(sys.argv[1])), lane,"
        " RealClock()): pass\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.folder)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "StoreLocked" in done.stderr
    assert str(os.getpid()) in done.stderr


@pytest.mark.asyncio
async def test_a_folder_that_others_can_write_is_refused(
    tmp_path: Path, lane: Lane, clock: FakeClock
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StoreFailed, match="written by others"):
        async with Store(StoreOptions(folder), lane, clock):
            pass


@pytest.mark.asyncio
async def test_a_failed_start_leaves_no_lock(
    options: StoreOptions, lane: Lane, clock: FakeClock
) -> None:
    options.folder.mkdir(mode=0o700, parents=True)
    garbage = options.folder / "index.sqlite"
    garbage.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreDamaged):
        async with Store(options, lane, clock):
            pass
    garbage.unlink()
    async with Store(options, lane, clock):
        with pytest.raises(StoreLocked):
            async with Store(options, lane, clock):
                pass


def limited(tmp_path: Path, limit: int) -> StoreOptions:
    return StoreOptions(tmp_path / "data", RoomOptions(limit, free_floor_bytes=0))


@pytest.mark.asyncio
async def test_the_least_recently_used_blob_goes_first(
    tmp_path: Path, lane: Lane, clock: FakeClock
) -> None:
    async with Store(limited(tmp_path, 30_000), lane, clock) as store:
        blobs = []
        for seed in (1, 2, 3):
            blobs.append(await put(store, 10_000, seed))
            clock.advance(100)
        store.blobs.touch(blobs[0].sha256)
        await put(store, 10_000, 4)
        kept = {row.sha256 for row in store.blobs.rows()}
        assert blobs[1].sha256 not in kept
        assert not blobs[1].path.exists()
        assert {blobs[0].sha256, blobs[2].sha256} <= kept


@pytest.mark.asyncio
async def test_pinned_and_used_blobs_are_never_evicted(
    tmp_path: Path, lane: Lane, clock: FakeClock
) -> None:
    async with Store(limited(tmp_path, 20_000), lane, clock) as store:
        pinned, used = await put(store, 10_000, 1), await put(store, 10_000, 2)
        entry = FileEntry(FilePath("a"), 10_000, pinned.sha256)
        manifest = Manifest(RepoId("org/name"), Commit("a" * 40), (entry,))
        await store.snapshots.put(manifest)
        await store.snapshots.pin(manifest)
        with store.blobs.use(used), pytest.raises(DiskFull):
            await put(store, 10_000, 3)
        await put(store, 10_000, 3)
        assert store.blobs.find(pinned.sha256)
        assert store.blobs.find(used.sha256) is None


@pytest.mark.asyncio
async def test_the_free_floor_is_kept(tmp_path: Path, lane: Lane, clock: FakeClock) -> None:
    options = StoreOptions(tmp_path / "data", RoomOptions(free_floor_bytes=1 << 60))
    async with Store(options, lane, clock) as store:
        with pytest.raises(DiskFull) as caught:
            await store.blobs.partial(Sha256("a" * 64), 1000)
        assert caught.value.code == "disk_full"
        assert not store.blobs.partial_path(Sha256("a" * 64)).exists()


@pytest.mark.asyncio
async def test_check_finds_every_flipped_bit_and_repair_sets_it_aside(store: Store) -> None:
    blobs = [await put(store, 4000, seed) for seed in range(8)]
    for number, blob in enumerate(blobs[:5]):
        blob.path.chmod(0o600)
        data = bytearray(blob.path.read_bytes())
        data[number * 700] ^= 1 << number
        blob.path.write_bytes(data)
    found = {item.sha256 async for item in scrub(store, repair=False) if not item.is_good}
    assert found == {blob.sha256 for blob in blobs[:5]}
    assert len(store.blobs.rows()) == 8  # checking changes nothing
    assert [item async for item in scrub(store, repair=True) if item.was_repaired]
    assert {row.sha256 for row in store.blobs.rows()} == {blob.sha256 for blob in blobs[5:]}
    assert not [item async for item in scrub(store, repair=True) if not item.is_good]


@pytest.mark.asyncio
async def test_snapshots_survive_a_restart(
    options: StoreOptions, lane: Lane, clock: FakeClock
) -> None:
    repo, commit = RepoId.parse("datasets/org/name"), Commit("c" * 40)
    manifest = Manifest(
        repo, commit, (FileEntry(FilePath("a/b.json"), 10, GitId("d" * 40)),), card={"tags": ["x"]}
    )
    async with Store(options, lane, clock) as store:
        await store.snapshots.put(manifest)
        await store.snapshots.put_ref(repo, Revision("main"), commit)
        await store.snapshots.put_proof(manifest)
        await store.snapshots.pin(manifest)
        store.figures.count("served", 42)
    async with Store(options, lane, clock) as store:
        assert store.snapshots.manifest(repo, commit) == manifest
        assert store.snapshots.by_commit(commit) == manifest
        row = store.snapshots.ref(repo, Revision("main"))
        assert row is not None and row.commit == commit
        assert store.snapshots.proved_at(manifest) == clock.wall()
        assert store.snapshots.is_pinned(manifest)
        assert store.figures.counter("served") == 42
        await store.snapshots.forget(manifest)
    async with Store(options, lane, clock) as store:
        assert store.snapshots.all() == []
        assert not store.snapshots.is_pinned(manifest)
