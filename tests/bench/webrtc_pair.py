"""A complete blob between two ends that only UDP joins: our shard channel against libtorrent's.

Ours: two WebRTC parts with their children, pulls side by side into a partial, with the digests, the
checkpoints and the syncs of a fetch. Theirs: a bare seed and a bare downloader that meet at our
tracker, with TCP and uTP off; they check pieces and do nothing else. Both stay on this machine.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import libtorrent as lt
from aiohttp import web

from p2pmodels.clock import RealClock
from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import FilePath
from p2pmodels.core.pull_picker import PULL_BYTES, PULLS_PER_PEER
from p2pmodels.core.torrent import Torrent
from p2pmodels.core.tracker import Tracker
from p2pmodels.doors.announce import ANNOUNCE_PATH, AnnounceDoor, AnnounceOptions
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.swarm.settings import SwarmOptions, session_settings
from p2pmodels.sources.swarm.torrents import handed_out, make_torrent
from p2pmodels.store.disk import RealDisk
from p2pmodels.store.partials import Partial
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane, workers
from tests.bench.rig import Cost, compare, cpu_seconds, make_file, own_cpu_seconds, warm_memory
from tests.peer_fakes import listening
from tests.sources.rtc.pairs import Giver, Part, joined, running
from tests.system.rtc_room import children_of, digest_of

SIZE = 256 << 20
ROUNDS = 5
LIMIT_S = 120.0  # seconds for one transfer
LOOK_S = 0.01  # seconds between two looks at what libtorrent has
EXTRA = """\
  ours, in addition: sha256 of the whole file, a sync before the end, three processes, not one
  theirs, before: one to two seconds from the announce to the first byte; our channel is open"""
WITHOUT_TCP: Mapping[str, Any] = {
    "enable_incoming_tcp": False,
    "enable_outgoing_tcp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
}


# ---- ours


async def ours(source: Path, digest: Sha256, folder: Path, lane: Lane) -> Cost:
    """Pull the blob over a shard channel that is open; the children's time counts."""
    dialler, acceptor = Part(), Part()
    partial = Partial(digest, SIZE, folder / "partial", RealDisk(), lane, RealClock())
    async with running(dialler, acceptor), Tasks() as tasks:
        channel, theirs = await joined(dialler, acceptor)
        Giver(theirs, source, tasks)
        await partial.open()
        await asyncio.to_thread(warm_memory, 2 * SIZE)
        cpu_before, began = _cpu(), time.monotonic()
        async with asyncio.timeout(LIMIT_S):
            await _pull_all(channel, partial)
            await partial.seal()
        cost = Cost(time.monotonic() - began, _cpu() - cpu_before)
    await partial.close()
    partial.path.unlink()
    return cost


async def _pull_all(channel: ShardChannel, partial: Partial) -> None:
    """As many pulls at once as a fetch has with one peer; what has come is hashed meanwhile."""
    starts = iter(range(0, partial.size, PULL_BYTES))

    async def pull() -> None:
        for start in starts:
            stop = min(partial.size, start + PULL_BYTES)
            with partial.borrow():
                await channel.pull(partial.digest, start, stop, partial.put, lambda _count: None)
            await partial.mark(start, stop)
            await partial.hash_on()

    async with asyncio.TaskGroup() as pulls:
        for _ in range(PULLS_PER_PEER):
            pulls.create_task(pull())


def _cpu() -> float:
    return own_cpu_seconds() + sum(map(cpu_seconds, children_of(os.getpid())))


# ---- theirs


@asynccontextmanager
async def tracker() -> AsyncIterator[str]:
    """Our tracker for whatever torrent; its URL."""
    swarms = Tracker(lambda _infohash: True, random.Random(7))
    app = web.Application()
    AnnounceDoor(swarms, AnnounceOptions(lambda _request: None), RealClock()).add_routes(app)
    async with listening(app) as address:
        yield f"ws://{address}{ANNOUNCE_PATH}"


async def theirs(torrent: Torrent, source: Path, folder: Path) -> Cost:
    """Let two sessions in a process of their own do it; the tracker's time does not count."""
    async with tracker() as url:
        data = handed_out(torrent, [url])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.webrtc_pair", source, folder,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(LIMIT_S):
            out, _ = await process.communicate(base64.b64encode(data))
    (folder / torrent.name.value).unlink()
    return Cost(**json.loads(out))


def pair(data: bytes, source: Path, folder: Path) -> Cost:
    """From the first bytes on until every piece is checked, as if those had come meanwhile."""
    settings: Any = session_settings(SwarmOptions(listen_host="127.0.0.1", port=0))
    settings |= {**WITHOUT_TCP, "min_websocket_announce_interval": 1}
    seed, downloader = lt.session(settings), lt.session(settings)
    seeding = seed.add_torrent(_parameters(data, source, is_seed=True))
    while not any(tracker["verified"] for tracker in seeding.trackers()):
        time.sleep(LOOK_S)
    warm_memory(2 * SIZE)
    handle = downloader.add_torrent(_parameters(data, folder, is_seed=False))
    while not (before := handle.status().total_payload_download):
        time.sleep(LOOK_S)
    # They have met; our channel is open when it begins, too.
    cpu_before, began = own_cpu_seconds(), time.monotonic()
    while not handle.status().is_seeding:
        time.sleep(LOOK_S)
    share = SIZE / (SIZE - before)
    seconds, cpu = time.monotonic() - began, own_cpu_seconds() - cpu_before
    return Cost(share * seconds, share * cpu)


def _parameters(data: bytes, folder: Path, *, is_seed: bool) -> Any:
    parameters: Any = lt.load_torrent_buffer(data)
    parameters.save_path = str(folder)
    if is_seed:
        parameters.flags |= lt.torrent_flags.seed_mode
    return parameters


# ---- both


def rate(cost: Cost) -> float:
    """MB/s."""
    return SIZE / cost.seconds / 1e6


async def run(folder: Path) -> None:
    digest = Sha256(digest_of(make_file(folder / "blob", SIZE)))
    source, target = folder / digest.value, folder / "target"
    (folder / "blob").rename(source)
    target.mkdir()
    torrent = make_torrent(digest, [(FilePath(digest.value), SIZE, source)])
    our, their = [], []
    async with workers() as lane:
        for _ in range(ROUNDS):
            our.append(await ours(source, digest, target, lane))
            their.append(await theirs(torrent, folder, target))
    title = "256 MiB over WebRTC, against libtorrent's"
    compare(title, [rate(cost) for cost in our], [rate(cost) for cost in their], "MB/s")
    title = "the same, processor time of both ends"
    compare(title, [c.cpu_seconds for c in our], [c.cpu_seconds for c in their], "s")
    print(EXTRA, flush=True)


if __name__ == "__main__":
    given = base64.b64decode(sys.stdin.buffer.read())
    print(json.dumps(asdict(pair(given, Path(sys.argv[1]), Path(sys.argv[2])))), flush=True)
    os._exit(0)  # a session waits at its end for the tracker to hang up
