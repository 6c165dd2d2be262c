"""Fills that begin at the same moment: each file's bytes land in its own partial, nowhere else."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from p2pmodels.clock import RealClock
from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import Commit, FilePath
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.sources.swarm.torrents import make_torrent
from p2pmodels.store.disk import RealDisk
from p2pmodels.store.partials import Partial
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane
from tests.contents import content

LOOPBACK = SwarmOptions(listen_host="127.0.0.1", port=0)
ROUNDS = 5  # the moment between adding a torrent and naming its files is short


@pytest.mark.asyncio
async def test_files_wanted_while_the_torrent_is_added_are_read_through_their_own_partials(
    tmp_path: Path, lane: Lane
) -> None:
    sizes = [3_000_000, 700_000, *(1_000 * n for n in range(1, 11))]
    files = {FilePath(f"f{n}.bin"): content(size, n)[0] for n, size in enumerate(sizes)}
    source = tmp_path / "source"
    source.mkdir()
    for path, data in files.items():
        (source / path.value).write_bytes(data)
    listed = [(path, len(data), source / path.value) for path, data in files.items()]
    torrent = make_torrent(Commit("a" * 40), listed)
    clock = RealClock()
    async with Tasks() as tasks, Swarm(LOOPBACK, lane, clock) as seed:
        tasks.start(seed.run(), "seed")
        await seed.seed(torrent, {path: source / path.value for path in files})
        for turn in range(ROUNDS):
            folder = tmp_path / f"partials{turn}"
            folder.mkdir()
            async with Tasks() as running, Swarm(LOOPBACK, lane, clock) as leech:
                running.start(leech.run(), "leech")

                async def fill(path: FilePath, leech: Swarm = leech, into: Path = folder) -> None:
                    data = files[path]
                    digest = Sha256(hashlib.sha256(data).hexdigest())
                    partial = Partial(digest, len(data), into / digest.key, RealDisk(), lane, clock)
                    await partial.open()
                    peer = PeerAddress("127.0.0.1", seed.port)
                    await leech.fill(torrent, path, partial, [peer])
                    assert await partial.seal() == digest  # read through its own descriptor
                    await partial.close()

                async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                    for path in files:
                        group.create_task(fill(path))
            assert not (folder / torrent.name.value).exists()
