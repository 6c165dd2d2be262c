"""Attacks on the wire of a real daemon (reliability A4, A12, A16 to A20, E4, E6, E11)."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio

from p2pmodels.demo.hub import Hub
from p2pmodels.demo.processes import DaemonProcess
from tests.system.attacks import BOUND_S, TOKEN, ask, bearer, created, daemon_of, noise, raw

SIZE = 3_000_000
FILE = "model.safetensors"
MODEL = noise(SIZE)
GATED = noise(200_000, 2)


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Hub]:
    """A public, a gated and a private repo, and a private one without any file."""
    async with Hub() as running:
        running.add_repo("org/m", {FILE: MODEL, "config.json": b'{"a": 1}'})
        secret = {FILE: GATED, "config.json": b'{"secret": 1}'}
        running.add_repo("org/gated", secret, gated="auto", tokens=[TOKEN])
        running.add_repo("org/private", secret, private=True, tokens=[TOKEN])
        running.add_repo("org/empty", {}, private=True, tokens=[TOKEN])
        yield running


@pytest_asyncio.fixture
async def daemon(hub: Hub, tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    async with daemon_of(hub, tmp_path / "d") as running:
        yield running


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


TRAVERSALS = [
    "/org/m/resolve/main/../../../../etc/passwd",
    "/org/m/resolve/main/%2e%2e/%2e%2e/etc/passwd",
    "/org/m/resolve/main/%252e%252e/x",
    "/org/m/resolve/main/..%2f..%2fid",
    "/org/m/resolve/main/..%5c..%5cid",
    "/org/m/resolve/main/a%00b",
    "/org/m/resolve/main//etc/passwd",
    "/org/m/resolve/main/C:/x",
    "/org/m/resolve/main/%c0%ae%c0%ae/x",
    "/org/m/resolve/main/" + "a" * 300,
    "/org/m/resolve/main/x.",
    "/org/m/resolve/main/x%20",
    "/org/m/resolve/main/CON",
    "/org/m/resolve/..%2f..%2f/config.json",
    "/..%2f..%2fx/resolve/main/config.json",
    "/a--b/resolve/main/config.json",
    "/files/..%2f..%2fid",
    "/files/" + "A" * 64,
    "/files/sha256:" + "a" * 64,
    "/webseed/" + "a" * 40 + "/..%2f..%2fid",
    "/snapshots/org/m@" + "a" * 40 + "/%2e%2e/id",
    "/snapshots/..%2f@" + "a" * 40 + "/x",
    "/static/..%2f..%2fapp.py",
    "/static/%2e%2e/app.py",
    "/api/models/org/m/tree/main/..%2f..",
    "/api/models/org%2f..%2fm/revision/main",
    "/" + "a/" * 2000,
]


@pytest.mark.asyncio
async def test_traversal_is_refused_and_nothing_is_created(daemon: DaemonProcess) -> None:
    before = created(daemon.data_dir)
    for target in TRAVERSALS:
        answer = await raw(daemon.url, f"GET {target} HTTP/1.1\r\n\r\n".encode())
        assert status_of(answer) in (400, 404), (target, answer[:80])
        assert b"root:" not in answer
        assert str(daemon.folder).encode() not in answer
    assert created(daemon.data_dir) == before
    assert (await ask(f"{daemon.url}/healthz")).status == 200


ODD = {
    "OPTIONS * HTTP/1.1\r\n\r\n": (400,),
    "CONNECT evil.example:443 HTTP/1.1\r\n\r\n": (400,),
    "GET http://evil.example/ HTTP/1.1\r\n\r\n": (400, 421),
    "TRACE /org/m/resolve/main/config.json HTTP/1.1\r\n\r\n": (405,),
    "PUT /org/m/resolve/main/config.json HTTP/1.1\r\nContent-Length: 0\r\n\r\n": (405,),
    "DELETE /files/" + "a" * 64 + " HTTP/1.1\r\n\r\n": (405,),
    "GET /\udcff HTTP/1.1\r\n\r\n": (400,),
    "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": (400,),
    "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": (400,),
    "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n": (400, 200),
    "GET /org/m/resolve/main/config.json HTTP/1.1\r\nRange: bytes=\udcff-\r\n\r\n": (200,),
    "GET /org/m/resolve/main/config.json HTTP/1.1\r\nIf-None-Match: \udcff\r\n\r\n": (200,),
    "GET /org/m/resolve/main/config.json HTTP/1.1\r\nAuthorization: Bearer \udcff\r\n\r\n": (400,),
    "GET / HTTP/1.1\r\nOrigin: \udcff\r\n\r\n": (403,),
    "GET /files/" + "a" * 64 + " HTTP/1.1\r\nAuthorization: Bearer \udcff\r\n\r\n": (404,),
    "POST /api/p2p/v1/pin HTTP/1.1\r\nAuthorization: Bearer \udcff\r\n\r\n": (401,),
}


@pytest.mark.asyncio
async def test_odd_requests_are_answered_and_never_break_the_inside(daemon: DaemonProcess) -> None:
    for request, expected in ODD.items():
        answer = await raw(daemon.url, request.encode(errors="surrogateescape"))
        assert status_of(answer) in expected, (request, answer[:200])
    dice = random.Random(5)
    async with asyncio.TaskGroup() as group:
        for size in (1, 10, 1_000, 9_000, 100_000):
            group.create_task(raw(daemon.url, dice.randbytes(size) + b"\r\n\r\n", hosted=False))
    canary = b"hf_CANARY" + b"x" * 25
    await raw(daemon.url, b"GET / HTTP/1.1\r\nAuthorization: Bearer " + canary + b"\x01\r\n\r\n")
    log = daemon.log.read_bytes()
    assert b"Traceback" not in log, log[-2000:]
    assert canary not in log


RANGES = [
    "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=5-2", f"bytes={SIZE}-", f"bytes={SIZE - 1}-",
    "bytes=0-" + "9" * 23, "bytes=0-1,5-9", "items=0-5", "bytes=1000000-1999999", "bytes=-",
    "bytes=" + ",".join(f"{n}-{n}" for n in range(1000)), "bytes=-99999999", "bytes=262144-",
]  # fmt: skip


def expected_range(header: str) -> tuple[int, bytes]:
    """By RFC 9110, with several ranges and malformed ones answered whole."""
    spec = header.removeprefix("bytes=")
    first, _, last = spec.partition("-")
    if not header.startswith("bytes=") or "," in spec or spec == "-":
        return 200, MODEL
    if not first:
        return (206, MODEL[-int(last) :]) if int(last) else (416, b"")
    if last and int(last) < int(first):
        return 200, MODEL
    if int(first) >= SIZE:
        return 416, b""
    return 206, MODEL[int(first) : int(last) + 1 if last else None]


@pytest.mark.asyncio
async def test_ranges_are_right_while_the_file_runs_and_when_it_is_complete(
    daemon: DaemonProcess, hub: Hub
) -> None:
    url = f"{daemon.url}/org/m/resolve/main/{FILE}"
    hub.faults.rate_bytes_per_s = 4_000_000
    etag = (await ask(url, "HEAD")).headers["ETag"]
    for _ in ("running", "complete"):
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            asked = {r: group.create_task(ask(url, Range=r)) for r in RANGES}
        for header, task in asked.items():
            status, body = expected_range(header)
            got = task.result()
            assert got.status == status, header[:60]
            if status == 416:
                assert got.headers["Content-Range"] == f"bytes */{SIZE}"
            else:
                assert got.body == body, header[:60]
                assert got.headers["ETag"] == etag
        for condition, status in ((etag, 206), ('"other"', 200), (f"W/{etag}", 200)):
            got = await ask(url, Range="bytes=1-5", If_Range=condition)
            assert (got.status, got.body) == (status, MODEL[1:6] if status == 206 else MODEL)
    await hub.quiet()
    # Readers that jump about cost what lies in the buffers of the connections they take over.
    assert hub.file_bytes() <= SIZE * 1.1


@pytest.mark.asyncio
async def test_a_client_that_has_the_file_causes_no_download(
    daemon: DaemonProcess, hub: Hub
) -> None:
    url = f"{daemon.url}/org/m/resolve/main/{FILE}"
    etag = (await ask(url, "HEAD")).headers["ETag"]
    for known in (etag, f'"x", W/{etag}', "*"):
        for method in ("HEAD", "GET"):
            got = await ask(url, method, If_None_Match=known)
            assert (got.status, got.body, got.headers["ETag"]) == (304, b"", etag)
    assert hub.file_bytes() == 0


@pytest.mark.asyncio
async def test_no_route_tells_a_stranger_of_gated_or_private_content(
    daemon: DaemonProcess, hub: Hub
) -> None:
    peer_url = str((await daemon.ask("status"))["peer_url"])
    for repo in ("org/gated", "org/private", "org/empty"):
        info = await ask(f"{daemon.url}/api/models/{repo}?blobs=true", sent=bearer(TOKEN))
        commit = json.loads(info.body or b"")["sha"]
        etag, routes = f'"{"f" * 64}"', [f"/api/models/{repo}/revision/{commit}"]
        if repo != "org/empty":
            url = f"{daemon.url}/{repo}/resolve/main/{FILE}"
            got = await ask(url, sent=bearer(TOKEN))
            assert got.body == GATED
            assert "no-store" in got.headers["Cache-Control"]
            etag = got.headers["ETag"]
            sha256 = etag.strip('"')
            routes += [
                f"/{repo}/resolve/main/{FILE}", f"/{repo}/resolve/{commit}/{FILE}",
                f"/{repo}/raw/main/{FILE}", f"/{repo}/raw/{commit}/config.json",
                f"/api/models/{repo}", f"/api/models/{repo}/tree/{commit}",
                f"/api/models/{repo}/refs", f"/api/models/{repo}/commits/main",
                f"/files/{sha256}", f"/snapshots/{repo}@{commit}/{FILE}",
                f"/webseed/{commit}/{FILE}", f"/webseed/{commit}/config.json",
            ]  # fmt: skip
        strangers = [{}, bearer("hf_" + "d" * 34), {"If-None-Match": etag}, {"If-None-Match": "*"}]
        for route in routes:
            for headers in strangers:
                for method in ("GET", "HEAD"):
                    got = await ask(f"{daemon.url}{route}", method, sent=headers)
                    assert got.status in (401, 403, 404), (method, route, headers)
                    text = repr((got.headers, got.body))
                    assert GATED[:32] not in (got.body or b"")
                    assert "X-Linked-Size" not in got.headers
                    assert etag.strip('"') not in text or route.startswith("/files/")
                    assert "secret" not in text
        if repo != "org/empty":
            asked = {"commits": [commit], "blobs": [sha256]}
            async with aiohttp.ClientSession() as session:
                async with session.post(f"{peer_url}/peer/v1/has", json=asked) as answer:
                    assert sha256 not in await answer.text()
            for name in (commit, sha256):
                assert (await ask(f"{peer_url}/peer/v1/torrent/{name}")).status == 404
    assert (await daemon.ask("status"))["seeding"] == 0


@pytest.mark.asyncio
async def test_the_control_door_holds(daemon: DaemonProcess) -> None:
    pin = f"{daemon.url}/api/p2p/v1/pin"
    good = bearer(daemon.control_token)
    async with aiohttp.ClientSession() as session:

        async def post(body: bytes, **headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with session.post(pin, data=body, headers=named) as answer:
                return answer.status

        body, kind = b'{"repo": "org/m"}', "application/json"
        assert await post(body, Content_Type=kind) == 401
        for wrong in ("text/plain", "application/x-www-form-urlencoded"):
            assert await post(body, Content_Type=wrong, **good) == 400
        for origin in ("https://evil.example", "null", "http://localhost:1"):
            assert await post(body, Content_Type=kind, Origin=origin, **good) == 403
        for bad in (b"[" * 50_000, b"x" * 70_000, b"[]", b'{"repo": 5}', b'{"repo": "../x"}'):
            assert await post(bad, Content_Type=kind, **good) == 400
        assert await post(body, Content_Type=kind, **good) == 200
        for _ in range(9):  # one wrong token was counted above
            assert await post(body, Content_Type=kind, **bearer("guess")) == 401
        assert await post(body, Content_Type=kind, **good) == 429
    assert "Traceback" not in daemon.log.read_text()


async def transfers(daemon: DaemonProcess) -> list[dict[str, object]]:
    rows = (await daemon.ask("transfers"))["transfers"]
    assert isinstance(rows, list)
    return rows


@pytest.mark.asyncio
async def test_an_order_that_is_cancelled_half_way_lets_go_of_the_fetch(
    daemon: DaemonProcess, hub: Hub
) -> None:
    hub.faults.rate_bytes_per_s = 300_000
    async with aiohttp.ClientSession(headers=bearer(daemon.control_token)) as session:
        url = f"{daemon.url}/api/p2p/v1/fetch"
        async with session.post(url, json={"repo": "org/m"}) as answer:
            async for line in answer.content:
                if json.loads(line)["event"] == "progress":
                    break
    async with asyncio.timeout(BOUND_S):
        while any(row["readers"] for row in await transfers(daemon)):
            await asyncio.sleep(0.05)
    assert hub.file_bytes() < SIZE
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.asyncio
async def test_metrics_name_no_repo_path_or_token_and_answer_paths_do_not_add_labels(
    daemon: DaemonProcess,
) -> None:
    for number in range(30):
        await ask(f"{daemon.url}/door{number}/x/resolve/main/y")
        await ask(f"{daemon.url}/org/m/resolve/main/config.json", sent=bearer(TOKEN))
    text = ((await ask(f"{daemon.url}/metrics")).body or b"").decode()
    for word in ("org/m", "config.json", TOKEN, "door1", urlsplit(daemon.url).netloc):
        assert word not in text
    assert 'p2pmodels_fetches_total{outcome="done"} 1.0' in text
    assert 'p2pmodels_received_bytes_total{source="origin"} 8.0' in text
    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(samples) < 100
