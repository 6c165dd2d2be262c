"""Seeds give what the store has, within the limits, and never change a byte of it."""

from __future__ import annotations

import asyncio
import os

import pytest

from p2pmodels.core.names import FilePath
from p2pmodels.core.torrent import PeerAddress, Torrent
from p2pmodels.errors import SwarmFailed
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.sources.swarm.swarm import Swarm
from tests.sources.swarm.places import LOOPBACK, MIB, BenchFactory, random_bytes, shelve, torrent_of
from tests.sources.swarm.snapshot import BIG, BOUND_S, FILES, SLOW, open_files, watched

pytestmark = pytest.mark.asyncio


async def test_seeding_opens_blobs_for_reading_only_and_changes_nothing(
    bench: BenchFactory,
) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        before = {path: path.stat() for path in shelf.values()}
        torrent = torrent_of(shelf)
        async with b.seed(shelf, torrent) as peer, b.swarm() as swarm:
            await swarm.fill(torrent, BIG, await b.partial(FILES[BIG.value]), [peer])
            opened = open_files(b.folder / "store")
            assert opened
            assert all(entry.endswith(" r") for entry in opened), opened
        for path, was in before.items():
            now = path.stat()
            assert (now.st_mtime_ns, now.st_size, now.st_ino, now.st_blocks) == (
                was.st_mtime_ns,
                was.st_size,
                was.st_ino,
                was.st_blocks,
            )
        assert {path.name for path in (b.folder / "store").iterdir()} == {"blobs"}
        assert not open_files(b.folder / "store")


async def test_a_damaged_blob_is_never_written_and_its_seed_is_withdrawn(
    bench: BenchFactory,
) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        blob = shelf[BIG]
        bad = bytearray(FILES[BIG.value])
        bad[5 * MIB] ^= 1
        blob.chmod(0o600)
        blob.write_bytes(bad)
        broken = asyncio.Event()
        told: list[str] = []

        def on_broken(lost: Torrent, _reason: str) -> None:
            told.append(lost.infohash)
            broken.set()

        good = shelve(b.folder / "other", FILES)
        async with (
            Swarm(LOOPBACK, b.lane, b.clock, on_broken_seed=on_broken) as seed,
            b.seed(good, torrent) as other,
            b.swarm() as swarm,
        ):
            running = b.tasks.start(seed.run(), "seed")
            await seed.seed(torrent, shelf)
            partial = await watched(b, BIG.value)
            # The good seed is known to the damaged one, which could mend itself: it must not.
            await seed.add_peers(torrent.infohash, [other])
            peer = PeerAddress("127.0.0.1", seed.port)
            with pytest.raises(SwarmFailed):
                await swarm.fill(torrent, BIG, partial, [peer], stall_s=2.0)
            await broken.wait()
            assert told == [torrent.infohash]
            assert not seed.is_seeding(torrent.infohash)
            assert blob.read_bytes() == bytes(bad)
            assert not partial.landed.holds(5 * MIB, 5 * MIB + 1)
            running.cancel()
            await asyncio.wait([running])


async def test_a_blob_that_is_gone_is_withdrawn(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        shelf[BIG].unlink()
        async with b.swarm() as seed, b.swarm() as swarm:
            await seed.seed(torrent, shelf)
            peer = PeerAddress("127.0.0.1", seed.port)
            partial = await b.partial(FILES[BIG.value])
            with pytest.raises(SwarmFailed):
                await swarm.fill(torrent, BIG, partial, [peer], stall_s=2.0)
            assert not shelf[BIG].exists()
            assert partial.landed.total == 0


async def test_seeding_twice_and_withdrawing(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        async with b.swarm() as swarm:
            await asyncio.gather(*(swarm.seed(torrent, shelf) for _ in range(3)))
            assert [seed.infohash for seed in swarm.seeds()] == [torrent.infohash]
            assert swarm.is_seeding(torrent.infohash)
            with pytest.raises(SwarmFailed, match="complete here"):
                await swarm.fill(torrent, BIG, await b.partial(FILES[BIG.value]), [])
            await swarm.withdraw(torrent.infohash)
            await swarm.withdraw(torrent.infohash)
            assert swarm.seeds() == []
            await swarm.seed(torrent, shelf)
            assert swarm.is_seeding(torrent.infohash)


@pytest.mark.asyncio
async def test_a_filled_torrent_uploads_and_is_then_seeded_in_its_place(
    bench: BenchFactory,
) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        async with b.swarm() as middle, b.swarm() as last:
            async with b.seed(shelf, torrent) as peer:
                partial = await b.partial(FILES[BIG.value])
                await middle.fill(torrent, BIG, partial, [peer])
            blob = b.folder / "blob"
            os.link(partial.path, blob)
            await middle.moved(torrent.infohash, BIG, blob)
            partial.path.unlink()
            copy = await b.partial(FILES[BIG.value], "copy")
            await last.fill(torrent, BIG, copy, [PeerAddress("127.0.0.1", middle.port)])
            assert copy.path.read_bytes() == FILES[BIG.value]
            assert blob.read_bytes() == FILES[BIG.value]
            await middle.seed(torrent, {**shelf, BIG: blob})
            assert middle.is_seeding(torrent.infohash)
            small = await b.partial(FILES["README.md"])
            address = PeerAddress("127.0.0.1", middle.port)
            await last.fill(torrent, FilePath("README.md"), small, [address])
            assert small.is_full


async def test_upload_limits_hold_on_the_lan(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        data = random_bytes(6 * MIB, 8)
        shelf = shelve(b.folder / "store", {"x": data})
        torrent = torrent_of(shelf)
        slow = SwarmOptions(listen_host="127.0.0.1", port=0, upload_limit_bytes_per_s=SLOW)
        async with b.swarm(slow) as seed, b.swarm() as swarm:
            await seed.seed(torrent, shelf)
            peer = PeerAddress("127.0.0.1", seed.port)
            began = b.clock.monotonic()
            await swarm.fill(torrent, FilePath("x"), await b.partial(data), [peer])
            assert b.clock.monotonic() - began > 0.7 * len(data) / SLOW


async def test_figures_say_who_gave_what(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        async with b.swarm() as seed, b.swarm() as swarm:
            await seed.seed(torrent, shelf)
            peer = PeerAddress("127.0.0.1", seed.port)
            await swarm.fill(torrent, BIG, await b.partial(FILES[BIG.value]), [peer])
            size = len(FILES[BIG.value])
            while swarm.totals() != (size, 0) or seed.totals()[1] < size:
                await b.clock.sleep(0.05)
            transfer = swarm.transfers()[0]
            assert (transfer.infohash, transfer.is_seed) == (torrent.infohash, False)
            assert transfer.bytes_down == size
            assert seed.transfers()[0].is_seed
