"""Two machines on one LAN, in network namespaces of their own: mDNS, then the exchange."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2pmodels.demo.minilm import MINILM_REPO, minilm_files
from p2pmodels.demo.processes import DaemonProcess, HubProcess
from tests.system.netns import Host, Lab, unavailable

BOUND_S = 40


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Three hosts on one bridge: a hub, and two machines of a room."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    with Lab(3) as made:
        yield made


@asynccontextmanager
async def daemon_on(host: Host, folder: Path, *options: str) -> AsyncIterator[DaemonProcess]:
    listen = f"{host.address}:0"
    async with DaemonProcess(folder, *options, under=host.command(), lan_listen=listen) as running:
        yield running


async def told(host: Host, daemon: DaemonProcess, *words: str) -> dict[str, object]:
    """Run a verb of the command line on that host with `--json`; its last line of output."""
    process = await asyncio.create_subprocess_exec(
        *host.command(sys.executable, "-m", "p2pmodels", *words),
        "--json", "--data-dir", str(daemon.data_dir),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(BOUND_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found = json.loads(out.decode().strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


def row(view: dict[str, object], name: str) -> dict[str, object]:
    rows = view[name]
    assert isinstance(rows, list)
    return rows[0] if rows else {}


@pytest.mark.asyncio
async def test_the_second_machine_gets_every_byte_from_the_first(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = sum(path.stat().st_size for path in minilm_files().values())
    folder = tmp_path / "hub"
    folder.mkdir()
    where = ("--minilm", "--host", lab[0].address)
    async with HubProcess(folder, *where, under=lab[0].command()) as hub:
        async with daemon_on(lab[1], tmp_path / "a", "--origin", hub.url) as first:
            await told(lab[1], first, "fetch", MINILM_REPO)
            async with asyncio.timeout(BOUND_S):
                while row(await told(lab[1], first, "models"), "models")["share"] != "shared":
                    await asyncio.sleep(0.1)
            before = hub.file_bytes()
            await hub.tell("manifests-only on")
            async with daemon_on(lab[2], tmp_path / "b", "--origin", hub.url) as second:
                began = time.monotonic()
                async with asyncio.timeout(BOUND_S):
                    while row(await told(lab[2], second, "peers"), "peers").get("state") != "ready":
                        await asyncio.sleep(0.1)
                found_s = time.monotonic() - began
                began = time.monotonic()
                done = await told(lab[2], second, "fetch", MINILM_REPO)
                fetched_s = time.monotonic() - began
                assert done["sources"] == {"lan": size}
                model = row(await told(lab[2], second, "models"), "models")
                assert model["is_complete"]
    assert hub.file_bytes() == before
    with capsys.disabled():
        print(
            f"\ntwo machines: peer found {found_s:.1f} s after start, {size} bytes from it"
            f" in {fetched_s:.1f} s, 0 from the hub"
        )


@pytest.mark.asyncio
async def test_a_peer_that_vanishes_midway_is_replaced_by_the_origin(
    lab: Lab, tmp_path: Path
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    where = ("--minilm", "--host", lab[0].address)
    size = sum(path.stat().st_size for path in minilm_files().values())
    async with (
        HubProcess(folder, *where, under=lab[0].command()) as hub,
        daemon_on(lab[1], tmp_path / "a", "--origin", hub.url) as first,
        daemon_on(lab[2], tmp_path / "b", "--origin", hub.url) as second,
    ):
        await told(lab[1], first, "fetch", MINILM_REPO)
        async with asyncio.timeout(BOUND_S):
            while row(await told(lab[1], first, "models"), "models")["share"] != "shared":
                await asyncio.sleep(0.1)
            while row(await told(lab[2], second, "peers"), "peers").get("state") != "ready":
                await asyncio.sleep(0.1)
        # A narrow cable, so that the peer is lost in the middle of the weights.
        lab[1].run(
            "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "80mbit", "burst", "64kb",
            "latency", "50ms",
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            fetching = group.create_task(told(lab[2], second, "fetch", MINILM_REPO))
            async with asyncio.timeout(BOUND_S):
                while not await landed(lab[2], second, 10_000_000):
                    await asyncio.sleep(0.1)
            lab[1].unplug()
        sources = fetching.result()["sources"]
        assert isinstance(sources, dict)
        assert sources["lan"] > 1_000_000
        assert sources["origin"] > 1_000_000
        assert size <= sum(sources.values()) <= size * 1.02  # what the peer gave was kept


async def landed(host: Host, daemon: DaemonProcess, at_least: int) -> bool:
    rows = (await told(host, daemon, "transfers"))["transfers"]
    assert isinstance(rows, list)
    return any(row["landed"] >= at_least for row in rows)
