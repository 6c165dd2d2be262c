"""Unmodified webtorrent in a real Chromium downloads a snapshot from our libtorrent.

They meet at our tracker. Nothing asks a STUN server: the page is told of none, and libtorrent has
none. The bundle comes from npm once and is kept in pytest's cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.typedefs import Handler

from p2pmodels.clock import RealClock
from p2pmodels.core.names import FilePath
from p2pmodels.core.torrent import Torrent, TorrentName
from p2pmodels.core.tracker import Tracker
from p2pmodels.doors.announce import ANNOUNCE_PATH, AnnounceDoor, AnnounceOptions
from p2pmodels.doors.guard import GuardOptions, allowed_origin
from p2pmodels.doors.torrents import TorrentsDoor
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane
from tests.peer_fakes import listening
from tests.sources.swarm.places import COMMIT, MIB, Shelf, random_bytes, shelve, torrent_of
from tests.system.test_browser import chromium

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.system, pytest.mark.slow]

WEBTORRENT = "webtorrent@3.0.21"
BUNDLE = "package/dist/webtorrent.min.js"
NPM_LIMIT_S = 60.0  # seconds to get 1.6 MB
DOWNLOAD_LIMIT_S = 60.0  # seconds; it takes one, on a machine that does nothing else
PACED = MIB // 2  # bytes a second; so that two pages have something to give each other
OURS = "-PM"  # how the peer id of a daemon begins
FILES = {
    "config.json": random_bytes(1000, 1),
    "empty.txt": b"",
    "sub/model.safetensors": random_bytes(8 * MIB + 12_345, 2),
    "tokenizer.json": random_bytes(300_000, 3),
}
READABLE = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*"}
SIZE = sum(map(len, FILES.values()))

PAGE = """<!doctype html><title>webtorrent</title><script type="module">
import WebTorrent from "/webtorrent.min.js";
window.WebTorrent = WebTorrent;
</script>"""

# As its users write it; `wires` at the end say who gave how much.
DOWNLOAD = """async ([url, options]) => {
  const client = new WebTorrent({tracker: {rtcConfig: {iceServers: []}}});
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
    const who = wire.type === "webSeed" ? "web seed" : id;
    given[who] = (given[who] || 0) + wire.downloaded;
  }
  return {seconds, digests, given, infohash: torrent.infoHash};
}"""


@pytest.fixture(scope="session")
def bundle(pytestconfig: pytest.Config) -> bytes:
    """The browser bundle of webtorrent, as npm has it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine (apt-get install npm)")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("webtorrent")
    packed = folder / f"{WEBTORRENT.replace('@', '-')}.tgz"
    if not packed.is_file():
        command = [npm, "pack", "--silent", "--pack-destination", str(folder), WEBTORRENT]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=NPM_LIMIT_S)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"npm gives no {WEBTORRENT}: {type(error).__name__}")
    with tarfile.open(fileobj=io.BytesIO(packed.read_bytes())) as archive:
        found = archive.extractfile(BUNDLE)
        assert found is not None
        return found.read()


@dataclass
class Seed:
    """A seeding swarm with its tracker; and pages of another web origin."""

    swarm: Swarm
    torrent: Torrent
    url: str
    page_url: str

    @property
    def torrent_url(self) -> str:
        return f"{self.url}/torrents/{COMMIT}.torrent"

    async def download(self, page: Page, **options: object) -> dict[str, Any]:
        """Let a page download the torrent with webtorrent's options; what it saw."""
        await page.goto(self.page_url)
        await page.wait_for_function("() => window.WebTorrent")
        async with asyncio.timeout(DOWNLOAD_LIMIT_S):
            found: dict[str, Any] = await page.evaluate(DOWNLOAD, [self.torrent_url, options])
        return found


@asynccontextmanager
async def page_server(bundle: bytes) -> AsyncIterator[str]:
    """A page with webtorrent, on a web origin of its own; its URL."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def script(_request: web.Request) -> web.Response:
        return web.Response(body=bundle, content_type="text/javascript")

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/webtorrent.min.js", script)
    async with listening(app) as address:
        yield f"http://{address}/"


def web_origin(request: web.Request) -> str | None:
    return allowed_origin(request, GuardOptions())


@web.middleware
async def readable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What the guard of the local endpoint does for pages that it lets in."""
    if request.method == "OPTIONS":
        return web.Response(status=204, headers=READABLE)
    answer = await handler(request)
    for name, value in READABLE.items():
        answer.headers.setdefault(name, value)
    return answer


def add_files(app: web.Application, shelf: Shelf) -> None:
    """Give the files of a shelf as web seed, as the local endpoint does."""

    async def file(request: web.Request) -> web.FileResponse:
        path = shelf[FilePath(request.match_info["path"])]
        return web.FileResponse(path, headers=READABLE)

    app.router.add_get("/webseed/{commit}/{path:.+}", file)


@asynccontextmanager
async def seeding(
    folder: Path,
    bundle: bytes,
    *,
    files: Mapping[str, bytes] = FILES,
    rate: int = 0,
    is_met: bool = True,
    has_files: bool = False,
) -> AsyncIterator[Seed]:
    """A swarm that seeds files, with the doors for pages; `rate` in bytes a second."""
    shelf = shelve(folder, files)
    torrent = torrent_of(shelf)

    def shared(name: TorrentName) -> Torrent | None:
        return torrent if name == COMMIT else None

    async with Lane("test", 4) as lane, Tasks() as tasks:
        app = web.Application(middlewares=[readable] if has_files else [])
        seeds: list[Swarm] = []
        swarms = Tracker(
            lambda infohash: is_met and seeds[0].is_seeding(infohash),
            random.Random(7),
            call=lambda infohash: seeds[0].meet_pages(infohash),
        )
        door = AnnounceDoor(swarms, AnnounceOptions(web_origin), RealClock())
        door.add_routes(app)
        TorrentsDoor(shared, web_origin, has_files=has_files).add_routes(app)
        if has_files:
            add_files(app, shelf)
        async with listening(app) as address, page_server(bundle) as page_url:
            options = SwarmOptions(
                listen_host="127.0.0.1",
                port=0,
                page_tracker=f"ws://{address}{ANNOUNCE_PATH}",
                upload_limit_bytes_per_s=rate,
            )
            async with Swarm(options, lane, RealClock()) as swarm:
                seeds.append(swarm)
                tasks.start(swarm.run(), "swarm")
                await swarm.seed(torrent, shelf)
                yield Seed(swarm, torrent, f"http://{address}", page_url)


@pytest_asyncio.fixture
async def page() -> AsyncIterator[Page]:
    async with chromium() as opened:
        yield opened


async def another(page: Page) -> Page:
    """A page of another profile in the same browser."""
    browser = page.context.browser
    assert browser is not None
    return await (await browser.new_context()).new_page()


def check(found: dict[str, Any], torrent: Torrent, files: Mapping[str, bytes] = FILES) -> None:
    """Every file is right, and the torrent is the very same."""
    expected = {f"{COMMIT}/{name}": hashlib.sha256(data) for name, data in files.items()}
    digests = {path: text for path, text in found["digests"].items() if "/.pad/" not in path}
    assert digests == {path: digest.hexdigest() for path, digest in expected.items()}
    assert found["infohash"] == torrent.infohash


def from_daemon(found: dict[str, Any]) -> int:
    return sum(size for who, size in found["given"].items() if who.startswith(OURS))


def from_pages(found: dict[str, Any]) -> int:
    return sum(size for who, size in found["given"].items() if who.startswith("-WW"))


def show(record: Any, *found: dict[str, Any]) -> None:
    """Keep the figures with the test's result."""
    for at, one in enumerate(found):
        figures = {
            "MB/s": round(SIZE / 1e6 / one["seconds"], 1),
            "from daemon": from_daemon(one),
            "from pages": from_pages(one),
        }
        record(f"page {at}", json.dumps(figures))
        print(f"page {at}: {figures}")


@pytest.mark.asyncio
async def test_a_page_downloads_a_snapshot_from_the_daemon(
    tmp_path: Path, bundle: bytes, page: Page, record_property: Any
) -> None:
    async with seeding(tmp_path, bundle) as seed:
        found = await seed.download(page)
        show(record_property, found)
        check(found, seed.torrent)
        assert from_daemon(found) >= SIZE and from_pages(found) == 0
        transfer = seed.swarm.transfers()[0]
        assert transfer.is_seed


@pytest.mark.asyncio
async def test_two_pages_help_each_other(
    tmp_path: Path, bundle: bytes, page: Page, record_property: Any
) -> None:
    async with seeding(tmp_path, bundle, rate=PACED) as seed:
        pages = [page, await another(page)]
        async with asyncio.TaskGroup() as tasks:
            # Without the option all ask for the same pieces in the same order.
            running = [tasks.create_task(seed.download(one, strategy="rarest")) for one in pages]
        found = [task.result() for task in running]
        show(record_property, *found)
        for one in found:
            check(one, seed.torrent)
        given = sum(map(from_pages, found))
        assert given > SIZE // 10  # of what two pages need, this much came from each other
        assert sum(map(from_daemon, found)) < 2 * SIZE


@pytest.mark.asyncio
async def test_a_page_gets_a_torrent_that_is_not_tracked_from_the_web_seed(
    tmp_path: Path, bundle: bytes, page: Page
) -> None:
    files = {name: data for name, data in FILES.items() if data}
    async with seeding(tmp_path, bundle, files=files, is_met=False, has_files=True) as seed:
        found = await seed.download(page)
        check(found, seed.torrent, files)
        assert set(found["given"]) == {"web seed"}
