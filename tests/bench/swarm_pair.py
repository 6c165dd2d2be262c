"""Our swarm against bare libtorrent: one seed, one downloader, TCP over loopback, the same run.

    python tests/bench/swarm_pair.py [MiB] [rounds]

"bare" is libtorrent with its defaults, without uTP and discovery, started from a script; "tuned" is
the same with our settings. Ours goes through `Swarm`: every piece is flushed and marked on a
partial, as readers need it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

from p2pmodels.clock import RealClock
from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import FilePath
from p2pmodels.core.torrent import PeerAddress, Torrent
from p2pmodels.sources.swarm.settings import SwarmOptions, session_settings
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.sources.swarm.torrents import make_torrent
from p2pmodels.store.disk import RealDisk
from p2pmodels.store.partials import Partial
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane

MIB = 1 << 20
LOOPBACK = SwarmOptions(listen_host="127.0.0.1", port=0)
BARE: dict[str, Any] = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
}


def blob_of(folder: Path, size: int) -> tuple[Path, Sha256]:
    """A file of random bytes, named by its digest."""
    hasher, path = hashlib.sha256(), folder / "blob"
    with path.open("wb") as file:
        for _ in range(size // MIB):
            block = os.urandom(MIB)
            hasher.update(block)
            file.write(block)
    digest = Sha256(hasher.hexdigest())
    return path.rename(folder / digest.value), digest


def bare_parameters(torrent: Torrent, folder: Path, *, is_seed: bool) -> Any:
    parameters: Any = lt.load_torrent_buffer(torrent.data)
    parameters.save_path = str(folder)
    parameters.flags = lt.torrent_flags.seed_mode if is_seed else lt.torrent_flags.update_subscribe
    return parameters


def bare(torrent: Torrent, source: Path, target: Path, settings: dict[str, Any]) -> float:
    """Seconds that a pair of plain sessions needs."""
    pack: Any = settings
    seed, leech = lt.session(pack), lt.session(pack)
    seed.add_torrent(bare_parameters(torrent, source, is_seed=True))
    handle = leech.add_torrent(bare_parameters(torrent, target, is_seed=False))
    began = time.monotonic()
    handle.connect_peer(("127.0.0.1", seed.listen_port()))
    while not handle.status().is_seeding:
        leech.wait_for_alert(50)
        leech.pop_alerts()
    return time.monotonic() - began


async def ours(torrent: Torrent, source: Path, target: Path) -> float:
    """Seconds that a pair of our swarms needs, seed in the same process as with `bare`."""
    name, size = torrent.name.value, torrent.files[0].size
    clock = RealClock()
    async with (
        Lane("bench", 4) as lane,
        Tasks() as tasks,
        Swarm(LOOPBACK, lane, clock) as seed,
        Swarm(LOOPBACK, lane, clock) as leech,
    ):
        running = [tasks.start(swarm.run(), "swarm") for swarm in (seed, leech)]
        await seed.seed(torrent, {FilePath(name): source / name})
        partial = Partial(Sha256(name), size, target / name, RealDisk(), lane, clock)
        await partial.open()
        began = time.monotonic()
        await leech.fill(torrent, FilePath(name), partial, [PeerAddress("127.0.0.1", seed.port)])
        took = time.monotonic() - began
        if not partial.is_full:
            raise SystemExit("not full")
        await partial.close()
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        return took


def main() -> None:
    """Alternate the two and print medians and their ratio."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    rates: dict[str, list[float]] = {"bare": [], "tuned": [], "ours": []}
    tuned = session_settings(LOOPBACK)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        path, digest = blob_of(folder, mib * MIB)
        torrent = make_torrent(digest, [(FilePath(digest.value), mib * MIB, path)])
        for turn in range(rounds):
            for name in rates:
                target = folder / f"{name}{turn}"
                target.mkdir()
                if name != "ours":
                    seconds = bare(torrent, folder, target, BARE if name == "bare" else tuned)
                else:
                    seconds = asyncio.run(ours(torrent, folder, target))
                (target / digest.value).unlink()
                rates[name].append(mib * MIB / seconds / 1e6)
                print(f"{name} {turn}: {rates[name][-1]:.0f} MB/s", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(", ".join(f"{name} {median:.0f} MB/s" for name, median in medians.items()))
    for name in ("bare", "tuned"):
        print(f"ours / {name} {medians['ours'] / medians[name]:.2f}")


if __name__ == "__main__":
    main()
