"""What the benches share: files, a warm daemon, nginx beside it, curl, and the printed line."""

from __future__ import annotations

import asyncio
import mmap
import os
import shutil
import socket
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from p2pmodels.demo.processes import DaemonProcess, HubProcess

REPO = "bench/model"
BLOCK = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")  # units a second of the times in /proc

NGINX = """
worker_processes 2; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  server {{ listen 127.0.0.1:{port}; root {root}; }} }}
"""


def make_file(path: Path, size: int) -> Path:
    """A file of random bytes, in the page cache."""
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(os.urandom(min(BLOCK, size - start)))
    return path


@dataclass(frozen=True, slots=True)
class Cost:
    """What a transfer took: wall-clock seconds, and processor seconds of all who took part."""

    seconds: float
    cpu_seconds: float


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, in the kernel and outside."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def own_cpu_seconds() -> float:
    """The same of this process."""
    times = os.times()
    return times.user + times.system


def warm_memory(size: int) -> None:
    """Use and free so many bytes, so that the next ones to need memory get pages the machine has.

    A virtual machine asks its host for each page that it uses for the first time in a while:
    measured 2.4 s of processor time for 1 GB, instead of 0.2 s, for whoever runs first.
    """
    block = bytes(BLOCK)
    with mmap.mmap(-1, size) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # single pages, as files use
        for _ in range(size // BLOCK):
            memory.write(block)


def free_port() -> int:
    """A TCP port of the loopback address that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@asynccontextmanager
async def hub_of(folder: Path, files: dict[str, Path], *more: str) -> AsyncIterator[HubProcess]:
    """A hub with these files in one repo."""
    options = [f"--file={REPO}:{name}={path}" for name, path in files.items()]
    folder.mkdir(parents=True, exist_ok=True)
    async with HubProcess(folder, *options, *more) as hub:
        yield hub


@asynccontextmanager
async def warm_daemon(folder: Path, files: dict[str, Path]) -> AsyncIterator[DaemonProcess]:
    """A daemon that has these files, with its hub gone."""
    async with hub_of(folder / "hub", files) as hub:
        async with DaemonProcess(folder / "d", "--origin", hub.url, "--no-mdns") as daemon:
            done = await daemon.order("fetch", repo=REPO, revision="main")
            assert done[-1]["event"] == "done", done[-1]
            yield daemon


@asynccontextmanager
async def nginx(folder: Path, root: Path) -> AsyncIterator[str]:
    """nginx with sendfile over `root`; yields its URL."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    port = free_port()
    root.chmod(0o755)
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(user + NGINX.format(folder=folder, port=port, root=root))
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(config), "-p", str(folder), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def curl(url: str, wanted: str) -> float:
    """Load a URL to nowhere with curl; one of its own measurements."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sSf", "-o", "/dev/null", "-w", f"%{{{wanted}}}", url,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, url
    return float(out)


async def curls(url: str, streams: int) -> float:
    """Bytes a second of so many curls at once."""
    began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        sizes = [group.create_task(curl(url, "size_download")) for _ in range(streams)]
    seconds = asyncio.get_running_loop().time() - began
    return sum(task.result() for task in sizes) / seconds


def compare(title: str, ours: Sequence[float], theirs: Sequence[float], unit: str) -> None:
    """One line: the medians, their ratio, and how far the rounds lay apart."""
    our, their = statistics.median(ours), statistics.median(theirs)
    print(
        f"{title:52} {our:9.2f} {their:9.2f} {unit:6} ratio {our / their:5.2f}"
        f"   rounds {min(ours):.2f}-{max(ours):.2f} / {min(theirs):.2f}-{max(theirs):.2f}",
        flush=True,
    )
