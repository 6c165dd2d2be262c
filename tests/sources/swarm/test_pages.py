"""A seed meets web pages only when it is called, and costs nothing until then."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from aiohttp import web

from p2pmodels.clock import RealClock
from p2pmodels.core.tracker import Tracker
from p2pmodels.doors.announce import AnnounceDoor, AnnounceOptions
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.sources.swarm.torrents import handed_out, read_torrent
from tests.peer_fakes import listening
from tests.sources.swarm.places import BenchFactory, random_bytes, shelve, torrent_of

LIMIT_S = 20.0  # seconds until libtorrent has announced; it takes a tenth of one
ENDS_S = 4.0  # seconds; it takes milliseconds, and half a minute when it goes wrong
FILES = {"config.json": b"{}", "model.bin": random_bytes(300_000)}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.asyncio
async def test_a_seed_is_announced_to_our_tracker_once_it_is_called(bench: BenchFactory) -> None:
    async with bench() as b:
        shelf = shelve(b.folder, FILES)
        torrent = torrent_of(shelf)
        swarms = Tracker(lambda infohash: infohash == torrent.infohash, random.Random(7))
        door = AnnounceDoor(swarms, AnnounceOptions(lambda _request: None), RealClock())
        app = web.Application()
        door.add_routes(app)
        async with listening(app) as address:
            options = SwarmOptions(
                listen_host="127.0.0.1", port=0, page_tracker=f"ws://{address}/announce"
            )
            async with b.swarm(options) as swarm:
                swarm.meet_pages(torrent.infohash)  # not seeded: nothing to meet for
                before = open_files()
                await swarm.seed(torrent, shelf)
                assert swarms.sizes == (0, 0, 0) and open_files() <= before + len(FILES)
                swarm.meet_pages(torrent.infohash)
                async with asyncio.timeout(LIMIT_S):
                    while swarms.sizes != (1, 1, 0):
                        await b.clock.sleep(0.01)
                # It has gone from the tracker, as after a lost connection, and is called again.
                (line,) = (line for line in door._clients if line.swarms)
                swarms.leave(line)
                line.is_open = True
                async with asyncio.timeout(LIMIT_S):
                    while swarms.sizes != (1, 1, 0):
                        # Again and again, as the tracker does: one under way is not begun anew.
                        swarm.meet_pages(torrent.infohash)
                        await b.clock.sleep(0.3)
                ends_at = b.clock.monotonic() + ENDS_S
            # libtorrent would wait for this process to hang up, and keep it from doing so.
            assert b.clock.monotonic() < ends_at


@pytest.mark.asyncio
async def test_without_a_tracker_for_pages_nothing_is_announced(bench: BenchFactory) -> None:
    async with bench() as b:
        shelf = shelve(b.folder, FILES)
        torrent = torrent_of(shelf)
        async with b.swarm() as swarm:
            await swarm.seed(torrent, shelf)
            before = open_files()
            swarm.meet_pages(torrent.infohash)
            assert open_files() == before


def test_a_torrent_handed_out_is_the_same_torrent(tmp_path: Path) -> None:
    torrent = torrent_of(shelve(tmp_path, FILES))
    for web_seed in ("", "http://127.0.0.1:7878/webseed/"):
        data = handed_out(torrent, ["ws://192.168.1.5:7879/announce"], web_seed)
        assert read_torrent(data) == torrent
