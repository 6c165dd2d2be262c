"""Everything an origin can do wrong, seen by the real huggingface_hub (reliability H5, H6, B15 to
B17, G8) and by a client that looks at its watch.

The client must end with the true file or with an error; never with another file, and never in a
silence longer than it bears.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from p2pmodels.demo.hub import Faults, Hub, HubOptions
from p2pmodels.demo.processes import DaemonProcess
from tests.system.attacks import BOUND_S, ask, daemon_of, noise

SIZE = 3_000_000
FILE = "model.safetensors"
HEADERS_WITHIN_S = 9.0  # seconds; the promise is 8, clients give up after 10

CLIENT = """
import hashlib, json, sys
import huggingface_hub
for line in sys.stdin:
    try:
        path = huggingface_hub.hf_hub_download(line.strip(), "model.safetensors")
        said = hashlib.sha256(open(path, "rb").read()).hexdigest()
    except Exception as error:
        said = type(error).__name__
    print(json.dumps(said), flush=True)
"""


class HubClient:
    """The real huggingface_hub in a process of its own; one download after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def download(self, repo: str) -> str:
        """The sha256 of the file it ended with, or the name of its error."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(repo.encode() + b"\n")
        async with asyncio.timeout(BOUND_S * 2):
            said: str = json.loads(await stdout.readline())
        return said


@asynccontextmanager
async def hub_client(daemon: DaemonProcess, home: Path) -> AsyncIterator[HubClient]:
    env = {"HF_ENDPOINT": daemon.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT,
        env={**os.environ, **env, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield HubClient(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(BOUND_S):
            await process.wait()


HELD: dict[str, Faults] = {
    "status-500": Faults(status_for_files=500, status_times=1),
    "status-503-cdn": Faults(status_for_files=503, status_times=1, status_at="cdn"),
    "status-403-cdn": Faults(status_for_files=403, status_times=1, status_at="cdn"),
    "rate-limited": Faults(status_for_files=429, status_times=1, retry_after_s=1),
    "rate-limited-cdn": Faults(
        status_for_files=429, status_times=1, retry_after_s=1, status_at="cdn"
    ),
    "cut": Faults(cut_after=700_000, cut_times=2),
    "ignores-ranges-and-cuts": Faults(ignore_range=True, cut_after=700_000, cut_times=1),
}
FATAL: dict[str, Faults] = {
    "compressed": Faults(gzip=True),
    "corrupt": Faults(corrupt={FILE}),
    "wrong-place": Faults(wrong_content_range=True, cut_after=700_000),
    "leads-away": Faults(redirect_to="http://169.254.169.254/{path}"),
    "leads-to-a-file": Faults(redirect_to="file:///etc/passwd"),
}
NAMELESS: dict[str, Faults] = {
    "portal": Faults(api_body=b"<html>log in</html>"),
    "deep-json": Faults(api_body=b"[" * 200_000),
    "long-json": Faults(api_body=b'{"sha": "' + b"a" * 9_000_000 + b'"}'),
    "down": Faults(down=True),
}


@pytest.mark.system
@pytest.mark.timeout(240)
@pytest.mark.asyncio
async def test_huggingface_hub_ends_with_the_true_file_or_an_error(tmp_path: Path) -> None:
    async with AsyncExitStack() as exits:
        hub = await exits.enter_async_context(Hub())
        names = [*HELD, *FATAL]
        truth = {name: noise(SIZE, seed) for seed, name in enumerate(names, 100)}
        for name, content in truth.items():
            hub.add_repo(f"org/{name}", {FILE: content})
        daemon = await exits.enter_async_context(daemon_of(hub, tmp_path / "d"))
        client = await exits.enter_async_context(hub_client(daemon, tmp_path / "home"))
        ends = {}
        for name in [*HELD, "corrupt"]:
            hub.faults = HELD.get(name) or FATAL[name]
            ends[name] = await client.download(f"org/{name}")
            hub.faults = Faults()
        for name in FATAL.keys() - {"corrupt"}:  # the client would try each for twenty seconds
            hub.faults = FATAL[name]
            got = await ask(f"{daemon.url}/org/{name}/resolve/main/{FILE}")
            ends[name] = "Error" if got.status >= 400 or got.body is None else "a file"
            hub.faults = Faults()
        right = {name: hashlib.sha256(content).hexdigest() for name, content in truth.items()}
        assert {name: ends[name] == right[name] for name in HELD} == dict.fromkeys(HELD, True), ends
        assert all(ends[name].endswith("Error") for name in FATAL), ends
        # Errors are not kept as files: nothing but the true contents is in the store.
        names_of_blobs = {path.name for path in (daemon.data_dir / "blobs").glob("??/*")}
        assert names_of_blobs == {right[name] for name in HELD}
        assert "Traceback" not in daemon.log.read_text()


@pytest.mark.system
@pytest.mark.asyncio
async def test_a_list_of_files_that_is_none_is_an_error_in_time(tmp_path: Path) -> None:
    async with Hub() as hub, daemon_of(hub, tmp_path / "d") as daemon:
        for name, faults in NAMELESS.items():
            hub.add_repo(f"org/{name}", {FILE: noise(1000)})
            hub.faults = faults
            began = time.monotonic()
            got = await ask(f"{daemon.url}/org/{name}/resolve/main/{FILE}")
            assert time.monotonic() - began < HEADERS_WITHIN_S, name
            assert got.status in (429, 502, 503), name
            assert b"log in" not in (got.body or b"")
        assert "Traceback" not in daemon.log.read_text()


@pytest.mark.system
@pytest.mark.asyncio
async def test_what_an_origin_corrupted_is_right_once_it_is_right_again(tmp_path: Path) -> None:
    async with Hub() as hub:
        content = noise(SIZE, 7)
        hub.add_repo("org/m", {FILE: content})
        hub.faults.corrupt = {FILE}
        async with daemon_of(hub, tmp_path / "d") as daemon:
            url = f"{daemon.url}/org/m/resolve/main/{FILE}"
            async with asyncio.timeout(BOUND_S):
                while (got := await ask(url)).status == 200:
                    assert got.body is None  # broken off, every time
            assert got.status in (429, 502, 503)
            assert "no-store" in got.headers["Cache-Control"]
        hub.faults = Faults()
        async with daemon_of(hub, tmp_path / "d") as daemon:
            # Nothing of it was kept: the first answer is the true file.
            assert (await ask(f"{daemon.url}/org/m/resolve/main/{FILE}")).body == content


@pytest.mark.system
@pytest.mark.asyncio
async def test_an_expired_signature_is_asked_for_again(tmp_path: Path) -> None:
    async with Hub(options=HubOptions(signature_lifetime_s=1.0)) as hub:
        content = noise(SIZE * 2, 8)
        hub.add_repo("org/m", {FILE: content})
        hub.faults.rate_bytes_per_s = 4_000_000
        hub.faults.cut_after = 1_500_000
        async with daemon_of(hub, tmp_path / "d") as daemon:
            got = await ask(f"{daemon.url}/org/m/resolve/main/{FILE}")
        assert got.body == content
        assert len(hub.requests(method="GET", listener="hub", contains="/resolve/")) >= 2


@pytest.mark.system
@pytest.mark.asyncio
async def test_headers_come_in_time_whatever_the_origin_does(tmp_path: Path) -> None:
    silent = await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
    async with silent, Hub() as hub, AsyncExitStack() as exits:
        hub.add_repo("org/m", {FILE: noise(SIZE, 9), "cached.bin": b"x" * 100_000})
        daemon = await exits.enter_async_context(daemon_of(hub, tmp_path / "d"))
        options = ("--no-mdns", "--origin", f"http://127.0.0.1:{_port(silent)}")
        mute = await exits.enter_async_context(DaemonProcess(tmp_path / "m", *options))
        hub.faults.stall_after = 0

        async def timed(url: str, method: str) -> tuple[int, str]:
            began = time.monotonic()
            got = await ask(url, method)
            assert time.monotonic() - began < HEADERS_WITHIN_S
            return got.status, got.headers.get("Retry-After", "")

        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            stalled = group.create_task(timed(f"{daemon.url}/org/m/resolve/main/{FILE}", "GET"))
            unknown = [
                group.create_task(timed(f"{mute.url}/org/m/resolve/main/{FILE}", method))
                for method in ("HEAD", "GET", "GET")
            ]
        for status, retry_after in [stalled.result(), *(task.result() for task in unknown)]:
            assert status == 429
            assert int(retry_after) >= 1


@pytest.mark.system
@pytest.mark.asyncio
async def test_a_known_branch_of_a_silent_origin_is_answered_from_memory(tmp_path: Path) -> None:
    async with AsyncExitStack() as exits:
        hub = await exits.enter_async_context(Hub())
        hub.add_repo("org/m", {FILE: noise(SIZE, 10)})
        async with daemon_of(hub, tmp_path / "d") as daemon:
            assert (await ask(f"{daemon.url}/org/m/resolve/main/{FILE}")).status == 200
        silent = await exits.enter_async_context(
            await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
        )
        options = ("--no-mdns", "--origin", f"http://127.0.0.1:{_port(silent)}")
        daemon = await exits.enter_async_context(DaemonProcess(tmp_path / "d", *options))
        url = f"{daemon.url}/org/m/resolve/main/{FILE}"
        for _ in range(2):
            began = time.monotonic()
            got = await ask(url)
            assert (got.status, got.headers["X-P2PModels-Stale"]) == (200, "1")
            assert time.monotonic() - began < HEADERS_WITHIN_S / 2
        assert time.monotonic() - began < 1  # the second one did not wait at all


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that takes every question and never answers."""
    while await reader.read(65536):
        pass
    writer.close()


@pytest.mark.system
@pytest.mark.asyncio
async def test_a_branch_that_moves_between_head_and_get_gives_the_commit_of_the_head(
    tmp_path: Path,
) -> None:
    """huggingface_hub keeps the GET requests' bytes under the HEAD's commit and ETag (G8)."""
    old, new = noise(SIZE, 20), noise(SIZE, 21)
    async with Hub() as hub, AsyncExitStack() as exits:
        commit = hub.add_repo("org/m", {FILE: old})
        env = {"P2PMODELS_FETCH__BRANCH_TTL_S": "0"}
        options = ("--origin", hub.url, "--no-mdns")
        daemon = await exits.enter_async_context(DaemonProcess(tmp_path / "d", *options, env=env))
        url = f"{daemon.url}/org/m/resolve/main/{FILE}"
        head = await ask(url, "HEAD")
        hub.add_repo("org/m", {FILE: new})
        assert (await ask(url)).body == new
        assert head.headers["X-Repo-Commit"] == commit
        pinned = await ask(head.headers["Location"])
        assert pinned.body == old
        assert pinned.headers["X-Repo-Commit"] == commit
        client = await exits.enter_async_context(hub_client(daemon, tmp_path / "home"))
        assert await client.download("org/m") == hashlib.sha256(new).hexdigest()
