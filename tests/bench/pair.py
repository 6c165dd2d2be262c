"""One whole daemon to another, between two network namespaces, against curl from nginx.

    python -m tests.bench pair

The same 2 GiB: ours with pieces and file hashed, synced and committed; curl only writes. The files
are in memory, where the machine has a tmpfs. Aim: 400 MB/s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from pathlib import Path

from p2pmodels.demo.processes import DaemonProcess, HubProcess
from tests.bench.exchange import MEMORY, ROUNDS, SIZE, curled, served
from tests.bench.rig import REPO, compare, cpu_seconds, make_file, warm_memory
from tests.system.netns import Host, Lab, unavailable

PEER_PORT = 7979  # not that of the bench of the carrier alone, which runs beside
LIMIT_S = "120"  # seconds for one order
LOOK_S = 0.1  # seconds between looks whether the daemons have met


def tell(host: Host, daemon: DaemonProcess, path: str, body: object = None) -> list[object]:
    """Ask the daemon's control API from its own machine; its answer, line by line."""
    words = ["curl", "-sSf", "-m", LIMIT_S, "-H", f"Authorization: Bearer {daemon.control_token}"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = host.run(*words, f"{daemon.url}/api/p2p/v1/{path}", timeout_s=float(LIMIT_S))
    return [json.loads(line) for line in done.stdout.splitlines() if line]


async def met(host: Host, daemon: DaemonProcess) -> None:
    """Wait until the daemon knows a peer that is ready."""
    while True:
        (answer,) = await asyncio.to_thread(tell, host, daemon, "peers")
        if any(peer["state"] == "ready" for peer in answer["peers"]):  # type: ignore[index]
            return
        await asyncio.sleep(LOOK_S)


async def fetched(lab: Lab, folder: Path, source: Path) -> tuple[float, float]:
    """MB/s of a fetch from a warm daemon, and processor seconds of both."""
    giver, taker = lab[0], lab[1]
    order = {"repo": REPO, "revision": "main"}
    folder.mkdir()
    options = ("--host", giver.address, "--file", f"{REPO}:big.bin={source}")
    async with HubProcess(folder, *options, under=giver.command()) as hub:
        common = ("--origin", hub.url, "--no-mdns")
        listens = [f"{host.address}:{PEER_PORT}" for host in (giver, taker)]
        async with (
            DaemonProcess(
                folder / "a", *common, under=giver.command(), lan_listen=listens[0]
            ) as first,
            DaemonProcess(
                folder / "b", *common, "--peer", f"http://{listens[0]}", under=taker.command(),
                lan_listen=listens[1],
            ) as second,
        ):  # fmt: skip
            await asyncio.to_thread(tell, giver, first, "fetch", order)
            await met(taker, second)
            await hub.tell("manifests-only on")
            await asyncio.to_thread(warm_memory, 2 * SIZE)
            before = cpu_seconds(first.pid) + cpu_seconds(second.pid)
            began = time.monotonic()
            events = await asyncio.to_thread(tell, taker, second, "fetch", order)
            seconds = time.monotonic() - began
            cpu = cpu_seconds(first.pid) + cpu_seconds(second.pid) - before
    assert events[-1]["sources"] == {"lan": SIZE}, events[-1]  # type: ignore[index]
    shutil.rmtree(folder)
    return SIZE / seconds / 1e6, cpu


async def run(folder: Path) -> None:
    reason = unavailable()
    if reason is not None:
        print(f"pair: skipped, {reason}")
        return
    with contextlib.ExitStack() as exits:
        if MEMORY.is_dir():
            made = tempfile.TemporaryDirectory(prefix="p2pmodels-bench-", dir=MEMORY)
            folder = Path(exits.enter_context(made))
        source = make_file(folder / "big.bin", SIZE)
        parts = folder / "parts"
        parts.mkdir()
        lab = exits.enter_context(Lab(2))
        exits.enter_context(served(lab[0], folder, source))
        ours, costs, theirs = [], [], []
        for number in range(ROUNDS):
            rate, cpu = await fetched(lab, folder / f"round{number}", source)
            ours.append(rate)
            costs.append(cpu)
            theirs.append(await asyncio.to_thread(curled, lab[1], lab[0], parts, 1))
            for path in parts.iterdir():
                path.unlink()
    compare("2 GiB daemon to daemon, against nginx and one curl", ours, theirs, "MB/s")
    print(f"  processor time of both daemons: {min(costs):.1f}-{max(costs):.1f} s", flush=True)
