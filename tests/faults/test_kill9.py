"""kill -9 while fetching, again and again (reliability C1): nothing wrong, little twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
from pathlib import Path

import aiohttp
import pytest

from p2pmodels.demo.processes import DaemonProcess, HubProcess

LOOPS = int(os.environ.get("TEST_KILL_LOOPS", "20"))
SEED = int(os.environ.get("TEST_KILL_SEED", "1"))
SIZE = 120_000_000
RATE = 30_000_000  # bytes a second: the fetch outlives several kills
AT_RISK = 64 << 20  # bytes that one kill may cost: one checkpoint


def wrong_claims(data_dir: Path, truth: bytes) -> int:
    """Bytes that a checkpoint or a blob claims and that are not the file's."""
    wrong = 0
    for checkpoint in (data_dir / "partials").glob("*.checkpoint"):
        claimed = json.loads(checkpoint.read_text())["landed"]
        held = checkpoint.with_suffix("").read_bytes()
        for start, stop in claimed:
            if held[start:stop] != truth[start:stop]:
                wrong += stop - start
    for blob in (data_dir / "blobs").glob("??/*"):
        if hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name:
            wrong += blob.stat().st_size
    return wrong


async def read_file(url: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        answer.raise_for_status()
        return await answer.read()


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.asyncio
async def test_a_daemon_killed_at_random_moments_never_believes_bytes_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = random.Random(SEED).randbytes(SIZE)
    source = tmp_path / "model.bin"
    source.write_bytes(truth)
    moments = random.Random(SEED)
    folder = tmp_path / "hub"
    folder.mkdir()
    arguments = ("--file", f"org/model:model.bin={source}", "--rate", str(RATE))
    async with HubProcess(folder, *arguments) as hub:
        for _ in range(LOOPS):
            async with DaemonProcess(tmp_path / "d", "--origin", hub.url, "--no-mdns") as daemon:
                url = f"{daemon.url}/org/model/resolve/main/model.bin"
                async with asyncio.TaskGroup() as group:
                    reader = group.create_task(_swallow(url))
                    await asyncio.sleep(moments.uniform(0, 0.5))  # the moment is the experiment
                    daemon.signal(signal.SIGKILL)
                    await daemon.wait()
                    await reader
            assert wrong_claims(daemon.data_dir, truth) == 0
        async with DaemonProcess(tmp_path / "d", "--origin", hub.url, "--no-mdns") as daemon:
            url = f"{daemon.url}/org/model/resolve/main/model.bin"
            assert await read_file(url) == truth
            assert wrong_claims(daemon.data_dir, truth) == 0
        again = hub.file_bytes() - SIZE
    with capsys.disabled():
        print(f"\nkill -9: {LOOPS} loops, seed {SEED}: 0 bytes wrong, {again} bytes fetched again")
    assert again <= LOOPS * AT_RISK


async def _swallow(url: str) -> None:
    """Read until the daemon is killed under us."""
    try:
        await read_file(url)
    except (aiohttp.ClientError, ConnectionError):
        return
