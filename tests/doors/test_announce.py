"""The tracker's door over real sockets: whom it answers, what it relays, what it survives."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import WSMsgType

from p2pmodels.core.announce import ANNOUNCE_BYTES_LIMIT, Announced, parse_query
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.core.tracker import LISTENER_INTERVAL_S, PAGE_INTERVAL_S, PATIENCE, Tracker
from p2pmodels.doors import announce as module
from p2pmodels.doors.announce import (
    ADDRESS_LINES_LIMIT,
    ADDRESSES_LIMIT,
    OUTBOX_BYTES_LIMIT,
    SAYS_PER_S,
    AnnounceDoor,
    AnnounceOptions,
    Pace,
)
from p2pmodels.doors.guard import GuardOptions, allowed_origin
from p2pmodels.errors import Overloaded
from p2pmodels.sources.swarm.bencode import decode
from tests.core.test_announce import HASH, OTHER, PEER, SDP, announce, offer, text
from tests.doors.page_port import peer_port
from tests.fakes import FakeClock

LIMIT_S = 10.0  # seconds for anything that waits for the network here
PAGE = {"Origin": "http://localhost:3000"}


@dataclass
class Place:
    """A tracker behind its door."""

    address: PeerAddress
    door: AnnounceDoor
    tracker: Tracker
    clock: FakeClock
    session: aiohttp.ClientSession
    opened: list[aiohttp.ClientWebSocketResponse] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.address}/announce"

    async def open(self, **headers: str) -> aiohttp.ClientWebSocketResponse:
        self.opened.append(await self.session.ws_connect(self.url, headers=headers))
        return self.opened[-1]

    async def ask(self, **more: object) -> dict[bytes, Any]:
        """Announce by HTTP."""
        said: dict[str, object] = {"info_hash": HASH, "peer_id": PEER, "port": 7000, "left": 0}
        query = "&".join(
            f"{name}={quote(value) if isinstance(value, bytes) else value}"
            for name, value in {**said, **more}.items()
        )
        # Not through a URL object, which would decode and encode the ids again.
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        head = (
            f"GET /announce?{query} HTTP/1.1\r\nHost: {self.address}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode())
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        writer.close()
        found = decode(answer.partition(b"\r\n\r\n")[2])
        assert isinstance(found, dict)
        return found


@asynccontextmanager
async def place(
    *, bt_port: int = 0, may_come: Callable[[str], bool] = lambda _address: True
) -> AsyncIterator[Place]:
    clock = FakeClock()
    tracker = Tracker(lambda infohash: infohash == HASH.hex(), random.Random(7))
    options = AnnounceOptions(
        lambda request: allowed_origin(request, GuardOptions()),
        may_come=may_come,
        bt_port=lambda: bt_port,
    )
    door = AnnounceDoor(tracker, options, clock)
    async with (
        peer_port(door, clock=clock) as address,
        aiohttp.ClientSession() as session,
    ):
        made = Place(address, door, tracker, clock, session)
        yield made
        for sock in made.opened:
            await sock.close()


async def heard(sock: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    async with asyncio.timeout(LIMIT_S):
        found: dict[str, Any] = await sock.receive_json()
    return found


@pytest.mark.asyncio
async def test_offer_and_answer_go_from_page_to_page() -> None:
    async with place() as here:
        first, second = await here.open(**PAGE), await here.open(**PAGE)
        await first.send_json(announce(offers=[offer()]))
        assert (await heard(first))["incomplete"] == 1
        await second.send_json(announce(peer_id=text(OTHER), offers=[offer()]))
        assert (await heard(second))["incomplete"] == 2
        passed = await heard(first)
        assert passed["peer_id"] == text(OTHER) and passed["offer"]["sdp"] == SDP
        described = {"type": "answer", "sdp": SDP}
        said = {"to_peer_id": text(OTHER), "offer_id": passed["offer_id"], "answer": described}
        await first.send_json(announce(**said))
        back = await heard(second)
        assert back["answer"] == described and back["peer_id"] == text(PEER)
        await first.close()
        await second.send_json({"action": "scrape", "info_hash": text(HASH)})
        assert (await heard(second))["files"][text(HASH)]["incomplete"] == 1


@pytest.mark.asyncio
async def test_what_is_not_public_is_refused_on_both_ways() -> None:
    async with place() as here:
        page = await here.open(**PAGE)
        await page.send_json(announce(info_hash=text(OTHER), offers=[offer()]))
        assert "failure reason" in await heard(page)
        assert set(await here.ask(info_hash=OTHER)) == {b"failure reason"}
        await page.send_json(announce())  # and the socket goes on
        assert (await heard(page))["interval"] == PAGE_INTERVAL_S


@pytest.mark.asyncio
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://192.168.1.9:7879"])
async def test_a_page_of_a_web_origin_that_is_not_let_in_gets_no_socket(origin: str) -> None:
    async with place() as here:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await here.open(Origin=origin)
        assert refused.value.status == 403 and here.tracker.sizes == (0, 0, 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("header", [
    {"Origin": "http://localhost:3000"}, {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "none"},
])  # fmt: skip
async def test_no_page_announces_by_http(header: dict[str, str]) -> None:
    async with place() as here, here.session.get(here.url, headers=header) as answer:
        assert answer.status == 403


@pytest.mark.asyncio
async def test_machines_that_may_not_come_get_nothing() -> None:
    async with place(may_come=lambda _address: False) as here:
        async with here.session.get(here.url) as answer:
            assert answer.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await here.open()


@pytest.mark.asyncio
async def test_http_answer_is_compact_and_names_the_daemon_itself() -> None:
    async with place(bt_port=7880) as here:
        here.tracker.announce("10.0.0.9", announced_on(7001), 0)
        here.tracker.announce("fd00::9", announced_on(7002), 0)
        found = await here.ask(compact=1, ip="8.8.8.8")
        ports = {b"peers": (4, [7880, 7001]), b"peers6": (16, [7002])}
        for name, (size, expected) in ports.items():
            compact, step = found[name], size + 2
            listed = [compact[at : at + step] for at in range(0, len(compact), step)]
            assert [int.from_bytes(one[size:], "big") for one in listed] == expected
        assert found[b"peers"][:4] == socket.inet_aton("127.0.0.1")
        assert (found[b"complete"], found[b"incomplete"]) == (1, 2)
        assert found[b"interval"] == LISTENER_INTERVAL_S
        assert set(await here.ask(port=80)) == {b"failure reason"}


def announced_on(port: int) -> Announced:
    return parse_query(f"info_hash={quote(HASH)}&peer_id={quote(PEER)}&port={port}&left=1")


@pytest.mark.asyncio
@pytest.mark.parametrize("said", [
    "", "[]", "nonsense", '{"action":"announce"}', json.dumps(announce(peer_id="short")),
    "[" * 5000, json.dumps(announce(offers=[offer()] * 11)),
])  # fmt: skip
async def test_a_message_that_breaks_the_rules_ends_the_socket_with_a_reason(said: str) -> None:
    async with place() as here:
        sock = await here.open(**PAGE)
        await sock.send_str(said)
        assert "failure reason" in await heard(sock)
        async with asyncio.timeout(LIMIT_S):
            assert (await sock.receive()).type is WSMsgType.CLOSE
        assert here.tracker.sizes == (0, 0, 0)


@pytest.mark.asyncio
async def test_long_and_binary_messages_end_the_socket() -> None:
    async with place() as here:
        long, binary = await here.open(**PAGE), await here.open()
        await long.send_str(json.dumps(announce(x="y" * ANNOUNCE_BYTES_LIMIT)))
        await binary.send_bytes(b"d4:infoe")
        for sock in (long, binary):
            async with asyncio.timeout(LIMIT_S):
                ended = await sock.receive()
            assert ended.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)


@pytest.mark.asyncio
async def test_sockets_of_one_address_are_bounded() -> None:
    async with place() as here:
        opened = [await here.open(**PAGE) for _ in range(ADDRESS_LINES_LIMIT)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await here.open(**PAGE)
        assert refused.value.status == Overloaded.status
        await opened[0].close()
        async with asyncio.timeout(LIMIT_S):
            while len(here.door._clients) == ADDRESS_LINES_LIMIT:
                await asyncio.sleep(0)
        assert not (await here.open(**PAGE)).closed


@pytest.mark.asyncio
async def test_all_sockets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINES_LIMIT", 2)
    async with place() as here:
        await here.open()
        await here.open()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await here.open()


@pytest.mark.asyncio
async def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2 / PAGE_INTERVAL_S)
    async with place() as here:
        sock = await here.open(**PAGE)
        async with asyncio.timeout(LIMIT_S):
            assert (await sock.receive()).type is WSMsgType.CLOSE


@pytest.mark.asyncio
async def test_who_does_not_renew_is_swept_while_others_speak() -> None:
    async with place() as here:
        silent, speaker = await here.open(**PAGE), await here.open(**PAGE)
        await silent.send_json(announce())
        await heard(silent)
        here.clock.advance(PATIENCE * PAGE_INTERVAL_S)
        await speaker.send_json(announce(info_hash=text(OTHER)))
        await heard(speaker)
        assert here.tracker.sizes == (0, 0, 0)


@pytest.mark.asyncio
async def test_who_says_too_much_is_read_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAYS_BURST", 3)
    async with place() as here:
        sock = await here.open(**PAGE)
        for _ in range(5):
            await sock.send_json(announce())
        for _ in range(4):
            await heard(sock)
        async with asyncio.timeout(LIMIT_S):
            await here.clock.until_sleeping()
        here.clock.advance(1 / SAYS_PER_S)
        await heard(sock)


def test_pace_forgets_addresses_beyond_its_number() -> None:
    pace = Pace()
    for at in range(2 * ADDRESSES_LIMIT):
        assert pace.take(str(at), 0) == 0
    assert len(pace._left) == ADDRESSES_LIMIT


@pytest.mark.asyncio
async def test_messages_for_one_that_does_not_read_are_dropped() -> None:
    async with place() as here:
        await here.open(**PAGE)
        (client,) = here.door._clients.values()
        for _ in range(100):
            client.put("x" * (OUTBOX_BYTES_LIMIT // 10))
        assert client.waiting <= OUTBOX_BYTES_LIMIT and len(client.texts) <= 10


@pytest.mark.asyncio
async def test_all_sockets_end_with_the_door() -> None:
    async with place() as here:
        sock = await here.open(**PAGE)
        await sock.send_json(announce())
        await heard(sock)
        async with asyncio.timeout(LIMIT_S):
            ended, _ = await asyncio.gather(sock.receive(), here.door.close())
        assert ended.type is WSMsgType.CLOSE
