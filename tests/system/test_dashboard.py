"""The dashboard in a real browser, against a control API whose answers the test decides.

The files go out through the page door itself, with its policy; the data is hostile where a stranger
could have written it.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Error, Page, async_playwright, expect

from p2pmodels.doors.page import PageDoor
from p2pmodels.errors import OriginDown

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WITHIN_MS = 10_000  # ms; a poll takes one second, a loaded machine some more
MARKUP = "<img src=x onerror=\"document.title='owned'\">"
SCRIPT = "</bdi><script>document.title='owned'</script>"

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed"),
]

Json = dict[str, object]


def status(by_source: Json | None = None) -> Json:
    """The answer of a daemon that has worked a little."""
    return {
        "version": "0.1.0",
        "id": "abcdef0123456789",
        "uptime_s": 7300,
        "peer_url": "http://127.0.0.1:7879",
        "data_dir": "/var/lib/p2pmodels",
        "store": {"bytes": 90_900_000, "limit_bytes": 0, "free_bytes": 4_000_000_000},
        "bytes_by_source": by_source
        or {"store": 30_000_000, "origin": 9_000_000, "swarm": 61_000_000},
        "served_bytes": 100_000_000,
        "shared_bytes": 5_000_000,
        "origins": [{"url": "hub", "state": "ok", "error": None}],
        "parts": {"swarm": "running", "lan": "failed: OSError"},
    }


def model(repo: str, *, is_complete: bool = True, share: str = "shared") -> Json:
    return {
        "repo": repo,
        "commit": "c" * 40,
        "revisions": ["main"],
        "files": 10,
        "files_cached": 10 if is_complete else 4,
        "bytes": 90_900_000,
        "bytes_cached": 90_900_000 if is_complete else 45_450_000,
        "is_complete": is_complete,
        "is_pinned": True,
        "share": share,
        "magnet": "magnet:?xt=urn:btih:" + "a" * 40,
        "last_used": None,
        "sources": {"swarm": 90_900_000},
    }


def peer(address: str) -> Json:
    return {
        "id": address,
        "address": address,
        "found_by": "mdns",
        "version": "0.1.0",
        "state": "ready",
        "last_seen_s": 1.0,
        "bytes_from": 61_000_000,
        "bytes_to": 0,
    }


def transfer(path: str) -> Json:
    return {
        "id": path,
        "repo": "org/name",
        "path": path,
        "size": 40_000_000,
        "landed": 10_000_000,
        "rate_bytes_per_s": 5_000_000.0,
        "source": "swarm",
        "sources": {"swarm": 10_000_000},
        "state": "fetching",
        "error": None,
    }


def node(name: str, kind: str, state: str = "ready") -> Json:
    return {"id": name, "kind": kind, "name": name, "state": state}


def flow(source: str, target: str, bytes_per_s: float = 0.0) -> Json:
    return {"from": source, "to": target, "bytes_per_s": bytes_per_s, "bytes": 1}


def flows(machines: int, *running: Json) -> Json:
    """This machine, an origin, a swarm and so many machines nearby."""
    around = [node(f"10.0.0.{number}", "peer") for number in range(machines)]
    fixed = [node(name, name) for name in ("self", "origin", "swarm")]
    return {"nodes": [*fixed, *around], "flows": list(running)}


@dataclass
class FakeControl:
    """A control API: what it answers is what the test put there."""

    url: str = ""
    is_down: bool = False
    answers: dict[str, Json] = field(
        default_factory=lambda: {
            "status": status(),
            "models": {"models": [model("org/first"), model("org/second", is_complete=False)]},
            "peers": {"peers": [peer("192.0.2.7:7879")]},
            "transfers": {"transfers": [transfer("shard_1.bin")], "uploads": []},
            "flows": flows(2),
        }
    )
    requests: list[tuple[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """One GET of the page; while down, the connection is cut without a word."""
        self.requests.append((request.method, request.path))
        if self.is_down and request.transport is not None:
            request.transport.abort()
        return web.json_response(copy.deepcopy(self.answers[request.match_info["name"]]))


@pytest_asyncio.fixture
async def control() -> AsyncIterator[FakeControl]:
    fake, page = FakeControl(), PageDoor()
    app = web.Application()
    app.router.add_get("/", page.index)
    app.router.add_get("/static/{name}", page.static)
    app.router.add_route("*", "/api/p2p/v1/{name}", fake.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{cast(tuple[str, int], runner.addresses[0])[1]}"
    yield fake
    await runner.cleanup()


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    # Chromium refuses its own sandbox to root, which is who runs tests in a container.
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    async with async_playwright() as started:
        running = await started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        await running.close()


class Watched:
    """A page whose every complaint and request is kept."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.addresses: list[str] = []
        page.set_default_timeout(WITHIN_MS)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.addresses.append(request.url))

    async def shows(self, selector: str, words: str) -> None:
        """Wait until the element shows the words; figures carry no-break spaces."""
        pattern = re.compile(r"[\s\u00a0]+".join(map(re.escape, words.split())))
        await expect(self.page.locator(selector)).to_contain_text(pattern, timeout=WITHIN_MS)


@pytest_asyncio.fixture
async def watched(browser: Browser) -> AsyncIterator[Watched]:
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    yield Watched(await context.new_page())
    await context.close()


@pytest.mark.asyncio
async def test_page_shows_the_figures(control: FakeControl, watched: Watched) -> None:
    await watched.page.goto(control.url)
    await watched.shows(
        "#headline", "2 models here · 91 MB saved from the internet · 1 machine nearby"
    )
    await watched.shows("#legend .here .legend-share", "30 %")
    await watched.shows("#legend .nearby .legend-share", "61 %")
    await watched.shows("#legend .internet .legend-share", "9 %")
    await watched.shows("#legend .internet .legend-bytes", "9.0 MB")
    await watched.shows("#transfers", "10 MB of 40 MB")
    await watched.shows("#transfers", "5.0 MB/s")
    await watched.shows("#peer-list", "gave us 61 MB")
    await watched.shows("#origins", "hub answers")
    await watched.shows("#parts", "Local network failed: OSError")
    await watched.shows("#use-shell", f"export HF_ENDPOINT={control.url}")
    await watched.shows("#model-list .model >> nth=0", "Came from BitTorrent")
    partial = watched.page.locator("#model-list .model", has_text="org/second")
    await expect(partial.locator("progress")).to_have_js_property("value", 500)
    widths = await watched.page.eval_on_selector_all(
        "#bar .segment", "all => all.map(one => one.style.width)"
    )
    assert widths == ["30%", "61%", "9%"]
    assert watched.complaints == []


@pytest.mark.asyncio
async def test_page_follows_what_changes(control: FakeControl, watched: Watched) -> None:
    await watched.page.goto(control.url)
    await watched.shows("#transfers", "10 MB of 40 MB")
    control.answers["transfers"] = {"transfers": [], "uploads": []}
    control.answers["models"] = {"models": [model("org/second")]}
    await expect(watched.page.locator("#running-now")).to_be_hidden(timeout=WITHIN_MS)
    await watched.shows("#headline", "1 model here")
    await expect(watched.page.locator("#model-list .model")).to_have_count(1)
    assert watched.complaints == []


@pytest.mark.asyncio
async def test_page_says_what_to_do_when_nothing_is_here(
    control: FakeControl, watched: Watched
) -> None:
    control.answers["status"] = status({"store": 0, "origin": 0, "swarm": 0})
    control.answers["models"], control.answers["peers"] = {"models": []}, {"peers": []}
    await watched.page.goto(control.url)
    await watched.shows("#headline", "Ready for the first model · no other machine nearby")
    await watched.shows("#models-empty", "p2pmodels fetch")
    await watched.shows("#peers-empty", "p2pmodels serve --peer")
    assert watched.complaints == []


@pytest.mark.asyncio
async def test_names_full_of_markup_are_shown_inert(control: FakeControl, watched: Watched) -> None:
    hostile = {**model(MARKUP, share=MARKUP), "magnet": "javascript:document.title='owned'"}
    error = OriginDown(SCRIPT).as_json()
    control.answers["models"] = {"models": [hostile]}
    control.answers["peers"] = {"peers": [peer(SCRIPT)]}
    control.answers["flows"] = {
        "nodes": [node("self", "self"), node(MARKUP, "peer"), node(SCRIPT, SCRIPT)],
        "flows": [flow(MARKUP, "self", 1e6), flow(SCRIPT, MARKUP, 1e6)],
    }
    control.answers["transfers"] = {
        "transfers": [{**transfer(MARKUP), "state": "failed", "error": error}],
        "uploads": [
            {
                "name": SCRIPT,
                "infohash": MARKUP,
                "bytes": 1,
                "rate_bytes_per_s": 1.0,
                "peers": 1,
            }
        ],
    }
    control.answers["status"] |= {
        "version": MARKUP,
        "data_dir": MARKUP,
        "parts": {MARKUP: SCRIPT},
        "origins": [{"url": MARKUP, "state": "down", "error": error}],
    }
    await watched.page.goto(control.url)
    await expect(watched.page.locator("#model-list .name")).to_have_text(MARKUP)
    await expect(watched.page.locator("#peer-list .name")).to_have_text(SCRIPT)
    await expect(watched.page.locator("#transfers .name")).to_have_text(MARKUP)
    await expect(watched.page.locator("#parts .name")).to_have_text(MARKUP)
    await expect(watched.page.locator("#picture .peer title")).to_contain_text(MARKUP)
    await expect(watched.page.locator("#model-list .magnet")).to_be_hidden()
    assert (
        await watched.page.locator("main img, main script, footer img, footer script").count() == 0
    )
    assert await watched.page.title() == "p2pmodels"
    assert watched.complaints == []


@pytest.mark.asyncio
async def test_banner_tells_of_an_outage_and_goes_when_it_ends(
    control: FakeControl, watched: Watched
) -> None:
    await watched.page.goto(control.url)
    await watched.shows("#headline", "2 models here")
    banner = watched.page.locator("#banner-inside")
    await expect(banner).to_be_hidden()
    control.is_down = True
    await watched.shows("#banner-inside", "The daemon does not answer.")
    await expect(banner).to_be_visible()
    await watched.shows("#headline", "2 models here")
    control.is_down = False
    await watched.page.get_by_role("button", name="Try now").click()
    await expect(banner).to_be_hidden(timeout=WITHIN_MS)
    # The browser itself notes each failed request; nothing else may be complained about.
    assert [text for text in watched.complaints if "net::ERR_" not in text] == []


@pytest.mark.asyncio
async def test_banner_repeats_the_daemons_own_advice(
    control: FakeControl, watched: Watched
) -> None:
    await watched.page.route(
        "**/api/p2p/v1/status",
        lambda route: route.fulfill(status=503, json={"error": OriginDown("no route").as_json()}),
    )
    await watched.page.goto(control.url)
    await watched.shows("#banner-inside", "The daemon answers with an error.")
    await watched.shows("#banner-inside", OriginDown("no route").message)
    await watched.shows("#banner-inside", OriginDown.advice)


@pytest.mark.asyncio
async def test_page_only_reads_and_only_from_its_daemon(
    control: FakeControl, watched: Watched
) -> None:
    await watched.page.goto(control.url)
    await watched.shows("#headline", "2 models here")
    assert {method for method, _ in control.requests} == {"GET"}
    assert watched.addresses
    assert all(address.startswith(control.url + "/") for address in watched.addresses)


@pytest.mark.asyncio
async def test_copy_button_copies_the_endpoint(control: FakeControl, watched: Watched) -> None:
    await watched.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await watched.page.goto(control.url)
    await watched.page.locator("#copy-shell").click()
    await watched.shows("#copy-shell", "Copied")
    copied = await watched.page.evaluate("navigator.clipboard.readText()")
    assert copied == f"export HF_ENDPOINT={control.url}"


@pytest.mark.asyncio
@pytest.mark.parametrize("width", [360, 390, 768, 1280])
async def test_page_never_scrolls_sideways(
    control: FakeControl, watched: Watched, width: int
) -> None:
    control.answers["models"] = {"models": [model("org/" + "long-name" * 30)]}
    await watched.page.set_viewport_size({"width": width, "height": 800})
    await watched.page.goto(control.url)
    await watched.shows("#headline", "1 model here")
    assert await watched.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.asyncio
async def test_policy_is_enforced_on_the_page(control: FakeControl, watched: Watched) -> None:
    await watched.page.goto(control.url)
    await watched.shows("#headline", "2 models here")
    with pytest.raises(Error):
        await watched.page.add_script_tag(content="document.title = 'owned'")
    assert await watched.page.title() == "p2pmodels"
