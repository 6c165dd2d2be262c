"""What the WebRTC tests share: daemons that a page can reach, and a Chromium with such a page.

1. Everything is at this machine's own address, not at loopback: a page of the LAN may not ask
   loopback, and WebRTC gathers no candidates there.
2. A daemon that waits is waited for by what it says of itself, never for a guess of seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from p2pmodels.core.sdp import Candidate, Description
from p2pmodels.core.signal_texts import format_signed
from p2pmodels.core.signalling import RTC_PATH, SignedSdp
from p2pmodels.demo.hub import Hub
from p2pmodels.demo.processes import DaemonProcess
from p2pmodels.sources.lan.interfaces import read_interfaces

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

REPO = "lab/model"
FILE = "m.safetensors"
BOUND_S = 30.0  # seconds for anything that is waited for here
LOOK_S = 0.05  # seconds between two looks at a process

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

FETCH = """async ([base, url, options]) => {
  const { fetchModelFile, report } = await import(`${base}/p2pmodels.js`);
  const { Sha256, hex } = await import(`${base}/p2pmodels/hashes.js`);
  const began = performance.now();
  const response = await fetchModelFile(url, options);
  const parts = [];
  let bytes = 0;
  window.bytes = 0;
  for await (const part of response.body) {
    parts.push(part);
    window.bytes = bytes += part.length;
  }
  const seconds = (performance.now() - began) / 1000;
  const hasher = new Sha256();
  for (const part of parts) hasher.update(part);
  return {bytes, seconds, sha256: hex(hasher.finish()), report: report(response)};
}"""


def own_address() -> str:
    """An IPv4 address of this machine on a network; skips the test where there is none."""
    for interface in read_interfaces():
        if interface.version == 4 and not interface.ip.is_loopback:
            return str(interface.ip)
    pytest.skip("this machine has no address on a network")


def free_port(address: str) -> int:
    """A TCP port that nobody has at this address."""
    with socket.create_server((address, 0)) as free:
        port: int = free.getsockname()[1]
        return port


def digest_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Browser]:
    """A browser; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.async_api")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            await browser.close()


async def until(holds: Callable[[], bool], limit_s: float = BOUND_S) -> None:
    """Wait until it holds; looks are all there is, because other processes are asked."""
    async with asyncio.timeout(limit_s):
        while not holds():
            await asyncio.sleep(LOOK_S)


class Daemon(DaemonProcess):
    """A daemon that pages and daemons of this machine's own address can reach."""

    @property
    def peer_url(self) -> str:
        """Its peer port, as a page is given it."""
        url = json.loads((self.data_dir / "daemon.json").read_text())["peer_url"]
        assert isinstance(url, str)
        return url

    @property
    def rendezvous(self) -> str:
        """Its peer port, as a rendezvous is configured."""
        return self.peer_url.replace("http", "ws", 1)

    async def child(self) -> int:
        """Its WebRTC process, started by an offer behind which there is nobody."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.peer_url + RTC_PATH, data=offer_of_nobody()) as answer,
        ):
            assert answer.status == 200, await answer.text()
        (child,) = self.children
        return child

    @property
    def children(self) -> list[int]:
        """Its child processes."""
        return children_of(self.pid)

    async def rows(self, view: str) -> list[dict[str, Any]]:
        """The rows of one of the control API's views."""
        found = (await self.ask(view))[view]
        assert isinstance(found, list)
        return found

    async def hold(self) -> None:
        """Fetch the repo and have it proven public."""
        lines = await self.order("fetch", repo=REPO)
        assert lines[-1].get("event") == "done", lines[-1]
        async with asyncio.timeout(BOUND_S):
            while (await self.rows("models"))[0]["share"] != "shared":
                await asyncio.sleep(LOOK_S)


def offer_of_nobody() -> bytes:
    """An offer as good as any, behind which there is nobody."""
    key = ":".join(f"{byte:02x}" for byte in secrets.token_bytes(32))
    nowhere = Candidate("1", 2130706431, "127.0.0.1", 9999)
    sdp = Description(
        secrets.token_hex(4), secrets.token_hex(16), f"sha-256 {key}", "actpass", (nowhere,)
    )
    return format_signed(SignedSdp(str(sdp), ""))


def children_of(pid: int) -> list[int]:
    """The child processes of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def resident_bytes(pid: int) -> int:
    """What a process occupies of the memory."""
    fields = Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()
    return int(fields[0]) * 1024


@asynccontextmanager
async def daemon_at(
    folder: Path, hub: str, address: str, env: Mapping[str, str] = {}, **options: Any
) -> AsyncIterator[Daemon]:
    """A daemon without multicast whose home is this machine alone."""
    home = {"P2PMODELS_LAN__NETWORKS": f"{address}/32", **env}
    listen = f"{address}:0"
    async with Daemon(
        folder, "--origin", hub, "--no-mdns", lan_listen=listen, env=home, **options
    ) as running:
        yield running


@asynccontextmanager
async def hub_with(path: Path, host: str = "127.0.0.1") -> AsyncIterator[Hub]:
    """A hub in this process with that one file."""
    # Transfers are measured here; asyncio's debug mode makes them many times as slow.
    asyncio.get_running_loop().set_debug(False)
    async with Hub(host=host) as hub:
        hub.add_repo(REPO, {FILE: path})
        yield hub


def file_bytes(hub: Hub) -> int:
    """Bytes of file bodies that left the hub."""
    return sum(hit.body_bytes for hit in hub.log if hit.file)


async def page_of(browser: Browser, daemon: Daemon) -> Page:
    """A page that a daemon served over its peer port."""
    page = await browser.new_page()
    await page.goto(daemon.peer_url + "/try")
    return page


async def fetched(page: Page, hub: str, *, module: str = "", **options: Any) -> dict[str, Any]:
    """What a page gets when it fetches the file; `module` is the web origin of `p2pmodels.js`."""
    url = f"{hub}/{REPO}/resolve/main/{FILE}"
    found: dict[str, Any] = await page.evaluate(FETCH, [module, url, {"hubs": [hub], **options}])
    return found


async def until_read(page: Page, amount: int) -> None:
    """Wait until the page's reader has so many bytes of what it fetches."""
    async with asyncio.timeout(BOUND_S):
        await page.evaluate(
            """async (amount) => {
              while (!(window.bytes >= amount)) await new Promise((go) => setTimeout(go, 10));
            }""",
            amount,
        )


def givers(seen: Mapping[str, Any]) -> dict[str, int]:
    """Bytes by who gave them: a daemon's id, "daemon" or "origin"."""
    return {one["id"] or one["kind"]: one["bytes"] for one in seen["report"]["givers"]}
