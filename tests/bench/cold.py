"""A cold file through the daemon against a direct ranged download of the same origin.

The origin is paced to 25 MB/s (200 Mbit/s) over all connections and answers after 20 ms, like a hub
on a school's line. Aim: at most 2 % more time, at most 10 ms more to the first byte.
"""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

import aiohttp

from p2pmodels.demo.processes import DaemonProcess
from tests.bench.rig import REPO, compare, curl, hub_of, make_file

SIZE = 100_000_000
RATE = 25_000_000
CONNECTIONS = 4
SEGMENT = 8 << 20
ROUNDS = 3


async def direct(url: str) -> float:
    """Seconds for the same download by a plain program: ranges over four connections."""
    starts = list(range(0, SIZE, SEGMENT))
    began = asyncio.get_running_loop().time()
    async with aiohttp.ClientSession() as session:
        async with session.head(url, allow_redirects=False) as answer:
            target = answer.headers.get("Location", url)

        async def connection() -> None:
            while starts:
                start = starts.pop(0)
                stop = min(start + SEGMENT, SIZE)
                headers = {"Range": f"bytes={start}-{stop - 1}"}
                async with session.get(target, headers=headers) as part:
                    async for _ in part.content.iter_any():
                        pass

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(connection())
    return asyncio.get_running_loop().time() - began


async def direct_first_byte(url: str) -> float:
    """Milliseconds to the first byte of the body, with the redirect that the hub gives."""
    began = asyncio.get_running_loop().time()
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        await answer.content.readany()
        return (asyncio.get_running_loop().time() - began) * 1000


async def run(folder: Path) -> None:
    names = [f"cold{number}.bin" for number in range(2 * ROUNDS)]
    files = {name: make_file(folder / name, SIZE) for name in names}
    ours, theirs, our_first, their_first = [], [], [], []
    async with hub_of(folder / "hub", files, "--rate", str(RATE), "--delay", "0.02") as hub:
        async with DaemonProcess(folder / "d", "--origin", hub.url, "--no-mdns") as daemon:
            for name in names[:ROUNDS]:
                path = f"/{REPO}/resolve/main/{name}"
                theirs.append(await direct(hub.url + path))
                ours.append(await curl(daemon.url + path, "time_total"))
            for name in names[ROUNDS:]:
                path = f"/{REPO}/resolve/main/{name}"
                their_first.append(await direct_first_byte(hub.url + path))
                our_first.append(await curl(daemon.url + path, "time_starttransfer") * 1000)
    compare("cold 100 MB at 25 MB/s, against a direct download", ours, theirs, "s")
    compare("cold, first byte, against a direct download", our_first, their_first, "ms")
    added = statistics.median(our_first) - statistics.median(their_first)
    print(f"{'cold, time added to the first byte':52} {added:9.1f} ms")
