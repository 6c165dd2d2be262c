"""`install`: unmodified fetches of a page, a worker and the Cache API come from nearby."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from tests.browser.conftest import Open
from tests.browser.fake_daemon import FakeDaemon, Meeting
from tests.browser.test_page_downloads import MIB, PATH, File, holder, some_file

PREPARE = """async (options) => {
  const { install } = await import("/p2pmodels.js");
  globalThis.uninstall = install({ daemon: null, hubs: [location.origin], ...options });
  globalThis.digest = async (data) => Array.from(
    new Uint8Array(await crypto.subtle.digest("SHA-256", data)),
    (byte) => byte.toString(16).padStart(2, "0")).join("");
}"""


def listed(made: Meeting, file: File) -> None:
    made.origin[PATH] = file.data
    made.listed["/api/models/org/name/revision/main"] = {
        "sha": "c" * 40,
        "siblings": [
            {"rfilename": "shard.bin", "size": len(file.data), "lfs": {"sha256": file.digest}}
        ],
    }


@pytest.mark.asyncio
async def test_a_plain_fetch_comes_from_nearby_until_uninstalled(open_page: Open) -> None:
    file = some_file(3 * MIB)
    page, made = await open_page(holder(file))
    listed(made, file)
    await page.evaluate(PREPARE, {})
    fetch = "async (url) => digest(await (await fetch(url)).arrayBuffer())"
    assert await page.evaluate(fetch, made.url + PATH) == file.digest
    assert made.origin_bytes == 0
    await page.evaluate("uninstall()")
    assert await page.evaluate(fetch, made.url + PATH) == file.digest
    assert made.origin_bytes == len(file.data)


@pytest.mark.asyncio
async def test_the_cache_is_filled_from_nearby_as_webllm_does(open_page: Open) -> None:
    file = some_file(3 * MIB)
    page, made = await open_page(holder(file))
    listed(made, file)
    await page.evaluate(PREPARE, {})
    found = await page.evaluate(
        """async (url) => {
          const cache = await caches.open("webllm/model");
          const request = new Request(url);
          await cache.add(request);
          const missing = await cache.add(url + ".none").then(() => "kept", (e) => e.name);
          const kept = await cache.match(request);
          const length = kept.headers.get("Content-Length");
          return [await digest(await kept.arrayBuffer()), length, missing];
        }""",
        made.url + PATH,
    )
    assert found == [file.digest, str(len(file.data)), "TypeError"]
    assert made.origin_bytes == 0


@pytest.mark.asyncio
async def test_a_wrong_file_never_enters_the_cache(open_page: Open) -> None:
    file = some_file(12 * MIB)
    liar = holder(file)
    liar.files[file.digest] = bytes(len(file.data))
    page, made = await open_page(liar)
    listed(made, file)
    await page.evaluate(PREPARE, {})
    found = await page.evaluate(
        """async (url) => {
          const cache = await caches.open("webllm/model");
          const first = await cache.add(url).then(() => "kept", (e) => e.name);
          const kept = await cache.match(url);
          await cache.add(url);
          const second = await cache.match(url);
          return [first, kept === undefined, await digest(await second.arrayBuffer())];
        }""",
        made.url + PATH,
    )
    assert found[1:] == [True, file.digest]
    assert found[0] != "kept"


@pytest.mark.asyncio
async def test_ranges_and_everything_else_go_to_the_origin(open_page: Open) -> None:
    file = some_file(3 * MIB)
    daemon = holder(file)
    page, made = await open_page(daemon)
    listed(made, file)
    await page.evaluate(PREPARE, {})
    found = await page.evaluate(
        """async (url) => {
          const seen = [];
          for (const init of [
            { headers: { Range: "bytes=0-1" } }, { headers: { Range: "bytes=100-199" } },
            { method: "HEAD" }, { headers: { Authorization: "Bearer x" } },
            { headers: { "If-None-Match": '"x"' } },
          ]) {
            const answer = await fetch(url, init);
            seen.push([answer.status, (await answer.arrayBuffer()).byteLength]);
          }
          const list = await fetch(location.origin + "/api/models/org/name/revision/main");
          seen.push([list.status, (await list.json()).siblings.length]);
          return seen;
        }""",
        made.url + PATH,
    )
    size = len(file.data)
    assert found == [[206, 2], [206, 100], [200, 0], [200, size], [200, size], [200, 1]]
    assert daemon.gets == []


@pytest.mark.asyncio
async def test_a_probe_is_answered_from_the_list_and_its_byte_from_the_checked_file(
    open_page: Open,
) -> None:
    file = some_file(3 * MIB)
    daemon = holder(file)
    page, made = await open_page(daemon)
    listed(made, file)
    await page.evaluate(PREPARE, {})
    probe = """async ([url, isRead]) => {
      const answer = await fetch(url, { headers: { Range: "bytes=0-0" } });
      const byte = isRead ? new Uint8Array(await answer.arrayBuffer()) : [];
      return [answer.status, answer.headers.get("Content-Range"), Array.from(byte)];
    }"""
    told = [206, f"bytes 0-0/{len(file.data)}"]
    assert await page.evaluate(probe, [made.url + PATH, False]) == [*told, []]
    assert daemon.gets == []
    assert await page.evaluate(probe, [made.url + PATH, True]) == [*told, [file.data[0]]]
    absent = made.url + PATH + ".none"
    assert (await page.evaluate(probe, [absent, False]))[0] == 404
    assert made.origin_bytes == 0


@pytest.mark.asyncio
async def test_a_probe_that_nobody_reads_to_the_end_ends(open_page: Open) -> None:
    file = some_file(60 * MIB)
    daemon = holder(file)
    page, made = await open_page(daemon)
    listed(made, file)
    await page.evaluate(PREPARE, {})
    await page.evaluate(
        """async (url) => {
          const answer = await fetch(url, { headers: { Range: "bytes=0-0" } });
          window.reader = answer.body.getReader();
          window.reader.read().catch(() => {});
        }""",
        made.url + PATH,
    )
    async with asyncio.timeout(30):
        while daemon.given == 0:
            await asyncio.sleep(0.01)
        await page.evaluate("reader.cancel()")
        before = -1
        while daemon.given != before:
            before = daemon.given
            await asyncio.sleep(0.5)
    assert daemon.given < len(file.data)


WORKER = """
import { fetchModelFile, install, report } from "/p2pmodels.js";
import { Sha256, hex } from "/p2pmodels/hashes.js";
const answer = async (url) => {
  install({ daemon: null, hubs: [location.origin] });
  const response = await fetch(url);
  const bytes = new Uint8Array(await response.arrayBuffer());
  return [hex(new Sha256().update(bytes).finish()), response.headers.get("X-P2PModels-Source")];
};
addEventListener("message", async ({ data, source, ports }) => {
  const to = ports[0] ?? globalThis;
  to.postMessage(await answer(data).catch((error) => String(error)));
});
"""


def serve_worker(made: Meeting) -> None:
    made.scripts["/worker.js"] = WORKER


@pytest.mark.asyncio
@pytest.mark.parametrize("has_page", [True, False])
async def test_a_worker_pulls_through_a_page_or_goes_without(
    open_page: Open, has_page: bool
) -> None:
    file = some_file(9 * MIB)
    page, made = await open_page(holder(file))
    listed(made, file)
    serve_worker(made)
    if has_page:
        await page.evaluate(PREPARE, {})
    found = await page.evaluate(
        """async (url) => {
          const worker = new Worker("/worker.js", { type: "module" });
          const answer = new Promise((done) => (worker.onmessage = ({ data }) => done(data)));
          worker.postMessage(url);
          return answer;
        }""",
        made.url + PATH,
    )
    assert found == [file.digest, "webrtc" if has_page else "origin"]
    assert made.origin_bytes == (0 if has_page else len(file.data))


@pytest.mark.asyncio
async def test_a_service_worker_pulls_through_a_page(open_page: Open) -> None:
    file = some_file(2 * MIB)
    page, made = await open_page(holder(file))
    listed(made, file)
    serve_worker(made)
    await page.evaluate(PREPARE, {})
    found = await page.evaluate(
        """async (url) => {
          const kept = await navigator.serviceWorker.register("/worker.js", { type: "module" });
          await navigator.serviceWorker.ready;
          const { port1, port2 } = new MessageChannel();
          const answer = new Promise((done) => (port1.onmessage = ({ data }) => done(data)));
          kept.active.postMessage(url, [port2]);
          return answer;
        }""",
        made.url + PATH,
    )
    assert found == [file.digest, "webrtc"]


class Local:
    """A daemon of this machine, as far as the module asks."""

    def __init__(self, file: File, *, breaks_at: int | None = None, tag: str = "") -> None:
        self.file, self.breaks_at, self.tag = file, breaks_at, tag or file.digest
        self.asked: list[str] = []

    async def give(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        headers = {
            "ETag": f'"{self.tag}"',
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Expose-Headers": "ETag, Content-Length, Content-Range",
        }
        if request.path == "/healthz":
            return web.json_response({"status": "ok"}, headers=headers)
        if "Range" in request.headers:
            headers["Content-Range"] = f"bytes 0-0/{len(self.file.data)}"
            return web.Response(status=206, body=self.file.data[:1], headers=headers)
        answer = web.StreamResponse(headers=headers)
        answer.content_length = len(self.file.data)
        await answer.prepare(request)
        stop = len(self.file.data) if self.breaks_at is None else self.breaks_at
        await answer.write(self.file.data[:stop])
        if self.breaks_at is not None and request.transport is not None:
            request.transport.abort()
        return answer


async def local_daemon(made: Meeting, local: Local) -> str:
    return await made.also(local.give)


@pytest.mark.asyncio
async def test_the_daemon_of_this_machine_comes_first(open_page: Open) -> None:
    file = some_file(3 * MIB)
    peer = holder(file)
    page, made = await open_page(peer)
    listed(made, file)
    local = Local(file)
    await page.evaluate(PREPARE, {"daemon": await local_daemon(made, local)})
    found = await page.evaluate(
        """async (url) => {
          const whole = await fetch(url);
          const part = await fetch(url, { headers: { Range: "bytes=0-0" } });
          const range = part.headers.get("Content-Range");
          return [await digest(await whole.arrayBuffer()), part.status, range];
        }""",
        made.url + PATH,
    )
    assert found == [file.digest, 206, f"bytes 0-0/{len(file.data)}"]
    assert local.asked == ["/healthz", PATH, PATH]
    assert (made.origin_bytes, peer.gets) == (0, [])


@pytest.mark.asyncio
async def test_peers_go_on_where_the_daemon_of_this_machine_broke_off(open_page: Open) -> None:
    file = some_file(12 * MIB)
    peer = holder(file)
    page, made = await open_page(peer)
    listed(made, file)
    local = Local(file, breaks_at=5 * MIB)
    await page.evaluate(PREPARE, {"daemon": await local_daemon(made, local)})
    fetch = "async (url) => digest(await (await fetch(url)).arrayBuffer())"
    assert await page.evaluate(fetch, made.url + PATH) == file.digest
    assert made.origin_bytes == 0
    assert min(start for start, _stop in peer.gets) > 0


@pytest.mark.asyncio
async def test_a_daemon_with_another_file_of_that_name_is_passed_over(open_page: Open) -> None:
    file = some_file(3 * MIB)
    page, made = await open_page(holder(file))
    listed(made, file)
    local = Local(some_file(3 * MIB, seed=9))
    await page.evaluate(PREPARE, {"daemon": await local_daemon(made, local)})
    fetch = "async (url) => digest(await (await fetch(url)).arrayBuffer())"
    assert await page.evaluate(fetch, made.url + PATH) == file.digest


@pytest.mark.asyncio
async def test_an_absent_daemon_is_not_asked_again(open_page: Open) -> None:
    file = some_file(1000)
    page, made = await open_page(FakeDaemon({file.digest: file.data}))
    listed(made, file)
    tries: list[str] = []
    page.on("requestfailed", lambda request: tries.append(request.url))
    await page.evaluate(PREPARE, {"daemon": "http://127.0.0.1:9"})
    fetch = "async (url) => digest(await (await fetch(url)).arrayBuffer())"
    for _ in range(3):
        assert await page.evaluate(fetch, made.url + PATH) == file.digest
    assert tries == ["http://127.0.0.1:9/healthz"]
