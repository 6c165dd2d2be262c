"""The LAN part over real loopback sockets, and over real mDNS on the loopback interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from aiohttp import web

from p2pmodels.clock import RealClock
from p2pmodels.core.peer import HasAnswer, HasQuery, PeerId
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.errors import ConfigError, LanFailed
from p2pmodels.sources.lan.lan import Lan, LanOptions, PeerUrl
from p2pmodels.sources.lan.peers import FoundBy, PeerState, PeerView
from p2pmodels.supervision import Tasks
from tests.peer_fakes import BLOB, COMMIT, QUERY, MemoryCatalogue, door, fresh_id, rogue, silent

LOOK_AGAIN_S = 0.05  # seconds between looks while nothing is announced
LIMIT_S = 10.0  # seconds for anything that is awaited here
NOBODY = PeerAddress("127.0.0.1", 9_999)


class Running:
    """A `Lan` that runs, and a way to wait for what it comes to know."""

    def __init__(self, lan: Lan) -> None:
        self.lan = lan
        self.changed = asyncio.Event()

    def note(self, _peer: PeerView) -> None:
        self.changed.set()

    async def until(self, is_so: Callable[[], bool], limit_s: float = LIMIT_S) -> float:
        """Wait until `is_so`, looking after each change; returns how long it took, in seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(limit_s):
            while not is_so():
                self.changed.clear()
                with suppress(TimeoutError):  # not every change is announced
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self.changed.wait()
        return loop.time() - began

    def ready(self) -> set[str]:
        return {peer.id for peer in self.lan.peers() if peer.state is PeerState.READY}


@asynccontextmanager
async def running(
    *peers: PeerAddress | str,
    id: PeerId | None = None,
    own: PeerAddress = NOBODY,
    is_mdns_enabled: bool = False,
    locate_timeout_s: float = 1.0,
) -> AsyncIterator[Running]:
    """A LAN part on loopback that knows these peers by configuration."""
    options = LanOptions(
        id=id or fresh_id(),
        listen_host="127.0.0.1",
        peer_port=own.port,
        bt_port=7880,
        is_mdns_enabled=is_mdns_enabled,
        peers=tuple(peer if isinstance(peer, str) else f"http://{peer}" for peer in peers),
        locate_timeout_s=locate_timeout_s,
    )
    notes: list[Running] = []
    lan = Lan(
        options,
        RealClock(),
        on_peer_ready=lambda peer: notes[0].note(peer),
        on_peer_gone=lambda peer: notes[0].note(peer),
    )
    notes.append(Running(lan))
    async with lan, Tasks() as tasks:
        tasks.start(lan.run(), "lan")
        yield notes[0]


@pytest.mark.asyncio
async def test_configured_peer_is_greeted_asked_and_gives_its_torrent() -> None:
    catalogue = MemoryCatalogue(torrents={COMMIT: b"torrent"})
    async with door(catalogue) as address, running(address) as here:
        await here.until(lambda: here.ready() == {str(catalogue.id)})
        holders = await here.lan.locate(QUERY)
        assert [(holder.peer.id, holder.answer) for holder in holders] == [
            (str(catalogue.id), HasAnswer((COMMIT,)))
        ]
        peer = holders[0].peer
        assert peer.found_by is FoundBy.CONFIGURED
        assert peer.bt_address == PeerAddress("127.0.0.1", 7880)
        assert await here.lan.torrent(peer, COMMIT) == b"torrent"
        with pytest.raises(LanFailed):
            await here.lan.torrent(peer, BLOB)


@pytest.mark.asyncio
async def test_configured_host_name_is_resolved() -> None:
    catalogue = MemoryCatalogue()
    async with door(catalogue) as address, running(f"http://localhost:{address.port}") as here:
        await here.until(lambda: here.ready() == {str(catalogue.id)})
        assert here.lan.peers()[0].address == str(address)


@pytest.mark.asyncio
async def test_two_names_of_one_peer_are_one_and_we_ourselves_are_none() -> None:
    me, other = MemoryCatalogue(), MemoryCatalogue(torrents={COMMIT: b"x"})
    async with door(me) as mine, door(other) as theirs:
        urls = (f"http://{theirs}", f"http://localhost:{theirs.port}", f"http://{mine}")
        async with running(*urls, id=me.id) as here:
            await here.until(lambda: [peer.id for peer in here.lan.peers()] == [str(other.id)])
            assert len(await here.lan.locate(QUERY)) == 1
            assert other.asked == 1 and me.asked == 0


@pytest.mark.asyncio
async def test_locate_returns_at_once_without_peers_and_without_a_question() -> None:
    async with running(locate_timeout_s=LIMIT_S) as here:
        async with asyncio.timeout(1):
            assert await here.lan.locate(QUERY) == []
    catalogue = MemoryCatalogue()
    async with door(catalogue) as address, running(address) as here:
        await here.until(lambda: bool(here.ready()))
        assert await here.lan.locate(HasQuery()) == [] and catalogue.asked == 0


@pytest.mark.asyncio
async def test_silent_peer_delays_nobody_beyond_the_bound_and_then_not_at_all() -> None:
    id, helper = fresh_id(), MemoryCatalogue(torrents={COMMIT: b"x"})
    loop = asyncio.get_running_loop()
    async with silent(id) as quiet, door(helper) as address:
        async with running(quiet, address, locate_timeout_s=0.15) as here:
            await here.until(lambda: here.ready() == {str(id), str(helper.id)})
            times = []
            for _ in range(3):
                began = loop.time()
                holders = await here.lan.locate(QUERY)
                times.append(loop.time() - began)
                assert [holder.peer.id for holder in holders] == [str(helper.id)]
            assert 0.14 <= times[0] < 0.3 and 0.14 <= times[1] < 0.3
            assert times[2] < 0.1


@pytest.mark.asyncio
async def test_peer_that_breaks_the_protocol_is_left_out() -> None:
    id = fresh_id()
    async with rogue(lambda _: web.Response(body=b"{}"), id) as address:
        async with running(address) as here:
            await here.until(lambda: here.ready() == {str(id)})
            assert await here.lan.locate(QUERY) == []
            assert here.ready() == set()
            assert here.lan.peers()[0].state is PeerState.UNREACHABLE


@pytest.mark.asyncio
async def test_peer_that_dies_is_noticed_within_ten_seconds_and_its_return_too() -> None:
    catalogue = MemoryCatalogue()
    async with AsyncExitStack() as life:
        address = await life.enter_async_context(door(catalogue))
        async with running(address) as here:
            await here.until(lambda: bool(here.ready()))
            await life.aclose()
            await here.until(lambda: not here.ready(), limit_s=10)
            async with door(catalogue, port=address.port):
                await here.until(lambda: bool(here.ready()), limit_s=10)


@pytest.mark.asyncio
async def test_changed_wakes_when_a_peer_becomes_ready_and_ends_by_itself() -> None:
    catalogue = MemoryCatalogue()
    async with door(catalogue) as address, running(address) as here:
        await here.lan.changed(LIMIT_S)
        assert here.ready()
        began = asyncio.get_running_loop().time()
        await here.lan.changed(0.05)
        assert asyncio.get_running_loop().time() - began < 1


@pytest.mark.asyncio
async def test_two_daemons_on_loopback_find_each_other_by_mdns_and_notice_the_goodbye() -> None:
    one, two = MemoryCatalogue(), MemoryCatalogue()
    async with door(one) as first, door(two) as second:
        async with running(id=one.id, own=first, is_mdns_enabled=True) as here:
            async with running(id=two.id, own=second, is_mdns_enabled=True) as there:
                found = await here.until(lambda: str(two.id) in here.ready())
                back = await there.until(lambda: str(one.id) in there.ready())
                peer = next(peer for peer in here.lan.peers() if peer.id == str(two.id))
                assert peer.found_by is FoundBy.MDNS and peer.address == str(second)
                assert here.lan.state == "running"
                loop = asyncio.get_running_loop()
                told = loop.time()
            await here.until(lambda: str(two.id) not in here.ready())
            lost = loop.time() - told
            print(f"found after {found:.3f} s and {back:.3f} s, goodbye after {lost:.3f} s")
            assert found <= 1.0 and back <= 1.0 and lost <= 2.0


@pytest.mark.parametrize("text", [
    "", "10.0.0.5", "https://10.0.0.5:7879", "http://", "http://a:b", "http://10.0.0.5:80",
    "http://u:p@10.0.0.5", "http://10.0.0.5/x", "http://10.0.0.5?x", "http://10.0.0.5:99999",
])  # fmt: skip
def test_configured_peer_that_is_no_plain_address_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError):
        PeerUrl.parse(text)


def test_configured_peer_has_the_default_port() -> None:
    assert str(PeerUrl.parse("http://teacher.lan/")) == "teacher.lan:7879"
    assert str(PeerUrl.parse("http://[fd00::1]:8000")) == "[fd00::1]:8000"
