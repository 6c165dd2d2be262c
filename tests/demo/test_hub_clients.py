"""The demo hub under the real client, and as a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import site
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from p2pmodels.demo.hub import Hub
from p2pmodels.demo.minilm import MINILM_REPO, minilm_files

pytestmark = pytest.mark.system

SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1]))
"""
ACCESS = """
import json, sys
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
found = []
for repo, token in json.loads(sys.argv[1]):
    try:
        found.append(open(hf_hub_download(repo, "a.txt", token=token or False)).read())
    except (GatedRepoError, RepositoryNotFoundError) as error:
        found.append(type(error).__name__)
print(json.dumps(found))
"""


async def run_client(
    hub: Hub, home: Path, script: str, argument: str, *flags: str, **extra: str
) -> tuple[int, str, str]:
    """Run a script with huggingface_hub pointed at `hub`; status, output and errors."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    environment = {
        **kept,
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        **extra,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *flags, "-c", script, argument),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def files_below(folder: Path) -> dict[str, Path]:
    return {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def model() -> dict[str, Path]:
    return minilm_files()


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["xet disabled", "hf_xet absent", "xet not announced"])
async def test_snapshot_download_gets_the_model_byte_for_byte(
    model: dict[str, Path], tmp_path: Path, way: str
) -> None:
    flags: tuple[str, ...] = ()
    extra: dict[str, str] = {}
    async with Hub() as hub:
        commit = hub.add_repo(MINILM_REPO, model)
        if way == "xet disabled":
            extra["HF_HUB_DISABLE_XET"] = "1"
            hub.options.uses_resolve_cache = True
        elif way == "hf_xet absent":
            flags, extra["PYTHONPATH"] = ("-S",), str(packages_without_xet(tmp_path))
        else:
            hub.options.announces_xet = False
            hub.options.tree_page = 5
        status, output, errors = await run_client(
            hub, tmp_path, SNAPSHOT, MINILM_REPO, *flags, **extra
        )
        assert status == 0, errors
        snapshot = Path(output.strip())
        assert snapshot.name == commit
        assert digests(files_below(snapshot)) == digests(model)
        await hub.quiet()
        assert hub.file_bytes(MINILM_REPO) == sum(path.stat().st_size for path in model.values())
        assert not [hit for hit in hub.log if "xet-read-token" in hit.path]


def packages_without_xet(folder: Path) -> Path:
    """The installed packages, but for hf_xet."""
    packages = folder / "packages"
    packages.mkdir()
    for place in site.getsitepackages():
        for entry in Path(place).iterdir() if Path(place).is_dir() else ():
            if not entry.name.startswith("hf_xet") and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    return packages


@pytest.mark.asyncio
async def test_client_with_xet_leaves_for_the_token_route(
    model: dict[str, Path], tmp_path: Path
) -> None:
    """So that a door which forgets to strip the Xet headers is noticed."""
    async with Hub() as hub:
        hub.add_repo(MINILM_REPO, model)
        status, _, _ = await run_client(hub, tmp_path, SNAPSHOT, MINILM_REPO)
        assert status != 0
        assert hub.requests(contains="/xet-read-token/", status=404)


@pytest.mark.asyncio
async def test_client_sees_gated_and_private_repos_as_on_the_real_hub(tmp_path: Path) -> None:
    async with Hub() as hub:
        hub.add_repo("acme/gated", {"a.txt": b"gated"}, gated="auto", tokens=["hf_in"])
        hub.add_repo("acme/private", {"a.txt": b"private"}, private=True, tokens=["hf_in"])
        hub.add_repo("acme/else", {"a.txt": b"else"}, tokens=["hf_out"])
        asked = [(repo, token) for repo in ("acme/gated", "acme/private") for token in TOKENS]
        status, output, errors = await run_client(hub, tmp_path, ACCESS, json.dumps(asked))
        assert status == 0, errors
        gated, private = "GatedRepoError", "RepositoryNotFoundError"
        assert json.loads(output) == [gated, gated, "gated", private, private, "private"]


TOKENS = ("", "hf_out", "hf_in")


@asynccontextmanager
async def hub_process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The hub alone; ended by SIGTERM, which must give status 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "p2pmodels.demo.hub", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def tell(process: asyncio.subprocess.Process, line: str) -> str:
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(line.encode() + b"\n")
    async with asyncio.timeout(10):
        return (await process.stderr.readline()).decode().strip()


@pytest.mark.asyncio
async def test_process_serves_logs_and_obeys_its_input(tmp_path: Path) -> None:
    data, log = os.urandom(300_000), tmp_path / "log.jsonl"
    (tmp_path / "data.gguf").write_bytes(data)
    options = ("--file", f"acme/tiny:q/data.gguf={tmp_path / 'data.gguf'}", "--log", str(log))
    async with hub_process(*options) as process, aiohttp.ClientSession() as session:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            ready = (await process.stdout.readline()).decode().split()
        assert ready[0] == "ready" and ready[2] == "cdn"
        target = f"{ready[1]}/acme/tiny/resolve/main/q/data.gguf"
        async with session.get(target) as response:
            assert await response.read() == data
            assert str(response.url).startswith(ready[3])
        assert await tell(process, "manifests-only on") == "done: manifests-only on"
        async with session.get(target) as response:
            assert response.status == 503
        async with session.get(f"{ready[1]}/api/models/acme/tiny") as response:
            assert response.status == 200
        assert (await tell(process, "explode")).startswith("not understood")
        await tell(process, "manifests-only off")
        async with session.get(target) as response:
            assert response.status == 200
            await response.read()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines] == [302, 200, 503, 200, 302, 200]
    assert lines[1]["body_bytes"] == len(data) and lines[1]["listener"] == "cdn"


@pytest.mark.asyncio
async def test_process_runs_with_an_input_that_nobody_can_steer() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "p2pmodels.demo.hub"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert (await process.stdout.readline()).startswith(b"ready http://127.0.0.1:")
        process.terminate()
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.asyncio
async def test_process_refuses_a_file_that_is_not_there() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "p2pmodels.demo.hub", "--file", "acme/tiny:a=/nowhere/b"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert "REPO:PATH=LOCALFILE" in errors.decode()
