"""A real file system that is full (reliability C5, C6): an honest error, and nothing else stops."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2pmodels.demo.hub import Hub
from p2pmodels.demo.processes import DaemonProcess
from tests.system.attacks import BOUND_S, ask, noise

DISK = 64 << 20  # bytes of the small disk
SMALL, LARGE = noise(10_000_000, 31), noise(30_000_000, 32)
ENV = {"P2PMODELS_STORE__FREE_FLOOR_BYTES": "0", "P2PMODELS_FETCH__BRANCH_TTL_S": "0"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of its own, gone again afterwards whatever happened."""
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root to be mounted")
    folder = tmp_path / "d"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if made.returncode != 0:
        pytest.skip(f"tmpfs cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


@asynccontextmanager
async def on_small_disk(folder: Path) -> AsyncIterator[tuple[Hub, DaemonProcess]]:
    async with Hub() as hub:
        hub.add_repo("org/small", {"model.safetensors": SMALL})
        hub.add_repo("org/large", {"model.safetensors": LARGE})
        hub.add_repo("org/new", {"config.json": b"{}"})
        options = ("--origin", hub.url, "--no-mdns")
        async with DaemonProcess(folder, *options, env=ENV) as daemon:
            yield hub, daemon


def model(daemon: DaemonProcess, repo: str, file: str = "model.safetensors") -> str:
    return f"{daemon.url}/org/{repo}/resolve/main/{file}"


def fill(folder: Path, leave: int) -> Path:
    """A file that takes all the room but `leave` bytes, whoever else writes meanwhile."""
    filler = folder / "filler"
    size, step = 0, DISK
    with filler.open("wb") as file:
        while step >= 4096:
            status = os.statvfs(folder)
            try:
                if status.f_bavail * status.f_frsize - step >= leave:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                    continue
            except OSError:
                pass
            step //= 2
    return filler


@pytest.mark.system
@pytest.mark.asyncio
async def test_a_full_disk_is_said_and_what_is_cached_is_served_and_it_recovers(
    small_disk: Path,
) -> None:
    async with on_small_disk(small_disk) as (hub, daemon):
        assert (await ask(model(daemon, "small"))).body == SMALL
        await daemon.order("pin", repo="org/small", revision="main")
        filler = fill(small_disk, 0)
        got = await ask(model(daemon, "large"))
        assert (got.status, b'"disk_full"' in (got.body or b"")) == (507, True)
        assert str(small_disk).encode() not in (got.body or b"")
        # Moved branches and new repos are still resolved, though the index cannot be written.
        hub.add_repo("org/small", {"model.safetensors": SMALL, "more.txt": b"new"})
        assert (await ask(model(daemon, "small"))).body == SMALL
        assert (await ask(model(daemon, "new", "config.json"), "HEAD")).status == 200
        # The figures are due every 5 s: the daemon outlives that they cannot be written.
        await asyncio.sleep(6)
        status = await daemon.ask("status")
        assert (await ask(f"{daemon.url}/healthz")).status == 200
        assert status["served_bytes"]
        filler.unlink()
        assert (await ask(model(daemon, "large"))).body == LARGE  # at once, without a restart
        assert "Traceback" not in daemon.log.read_text()
        assert await daemon.stop() == 0


@pytest.mark.system
@pytest.mark.asyncio
async def test_a_disk_that_fills_up_half_way_keeps_the_partial_and_goes_on_from_it(
    small_disk: Path,
) -> None:
    async with on_small_disk(small_disk) as (hub, daemon):
        hub.faults.rate_bytes_per_s = 8_000_000
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            running = group.create_task(ask(model(daemon, "large")))
            # Two seconds: a checkpoint has been written, and is what the full disk leaves.
            await hub.until(lambda: hub.file_bytes() > 16_000_000)
            filler = fill(small_disk, 1 << 20)
        assert running.result().body is None  # broken off, never short
        assert (await ask(model(daemon, "large"))).status == 507
        filler.unlink()
        before = hub.file_bytes()
        hub.faults.rate_bytes_per_s = None
        assert (await ask(model(daemon, "large"))).body == LARGE
        assert hub.file_bytes() - before < len(LARGE)
        assert "Traceback" not in daemon.log.read_text()


@pytest.mark.system
@pytest.mark.asyncio
async def test_what_was_given_up_makes_room_for_what_is_wanted(small_disk: Path) -> None:
    """Two large files do not fit beside each other: the partial of the first one goes."""
    other = noise(45_000_000, 33)
    async with Hub() as hub:
        hub.add_repo("org/large", {"model.safetensors": LARGE})
        hub.add_repo("org/other", {"model.safetensors": other})
        hub.faults.rate_bytes_per_s = 30_000_000
        options = ("--origin", hub.url, "--no-mdns")
        async with DaemonProcess(small_disk, *options, env=ENV) as daemon:
            async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
                running = group.create_task(ask(model(daemon, "large")))
                await hub.until(lambda: hub.file_bytes() > 25_000_000)
                daemon.signal(signal.SIGKILL)
            assert running.result().body is None
        hub.faults.rate_bytes_per_s = None
        async with DaemonProcess(small_disk, *options, env=ENV) as daemon:
            assert (await ask(model(daemon, "other"))).body == other
            partials = (daemon.data_dir / "partials").iterdir()
            assert [path.name for path in partials if path.stat().st_size] == []


@pytest.mark.asyncio
async def test_the_cache_limit_holds_for_what_is_under_way_too(tmp_path: Path) -> None:
    """Without root: the limit of the configuration instead of a small disk."""
    async with Hub() as hub:
        hub.add_repo("org/large", {"model.safetensors": LARGE})
        hub.add_repo("org/small", {"model.safetensors": SMALL})
        env = {**ENV, "P2PMODELS_STORE__CACHE_LIMIT_BYTES": "35000000"}
        hub.faults.rate_bytes_per_s = 20_000_000
        options = ("--origin", hub.url, "--no-mdns")
        async with DaemonProcess(tmp_path / "d", *options, env=env) as daemon:
            async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
                large = group.create_task(ask(model(daemon, "large")))
                await hub.until(lambda: hub.file_bytes() > 25_000_000)
                small = await ask(model(daemon, "small"))
            assert small.status == 507
            assert large.result().body == LARGE
            assert (await ask(model(daemon, "small"))).body == SMALL  # the other one made room
            store = (await daemon.ask("status"))["store"]
            assert isinstance(store, dict)
            assert store["bytes"] == len(SMALL)
