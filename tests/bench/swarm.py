"""Daemon to daemon, over the LAN exchange, against a bare libtorrent pair; aim 0.9."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import tempfile
import time
from pathlib import Path

from p2pmodels.core.torrent import Torrent
from p2pmodels.demo.processes import DaemonProcess
from p2pmodels.sources.swarm.torrents import read_torrent
from tests.bench.rig import (
    REPO,
    Cost,
    compare,
    cpu_seconds,
    free_port,
    hub_of,
    make_file,
    warm_memory,
)
from tests.bench.swarm_pair import bare_pair

SIZE = 1_000_000_000
ROUNDS = 5
EXTRA = """\
  ours, in addition: sha256 of the whole file, a sync and a checkpoint each second, a sync of all
  before "done", two Python processes instead of one, looking up the peer and the torrent"""


async def daemon_pair(folder: Path, source: Path) -> tuple[Cost, Torrent]:
    """What the second daemon's fetch costs both of them, and the torrent it used."""
    async with hub_of(folder / "hub", {"big.bin": source}) as hub:
        # Named peers only: others on this network are nobody's peers here.
        options, port = ("--origin", hub.url, "--no-mdns"), free_port()
        listen = f"127.0.0.1:{port}"
        async with DaemonProcess(folder / "a", *options, lan_listen=listen) as first:
            await first.order("fetch", repo=REPO, revision="main")
            torrent = (await first.order("torrent", repo=REPO, revision="main"))[0]["torrent"]
            peer = ("--peer", f"http://{listen}")
            async with DaemonProcess(folder / "b", *options, *peer) as second:
                while not (await second.ask("status"))["peers"]:
                    await asyncio.sleep(0.05)
                await hub.tell("manifests-only on")
                await asyncio.to_thread(warm_memory, 3 * SIZE)
                cpu_before = cpu_seconds(first.pid) + cpu_seconds(second.pid)
                began = time.monotonic()
                done = (await second.order("fetch", repo=REPO, revision="main"))[-1]
                seconds = time.monotonic() - began
                cpu = cpu_seconds(first.pid) + cpu_seconds(second.pid) - cpu_before
                assert done["event"] == "done" and done["sources"] == {"lan": SIZE}, done
    shutil.rmtree(folder)
    return Cost(seconds, cpu), read_torrent(base64.b64decode(str(torrent)))


def bare(torrent: Torrent, source: Path, folder: Path) -> Cost:
    """What two plain libtorrent sessions need for the same torrent."""
    seed = folder / "seed" / torrent.name.value
    seed.mkdir(parents=True, exist_ok=True)
    if not (seed / "big.bin").exists():
        os.link(source, seed / "big.bin")
    with tempfile.TemporaryDirectory(dir=folder) as target:
        warm_memory(3 * SIZE)
        return bare_pair(torrent, folder / "seed", Path(target))


def rate(cost: Cost) -> float:
    """MB/s."""
    return SIZE / cost.seconds / 1e6


async def run(folder: Path) -> None:
    source = make_file(folder / "big.bin", SIZE)
    ours, theirs = [], []
    for number in range(ROUNDS):
        cost, torrent = await daemon_pair(folder / f"round{number}", source)
        ours.append(cost)
        theirs.append(await asyncio.to_thread(bare, torrent, source, folder))
    title = "1 GB daemon to daemon, against bare libtorrent"
    compare(title, [rate(cost) for cost in ours], [rate(cost) for cost in theirs], "MB/s")
    title = "the same, processor time of both ends"
    compare(title, [c.cpu_seconds for c in ours], [c.cpu_seconds for c in theirs], "s")
    print(EXTRA, flush=True)
