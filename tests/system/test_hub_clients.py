"""The real clients of the hub, unmodified, through the daemon; then again with the hub gone."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from p2pmodels.demo.minilm import MINILM_REPO, minilm_files
from p2pmodels.demo.processes import DaemonProcess, HubProcess

BOUND_S = 100
HUB0 = Path(sys.prefix) / "hub0"

SNAPSHOT = f"""
import huggingface_hub, pathlib, hashlib, json
folder = pathlib.Path(huggingface_hub.snapshot_download({MINILM_REPO!r}))
print(json.dumps({{"version": huggingface_hub.__version__, "files": {{
    str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
    for p in folder.rglob("*") if p.is_file()}}}}))
"""


def expected() -> dict[str, str]:
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in minilm_files().items()
    }


async def run_client(
    code: str, daemon: DaemonProcess, home: Path, env: Mapping[str, str] | None = None
) -> str:
    """Run Python code as a client process of the daemon; returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code,
        env={
            **os.environ,
            "HF_ENDPOINT": daemon.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **(env or {}),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(BOUND_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    return out.decode()


@pytest.mark.parametrize("generation", ["current", "0.x"])
@pytest.mark.asyncio
async def test_snapshot_download_is_identical_online_and_offline(
    generation: str, hub: HubProcess, daemon: DaemonProcess, tmp_path: Path
) -> None:
    env = {}
    if generation == "0.x":
        if not HUB0.is_dir():
            pytest.skip("huggingface_hub 0.x is not installed beside the current one (make test)")
        env["PYTHONPATH"] = str(HUB0)
    online = await run_client(SNAPSHOT, daemon, tmp_path / "home1", env)
    assert online.endswith("}\n")
    result = json.loads(online.splitlines()[-1])
    assert result["files"] == expected()
    assert result["version"].startswith("0.") == (generation == "0.x")
    size = sum(path.stat().st_size for path in minilm_files().values())
    assert hub.file_bytes() == size
    assert not [hit for hit in hub.answers() if "xet-read-token" in str(hit["path"])]

    await hub.stop()  # the origin is gone: what is cached is served all the same
    offline = await run_client(SNAPSHOT, daemon, tmp_path / "home2", env)
    assert json.loads(offline.splitlines()[-1])["files"] == expected()


@pytest.mark.asyncio
async def test_transformers_loads_config_and_tokenizer_and_safetensors_the_weights(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    for module in ("transformers", "safetensors", "numpy"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (make test)")
    code = f"""
import transformers, huggingface_hub, safetensors.numpy
name = {MINILM_REPO!r}
config = transformers.AutoConfig.from_pretrained(name)
tokens = transformers.AutoTokenizer.from_pretrained(name)("hello world")["input_ids"]
weights = safetensors.numpy.load_file(huggingface_hub.hf_hub_download(name, "model.safetensors"))
print(config.hidden_size, tokens, len(weights), weights["embeddings.word_embeddings.weight"].shape)
"""
    out = await run_client(code, daemon, tmp_path / "home")
    assert out.splitlines()[-1] == "384 [101, 7592, 2088, 102] 104 (30522, 384)"


@pytest.mark.asyncio
async def test_sentence_transformers_computes_an_embedding(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed (it brings all of PyTorch)")
    code = f"""
from sentence_transformers import SentenceTransformer
vectors = SentenceTransformer({MINILM_REPO!r}, device="cpu").encode(
    ["a cat", "a kitten", "tax law"])
print(vectors.shape, bool(vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3))
"""
    out = await run_client(code, daemon, tmp_path / "home")
    assert out.splitlines()[-1] == "(3, 384) True"


@pytest.mark.asyncio
async def test_file_system_and_metadata_calls_work(daemon: DaemonProcess, tmp_path: Path) -> None:
    code = f"""
from huggingface_hub import HfApi, HfFileSystem
api, fs = HfApi(), HfFileSystem()
name = {MINILM_REPO!r}
print(len(api.list_repo_files(name)), len(fs.ls(name, detail=False)))
print(sorted(p.path for p in api.get_paths_info(name, ["config.json", "1_Pooling", "nothing"])))
print(fs.read_bytes(name + "/1_Pooling/config.json")[:1], api.file_exists(name, "nope.json"))
print(sorted(api.get_safetensors_metadata(name).parameter_count.items()))
"""
    out = (await run_client(code, daemon, tmp_path / "home")).splitlines()
    assert out[-4:] == [
        f"{len(expected())} {len({name.split('/')[0] for name in expected()})}",
        "['1_Pooling', 'config.json']",
        "b'{' False",
        "[('F32', 22713216), ('I64', 512)]",
    ]


@pytest.mark.asyncio
async def test_curl_resumes_with_a_range(daemon: DaemonProcess, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    source = minilm_files()["model.safetensors"]
    target = tmp_path / "model.safetensors"
    with source.open("rb") as file:
        target.write_bytes(file.read(1_234_567))
    url = f"{daemon.url}/{MINILM_REPO}/resolve/main/model.safetensors"
    for _ in range(2):  # from a running fetch, then from the cache
        process = await asyncio.create_subprocess_exec(
            curl, "-sSf", "-C", "-", "-D", "-", "-o", str(target), url,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(BOUND_S):
            head, _ = await process.communicate()
        assert process.returncode == 0
        assert head.startswith(b"HTTP/1.1 206")
        assert target.read_bytes() == source.read_bytes()
        with target.open("r+b") as file:
            file.truncate(50_000_000)
