"""Pairs of real swarms over loopback: seeding from the store, filling partials, giving up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import RangeSet
from p2pmodels.core.torrent import PeerAddress, Torrent
from p2pmodels.errors import DigestMismatch, SwarmFailed
from p2pmodels.sources.swarm import filling
from p2pmodels.sources.swarm.alerts import Dropped, Event, PieceDone
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.store.partials import Partial
from tests.sources.swarm.places import (
    LOOPBACK,
    MIB,
    Bench,
    BenchFactory,
    random_bytes,
    shelve,
    torrent_of,
)

pytestmark = pytest.mark.asyncio
PIECE = 256 * 1024
BOUND_S = 30.0  # seconds for everything a test waits for
SLOW = 4 * MIB  # bytes a second; so that a test can act in the middle

FILES = {
    "README.md": random_bytes(1234, 1),
    "a/weights.bin": random_bytes(5 * MIB + 17, 2),
    "a.txt": random_bytes(20, 3),
    "empty": b"",
    "model.safetensors": random_bytes(12 * MIB, 4),
}
BIG = FilePath("model.safetensors")


class Watched(Partial):
    """A partial that reads every marked range back and compares it with the source."""

    truth = b""
    marks = 0

    async def mark(self, start: int, stop: int, *, vouched: bool = False) -> None:
        with self.path.open("rb") as file:
            assert os.pread(file.fileno(), stop - start, start) == self.truth[start:stop]
        self.marks += 1
        await super().mark(start, stop, vouched=vouched)


async def watched(bench: Bench, name: str) -> Watched:
    partial = await bench.partial(FILES[name])
    partial.__class__ = Watched
    assert isinstance(partial, Watched)
    partial.truth = FILES[name]
    return partial


async def landed(partial: Partial, size: int) -> None:
    """Wait until this many bytes have landed."""
    async with partial.changed:
        await partial.changed.wait_for(lambda: partial.landed.total >= size)


def open_files(folder: Path) -> list[str]:
    """The paths below `folder` that this process has open, with their access mode."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith(str(folder)):
            writes = bool(entry.lstat().st_mode & 0o200)
            found.append(f"{target} {'w' if writes else 'r'}")
    return found


def usable(swarm: Swarm) -> bool:
    """A call, so that the type checker does not take the answer for a constant."""
    return swarm.is_usable


async def test_a_snapshot_is_filled_by_concurrent_fills(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        async with b.seed(shelf, torrent) as peer, b.swarm() as swarm:
            partials = {name: await watched(b, name) for name in FILES}
            async with asyncio.TaskGroup() as fills:
                for name, partial in partials.items():
                    fills.create_task(swarm.fill(torrent, FilePath(name), partial, [peer]))
            for name, partial in partials.items():
                assert partial.is_full, name
                assert partial.path.read_bytes() == FILES[name]
                if FILES[name]:
                    assert partial.marks >= 1
            for partial in partials.values():
                await partial.seal()
        names = {path.name for path in (b.folder / "partials").iterdir()}
        assert {name for name in names if not name.endswith(".checkpoint")} == {
            partial.path.name for partial in partials.values()
        }


async def test_only_wanted_files_are_downloaded_and_created(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        async with b.seed(shelf, torrent) as peer, b.swarm() as swarm:
            partial = await watched(b, "a/weights.bin")
            await swarm.fill(torrent, FilePath("a/weights.bin"), partial, [peer])
            await swarm.release(torrent.infohash)
        assert [path.name for path in (b.folder / "partials").iterdir()] == [partial.path.name]
        assert {path.name for path in b.folder.iterdir()} == {"partials", "store"}


async def test_files_one_after_the_other_need_no_new_connection(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        files = {f"file{number}": random_bytes(5000, number) for number in range(10)}
        shelf = shelve(b.folder / "store", files)
        torrent = torrent_of(shelf)
        async with b.seed(shelf, torrent) as peer, b.swarm() as swarm:
            await swarm.fill(torrent, FilePath("file0"), await b.partial(files["file0"]), [peer])
            began = b.clock.monotonic()
            for name, data in files.items():
                if name != "file0":
                    await swarm.fill(torrent, FilePath(name), await b.partial(data), [peer])
            assert b.clock.monotonic() - began < 6.0  # a reconnect each would take 9 to 18 s


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


async def test_landed_bytes_are_neither_asked_for_nor_touched(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        data = FILES[BIG.value]
        partial = await b.partial(data)
        # Other bytes than the torrent's: if libtorrent wrote there, they would change.
        mine = random_bytes(4 * MIB, 99)
        await partial.write(2 * MIB, mine, vouched=True)
        got: dict[str, int] = {}

        def count(host: str, amount: int) -> None:
            got[host] = got.get(host, 0) + amount

        async with b.seed(shelf, torrent) as peer, b.swarm() as swarm:
            await swarm.fill(torrent, BIG, partial, [peer], on_bytes=count)
            await swarm.release(torrent.infohash)
        assert partial.is_full
        expected = data[: 2 * MIB] + mine + data[6 * MIB :]
        assert partial.path.read_bytes() == expected
        assert got == {"127.0.0.1": len(data) - len(mine)}


async def test_begun_pieces_are_left_to_other_sources(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        data = FILES[BIG.value]
        partial = await b.partial(data)
        await partial.write(MIB + 5, b"mine", vouched=True)
        async with b.seed(shelf, torrent) as peer, b.swarm() as swarm:
            with pytest.raises(SwarmFailed, match="left to other sources"):
                await swarm.fill(torrent, BIG, partial, [peer])
        assert list(partial.landed.gaps(0, len(data))) == [
            (MIB, MIB + 5),
            (MIB + 9, MIB + PIECE),
        ]
        assert partial.path.read_bytes()[MIB + 5 : MIB + 9] == b"mine"


async def test_a_fill_without_an_answering_peer_fails_soon(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        torrent = torrent_of(shelve(b.folder / "store", FILES))
        held: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _r, w: held.append(w), "127.0.0.1", 0)
        async with silent, b.swarm() as swarm:
            nobody = PeerAddress("127.0.0.1", silent.sockets[0].getsockname()[1])
            for peers in ([], [nobody]):
                began = b.clock.monotonic()
                partial = await b.partial(FILES[BIG.value])
                with pytest.raises(SwarmFailed, match="no peer"):
                    await swarm.fill(torrent, BIG, partial, peers, connect_s=1.0)
                assert b.clock.monotonic() - began < 4.0
            for writer in held:
                writer.close()


async def test_a_stall_fails_and_keeps_what_has_landed(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        slow = SwarmOptions(listen_host="127.0.0.1", port=0, upload_limit_bytes_per_s=SLOW)
        partial = await watched(b, BIG.value)
        async with b.swarm() as swarm:
            async with b.swarm(slow) as seed, asyncio.TaskGroup() as group:
                await seed.seed(torrent, shelf)
                peer = PeerAddress("127.0.0.1", seed.port)
                fill = group.create_task(_failing(swarm, torrent, partial, peer))
                await landed(partial, MIB)
                await seed.withdraw(torrent.infohash)
                assert await fill
            assert MIB <= partial.landed.total < partial.size
            # Its file is out of libtorrent's hands: nothing is written any more.
            assert [entry for entry in open_files(partial.path) if entry.endswith("w")] == [
                f"{partial.path} w"  # our own
            ]
            async with b.seed(shelf, torrent) as again:
                await swarm.fill(torrent, BIG, partial, [again])
        assert partial.path.read_bytes() == FILES[BIG.value]
        assert partial.path.stat().st_size == partial.size


async def _failing(swarm: Swarm, torrent: Torrent, partial: Partial, peer: PeerAddress) -> bool:
    with pytest.raises(SwarmFailed):
        await swarm.fill(torrent, BIG, partial, [peer], connect_s=1.5, stall_s=1.5)
    return True


async def test_a_cancelled_fill_leaves_the_others_alone(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        slow = SwarmOptions(listen_host="127.0.0.1", port=0, upload_limit_bytes_per_s=2 * SLOW)
        first, second = await watched(b, BIG.value), await watched(b, "a/weights.bin")
        async with b.swarm() as swarm, b.swarm(slow) as seed:
            await seed.seed(torrent, shelf)
            peer = PeerAddress("127.0.0.1", seed.port)
            doomed = b.tasks.start(swarm.fill(torrent, BIG, first, [peer]), "doomed")
            async with asyncio.TaskGroup() as group:
                path = FilePath("a/weights.bin")
                group.create_task(swarm.fill(torrent, path, second, [peer]))
                await landed(first, MIB)
                await landed(second, 1)
                doomed.cancel()
                await asyncio.wait([doomed])
                held = RangeSet(first.landed)
                before = first.path.read_bytes()
            assert first.landed == held
            assert first.path.read_bytes() == before
            assert not first.is_full
            assert second.path.read_bytes() == FILES["a/weights.bin"]
            # And it can be taken up again.
            await swarm.fill(torrent, BIG, first, [peer])
            assert first.path.read_bytes() == FILES[BIG.value]


async def test_readers_are_served_first(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        data = random_bytes(24 * MIB, 5)
        shelf = shelve(b.folder / "store", {"big": data})
        torrent = torrent_of(shelf)
        slow = SwarmOptions(listen_host="127.0.0.1", port=0, upload_limit_bytes_per_s=SLOW)
        partial = await b.partial(data)

        def positions() -> Sequence[int]:
            return [20 * MIB]

        async with b.swarm() as swarm, b.swarm(slow) as seed:
            await seed.seed(torrent, shelf)
            peer = PeerAddress("127.0.0.1", seed.port)
            fill = b.tasks.start(
                swarm.fill(torrent, FilePath("big"), partial, [peer], positions), "fill"
            )
            async with partial.changed:
                await partial.changed.wait_for(lambda: partial.landed.holds(20 * MIB, 22 * MIB))
            assert partial.landed.total <= 10 * MIB
            fill.cancel()
            await asyncio.wait([fill])


async def test_pieces_come_roughly_in_order_from_seeds(
    bench: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "ALONG_BYTES", 4 * MIB)
    async with bench() as b, asyncio.timeout(BOUND_S):
        data = random_bytes(24 * MIB, 6)
        shelf = shelve(b.folder / "store", {"big": data})
        torrent = torrent_of(shelf)
        slow = SwarmOptions(listen_host="127.0.0.1", port=0, upload_limit_bytes_per_s=SLOW)
        partial = await b.partial(data)
        async with b.swarm() as swarm, b.swarm(slow) as seed:
            await seed.seed(torrent, shelf)
            peer = PeerAddress("127.0.0.1", seed.port)
            fill = b.tasks.start(swarm.fill(torrent, FilePath("big"), partial, [peer]), "fill")
            async with partial.changed:
                await partial.changed.wait_for(lambda: partial.landed.run_end(0) >= 4 * MIB)
            # Without an order, the first sixteen of 96 pieces are there when nearly all are.
            assert partial.landed.total <= 16 * MIB
            fill.cancel()
            await asyncio.wait([fill])


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


async def test_release_closes_the_files(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        async with b.seed(shelf, torrent) as peer, b.swarm() as swarm:
            partial = await b.partial(FILES[BIG.value])
            await swarm.fill(torrent, BIG, partial, [peer])
            await swarm.release(torrent.infohash)
            await partial.close()
            assert open_files(partial.path) == []
            assert swarm.transfers() == []


async def test_drop_ends_fills_and_seeds(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        slow = SwarmOptions(listen_host="127.0.0.1", port=0, upload_limit_bytes_per_s=SLOW)
        async with b.swarm() as swarm, b.swarm(slow) as seed:
            await seed.seed(torrent, shelf)
            peer = PeerAddress("127.0.0.1", seed.port)
            partial = await watched(b, BIG.value)
            async with asyncio.TaskGroup() as group:
                fill = group.create_task(_failing(swarm, torrent, partial, peer))
                await landed(partial, 1)
                await swarm.drop(torrent.infohash)
                assert await fill
            await seed.drop(torrent.infohash)
            assert not seed.is_seeding(torrent.infohash)
            assert swarm.transfers() == seed.transfers() == []


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


async def test_d15_lost_events_are_made_up_for(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        async with b.seed(shelf, torrent) as peer, Swarm(LOOPBACK, b.lane, b.clock) as swarm:
            events = swarm._session.events
            lost = 0

            def lossy() -> list[Event]:
                """As when the queue overflows: the events of pieces are gone, which is told."""
                nonlocal lost
                kept: list[Event] = [
                    event for event in events() if not isinstance(event, PieceDone)
                ]
                lost += 1
                return [*kept, Dropped()] if lost % 4 == 0 else kept

            swarm._session.events = lossy  # type: ignore[method-assign]
            running = b.tasks.start(swarm.run(), "swarm")
            partial = await watched(b, BIG.value)
            await swarm.fill(torrent, BIG, partial, [peer])
            assert partial.is_full
            running.cancel()
            await asyncio.wait([running])


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


async def test_b9_right_names_with_wrong_hashes_end_at_the_digest(
    bench: BenchFactory,
) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        wrong = {**FILES, BIG.value: random_bytes(12 * MIB, 66)}
        shelf = shelve(b.folder / "store", wrong)
        torrent = torrent_of(shelf)
        async with b.seed(shelf, torrent) as peer, b.swarm() as swarm:
            partial = await b.partial(FILES[BIG.value])
            await swarm.fill(torrent, BIG, partial, [peer])
            with pytest.raises(DigestMismatch):
                await partial.seal()
            await swarm.drop(torrent.infohash)
            assert swarm.transfers() == []


async def test_a_stopped_swarm_answers_at_once(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        shelf = shelve(b.folder / "store", FILES)
        torrent = torrent_of(shelf)
        async with Swarm(LOOPBACK, b.lane, b.clock) as swarm:
            assert usable(swarm)
            assert swarm.port > 0
            running = b.tasks.start(swarm.run(), "swarm")
            await swarm.seed(torrent, shelf)
            running.cancel()
            await asyncio.wait([running])
            assert not usable(swarm)
            with pytest.raises(SwarmFailed):
                await swarm.fill(torrent, BIG, await b.partial(FILES[BIG.value]), [])
        assert swarm.port == 0


async def test_a_port_in_use_makes_it_unusable_until_it_is_free(bench: BenchFactory) -> None:
    async with bench() as b, asyncio.timeout(BOUND_S):
        server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Swarm(SwarmOptions("127.0.0.1", port), b.lane, b.clock) as swarm:
            assert not usable(swarm)
            with pytest.raises(SwarmFailed, match="cannot listen"):
                await swarm.run()
            server.close()
            await server.wait_closed()
            running = b.tasks.start(swarm.run(), "swarm")
            while not usable(swarm):
                await b.clock.sleep(0.02)
            assert swarm.port == port
            running.cancel()
            await asyncio.wait([running])
