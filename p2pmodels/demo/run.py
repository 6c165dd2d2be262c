"""`p2pmodels demo`: two daemons and a small hub on this machine, with a real model.

The story: daemon A fetches the model from the hub; from then on the hub gives out lists of files
only; daemon B finds A by mDNS and gets every byte from it over the LAN. Nothing leaves the
loopback address.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from p2pmodels.demo.minilm import MINILM_REPO, minilm_files
from p2pmodels.demo.processes import DaemonProcess, HubProcess, Json
from p2pmodels.errors import IntegrityFailed, P2PModelsError, SourceTimedOut

STEP_S = 60.0  # seconds for one step of the story; each takes one or two
LOOK_EVERY_S = 0.1  # seconds between two looks at a daemon's state
WEIGHTS = "model.safetensors"


def main(once: bool) -> int:
    """Run the demo; returns the exit status. With `once` it ends by itself."""
    try:
        asyncio.run(_demo(once))
    except KeyboardInterrupt:
        print("\nbye")
    return 0


async def _demo(once: bool) -> None:
    print(f"p2pmodels demo: {MINILM_REPO}, the real model")
    files = await asyncio.to_thread(minilm_files)
    size = sum(path.stat().st_size for path in files.values())
    with tempfile.TemporaryDirectory(prefix="p2pmodels-demo-") as name:
        folder = Path(name)
        async with HubProcess(folder, "--minilm") as hub:
            print(f"  hub       {hub.url}  {len(files)} files, {_mb(size)}")
            await _story(hub, folder, size, once)


async def _story(hub: HubProcess, folder: Path, size: int, once: bool) -> None:
    async with DaemonProcess(folder / "a", "--origin", hub.url) as first:
        print(f"  daemon A  {first.url}")
        seconds = await _timed(lambda: _fetch(first))
        print(f"\n1. A fetches from the hub                      {seconds:5.1f} s")
        seconds = await _timed(lambda: _until(first, "models", _is_shared))
        print(f"2. A proves it public, makes its torrent, seeds {seconds:4.1f} s")
        from_hub_for_a = hub.file_bytes()
        await hub.tell("manifests-only on")
        print("3. the hub gives out lists of files only, no more bytes")
        async with DaemonProcess(folder / "b", "--origin", hub.url) as second:
            print(f"  daemon B  {second.url}")
            seconds = await _timed(lambda: _until(second, "peers", _has_peer))
            print(f"4. B finds A by mDNS                           {seconds:5.1f} s")
            seconds = await _timed(lambda: _fetch(second))
            rate = size / max(seconds, 0.001)
            print(
                f"5. B gets it from A over the LAN               {seconds:5.1f} s ({_mb(rate)}/s)"
            )
            print(f"6. {await _prove_good(second)}\n")
            from_hub_for_b = hub.file_bytes() - from_hub_for_a
            await _print_sources(first, second, from_hub_for_a, from_hub_for_b)
            if not once:
                print(f"\nB's dashboard: {second.url}/   (Ctrl-C ends the demo)", flush=True)
                await asyncio.Event().wait()


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.monotonic()
    await work()
    return time.monotonic() - began


async def _fetch(daemon: DaemonProcess) -> None:
    async with asyncio.timeout(STEP_S):
        last = (await daemon.order("fetch", repo=MINILM_REPO, revision="main"))[-1]
    if last.get("event") != "done":
        raise P2PModelsError(json.dumps(last))


async def _until(daemon: DaemonProcess, view: str, is_so: Callable[[Json], bool]) -> None:
    """Look at one of the daemon's views until it is so. Raises SourceTimedOut."""
    try:
        async with asyncio.timeout(STEP_S):
            while not is_so(await daemon.ask(view)):  # noqa: ASYNC110  another process's state
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError as error:
        raise SourceTimedOut(f"{view} of {daemon.url} after {STEP_S:.0f} s") from error


def _rows(view: Json, name: str) -> list[Json]:
    rows = view[name]
    return rows if isinstance(rows, list) else []


def _is_shared(models: Json) -> bool:
    return any(row["share"] == "shared" for row in _rows(models, "models"))


def _has_peer(peers: Json) -> bool:
    return any(row["state"] == "ready" for row in _rows(peers, "peers"))


async def _prove_good(daemon: DaemonProcess) -> str:
    """Load the weights through the daemon's endpoint and look into them."""
    url = f"{daemon.url}/{MINILM_REPO}/resolve/main/{WEIGHTS}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        data = await answer.read()
        published = answer.headers["ETag"].strip('"')
    if hashlib.sha256(data).hexdigest() != published:
        raise IntegrityFailed(WEIGHTS)
    # safetensors: eight bytes of length, a JSON header, then the tensors.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {name: about for name, about in header.items() if name != "__metadata__"}
    end = max(about["data_offsets"][1] for about in tensors.values())
    if 8 + length + end != len(data):
        raise IntegrityFailed(f"{WEIGHTS}: tensors end at {end}")
    return f"{WEIGHTS} from B: {len(tensors)} tensors, sha256 {published[:16]}… as published"


async def _print_sources(
    first: DaemonProcess, second: DaemonProcess, hub_a: int, hub_b: int
) -> None:
    print(f"{'who gave what':24}{'A':>14}{'B':>14}")
    views = [(await daemon.ask("status"))["bytes_by_source"] for daemon in (first, second)]
    for source, label in (("origin", "from the hub"), ("lan", "over the LAN")):
        cells = [view[source] if isinstance(view, dict) else 0 for view in views]
        print(f"{label:24}{_mb(cells[0]):>14}{_mb(cells[1]):>14}")
    label = "by the hub's own log"
    print(f"{label:24}{_mb(hub_a):>14}{_mb(hub_b):>14}")


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
