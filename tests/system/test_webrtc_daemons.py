"""Two daemons behind walls that let no TCP in, and a third at which they meet: WebRTC carries."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pmodels.demo.processes import HubProcess
from tests.system.netns import Host, Lab, unavailable
from tests.system.rtc_room import FILE, REPO, Daemon, digest_of
from tests.system.test_two_daemons import BOUND_S, told

TIMES = "%{time_starttransfer} %{time_total}"  # what curl says at its end
SIZE = 64_000_000
WALL = """
table inet wall {
  chain input {
    type filter hook input priority 0; policy accept;
    iifname lo accept
    tcp flags & (syn | ack) == syn counter name walls drop
    udp dport 5353 drop
  }
  counter walls { }
}
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A hub with the rendezvous, and two machines behind walls."""
    reason = unavailable() or ("" if shutil.which("nft") else "walls need `nft` (nftables)")
    if reason:
        pytest.skip(reason)
    with Lab(3) as made:
        yield made


def wall(host: Host, folder: Path) -> None:
    """Drop every TCP connection from outside, and mDNS."""
    rules = folder / f"{host.name}.nft"
    rules.write_text(WALL)
    host.run("nft", "-f", rules)


@asynccontextmanager
async def daemon_on(host: Host, folder: Path, *options: str, **env: str) -> AsyncIterator[Daemon]:
    listen = f"{host.address}:0"
    made = Daemon(folder, *options, under=host.command(), lan_listen=listen, env=env)
    async with made as running:
        yield running


async def rows(host: Host, daemon: Daemon, view: str) -> list[dict[str, Any]]:
    found = (await told(host, daemon, view))[view]
    assert isinstance(found, list)
    return found


@pytest.mark.asyncio
async def test_a_model_passes_between_two_machines_that_let_no_tcp_in(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.write_bytes(random.Random(5).randbytes(SIZE))
    at_hub = tmp_path / "hub"
    at_hub.mkdir()
    file = f"{REPO}:{FILE}={model}"
    where = ("--file", file, "--host", lab[0].address)
    for host in (lab[1], lab[2]):
        wall(host, tmp_path)
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(HubProcess(at_hub, *where, under=lab[0].command()))
        third = await stack.enter_async_context(
            daemon_on(lab[0], tmp_path / "third", "--origin", hub.url)
        )
        env = {"P2PMODELS_RTC__RENDEZVOUS": third.rendezvous}
        first, second = [
            await stack.enter_async_context(
                daemon_on(lab[n], tmp_path / f"{n}", "--origin", hub.url, **env)
            )
            for n in (1, 2)
        ]
        await told(lab[1], first, "fetch", REPO)
        async with asyncio.timeout(BOUND_S):
            while (await rows(lab[1], first, "models"))[0]["share"] != "shared":
                await asyncio.sleep(0.1)
        before = hub.file_bytes()
        await hub.tell("manifests-only on")
        copy = tmp_path / "copy"
        meeting, seconds = await got_at_last(lab[2], second, copy)
        (transfer,) = await rows(lab[2], second, "transfers")
        assert transfer["sources"] == {"webrtc": SIZE}
        peers = await rows(lab[2], second, "peers")
        assert {peer["bytes_from"]: peer["found_by"] for peer in peers}[SIZE] == "webrtc"
        assert digest_of(copy) == digest_of(model)
        assert hub.file_bytes() == before
        assert all(tcp_refused(host) > 0 for host in (lab[1], lab[2]))
    with capsys.disabled():
        rate = SIZE / 1e6 / seconds
        print(f"\nbehind walls: by WebRTC, first byte after {meeting:.1f} s, then {rate:.0f} MB/s")


async def got_at_last(host: Host, daemon: Daemon, path: Path) -> tuple[float, float]:
    """Have the host's own curl get the file; before the two have met, nobody gives anything.

    Seconds until its first byte, and from there to the last.
    """
    url = f"{daemon.url}/{REPO}/resolve/main/{FILE}"
    async with asyncio.timeout(BOUND_S):
        while True:
            process = await asyncio.create_subprocess_exec(
                *host.command("curl", "-sf", "-D", f"{path}.head", "-o", path, "-w", TIMES, url),
                stdout=asyncio.subprocess.PIPE,
            )
            told, _ = await process.communicate()
            if process.returncode == 0:
                assert "x-p2pmodels-source: webrtc" in Path(f"{path}.head").read_text().lower()
                first, last = map(float, told.split())
                return first, last - first


def tcp_refused(host: Host) -> int:
    """How many attempts to connect the wall has dropped."""
    counters = json.loads(host.run("nft", "-j", "list", "counters").stdout)["nftables"]
    return sum(int(item["counter"]["packets"]) for item in counters if "counter" in item)
