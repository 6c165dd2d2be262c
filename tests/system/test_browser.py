"""A real Chromium: a page fetches shards from the endpoint; a stranger's page gets nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from p2pmodels.demo.minilm import MINILM_REPO, minilm_files
from p2pmodels.demo.processes import DaemonProcess

if TYPE_CHECKING:
    from playwright.async_api import Page

FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

# As WebLLM does: Cache API first, then the bytes; and as transformers.js probes a size.
FETCH_SHARDS = """async ([base, names]) => {
  const cache = await caches.open("webllm/model");
  const found = {};
  for (const name of names) {
    const request = new Request(base + name);
    await cache.add(request);
    const data = await (await cache.match(request)).arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    found[name] = Array.from(digest, b => b.toString(16).padStart(2, "0")).join("");
  }
  const probe = await fetch(base + names[0], {headers: {Range: "bytes=0-0"}, cache: "no-store"});
  found.probe = [probe.status, probe.headers.get("Content-Range"), probe.headers.get("ETag")];
  return found;
}"""


@asynccontextmanager
async def chromium(*more: str) -> AsyncIterator[Page]:
    """A page of the distribution's Chromium, or a skip with the reason."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.async_api")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=found, args=[*FLAGS, *more])
        try:
            yield await browser.new_page()
        finally:
            await browser.close()


@asynccontextmanager
async def page_server() -> AsyncIterator[int]:
    """An empty page somewhere else on this machine; yields its port."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>a page</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    try:
        yield sock.getsockname()[1]
    finally:
        await runner.cleanup()


def digests(names: list[str]) -> dict[str, str]:
    files = minilm_files()
    return {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in names}


@pytest.mark.asyncio
async def test_a_page_on_this_machine_fetches_shards_into_its_cache(daemon: DaemonProcess) -> None:
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    base = f"{daemon.url}/{MINILM_REPO}/resolve/main/"
    async with page_server() as port, chromium() as page:
        await page.goto(f"http://127.0.0.1:{port}/")
        for _ in range(2):  # while it is fetched, then from the cache
            found = await page.evaluate(FETCH_SHARDS, [base, names])
            size = minilm_files()["config.json"].stat().st_size
            status, content_range, etag = found.pop("probe")
            assert (status, content_range) == (206, f"bytes 0-0/{size}")
            assert etag
            assert found == digests(names)


@pytest.mark.asyncio
async def test_a_strangers_page_learns_nothing(daemon: DaemonProcess) -> None:
    async with page_server() as port, chromium(
        "--host-resolver-rules=MAP stranger.example 127.0.0.1"
    ) as page:  # fmt: skip
        await page.goto(f"http://stranger.example:{port}/")
        for path in (f"/{MINILM_REPO}/resolve/main/config.json", "/api/p2p/v1/status", "/healthz"):
            for mode in ("cors", "no-cors"):
                seen = await page.evaluate(
                    "([u, m]) => fetch(u, {mode: m}).then(r => r.status, e => 'failed')",
                    [daemon.url + path, mode],
                )
                assert seen in ("failed", 0), (path, mode, seen)
    assert (await daemon.ask("models"))["models"] == []  # and it started no download


@pytest.mark.asyncio
async def test_the_dashboard_shows_the_model_without_a_complaint(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    await daemon.order("fetch", repo=MINILM_REPO, revision="main")
    complaints: list[str] = []
    async with chromium() as page:
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.set_viewport_size({"width": 1280, "height": 900})
        await page.goto(daemon.url + "/")
        await page.get_by_text(MINILM_REPO).first.wait_for(timeout=10_000)
        target = os.environ.get("TEST_SCREENSHOT", str(tmp_path / "dashboard.png"))
        await page.screenshot(path=target, full_page=True)
    assert complaints == []
