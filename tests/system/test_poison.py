"""A poisoned room of real daemons: no client ends with a wrong file (reliability B9, D2).

The hostile peer has the right digest and size, says that its bytes came from the origin, and gives
what it says: other content.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from p2pmodels.core.digests import Sha256
from p2pmodels.core.manifest import FileEntry, Want
from p2pmodels.core.names import Commit, FilePath, RepoId
from p2pmodels.demo.hub import Hub
from p2pmodels.demo.processes import DaemonProcess
from tests.system.attacks import BOUND_S, ask, daemon_of, noise
from tests.transfer.machines import Answer, giver, roots_of, span_of, stranger

SIZE = 12_000_000
COMMIT = "5" * 40
FILE = "model.safetensors"
TRUTH = noise(SIZE, 11)
LIE = noise(SIZE, 12)
SLOW = 7_000_000  # bytes/s
WANT = Want(
    RepoId("org/m"),
    Commit(COMMIT),
    FileEntry(FilePath(FILE), SIZE, Sha256(hashlib.sha256(TRUTH).hexdigest())),
)


def slowly(data: bytes) -> Answer:
    """Gives these bytes at the rate of a poor Wi-Fi."""

    async def gives(request: web.Request) -> web.StreamResponse:
        start, stop = span_of(request)
        answer = web.StreamResponse(
            status=206, headers={"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        )
        answer.content_length = stop - start
        await answer.prepare(request)
        for at in range(start, stop, 100_000):
            await answer.write(data[at : min(at + 100_000, stop)])
            await asyncio.sleep(100_000 / SLOW)
        return answer

    return gives


@asynccontextmanager
async def poisoned(folder: Path, *, is_slow: bool = False) -> AsyncIterator[tuple[Hub, str]]:
    """The true hub, and the URL of an honest daemon whose only peer is hostile."""
    async with AsyncExitStack() as exits:
        true = await exits.enter_async_context(Hub())
        true.add_repo("org/m", {FILE: TRUTH, "config.json": b'{"a": 1}'}, commit=COMMIT)
        hostile = await exits.enter_async_context(stranger())
        hostile.claims(WANT, roots_of(LIE), is_vouched=True)
        hostile.gives = slowly(LIE) if is_slow else giver(LIE)
        honest = await exits.enter_async_context(
            daemon_of(true, folder / "honest", "--peer", f"http://127.0.0.1:{hostile.port}")
        )
        await until_peers(honest)
        async with asyncio.timeout(BOUND_S):
            while not hostile.links.links():
                await asyncio.sleep(0.05)
        yield true, honest.url


async def until_seeding(daemon: DaemonProcess) -> None:
    async with asyncio.timeout(BOUND_S):
        while not (await daemon.ask("status"))["seeding"]:
            await asyncio.sleep(0.05)


async def until_peers(daemon: DaemonProcess) -> None:
    async with asyncio.timeout(BOUND_S):
        while not (await daemon.ask("status"))["peers"]:
            await asyncio.sleep(0.05)


async def resuming(url: str, leave_after: int = 0) -> tuple[bytes, int]:
    """What a client ends with that goes on with a Range whenever its connection breaks.

    It leaves by itself once, after so many bytes. Also returns how often it came.
    """
    held, came = b"", 0
    async with aiohttp.ClientSession() as session:
        while came < 20:
            came += 1
            headers = {"Range": f"bytes={len(held)}-"} if held else {}
            async with session.get(url, headers=headers) as answer:
                if answer.status == 429:
                    await asyncio.sleep(float(answer.headers["Retry-After"]))
                    continue
                assert answer.status in (200, 206)
                if answer.status == 200:
                    held = b""
                try:
                    while data := await answer.content.readany():
                        held += data
                        if leave_after and len(held) >= leave_after:
                            leave_after = 0
                            answer.close()
                            break
                    else:
                        return held, came
                except aiohttp.ClientError:
                    continue
    raise AssertionError(f"{len(held)} bytes after coming {came} times")


@pytest.mark.asyncio
async def test_clients_of_a_poisoned_room_end_with_the_true_file(tmp_path: Path) -> None:
    async with poisoned(tmp_path) as (hub, url):
        hub.faults.rate_bytes_per_s = 15_000_000
        async with asyncio.timeout(BOUND_S * 2), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(resuming(f"{url}/org/m/resolve/main/{FILE}")) for _ in range(6)
            ]
        for task in tasks:
            assert task.result()[0] == TRUTH
        assert max(task.result()[1] for task in tasks) > 1  # the liar was believed, and found out
        await hub.quiet()
        assert SIZE <= hub.file_bytes() <= SIZE * 1.1
        log = (tmp_path / "honest" / "daemon.log").read_text()
        assert "instead of" in log
        assert "Traceback" not in log
        # Nothing of it is left, and the liar is not heard again.
        got = await ask(f"{url}/org/m/resolve/main/{FILE}")
        assert got.body == TRUTH
        lie = hashlib.sha256(LIE).hexdigest()
        assert (await ask(f"{url}/files/{lie}", "HEAD")).status == 404
        assert "a wrong piece" in log


@pytest.mark.asyncio
async def test_a_client_that_left_and_resumes_before_the_lie_is_found_gets_the_true_file(
    tmp_path: Path,
) -> None:
    async with poisoned(tmp_path, is_slow=True) as (_, url):
        async with asyncio.timeout(BOUND_S * 2), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(resuming(f"{url}/org/m/resolve/main/{FILE}", leave_after))
                for leave_after in (1_000_000, 4_000_000, 8_000_000, SIZE - 300_000)
            ]
        assert [task.result()[0] == TRUTH for task in tasks] == [True] * len(tasks)


@pytest.mark.asyncio
async def test_huggingface_hub_ends_with_the_true_file(tmp_path: Path) -> None:
    code = "import huggingface_hub as h; print(h.hf_hub_download('org/m', 'model.safetensors'))"
    async with poisoned(tmp_path) as (_, url):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code,
            env={**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"),
                 "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(BOUND_S * 2):
            out, err = await process.communicate()
        assert process.returncode == 0, err.decode()[-2000:]
        assert Path(out.decode().strip().splitlines()[-1]).read_bytes() == TRUTH
    assert "instead of" in (tmp_path / "honest" / "daemon.log").read_text()


@pytest.mark.asyncio
async def test_two_daemons_fill_from_one_seed_while_the_origin_gives_no_bytes(
    tmp_path: Path,
) -> None:
    async with Hub() as hub, AsyncExitStack() as exits:
        hub.add_repo("org/m", {FILE: TRUTH, "config.json": b"{}"})
        seed = await exits.enter_async_context(daemon_of(hub, tmp_path / "seed"))
        for file in (FILE, "config.json"):
            assert (await ask(f"{seed.url}/org/m/resolve/main/{file}")).status == 200
        await until_seeding(seed)
        hub.faults.manifests_only = True
        before = hub.file_bytes()
        peer = str((await seed.ask("status"))["peer_url"])
        others = [
            await exits.enter_async_context(daemon_of(hub, tmp_path / name, "--peer", peer))
            for name in ("b", "c")
        ]
        for other in others:
            await until_peers(other)
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(resuming(f"{other.url}/org/m/resolve/main/{FILE}"))
                for other in others
                for _ in range(3)
            ]
        assert all(task.result() == (TRUTH, 1) for task in tasks)
        assert hub.file_bytes() == before
