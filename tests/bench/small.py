"""A warm 1 KB file over one kept connection: p50 and p99; aim 3 and 15 ms."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.rig import REPO, compare, make_file, nginx, warm_daemon

REQUESTS = 3000
ROUNDS = 3


async def latencies(url: str, requests: int = REQUESTS) -> list[float]:
    """Milliseconds from request to last byte, one after the other, sorted."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    found = []
    for _ in range(requests):
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        found.append((time.perf_counter() - began) * 1000)
    writer.close()
    return sorted(found)


async def run(folder: Path) -> None:
    source = make_file(folder / "small.bin", 1024)
    async with warm_daemon(folder, {"small.bin": source}) as daemon, nginx(folder, folder) as peer:
        ours: list[list[float]] = []
        theirs: list[list[float]] = []
        for _ in range(ROUNDS):
            ours.append(await latencies(f"{daemon.url}/{REPO}/resolve/main/small.bin"))
            theirs.append(await latencies(f"{peer}/small.bin"))
        for name, place in (("p50", REQUESTS // 2), ("p99", REQUESTS * 99 // 100)):
            title = f"warm 1 KB, {name} of {REQUESTS}, against nginx"
            compare(title, [r[place] for r in ours], [r[place] for r in theirs], "ms")
