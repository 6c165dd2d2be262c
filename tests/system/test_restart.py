"""After a restart everything is there at once, and nothing is read to be sure (design 14)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from p2pmodels.demo.minilm import MINILM_REPO, minilm_files
from p2pmodels.demo.processes import DaemonProcess, HubProcess, Json

BOUND_S = 30
SEEDS = 2  # torrents: the snapshot, and its one large blob
READ_BOUND = 60_000_000  # bytes: Python and its libraries, but not the 91 MB of the model


def rows(view: Json, name: str) -> list[Json]:
    found = view[name]
    assert isinstance(found, list)
    return found


async def until_shared(daemon: DaemonProcess) -> None:
    async with asyncio.timeout(BOUND_S):
        while [row["share"] for row in rows(await daemon.ask("models"), "models")] != ["shared"]:
            await asyncio.sleep(0.05)


async def until_seeding(daemon: DaemonProcess, count: int) -> None:
    async with asyncio.timeout(BOUND_S):
        while (await daemon.ask("status"))["seeding"] != count:
            await asyncio.sleep(0.05)


def bytes_read(daemon: DaemonProcess) -> int:
    """Bytes that the process has read from files, the page cache included."""
    figures = Path(f"/proc/{daemon.pid}/io").read_text()
    return int(figures.split("rchar:")[1].split()[0])


@pytest.mark.asyncio
async def test_a_restarted_daemon_seeds_without_hashing_and_gives_every_byte(
    hub: HubProcess, tmp_path: Path
) -> None:
    size = sum(path.stat().st_size for path in minilm_files().values())
    folder, options = tmp_path / "a", ("--origin", hub.url)
    async with DaemonProcess(folder, *options) as first:
        done = await first.order("fetch", repo=MINILM_REPO, revision="main")
        assert done[-1]["event"] == "done"
        await until_shared(first)
        await until_seeding(first, SEEDS)
    before = hub.file_bytes()
    async with DaemonProcess(folder, *options) as first:
        await until_seeding(first, SEEDS)
        assert bytes_read(first) < READ_BOUND
        (peer_url,) = [str((await first.ask("status"))["peer_url"])]
        async with DaemonProcess(tmp_path / "b", *options, "--no-mdns", "--peer", peer_url) as b:
            async with asyncio.timeout(BOUND_S):
                while (await b.ask("status"))["peers"] != 1:
                    await asyncio.sleep(0.05)
            done = await b.order("fetch", repo=MINILM_REPO, revision="main")
            sources = done[-1]["sources"]  # by BitTorrent as long as there is no link
            assert isinstance(sources, dict)
            assert set(sources) <= {"lan", "swarm"}
            assert sum(sources.values()) == size
    assert hub.file_bytes() == before


@pytest.mark.asyncio
async def test_an_evicted_model_is_withdrawn_from_the_swarm(
    daemon: DaemonProcess, hub: HubProcess
) -> None:
    await daemon.order("fetch", repo=MINILM_REPO, revision="main")
    await until_shared(daemon)
    (told,) = await daemon.order("evict", repo=MINILM_REPO, revision="main")
    assert told["bytes"] == sum(path.stat().st_size for path in minilm_files().values())
    await until_seeding(daemon, 0)
    assert rows(await daemon.ask("models"), "models") == []
    assert not [path for path in (daemon.data_dir / "blobs").rglob("*") if path.is_file()]
