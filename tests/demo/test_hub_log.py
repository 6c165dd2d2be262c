"""The demo hub's log tells what was asked and what was really sent."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import ssl
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from p2pmodels.demo.hub import Hub

WEIGHTS = random.Random(1).randbytes(3 << 20)
REPO = "acme/tiny"


@pytest.mark.asyncio
async def test_log_tells_what_was_asked_and_counts_what_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    async with Hub(log_path=path) as hub, aiohttp.ClientSession() as session:
        hub.add_repo(REPO, {"model.safetensors": WEIGHTS}, tokens=["hf_secret"])
        url = f"{hub.url}/{REPO}/resolve/main/model.safetensors"
        secret = {"Authorization": "Bearer hf_secret"}
        agent = secret | {"User-Agent": "probe/1"}
        async with session.get(url, headers=agent, allow_redirects=False) as first:
            location = URL(first.headers["Location"], encoded=True)
        async with session.get(location, headers=secret | {"Range": "bytes=10-19"}) as part:
            assert await part.read() == WEIGHTS[10:20]
        async with session.head(location) as last:
            assert last.status == 200
        await hub.quiet()
        lead, body, head = hub.log
        assert (lead.status, lead.listener, lead.has_authorization) == (302, "hub", True)
        assert (lead.user_agent, lead.file) == ("probe/1", "")
        assert (body.status, body.listener, body.body_bytes) == (206, "cdn", 10)
        assert (body.range, body.has_authorization) == ("bytes=10-19", True)
        assert (body.repo, body.file) == (REPO, "model.safetensors")
        assert (head.method, head.body_bytes, head.has_authorization) == ("HEAD", 0, False)
        assert hub.file_bytes() == hub.file_bytes(REPO) == 10
        assert len(hub.requests(listener="cdn")) == 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["status"] for line in lines] == [302, 206, 200]
    assert "hf_secret" not in path.read_text() and "Signature" not in path.read_text()


@pytest.mark.asyncio
async def test_bytes_of_a_client_that_left_are_still_counted(tmp_path: Path) -> None:
    size = 64 << 20
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(size)
    async with Hub() as hub, aiohttp.ClientSession() as session:
        hub.add_repo("acme/big", {"big.bin": tmp_path / "big.bin"})
        async with session.get(f"{hub.url}/acme/big/resolve/main/big.bin") as response:
            await response.content.readexactly(1 << 20)
            await hub.until(lambda: hub.active == 1 and hub.file_bytes() > 0)
            response.close()
        await hub.quiet()
        assert 1 << 20 <= hub.file_bytes() < size
        assert hub.log[-1].body_bytes == hub.file_bytes()
        hub.clear_log()
        assert (hub.log, hub.file_bytes()) == ([], 0)


@pytest.mark.asyncio
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_both_listeners_speak_tls_when_given_a_certificate(tmp_path: Path) -> None:
    script = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem"
        " -out cert.pem -days 2 -subj /CN=hub -addext subjectAltName=IP:127.0.0.1 2>/dev/null"
    )
    process = await asyncio.create_subprocess_shell(script, cwd=tmp_path)
    assert await process.wait() == 0
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    client = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    (tmp_path / "big.bin").write_bytes(WEIGHTS)
    async with Hub(tls=server) as hub, aiohttp.ClientSession() as session:
        hub.add_repo(REPO, {"big.bin": tmp_path / "big.bin"})
        url = f"{hub.url}/{REPO}/resolve/main/big.bin"
        async with session.get(url, ssl=client) as response:
            assert await response.read() == WEIGHTS
            assert str(response.url).startswith(hub.cdn_url) and hub.cdn_url.startswith("https://")
        await hub.quiet()
        assert hub.file_bytes() == len(WEIGHTS)
