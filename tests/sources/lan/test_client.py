"""The client of peer ports against real sockets, honest and not."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable

import pytest
from aiohttp import web

from p2pmodels.core.digests import Sha256
from p2pmodels.core.peer import HasAnswer
from p2pmodels.core.torrent import TORRENT_BYTES_LIMIT, PeerAddress
from p2pmodels.errors import LanFailed, PeerMisbehaved
from p2pmodels.sources.lan import client as client_module
from p2pmodels.sources.lan.client import PeerClient, PeerSilent
from tests.peer_fakes import BLOB, COMMIT, QUERY, MemoryCatalogue, door, fresh_id, rogue, silent


@pytest.mark.asyncio
async def test_client_and_door_understand_each_other() -> None:
    catalogue = MemoryCatalogue(torrents={COMMIT: b"snapshot", BLOB: b"blob" * 300_000})
    async with door(catalogue) as address, PeerClient() as client:
        assert await client.hello(address) == catalogue.hello()
        answer = await client.has(address, QUERY, timeout_s=5)
        assert answer == HasAnswer((COMMIT,), (BLOB,), (BLOB,))
        assert await client.torrent(address, COMMIT) == b"snapshot"
        assert await client.torrent(address, BLOB) == b"blob" * 300_000


@pytest.mark.asyncio
async def test_request_carries_the_address_as_host_and_nothing_personal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    seen: list[dict[str, str]] = []

    def answer(request: web.Request) -> web.StreamResponse:
        seen.append(dict(request.headers))
        response = web.Response(body=HasAnswer().format())
        response.set_cookie("track", "me")
        return response

    async with rogue(answer) as address, PeerClient() as client:
        await client.has(address, QUERY, timeout_s=5)
        await client.has(address, QUERY, timeout_s=5)
    assert [headers["Host"] for headers in seen] == [str(address)] * 2
    assert set(seen[1]) == {
        "Host", "User-Agent", "Accept-Encoding", "Content-Type", "Content-Length"
    }  # fmt: skip
    assert seen[1]["Accept-Encoding"] == "identity"


ROGUES: dict[str, Callable[[web.Request], web.StreamResponse]] = {
    "not JSON": lambda _: web.Response(body=b"<html>"),
    "more keys": lambda _: web.Response(body=b'{"commits":[],"blobs":[],"torrents":[],"x":1}'),
    "not asked": lambda _: web.Response(body=HasAnswer((), (Sha256("f" * 64),)).format()),
    "too long": lambda _: web.Response(body=b" " * (1 << 20)),
    "encoded": lambda _: web.Response(
        body=gzip.compress(bytes(64 << 20)), headers={"Content-Encoding": "gzip"}
    ),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ROGUES)
async def test_answer_that_breaks_the_protocol_is_the_peers_fault(name: str) -> None:
    async with rogue(ROGUES[name]) as address, PeerClient() as client:
        with pytest.raises(PeerMisbehaved):
            await client.has(address, QUERY, timeout_s=10)


@pytest.mark.asyncio
async def test_torrent_larger_than_any_of_ours_is_not_read_to_its_end() -> None:
    body = bytes(TORRENT_BYTES_LIMIT + 1)
    async with rogue(lambda _: web.Response(body=body)) as address, PeerClient() as client:
        with pytest.raises(PeerMisbehaved):
            await client.torrent(address, COMMIT)


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [301, 302, 404, 429, 500])
async def test_other_status_is_a_failure_and_no_redirect_is_followed(status: int) -> None:
    asked: list[str] = []

    def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with rogue(answer) as address, PeerClient() as client:
        with pytest.raises(LanFailed):
            await client.hello(address)
    assert asked == ["/peer/v1/hello"]


@pytest.mark.asyncio
async def test_dead_port_and_garbage_are_failures_without_the_librarys_exceptions() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    async with server, PeerClient() as client:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LanFailed):
            await client.hello(PeerAddress("127.0.0.1", port))
        server.close()
        with pytest.raises(LanFailed):
            await client.hello(PeerAddress("127.0.0.1", port))


@pytest.mark.asyncio
async def test_silent_peer_costs_its_time_out_and_no_more() -> None:
    async with silent(fresh_id()) as address, PeerClient() as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(PeerSilent):
            await client.has(address, QUERY)
        assert client_module.HAS_TIMEOUT_S * 0.9 <= loop.time() - began < 1.0


@pytest.mark.asyncio
async def test_client_outside_its_block_refuses() -> None:
    with pytest.raises(LanFailed):
        await PeerClient().hello(PeerAddress("127.0.0.1", 7879))
