"""Daemon to daemon over BitTorrent against a bare libtorrent pair; aim 0.9."""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
import time
from pathlib import Path

from p2pmodels.core.torrent import Torrent
from p2pmodels.demo.processes import DaemonProcess
from p2pmodels.sources.swarm.torrents import read_torrent
from tests.bench.rig import REPO, compare, hub_of, make_file
from tests.bench.swarm_pair import BARE, bare

SIZE = 1_000_000_000
ROUNDS = 3


async def daemon_pair(folder: Path, source: Path) -> tuple[float, bytes]:
    """MB/s of the second daemon's fetch, and the torrent it used."""
    async with hub_of(folder / "hub", {"big.bin": source}) as hub:
        options = ("--origin", hub.url)
        async with DaemonProcess(folder / "a", *options) as first:
            await first.order("fetch", repo=REPO, revision="main")
            torrent = (await first.order("torrent", repo=REPO, revision="main"))[0]["torrent"]
            async with DaemonProcess(folder / "b", *options) as second:
                while not (await second.ask("status"))["peers"]:
                    await asyncio.sleep(0.05)
                await hub.tell("manifests-only on")
                began = time.monotonic()
                done = (await second.order("fetch", repo=REPO, revision="main"))[-1]
                seconds = time.monotonic() - began
                assert done["sources"] == {"swarm": SIZE}, done
    return SIZE / seconds / 1e6, base64.b64decode(str(torrent))


def bare_rate(torrent: Torrent, source: Path, folder: Path) -> float:
    """MB/s of two plain libtorrent sessions with the same torrent."""
    seed = folder / "seed" / torrent.name.value
    seed.mkdir(parents=True, exist_ok=True)
    if not (seed / "big.bin").exists():
        os.link(source, seed / "big.bin")
    with tempfile.TemporaryDirectory(dir=folder) as target:
        return SIZE / bare(torrent, folder / "seed", Path(target), BARE) / 1e6


async def run(folder: Path) -> None:
    source = make_file(folder / "big.bin", SIZE)
    ours, theirs = [], []
    for number in range(ROUNDS):
        rate, data = await daemon_pair(folder / f"round{number}", source)
        ours.append(rate)
        torrent = read_torrent(data)
        theirs.append(await asyncio.to_thread(bare_rate, torrent, source, folder))
    compare("1 GB daemon to daemon, against bare libtorrent", ours, theirs, "MB/s")
