"""The peer port over real sockets: what it answers about names, and to whom it does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib

import aiohttp
import pytest

from p2pmodels.core.names import Commit
from p2pmodels.core.peer import MESSAGE_BYTES_LIMIT, HasAnswer, HasQuery, Hello
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.doors import peer as peer_door
from p2pmodels.doors.guard import GuardOptions
from p2pmodels.doors.peer import ADDRESSES_LIMIT, BURST, Rate
from p2pmodels.errors import Overloaded
from tests.fakes import FakeClock
from tests.peer_fakes import BLOB, COMMIT, QUERY, MemoryCatalogue, MemoryLinks, door

LIMIT_S = 20.0  # seconds for anything that waits for the network here


async def exchange(address: PeerAddress, request: bytes) -> tuple[int, bytes]:
    """The status and the rest of the answer to raw bytes; the server must close."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
    finally:
        writer.close()
    return int(answer.split(b" ", 2)[1]), answer


async def first_status(address: PeerAddress, request: bytes) -> int:
    """The status alone: the server may go on waiting for the rest of a body."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(request)
        async with asyncio.timeout(LIMIT_S / 4):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()


def get(path: str, host: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(body: bytes, host: object, *headers: str) -> bytes:
    lines = ["POST /peer/v1/has HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    return ("\r\n".join(lines) + f"\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body


@pytest.mark.asyncio
async def test_hello_has_and_torrent_are_answered() -> None:
    catalogue = MemoryCatalogue(torrents={COMMIT: b"d4:infoe"})
    async with door(catalogue) as address, aiohttp.ClientSession() as session:
        async with session.get(f"http://{address}/peer/v1/hello") as answer:
            assert Hello.parse(await answer.read()) == catalogue.hello()
        async with session.post(f"http://{address}/peer/v1/has", data=QUERY.format()) as answer:
            assert HasAnswer.parse(await answer.read(), QUERY) == HasAnswer((COMMIT,))
        async with session.get(f"http://{address}/peer/v1/torrent/{COMMIT}") as answer:
            assert await answer.read() == b"d4:infoe"
            assert answer.headers["Content-Type"] == "application/x-bittorrent"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.asyncio
@pytest.mark.parametrize("path", [
    "/", "/peer/v1", "/peer/v1/", "/peer/v1/torrent/", "/peer/v1/torrents", "/peer/v1/blobs",
    f"/peer/v1/torrent/{BLOB}", "/api/p2p/v1/status", "/metrics", "/healthz",
    "/peer/v1/torrent/../../etc/passwd", f"/files/{BLOB}",
])  # fmt: skip
async def test_everything_else_does_not_exist(path: str) -> None:
    async with door(MemoryCatalogue(torrents={COMMIT: b"x"})) as address:
        status, answer = await exchange(address, get(path, str(address)))
        assert status == 404
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "not_found"
        assert COMMIT.value.encode() not in answer


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["x", "A" * 40, "0" * 41, "%00" * 40, "..%2f..%2fetc"])
async def test_malformed_torrent_name_is_a_bad_request(name: str) -> None:
    async with door(MemoryCatalogue()) as address:
        status, _ = await exchange(address, get(f"/peer/v1/torrent/{name}", str(address)))
        assert status == 400


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS", "POST", "TRACE"])
async def test_other_methods_are_refused(method: str) -> None:
    async with door(MemoryCatalogue()) as address:
        request = get("/peer/v1/hello", str(address)).replace(b"GET", method.encode())
        assert (await exchange(address, request))[0] == 405


@pytest.mark.asyncio
@pytest.mark.parametrize("host", [
    "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.1:{port}", "localhost@evil:{port}",
    "127.0.0.1.nip.io:{port}", "2130706433:{port}", "", "10.0.0.1:{port}", "127.0.0.1:{port} x",
])  # fmt: skip
async def test_host_that_is_not_ours_is_refused(host: str) -> None:
    async with door(MemoryCatalogue()) as address:
        request = get("/peer/v1/hello", host.format(port=address.port))
        assert (await exchange(address, request))[0] == 421


@pytest.mark.asyncio
async def test_absolute_target_and_two_hosts_are_refused() -> None:
    async with door(MemoryCatalogue()) as address:
        request = get(f"http://{address}/peer/v1/hello", str(address))
        assert (await exchange(address, request))[0] == 400
        request = get("/peer/v1/hello", str(address), f"Host: {address}")
        assert (await exchange(address, request))[0] == 400


@pytest.mark.asyncio
async def test_configured_name_is_accepted() -> None:
    async with door(MemoryCatalogue(), GuardOptions(("teacher.lan",))) as address:
        request = get("/peer/v1/hello", f"teacher.lan:{address.port}")
        assert (await exchange(address, request))[0] == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("header", [
    "Origin: https://evil.example", "Origin: null", "Origin: http://127.0.0.1:{port}",
    "Origin: https://chat.webllm.ai", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Site: none",
])  # fmt: skip
async def test_no_web_page_gets_an_answer(header: str) -> None:
    catalogue = MemoryCatalogue(torrents={COMMIT: b"x"})
    async with door(catalogue) as address:
        line = header.format(port=address.port)
        status, answer = await exchange(address, post(QUERY.format(), address, line))
        assert status == 403
        assert b"Access-Control" not in answer and catalogue.asked == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [
    b"", b"{}", b"[" * 60_000, b'{"commits":[],"blobs":[],"all":true}',
    b'{"commits":["*"],"blobs":[]}', QUERY.format() + b" " * MESSAGE_BYTES_LIMIT,
])  # fmt: skip
async def test_malformed_question_is_a_bad_request(body: bytes) -> None:
    async with door(MemoryCatalogue()) as address:
        assert (await exchange(address, post(body, address)))[0] == 400


@pytest.mark.asyncio
async def test_compressed_question_is_refused_unread() -> None:
    bomb = zlib.compress(b" " * (64 << 20))
    async with door(MemoryCatalogue()) as address:
        request = post(bomb[: 1 << 15], address, "Content-Encoding: deflate")
        assert await first_status(address, request) == 400


@pytest.mark.asyncio
async def test_body_where_none_belongs_is_refused() -> None:
    async with door(MemoryCatalogue()) as address:
        request = get("/peer/v1/hello", str(address), "Content-Length: 100000000")
        assert await first_status(address, request) == 400


@pytest.mark.asyncio
async def test_body_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_door, "BODY_DEADLINE_S", 0.2)
    async with door(MemoryCatalogue()) as address:
        request = post(b"{" * 100, address).replace(b"Length: 100", b"Length: 200")
        assert await first_status(address, request) == 400


@pytest.mark.asyncio
async def test_reader_of_a_torrent_that_stalls_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_door, "TORRENT_DEADLINE_S", 0.3)
    monkeypatch.setattr(peer_door, "TORRENTS_LIMIT", 1)
    size = 64 << 20  # bytes; more than the sockets' own buffers take
    catalogue = MemoryCatalogue(torrents={COMMIT: bytes(size), BLOB: b"small"})
    async with door(catalogue) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=1024)
        writer.write(get(f"/peer/v1/torrent/{COMMIT}", str(address)))
        await reader.readline()
        small = get(f"/peer/v1/torrent/{BLOB}", str(address))
        assert (await exchange(address, small))[0] == 429
        async with asyncio.timeout(LIMIT_S):
            while (await exchange(address, small))[0] == 429:
                pass  # each turn waits for a real answer
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while block := await reader.read(1 << 16):
                received += len(block)
        assert received < size
        writer.close()


@pytest.mark.asyncio
async def test_address_that_asks_too_often_is_told_to_wait() -> None:
    clock = FakeClock()
    async with door(MemoryCatalogue(), clock=clock) as address, aiohttp.ClientSession() as session:
        url = f"http://{address}/peer/v1/hello"
        for _ in range(BURST):
            async with session.get(url) as answer:
                assert answer.status == 200
        async with session.get(url) as answer:
            assert answer.status == 429 and answer.headers["Retry-After"] == "1"
        clock.advance(1)
        async with session.get(url) as answer:
            assert answer.status == 200


def test_rate_is_counted_for_each_address_and_remembers_a_bounded_number() -> None:
    rate = Rate(FakeClock())
    for _ in range(BURST):
        rate.take("10.0.0.1")
    with pytest.raises(Overloaded):
        rate.take("10.0.0.1")
    for number in range(2 * ADDRESSES_LIMIT):
        rate.take(f"10.1.{number >> 8}.{number & 255}")
    assert len(rate._buckets) == ADDRESSES_LIMIT


@pytest.mark.asyncio
async def test_error_in_the_catalogue_tells_nothing_of_the_inside() -> None:
    class Broken(MemoryCatalogue):
        def has(self, query: HasQuery) -> HasAnswer:
            raise RuntimeError("/home/alice/secret")

    async with door(Broken()) as address:
        query = HasQuery((Commit("0" * 40),))
        status, answer = await exchange(address, post(query.format(), address))
        assert status == 500 and b"alice" not in answer


@pytest.mark.asyncio
@pytest.mark.parametrize("needs_ticket", [False, True])
async def test_with_a_group_secret_only_hello_is_for_strangers(needs_ticket: bool) -> None:
    catalogue, links = MemoryCatalogue(torrents={COMMIT: b"x"}), MemoryLinks()
    line = f"X-P2PModels-Ticket: {links.ticket()}"
    strange = "X-P2PModels-Ticket: " + "0" * 32
    async with door(catalogue, links=links, needs_ticket=needs_ticket) as address:
        torrent = f"/peer/v1/torrent/{COMMIT}"
        stranger = 403 if needs_ticket else 200
        for lines, status in (((), stranger), ((strange,), stranger), ((line,), 200)):
            assert (await exchange(address, get(torrent, str(address), *lines)))[0] == status
            assert (await exchange(address, post(QUERY.format(), address, *lines)))[0] == status
            assert (await exchange(address, get("/peer/v1/hello", str(address))))[0] == 200
