"""What may be shared, proven on a real daemon and its hub (reliability E1, E2, E4, E6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from p2pmodels.demo.hub import Hub
from p2pmodels.demo.processes import DaemonProcess, Json

TOKEN = "hf_" + "c" * 34  # made up
BOUND_S = 20


@pytest_asyncio.fixture
async def three_repos() -> AsyncIterator[Hub]:
    """A public, a gated and a private repo with different content."""
    async with Hub() as hub:
        for name in ("org/public", "org/gated", "org/private"):
            files = {"model.safetensors": name.encode() * 10_000, "config.json": name.encode()}
            gated = "auto" if name == "org/gated" else False
            is_private = name == "org/private"
            hub.add_repo(name, files, tokens=[TOKEN], gated=gated, private=is_private)
        yield hub


async def get(url: str, token: str | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.read()


def shares(models: Json) -> dict[str, str]:
    rows = models["models"]
    assert isinstance(rows, list)
    return {row["repo"]: row["share"] for row in rows}


@pytest.mark.asyncio
async def test_only_what_an_anonymous_request_proved_public_is_shared(
    three_repos: Hub, tmp_path: Path
) -> None:
    options = ("--origin", three_repos.url, "--no-mdns")
    async with DaemonProcess(tmp_path / "d", *options) as daemon:
        for name in ("org/public", "org/gated", "org/private"):
            for file in ("model.safetensors", "config.json"):
                url = f"{daemon.url}/{name}/resolve/main/{file}"
                status, body = await get(url, TOKEN)
                assert (status, body[: len(name)]) == (200, name.encode())
        async with asyncio.timeout(BOUND_S):
            while shares(await daemon.ask("models"))["org/public"] != "shared":
                await asyncio.sleep(0.05)
        assert shares(await daemon.ask("models")) == {
            "org/public": "shared",
            "org/gated": "restricted",
            "org/private": "restricted",
        }
        peer_url = str((await daemon.ask("status"))["peer_url"])
        models = (await daemon.ask("models"))["models"]
        assert isinstance(models, list)
        for row in models:
            is_public = row["repo"] == "org/public"
            assert (row["infohash"] is not None) == is_public
            status, _ = await get(f"{peer_url}/peer/v1/torrent/{row['commit']}")
            assert status == (200 if is_public else 404)
            status, _ = await get(f"{daemon.url}/webseed/{row['commit']}/config.json")
            assert status == (200 if is_public else 404)
        assert (await daemon.ask("status"))["seeding"] == 1
        (refused,) = await daemon.order("torrent", repo="org/gated", revision="main")
        assert "'code': 'gated'" in str(refused)


@pytest.mark.asyncio
async def test_what_one_token_cached_is_not_given_to_another(
    three_repos: Hub, tmp_path: Path
) -> None:
    options = ("--origin", three_repos.url, "--no-mdns")
    async with DaemonProcess(tmp_path / "d", *options) as daemon:
        for name, refusal in (("org/gated", (401, 403)), ("org/private", (401, 404))):
            url = f"{daemon.url}/{name}/resolve/main/model.safetensors"
            assert (await get(url, TOKEN))[0] == 200
            for stranger in (None, "hf_" + "d" * 34):
                status, body = await get(url, stranger)
                assert status in refusal
                assert name.encode() * 2 not in body


@pytest.mark.asyncio
async def test_the_token_goes_to_the_origin_only_and_stands_in_no_trace(
    three_repos: Hub, tmp_path: Path
) -> None:
    options = ("--origin", three_repos.url, "--no-mdns")
    async with DaemonProcess(tmp_path / "d", *options) as daemon:
        for name in ("org/public", "org/gated"):
            url = f"{daemon.url}/{name}/resolve/main/model.safetensors"
            assert (await get(url, TOKEN))[0] == 200
        traces = [
            (await get(f"{daemon.url}/metrics"))[1],
            *[str(await daemon.ask(v)).encode() for v in ("status", "models", "transfers")],
            Path(f"/proc/{daemon.pid}/cmdline").read_bytes(),
        ]
        assert all(TOKEN.encode() not in trace for trace in traces)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path
    with_token = [hit for hit in three_repos.log if hit.has_authorization]
    assert {hit.listener for hit in with_token} == {"hub"}
    assert not [hit for hit in with_token if hit.repo == "org/public" and hit.file]
