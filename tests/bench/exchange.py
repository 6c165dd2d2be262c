"""Pulls from a peer's port against curl from nginx, between two network namespaces.

    python -m tests.bench exchange

Both ends of ours are Python processes: the server is the real peer port, the client a `RangeClient`
that writes what comes and takes its sha256. curl writes only. The files are in memory, where the
machine has a tmpfs, so that the disk measures nothing. Aim: 400 MB/s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pmodels.clock import RealClock
from p2pmodels.core.digests import Sha256
from p2pmodels.core.pieces import MIB
from p2pmodels.errors import HolderBusy
from p2pmodels.sources.lan.ranges import Endpoint, RangeClient
from p2pmodels.transfer.uploads import HeldBytes, Uploads
from tests.bench.rig import NGINX, compare, make_file, warm_memory
from tests.peer_fakes import MemoryCatalogue, MemoryLinks, door, fresh_id
from tests.system.netns import Host, Lab, unavailable

SIZE = 2 << 30
REQUEST = 8 * MIB  # bytes of one pull: a lease
ROUNDS = 3
STREAMS = (1, 2, 4)
BLOB = Sha256("b1" * 32)
TICKET = "ab" * 16
OUR_PORT, NGINX_PORT = 7879, 8080
LIMIT_S = 120.0  # seconds for one transfer
MEMORY = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it


async def serve(path: Path, host: str) -> None:
    """The peer port over one file, until it is ended."""
    size = path.stat().st_size
    catalogue = MemoryCatalogue(blobs={BLOB: HeldBytes(path, size)})
    links = MemoryLinks(tickets={TICKET: fresh_id()})
    async with door(catalogue, host=host, port=OUR_PORT, links=links, uploads=Uploads(RealClock())):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def pull(host: str, target: Path, size: int, streams: int, request: int) -> None:
    """Fetch the file with so many pulls at once; prints the seconds."""
    peer = Endpoint(host, OUR_PORT, TICKET)
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.truncate(fd, size)
    starts = iter(range(0, size, request))
    received = 0

    def on_bytes(count: int) -> None:
        nonlocal received
        received += count

    async def one_by_one(client: RangeClient) -> None:
        for start in starts:
            stop, hasher = min(start + request, size), hashlib.sha256()

            def sink(offset: int, view: memoryview, hasher=hasher) -> None:  # type: ignore[no-untyped-def]
                os.pwrite(fd, view, offset)
                hasher.update(view)

            while True:
                try:
                    await client.pull(peer, BLOB, start, stop, sink, on_bytes)
                    break
                except HolderBusy as busy:
                    await asyncio.sleep(busy.retry_after_s)

    async with RangeClient() as client:
        began, cpu = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(one_by_one(client))
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    os.close(fd)
    assert received == size
    print(json.dumps({"seconds": seconds, "cpu": cpu}))


def pulled(client: Host, server: Host, target: Path, streams: int, request: int) -> float:
    """MB/s of our pulls."""
    done = client.run(
        sys.executable, "-m", "tests.bench.exchange", "pull", "--host", server.address,
        "--path", target, "--size", str(SIZE), "--streams", str(streams),
        "--request", str(request), timeout_s=LIMIT_S,
    )  # fmt: skip
    return SIZE / float(json.loads(done.stdout)["seconds"]) / 1e6


def curled(client: Host, server: Host, folder: Path, streams: int) -> float:
    """MB/s of so many curls, each with its part of the file."""
    url = f"http://{server.address}:{NGINX_PORT}/big.bin"
    part = SIZE // streams
    began = time.monotonic()
    running = [
        client.start(
            "curl", "-sSf", "-r", f"{n * part}-{(n + 1) * part - 1}", "-o", folder / f"part{n}", url
        )
        for n in range(streams)
    ]
    for process in running:
        assert process.wait(LIMIT_S) == 0
    return SIZE / (time.monotonic() - began) / 1e6


@contextmanager
def served(server: Host, folder: Path, source: Path) -> Iterator[None]:
    """Both servers, listening."""
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    listen = NGINX.format(folder=folder, port=NGINX_PORT, root=folder)
    config.write_text("user root;" + listen.replace("127.0.0.1", server.address))
    server.start("nginx", "-c", config, "-p", folder)
    ours = server.start(
        sys.executable, "-m", "tests.bench.exchange", "serve", "--host", server.address,
        "--path", source,
    )  # fmt: skip
    assert ours.stdout is not None and ours.stdout.readline() == "ready\n"
    yield


def measure(folder: Path) -> None:
    source, target = make_file(folder / "big.bin", SIZE), folder / "target"
    parts = folder / "parts"
    parts.mkdir()
    with Lab(2) as lab, served(lab[0], folder, source):
        warm_memory(2 * SIZE)
        for streams in STREAMS:
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(pulled(lab[1], lab[0], target, streams, REQUEST))
                target.unlink()
                theirs.append(curled(lab[1], lab[0], parts, streams))
                for path in parts.iterdir():
                    path.unlink()
            title = f"2 GiB from a peer, {streams} pull(s), against nginx and curl"
            compare(title, ours, theirs, "MB/s")


async def run(folder: Path) -> None:
    reason = unavailable()
    if reason is not None:
        print(f"exchange: skipped, {reason}")
        return
    with contextlib.ExitStack() as exits:
        if MEMORY.is_dir():
            made = tempfile.TemporaryDirectory(prefix="p2pmodels-bench-", dir=MEMORY)
            folder = Path(exits.enter_context(made))
        await asyncio.to_thread(measure, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["serve", "pull"])
    parser.add_argument("--host", required=True)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--request", type=int, default=REQUEST)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        if options.role == "serve":
            asyncio.run(serve(options.path, options.host))
        else:
            asyncio.run(
                pull(options.host, options.path, options.size, options.streams, options.request)
            )
