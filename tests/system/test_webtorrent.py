"""Unmodified webtorrent in a real Chromium downloads a model from whole daemons.

Nothing asks a STUN server: the pages are told of none, and a daemon has none. The bundle comes from
npm once and is kept in pytest's cache.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from p2pmodels.core.names import Commit
from p2pmodels.demo.hub import Hub
from p2pmodels.sources.swarm.torrents import handed_out
from tests.browser.test_page_permission import certificate
from tests.sources.swarm.places import MIB, random_bytes, shelve, torrent_of
from tests.system.npm import packed
from tests.system.rtc_room import BOUND_S, REPO, Daemon, chromium, daemon_at, free_port, own_address

if TYPE_CHECKING:
    from playwright.async_api import Page

Found = dict[str, Any]

pytestmark = [pytest.mark.system, pytest.mark.slow]

WEBTORRENT = "webtorrent@3.0.21"
BUNDLE = "dist/webtorrent.min.js"
PACED = 6 * MIB  # bytes a second for all transports; BitTorrent has half of it
OURS, PAGES = "-PM", "-WW"  # how the peer ids of daemons and of pages begin
PRIVATE = "lab/private"
NOT_TRACKED = "This torrent is not tracked here."
TOKEN = "hf_" + "c" * 34  # made up
FILES = {
    "config.json": random_bytes(1000, 1),
    "sub/model.safetensors": random_bytes(6 * MIB + 12_345, 2),
    "tokenizer.json": random_bytes(300_000, 3),
}
EMPTY = {"empty.txt": b""}
SIZE = sum(map(len, FILES.values()))

PAGE = """<!doctype html><title>webtorrent</title><script type="module">
import WebTorrent from "/webtorrent.min.js";
window.WebTorrent = WebTorrent;
</script>"""

# As its users write it; `wires` at the end say who gave how much.
DOWNLOAD = """async ([url, options, trackers]) => {
  const tracker = trackers && {rtcConfig: {iceServers: []}};
  const client = new WebTorrent({tracker});
  const began = performance.now();
  const file = new Uint8Array(await (await fetch(url)).arrayBuffer());
  const torrent = await new Promise((resolve, reject) => {
    client.on("error", reject);
    client.add(file, options, torrent => torrent.on("done", () => resolve(torrent)));
  });
  const seconds = (performance.now() - began) / 1000;
  const digests = {};
  for (const file of torrent.files) {
    const data = await (await file.blob()).arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    digests[file.path] = Array.from(digest, b => b.toString(16).padStart(2, "0")).join("");
  }
  const given = {};
  for (const wire of torrent.wires) {
    const id = String.fromCharCode(...wire.peerId.match(/../g).map(h => parseInt(h, 16)));
    const who = wire.type === "webSeed" ? "web seed" : id.slice(0, 3);
    given[who] = (given[who] || 0) + wire.downloaded;
  }
  return {seconds, digests, given, infohash: torrent.infoHash};
}"""

# What a page hears that asks for a torrent, and what one hears that was given it elsewhere.
ASK = """async ([url, made]) => {
  const status = await fetch(url).then(answer => answer.status, () => "unreadable");
  const client = new WebTorrent({tracker: {rtcConfig: {iceServers: []}}});
  const file = Uint8Array.from(atob(made), letter => letter.charCodeAt(0));
  const heard = await new Promise((resolve) => {
    client.add(file, torrent => {
      torrent.on("wire", () => resolve("a peer"));
      torrent.on("warning", ({message}) => message.startsWith("Unsupported") || resolve(message));
    });
  });
  await new Promise(resolve => client.destroy(resolve));
  return [status, heard];
}"""


@pytest.fixture(scope="session")
def bundle(pytestconfig: pytest.Config) -> bytes:
    """The browser bundle of webtorrent, as npm has it."""
    return packed(pytestconfig, WEBTORRENT, BUNDLE)[BUNDLE]


@asynccontextmanager
async def site(bundle: bytes, host: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Somebody's site with webtorrent in its page; its web origin."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def script(_request: web.Request) -> web.Response:
        return web.Response(body=bundle, content_type="text/javascript")

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/webtorrent.min.js", script)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0, ssl_context=tls).start()
        yield f"{'https' if tls else 'http'}://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Room:
    """A hub, daemons that listen with TLS too, sites and a browser."""

    folder: Path
    bundle: bytes
    stack: AsyncExitStack
    hub: Hub
    address: str = field(default_factory=own_address)
    secured: dict[Daemon, str] = field(default_factory=dict)
    """Where daemons listen with TLS."""

    def __post_init__(self) -> None:
        self._tls = certificate(self.folder)

    async def daemon(self, name: str = "a", **env: object) -> Daemon:
        """A daemon that has the public repo; its environment, without the prefix."""
        pem = self.folder / "both.pem"
        secure = f"{self.address}:{free_port(self.address)}"
        env |= {
            "RTC__TLS_LISTEN": secure,
            "RTC__TLS_CERTIFICATE_FILE": pem,
            "RTC__TLS_KEY_FILE": pem,
        }
        named = {f"P2PMODELS_{key}": str(value) for key, value in env.items()}
        made = daemon_at(self.folder / name, self.hub.url, self.address, named)
        daemon = await self.stack.enter_async_context(made)
        await daemon.hold()
        self.secured[daemon] = secure
        return daemon

    async def site(self, *, is_secure: bool) -> str:
        """A site on this machine's address, or on loopback; its web origin."""
        host, tls = (self.address, self._tls) if is_secure else ("127.0.0.1", None)
        return await self.stack.enter_async_context(site(self.bundle, host, tls))

    async def pages(self, *origins: str) -> list[Page]:
        """Pages of these sites, each in a profile of its own."""
        browser = await self.stack.enter_async_context(chromium("--ignore-certificate-errors"))
        pages = []
        for origin in origins:
            page = await (await browser.new_context(ignore_https_errors=True)).new_page()
            await page.goto(origin + "/")
            await page.wait_for_function("() => window.WebTorrent")
            pages.append(page)
        return pages

    async def asked(self, page: Page, daemon: Daemon, commit: str) -> list[Any]:
        """What a page hears that asks for a torrent, and announces it having it from elsewhere."""
        made = torrent_of(shelve(self.folder / "elsewhere", FILES), Commit(commit))
        data = handed_out(made, [f"wss://{self.secured[daemon]}/announce"])
        url = f"https://{self.secured[daemon]}/torrents/{commit}.torrent"
        async with asyncio.timeout(BOUND_S):
            found: list[Any] = await page.evaluate(ASK, [url, base64.b64encode(data).decode()])
        return found


@asynccontextmanager
async def room_of(folder: Path, bundle: bytes, files: Mapping[str, bytes]) -> AsyncIterator[Room]:
    """A room whose hub has these files."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(Hub())
        hub.add_repo(REPO, files)
        yield Room(folder, bundle, stack, hub)


async def public_row(daemon: Daemon) -> dict[str, Any]:
    """The public repo as the daemon tells of it."""
    return next(row for row in await daemon.rows("models") if row["repo"] == REPO)


async def download(page: Page, url: str, *, trackers: bool = True, **options: Any) -> Found:
    """Let a page download a torrent with webtorrent's options; what it saw."""
    async with asyncio.timeout(BOUND_S):
        found: Found = await page.evaluate(DOWNLOAD, [url, options, trackers])
    return found


def check(found: Found, row: Mapping[str, Any], files: Mapping[str, bytes] = FILES) -> None:
    """Every file is right, and the torrent is the daemon's own."""
    expected = {f"{row['commit']}/{name}": hashlib.sha256(data) for name, data in files.items()}
    digests = {path: text for path, text in found["digests"].items() if "/.pad/" not in path}
    assert digests == {path: digest.hexdigest() for path, digest in expected.items()}
    assert found["infohash"] == row["infohash"]


def show(record: Any, *found: Found) -> None:
    """Keep the figures with the test's result."""
    for at, one in enumerate(found):
        figures = {"MB/s": round(SIZE / 1e6 / one["seconds"], 1), "bytes from": one["given"]}
        record(f"page {at}", json.dumps(figures))
        print(f"page {at}: {figures}")


@pytest.mark.asyncio
async def test_an_https_page_of_a_listed_web_origin_gets_a_model_from_a_daemon(
    tmp_path: Path, bundle: bytes, record_property: Any
) -> None:
    files = FILES | EMPTY
    async with room_of(tmp_path, bundle, files) as room:
        origin = await room.site(is_secure=True)
        daemon = await room.daemon(WEB__ALLOWED_ORIGINS=origin)
        row = await public_row(daemon)
        (page,) = await room.pages(origin)
        found = await download(
            page, f"https://{room.secured[daemon]}/torrents/{row['commit']}.torrent"
        )
        show(record_property, found)
        check(found, row, files)
        assert set(found["given"]) == {OURS} and found["given"][OURS] >= SIZE


@pytest.mark.asyncio
async def test_two_pages_help_each_other(
    tmp_path: Path, bundle: bytes, record_property: Any
) -> None:
    async with room_of(tmp_path, bundle, FILES) as room:
        daemon = await room.daemon(SWARM__UPLOAD_LIMIT_BYTES_PER_S=PACED)
        row = await public_row(daemon)
        url = f"{daemon.peer_url}/torrents/{row['commit']}.torrent"
        origin = await room.site(is_secure=False)
        pages = await room.pages(origin, origin)
        async with asyncio.TaskGroup() as tasks:
            # Without the option all ask for the same pieces in the same order.
            running = [tasks.create_task(download(one, url, strategy="rarest")) for one in pages]
        found = [task.result() for task in running]
        show(record_property, *found)
        for one in found:
            check(one, row)
            assert set(one["given"]) <= {OURS, PAGES}
        given = sum(one["given"].get(PAGES, 0) for one in found)
        assert given > SIZE // 10  # of what two pages need, this much came from each other
        assert sum(one["given"].get(OURS, 0) for one in found) < 2 * SIZE


@pytest.mark.asyncio
async def test_a_page_of_this_machine_can_do_with_the_web_seed(
    tmp_path: Path, bundle: bytes
) -> None:
    async with room_of(tmp_path, bundle, FILES) as room:
        daemon = await room.daemon()
        row = await public_row(daemon)
        (page,) = await room.pages(await room.site(is_secure=False))
        url = f"{daemon.url}/torrents/{row['commit']}.torrent"
        found = await download(page, url, trackers=False)
        check(found, row)
        assert set(found["given"]) == {"web seed"}


@pytest.mark.asyncio
async def test_what_is_not_public_and_who_is_not_listed_gets_nothing(
    tmp_path: Path, bundle: bytes
) -> None:
    async with room_of(tmp_path, bundle, FILES) as room:
        private = room.hub.add_repo(PRIVATE, FILES, private=True, tokens=[TOKEN])
        listed, stranger = [await room.site(is_secure=True) for _ in range(2)]
        secret = tmp_path / "secret"
        secret.write_text("of-the-chess-club\n")
        secret.chmod(0o600)
        daemon = await room.daemon("open", WEB__ALLOWED_ORIGINS=listed)
        closed = await room.daemon(
            "closed", WEB__ALLOWED_ORIGINS=listed, LAN__GROUP_SECRET_FILE=secret
        )
        public = (await public_row(daemon))["commit"]
        await hold_private(daemon)
        ours, theirs = await room.pages(listed, stranger)
        assert await room.asked(ours, daemon, public) == [200, "a peer"]
        assert await room.asked(ours, daemon, private) == ["unreadable", NOT_TRACKED]
        for page, at in ((theirs, daemon), (ours, closed)):
            status, heard = await room.asked(page, at, public)
            assert status == "unreadable" and heard.startswith("Error connecting to wss:")


async def hold_private(daemon: Daemon) -> None:
    """Have the private repo fetched with its owner's token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for name, data in FILES.items():
            async with session.get(f"{daemon.url}/{PRIVATE}/resolve/main/{name}") as answer:
                assert await answer.read() == data
    assert {row["repo"]: row["share"] for row in await daemon.rows("models")} == {
        REPO: "shared",
        PRIVATE: "restricted",
    }
