"""Start, end, and being in each other's way (reliability C13, H10, H11)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from p2pmodels.demo.processes import DaemonProcess, HubProcess

END_BOUND_S = 5  # reliability H11


def serve(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `serve` where it must refuse to start."""
    return subprocess.run(
        [sys.executable, "-m", "p2pmodels", "serve", *arguments],
        capture_output=True, text=True, timeout=30, env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.asyncio
async def test_a_second_daemon_on_the_folder_names_the_first(daemon: DaemonProcess) -> None:
    done = serve("--data-dir", str(daemon.data_dir), "--listen", "127.0.0.1:0",
                 "--lan-listen", "127.0.0.1:0", "--bt-port", "0", "--no-mdns")  # fmt: skip
    assert done.returncode == 1
    assert "store_locked" in done.stderr
    assert str(daemon.pid) in done.stderr
    assert "Traceback" not in done.stderr
    assert (await daemon.ask("status"))["version"]  # the first is unharmed


def test_a_port_in_use_is_named_with_advice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve("--data-dir", str(tmp_path / "d"), "--listen", f"127.0.0.1:{port}",
                     "--lan-listen", "127.0.0.1:0", "--bt-port", "0", "--no-mdns")  # fmt: skip
    assert done.returncode in (1, 2)
    assert str(port) in done.stderr
    assert "→" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_that_cannot_be_used_is_named_though_half_of_it_runs_by_then(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not one word\n")
    secret.chmod(0o600)
    done = serve("--data-dir", str(tmp_path / "d"), "--listen", "127.0.0.1:0",
                 "--lan-listen", "127.0.0.1:0", "--bt-port", "0", "--no-mdns",
                 P2PMODELS_LAN__GROUP_SECRET_FILE=str(secret))  # fmt: skip
    assert done.returncode == 2
    assert f"lan.group_secret_file {secret}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.asyncio
async def test_the_runtime_file_says_where_we_are_and_goes_with_us(
    tmp_path: Path, hub: HubProcess
) -> None:
    async with DaemonProcess(tmp_path / "d", "--origin", hub.url, "--no-mdns") as daemon:
        said = json.loads((daemon.data_dir / "daemon.json").read_text())
        assert said["pid"] == daemon.pid
        assert said["url"] == daemon.url
        assert (daemon.data_dir / "control-token").stat().st_mode & 0o777 == 0o600
        assert daemon.data_dir.stat().st_mode & 0o777 == 0o700
        assert await daemon.stop() == 0
    assert not (daemon.data_dir / "daemon.json").exists()


@pytest.mark.asyncio
async def test_sigterm_with_fifty_transfers_ends_in_time_and_loses_nothing(
    tmp_path: Path, big_file: Path
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    slow = ("--file", f"org/model:model.bin={big_file}", "--rate", "8000000")
    async with HubProcess(folder, *slow) as hub:
        arguments = ("--origin", hub.url, "--no-mdns")
        async with DaemonProcess(tmp_path / "d", *arguments) as daemon:
            url = f"{daemon.url}/org/model/resolve/main/model.bin"
            broken = 0

            async def client(session: aiohttp.ClientSession, begun: asyncio.Semaphore) -> None:
                nonlocal broken
                try:
                    async with session.get(url) as answer:
                        await answer.content.readany()
                        begun.release()
                        await answer.read()
                except aiohttp.ClientError:
                    broken += 1

            begun = asyncio.Semaphore(0)
            connector = aiohttp.TCPConnector(limit=0)
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(50):
                    group.create_task(client(session, begun))
                async with asyncio.timeout(30):
                    for _ in range(50):
                        await begun.acquire()
                began = time.monotonic()
                daemon.signal(signal.SIGTERM)
                assert await daemon.wait() == 0
                assert time.monotonic() - began < END_BOUND_S
            assert broken == 50  # never a short body that looks whole
        sent_before = hub.file_bytes()
        await hub.tell("rate off")
        async with (
            DaemonProcess(tmp_path / "d", *arguments) as daemon,
            aiohttp.ClientSession() as session,
            session.get(f"{daemon.url}/org/model/resolve/main/model.bin") as answer,
        ):
            assert await answer.read() == big_file.read_bytes()
        size = big_file.stat().st_size
        assert hub.file_bytes() - sent_before < size  # it went on from its checkpoint


@pytest.mark.asyncio
async def test_a_second_signal_ends_at_once(tmp_path: Path, big_file: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    slow = ("--file", f"org/model:model.bin={big_file}", "--rate", "1000000")
    async with (
        HubProcess(folder, *slow) as hub,
        DaemonProcess(tmp_path / "d", "--origin", hub.url, "--no-mdns") as daemon,
        aiohttp.ClientSession() as session,
        session.get(f"{daemon.url}/org/model/resolve/main/model.bin") as answer,
    ):
        await answer.content.readany()
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGINT)
        async with asyncio.timeout(2):
            await daemon.wait()
