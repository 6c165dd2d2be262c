"""A bare libtorrent pair: one seed, one downloader, TCP over loopback, both in this process.

libtorrent with its defaults, without uTP and discovery. It only moves bytes and checks pieces: it
syncs nothing, computes no whole-file digest and keeps no checkpoint.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import libtorrent as lt

from p2pmodels.core.torrent import Torrent
from tests.bench.rig import Cost, own_cpu_seconds

BARE: Any = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
}


def bare_pair(torrent: Torrent, source: Path, target: Path) -> Cost:
    """What the pair needs from `source`, which has the torrent's folder, to the empty `target`."""
    seed, downloader = lt.session(BARE), lt.session(BARE)
    seed.add_torrent(_parameters(torrent, source, is_seed=True))
    handle = downloader.add_torrent(_parameters(torrent, target, is_seed=False))
    began, cpu_before = time.monotonic(), own_cpu_seconds()
    handle.connect_peer(("127.0.0.1", seed.listen_port()))
    while not handle.status().is_seeding:
        downloader.wait_for_alert(50)
        downloader.pop_alerts()
    return Cost(time.monotonic() - began, own_cpu_seconds() - cpu_before)


def _parameters(torrent: Torrent, folder: Path, *, is_seed: bool) -> Any:
    parameters: Any = lt.load_torrent_buffer(torrent.data)
    parameters.save_path = str(folder)
    parameters.flags = lt.torrent_flags.seed_mode if is_seed else lt.torrent_flags.update_subscribe
    return parameters
