"""Fills and swarms that fail or are ended do so soon, and keep what has landed."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import RangeSet
from p2pmodels.core.torrent import PeerAddress, Torrent
from p2pmodels.errors import SwarmFailed
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.store.partials import Partial
from tests.sources.swarm.places import LOOPBACK, MIB, BenchFactory, shelve, torrent_of
from tests.sources.swarm.snapshot import BIG, BOUND_S, FILES, SLOW, landed, open_files, watched

pytestmark = pytest.mark.asyncio


def usable(swarm: Swarm) -> bool:
    """A call, so that the type checker does not take the answer for a constant."""
    return swarm.is_usable


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
