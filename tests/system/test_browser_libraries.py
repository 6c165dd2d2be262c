"""Unmodified transformers.js and WebLLM in a real Chromium, over the module's hook.

The page has no daemon on its machine, and the hub gives lists but no bytes: whatever arrives came
over WebRTC from a daemon of the room.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from p2pmodels.demo.hub import Hub
from p2pmodels.demo.minilm import minilm_files
from tests.sources.swarm.places import random_bytes
from tests.system.npm import packed
from tests.system.onnx import embeddings_of, lookup_model
from tests.system.rtc_room import REPO, chromium, daemon_at, digest_of, file_bytes, own_address

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.system, pytest.mark.slow]

TRANSFORMERS = "@huggingface/transformers@4.3.1"
RUNTIME = "onnxruntime-web@1.31.0-dev.20260914-8d85527a0"  # what that one is built with
WASM = "ort-wasm-simd-threaded.asyncify"
WEBLLM = "@mlc-ai/web-llm@0.2.86"
WEB_RUNTIME = "@mlc-ai/web-runtime@0.27.0-dev0"  # WebLLM has 0.28.0-dev0 in it
TEXT = "hello world"
TOKENS = (101, 7592, 2088, 102)  # what BERT's tokenizer makes of it
CONFIG, LIB, MANIFEST = "mlc-chat-config.json", "lib.wasm", "tensor-cache.json"
SHARDS = 3
SHARD_BYTES = 4_000_000

INSTALL = """async ([daemon, hub]) => {
  const { install } = await import(`${daemon}/p2pmodels.js`);
  install({ daemon: null, hubs: [hub] });
}"""

EMBED = """async ([hub, repo, text]) => {
  const { env, pipeline } = await import("/transformers.min.js");
  env.remoteHost = hub + "/";
  env.allowLocalModels = false;
  env.backends.onnx.wasm.wasmPaths = location.origin + "/";
  env.backends.onnx.wasm.numThreads = 1;
  const extract = await pipeline("feature-extraction", repo, { dtype: "fp32", device: "wasm" });
  const found = await extract(text, { pooling: "mean", normalize: false });
  return Array.from(found.data);
}"""

# As far as it goes without a GPU: the configuration, and the model's library, which is none.
BEGIN = """async ([model, lib]) => {
  const { CreateMLCEngine } = await import("/web-llm.js");
  const appConfig = { model_list: [{ model, model_id: "lab", model_lib: lib }] };
  const error = await CreateMLCEngine("lab", { appConfig }).then(String, (e) => e.name);
  const kept = async (scope) => {
    const cache = await caches.open(scope);
    const [key] = await cache.keys();
    const data = await (await cache.match(key)).arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    return [key.url, Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("")];
  };
  return [error, await kept("webllm/config"), await kept("webllm/wasm")];
}"""

# As WebLLM does it: `ArtifactCache` of TVM's runtime, which keeps shards by `cache.add`.
KEEP = """async (urls) => {
  await new Promise((done, failed) => {
    const script = Object.assign(document.createElement("script"), {src: "/tvmjs.js"});
    Object.assign(script, {onload: done, onerror: failed});
    document.head.append(script);
  });
  const cache = new tvmjs.ArtifactCache("webllm/model");
  const list = await cache.fetchWithCache(urls[0], "json");
  const found = [list.records.length];
  for (const url of urls.slice(1)) {
    await cache.addToCache(url, "arraybuffer");
    const data = await cache.fetchWithCache(url, "arraybuffer");
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    found.push(Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
  return [found, await cache.hasAllKeys(urls)];
}"""


@asynccontextmanager
async def site(files: Mapping[str, bytes]) -> AsyncIterator[str]:
    """Somebody's page with these files beside it; its web origin."""

    async def give(request: web.Request) -> web.Response:
        name = request.path.lstrip("/")
        if not name:
            return web.Response(text="<!doctype html><title>page</title>", content_type="text/html")
        kind = "application/wasm" if name.endswith(".wasm") else "text/javascript"
        if name not in files:
            return web.Response(status=404)
        return web.Response(body=files[name], content_type=kind)

    app = web.Application()
    app.router.add_get("/{name:.*}", give)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def page_with(
    folder: Path, model: Mapping[str, Path], files: Mapping[str, bytes]
) -> AsyncIterator[tuple[Page, Hub]]:
    """A page of that site, its hook installed; a daemon of the room holds the model."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(Hub(host="127.0.0.1"))
        hub.add_repo(REPO, dict(model))
        daemon = await stack.enter_async_context(
            daemon_at(folder / "daemon", hub.url, own_address())
        )
        await daemon.hold()
        hub.faults.manifests_only = True
        origin = await stack.enter_async_context(site(files))
        browser = await stack.enter_async_context(chromium())
        page = await browser.new_page()
        await page.goto(origin)
        await page.evaluate(INSTALL, [daemon.peer_url, hub.url])
        before = file_bytes(hub)
        yield page, hub
        assert file_bytes(hub) == before


@pytest.mark.asyncio
async def test_transformers_js_computes_with_a_model_from_the_room(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    library = packed(pytestconfig, TRANSFORMERS, "dist/transformers.min.js")
    runtime = packed(pytestconfig, RUNTIME, f"dist/{WASM}.mjs", f"dist/{WASM}.wasm")
    files = {name.removeprefix("dist/"): data for name, data in {**library, **runtime}.items()}
    real = minilm_files()
    shape, floats = embeddings_of(real["model.safetensors"])
    weights = tmp_path / "model.onnx"
    weights.write_bytes(lookup_model(shape, floats))
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    model = {name: real[name] for name in names} | {"onnx/model.onnx": weights}
    async with page_with(tmp_path, model, files) as (page, hub):
        found = await page.evaluate(EMBED, [hub.url, REPO, TEXT])
    width = shape[1]
    rows = [struct.unpack_from(f"<{width}f", floats, 4 * width * token) for token in TOKENS]
    expected = [sum(column) / len(TOKENS) for column in zip(*rows, strict=True)]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.asyncio
async def test_webllm_gets_its_files_from_the_room(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    files = {
        "web-llm.js": packed(pytestconfig, WEBLLM, "lib/index.js")["lib/index.js"],
        "tvmjs.js": packed(pytestconfig, WEB_RUNTIME, "lib/index.js")["lib/index.js"],
    }
    shards = [f"params_shard_{number}.bin" for number in range(SHARDS)]
    model = {name: tmp_path / name for name in (CONFIG, LIB, MANIFEST, *shards)}
    for number, name in enumerate((LIB, *shards)):
        model[name].write_bytes(random_bytes(SHARD_BYTES, number))
    model[CONFIG].write_text(json.dumps({"model_type": "lab", "tokenizer_files": []}))
    model[MANIFEST].write_text(json.dumps({"records": [{"dataPath": name} for name in shards]}))
    async with page_with(tmp_path, model, files) as (page, hub):
        urls = {name: f"{hub.url}/{REPO}/resolve/main/{name}" for name in model}
        begun = await page.evaluate(BEGIN, [f"{hub.url}/{REPO}", urls[LIB]])
        kept, is_kept = await page.evaluate(KEEP, [urls[name] for name in (MANIFEST, *shards)])
    assert begun == ["CompileError", *([urls[n], digest_of(model[n])] for n in (CONFIG, LIB))]
    assert kept == [SHARDS, *(digest_of(model[name]) for name in shards)]
    assert is_kept
