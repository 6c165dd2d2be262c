"""Many clients at once, files changed behind our back, and what is left over afterwards.

Reliability G1 to G3, C12, C17, F13, H11.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from p2pmodels.demo.hub import Hub
from p2pmodels.demo.processes import DaemonProcess
from tests.system.attacks import BOUND_S, ask, daemon_of, leave_early, noise

SIZE = 3_000_000
MODEL = noise(SIZE, 3)
SMALL = noise(9_000, 4)


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as running:
        running.add_repo("org/m", {"model.safetensors": MODEL, "small.bin": SMALL})
        yield running


@pytest_asyncio.fixture
async def daemon(hub: Hub, tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    async with daemon_of(hub, tmp_path / "d") as running:
        yield running


def model_of(daemon: DaemonProcess, file: str = "model.safetensors") -> str:
    return f"{daemon.url}/org/m/resolve/main/{file}"


def blob_of(daemon: DaemonProcess, content: bytes) -> Path:
    name = hashlib.sha256(content).hexdigest()
    return daemon.data_dir / "blobs" / name[:2] / name


async def many(url: str, count: int) -> list[bytes | None]:
    """The bodies that so many clients get who ask at the same moment."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        async with asyncio.timeout(BOUND_S * 2), asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(url, session=session)) for _ in range(count)]
    assert {task.result().status for task in tasks} == {200}
    return [task.result().body for task in tasks]


@pytest.mark.asyncio
async def test_two_hundred_clients_of_one_cold_file_cost_one_download(
    daemon: DaemonProcess, hub: Hub
) -> None:
    hub.faults.rate_bytes_per_s = 5_000_000
    digests = {hashlib.sha256(b or b"").digest() for b in await many(model_of(daemon), 200)}
    assert digests == {hashlib.sha256(MODEL).digest()}
    await hub.quiet()
    assert hub.file_bytes() <= SIZE * 1.01
    assert len(hub.requests(contains="/api/models")) == 1


@pytest.mark.asyncio
async def test_a_client_that_leaves_hurts_nobody_and_what_nobody_wants_ends(
    daemon: DaemonProcess, hub: Hub
) -> None:
    hub.faults.rate_bytes_per_s = 3_000_000
    url = model_of(daemon)
    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
        leader = group.create_task(leave_early(url, 100_000))
        followers = [group.create_task(ask(url)) for _ in range(3)]
        await leader
    assert all(task.result().body == MODEL for task in followers)
    assert hub.file_bytes() <= SIZE * 1.01

    await daemon.order("evict", repo="org/m")
    hub.faults.rate_bytes_per_s = 400_000
    before = hub.file_bytes()
    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(leave_early(url, 10_000))
    async with asyncio.timeout(BOUND_S):
        while (await daemon.ask("status"))["transfers"]:
            await asyncio.sleep(0.1)
    assert hub.file_bytes() - before < SIZE
    hub.faults.rate_bytes_per_s = None
    assert (await ask(url)).body == MODEL  # and it went on from where it was
    assert hub.file_bytes() - before <= SIZE * 1.2


async def delete(path: Path) -> None:
    path.unlink()


async def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


async def extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


async def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


async def make_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


async def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.asyncio
async def test_a_blob_changed_behind_our_back_is_fetched_again_whoever_asks(
    daemon: DaemonProcess,
) -> None:
    for file, content in (("small.bin", SMALL), ("model.safetensors", MODEL)):
        url, path = model_of(daemon, file), blob_of(daemon, content)
        assert (await ask(url)).body == content
        for change in (delete, truncate, extend, make_a_folder, make_a_link, make_a_pipe):
            await change(path)
            bodies = await many(url, 12)
            assert all(body == content for body in bodies), (file, change.__name__)
            assert path.read_bytes() == content, (file, change.__name__)
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.asyncio
async def test_the_shared_files_door_finds_a_damaged_blob_too(daemon: DaemonProcess) -> None:
    assert (await ask(model_of(daemon))).body == MODEL
    path = blob_of(daemon, MODEL)
    shared = f"{daemon.url}/files/{path.name}"
    async with asyncio.timeout(BOUND_S):
        while (await ask(shared)).status != 200:
            await asyncio.sleep(0.05)
    await truncate(path)
    assert (await ask(shared)).status == 404
    assert (await ask(model_of(daemon))).body == MODEL


@pytest.mark.asyncio
async def test_eviction_while_it_is_served_fetched_and_seeded_gives_no_wrong_byte(
    daemon: DaemonProcess, hub: Hub
) -> None:
    hub.faults.rate_bytes_per_s = 15_000_000
    url = model_of(daemon)

    async def keep_asking() -> None:
        for _ in range(15):
            got = await ask(url)
            assert got.status in (200, 429), got
            if got.status == 200:
                assert got.body in (MODEL, None)  # whole, or visibly broken off

    async def keep_evicting() -> None:
        for _ in range(15):
            await daemon.order("evict", repo="org/m")
            await asyncio.sleep(0.03)  # the moments are the experiment

    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(keep_asking())
        group.create_task(keep_evicting())
    assert (await ask(url)).body == MODEL
    assert "Traceback" not in daemon.log.read_text()


def figures_of(pid: int) -> tuple[int, int, int]:
    """Open files, threads, and resident KiB of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    words = dict(line.split(":", 1) for line in status.splitlines())
    memory = int(words["VmRSS"].split()[0])
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(words["Threads"]), memory


@pytest.mark.asyncio
async def test_five_hundred_requests_of_every_kind_leave_nothing_behind(
    daemon: DaemonProcess,
) -> None:
    url = model_of(daemon)

    async def round_of_requests(count: int) -> None:
        connector = aiohttp.TCPConnector(limit=20)
        async with aiohttp.ClientSession(connector=connector) as session:
            async with asyncio.TaskGroup() as group:
                for number in range(count // 5):
                    group.create_task(leave_early(url, 100_000))
                    group.create_task(ask(url, session=session, Range=f"bytes={number}-99999"))
                    group.create_task(ask(model_of(daemon, "small.bin"), session=session))
                    group.create_task(ask(model_of(daemon, f"no{number}"), session=session))
                    group.create_task(ask(f"{daemon.url}/no{number}/x/resolve/main/y"))

    async def settled() -> tuple[int, int, int]:
        """The figures once the sockets of those who left are closed."""
        low = figures_of(daemon.pid)
        for _ in range(15):
            await asyncio.sleep(0.05)
            low = min(low, figures_of(daemon.pid))
        return low

    async with asyncio.timeout(BOUND_S * 2):
        await round_of_requests(500)  # what is kept on purpose is there now
        files, threads, memory = await settled()
        await round_of_requests(500)
        files_then, threads_then, memory_then = await settled()
    assert files_then <= files + 3
    assert threads_then <= threads + 2
    assert memory_then <= memory + 8 * 1024
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.asyncio
async def test_an_end_in_the_middle_of_everything_is_orderly(hub: Hub, tmp_path: Path) -> None:
    hub.faults.rate_bytes_per_s = 1_500_000
    for moment in (0.0, 0.1, 0.4):
        async with daemon_of(hub, tmp_path / "d") as daemon:

            async def client(url: str) -> None:
                try:
                    got = await ask(url)
                    assert got.body in (None, MODEL, SMALL) or got.status in (429, 502, 503)
                except aiohttp.ClientError:
                    return

            async def order(daemon: DaemonProcess) -> None:
                try:
                    await daemon.order("fetch", repo="org/m")
                except aiohttp.ClientError:
                    return

            async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(client(model_of(daemon)))
                    group.create_task(client(model_of(daemon, "small.bin")))
                group.create_task(order(daemon))
                await asyncio.sleep(moment)  # the moment is the experiment
                daemon.signal(signal.SIGTERM)
                assert await daemon.wait() == 0
            log = daemon.log.read_text()
            assert "Traceback" not in log, log[-3000:]


@pytest.mark.asyncio
async def test_a_signal_at_any_moment_of_the_start_leaves_a_folder_that_starts_again(
    hub: Hub, tmp_path: Path
) -> None:
    arguments = (
        "-m", "p2pmodels", "serve", "--data-dir", str(tmp_path / "d" / "data"), "--origin", hub.url,
        "--listen", "127.0.0.1:0", "--lan-listen", "127.0.0.1:0", "--bt-port", "0", "--no-mdns",
    )  # fmt: skip
    for number, moment in ((15, 0.4), (1, 0.6), (2, 0.8)):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await asyncio.sleep(moment)  # the moment is the experiment
        process.send_signal(number)
        async with asyncio.timeout(BOUND_S):
            _, err = await process.communicate()
        assert process.returncode in (0, 130, -number), err.decode()
        assert b"Traceback" not in err or b"KeyboardInterrupt" in err, err.decode()
    async with daemon_of(hub, tmp_path / "d") as daemon:
        assert (await ask(model_of(daemon, "small.bin"))).body == SMALL
