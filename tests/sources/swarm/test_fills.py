"""Partials are filled from real swarms over loopback: what lacks, in order, to the last byte."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from p2pmodels.core.names import FilePath
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.errors import DigestMismatch, SwarmFailed
from p2pmodels.sources.swarm import filling
from p2pmodels.sources.swarm.alerts import Dropped, Event, PieceDone
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.sources.swarm.swarm import Swarm
from tests.sources.swarm.places import LOOPBACK, MIB, BenchFactory, random_bytes, shelve, torrent_of
from tests.sources.swarm.snapshot import BIG, BOUND_S, FILES, SLOW, watched

pytestmark = pytest.mark.asyncio
PIECE = 256 * 1024


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
