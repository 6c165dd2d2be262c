"""Peers that break the rules (reliability E15, E16, F8 to F11)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from aiortc.rtcsctptransport import ForwardTsnChunk, SackChunk

from p2pmodels.core.digests import Sha256
from p2pmodels.core.sdp import SDP_BYTES_LIMIT
from p2pmodels.core.shard import End, Get, Status, data_head, pack
from p2pmodels.errors import LanFailed, Overloaded, ProtocolError
from p2pmodels.sources.rtc.association import STREAMS_LIMIT, WINDOW_BYTES
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.rtc.datagrams import Gatherer
from p2pmodels.sources.rtc.process import RtcFailed
from p2pmodels.sources.rtc.rtc import HALF_OPEN_LIMIT, HALF_OPEN_S, RtcOptions
from p2pmodels.supervision import Tasks
from tests.fakes import FakeClock
from tests.sources.rtc.foreign import Foreign, dialled
from tests.sources.rtc.pairs import (
    BOUND_S,
    LOOPBACK,
    Giver,
    Landing,
    Part,
    hosts_of,
    joined,
    running,
)

BLOB = Sha256("b1" * 32)
FIRST, LAST = 2, 1  # flags of a DATA chunk: RFC 9260, 3.3.1

pytestmark = pytest.mark.asyncio


async def gone(channel: ShardChannel) -> None:
    """Wait until the session is over here."""
    async with asyncio.timeout(BOUND_S):
        while await channel.receive() is not None:
            continue


async def works(part: Part) -> None:
    """Another peer is served as if nothing had happened, by the same child."""
    pid = part.rtc.child_pid
    async with dialled(part) as (_foreign, channel, theirs):
        channel.send(b"\x81x")
        async with asyncio.timeout(BOUND_S):
            assert await theirs.receive() == b"\x81x"
    assert part.rtc.child_pid == pid


async def test_a_peer_of_another_make_is_served(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(300_000)
    (tmp_path / "blob").write_bytes(content)
    part = Part()
    async with running(part), Tasks() as tasks, dialled(part) as (foreign, channel, theirs):
        theirs.allow(is_guest=True)
        Giver(theirs, tmp_path / "blob", tasks)
        channel.send(pack(Get(9, BLOB, 0, len(content))))
        got = b""
        async with asyncio.timeout(BOUND_S):
            while (message := await foreign.messages.get())[0] == 0:
                assert message.startswith(data_head(9, len(got)))
                got += message[13:]
        assert got == content and message == pack(End(9, Status.DONE))


@pytest.mark.parametrize(
    "message",
    [
        data_head(5, 0) + b"x",
        data_head(1, 1) + b"x",
        data_head(1, 0),
        data_head(1, 0) + b"x" * 65_537,
        data_head(1, 0) + b"x" * 11,
        pack(End(2, Status.DONE)),
        b"\x82\xa1t\xa3end",
        b"",
        "a text",
    ],
    ids=str,
)
async def test_data_that_was_not_asked_for_ends_the_session(message: bytes | str) -> None:
    part = Part()
    async with running(part), dialled(part) as (_foreign, channel, theirs):
        theirs.allow(is_guest=True)
        async with asyncio.TaskGroup() as group:
            pulling = group.create_task(_pull(theirs))
            # Once the get is said the pull waits for its data.
            await asyncio.sleep(0)
            channel.send(message)
            await gone(theirs)
        assert isinstance(pulling.result(), LanFailed)


async def _pull(channel: ShardChannel) -> Exception | None:
    try:
        await channel.pull(BLOB, 0, 10, Landing(10), lambda _count: None)
    except LanFailed as error:
        return error
    return None


async def test_an_end_before_the_last_byte_is_a_failure() -> None:
    part = Part()
    async with running(part), dialled(part) as (foreign, channel, theirs):
        theirs.allow(is_guest=True)
        async with asyncio.TaskGroup() as group:
            pulling = group.create_task(_pull(theirs))
            async with asyncio.timeout(BOUND_S):
                await foreign.messages.get()
            channel.send(data_head(1, 0) + b"x" * 9)
            channel.send(pack(End(1, Status.DONE)))
        assert isinstance(pulling.result(), LanFailed)


@pytest.mark.parametrize("kind", ["message without end", "crumbs", "empty", "stream", "unordered"])
async def test_fragments_without_end_end_the_session(kind: str) -> None:
    part = Part()
    async with running(part), dialled(part) as (foreign, _channel, theirs):
        await foreign.association._data_channel_flush()
        over = asyncio.Event()

        async def flood() -> None:
            for tsn in range(5000):
                if over.is_set() or foreign.is_closed.is_set():
                    return
                if kind == "message without end":
                    await foreign.fragment(tsn, b"x" * 1000, flags=FIRST if tsn == 0 else 0)
                elif kind == "crumbs":
                    await foreign.fragment(tsn + 1, b"x", flags=FIRST)
                elif kind == "empty":
                    await foreign.fragment(tsn, b"", flags=FIRST)
                elif kind == "stream":
                    await foreign.fragment(tsn, b"x", flags=FIRST | LAST, stream=STREAMS_LIMIT)
                else:
                    await foreign.fragment(tsn, b"x", flags=FIRST | 4)
                if tsn % 50 == 49:
                    await asyncio.sleep(0.001)  # a socket holds only so many

        async with asyncio.TaskGroup() as group:
            group.create_task(flood())
            await gone(theirs)
            over.set()
        await works(part)


async def test_bytes_beyond_the_window_are_not_kept() -> None:
    part = Part()
    async with running(part), dialled(part) as (foreign, _channel, theirs):
        before = part.rtc.memory_bytes
        # A hole that is never filled, and far more behind it than the window allows.
        for tsn in range(1, 4 * WINDOW_BYTES // 1000):
            await foreign.fragment(tsn, b"x" * 1000, flags=FIRST | LAST)
            if tsn % 50 == 0:
                await asyncio.sleep(0.001)
        await works(part)
        assert part.rtc.memory_bytes < before + 16 * WINDOW_BYTES
        await theirs.close()


@pytest.mark.parametrize("kind", ["gaps", "backward gaps", "far", "forward"])
async def test_acknowledgements_of_what_was_not_sent_end_the_session(kind: str) -> None:
    part = Part()
    async with running(part), dialled(part) as (foreign, _channel, theirs):
        sack = SackChunk()
        last = foreign.association._last_received_tsn
        assert last is not None
        sack.cumulative_tsn, sack.advertised_rwnd = last, 1 << 20
        if kind == "gaps":
            sack.gaps = [(2, 65535)] * 250
        elif kind == "backward gaps":
            sack.gaps = [(9, 2)]
        elif kind == "far":
            sack.cumulative_tsn = (last + 1000) % (1 << 32)
        else:
            forward = ForwardTsnChunk()
            forward.cumulative_tsn = (foreign.association._local_tsn + 9) % (1 << 32)
            await foreign.association._send_chunk(forward)
        await foreign.association._send_chunk(sack)
        await gone(theirs)
        await works(part)


async def test_a_second_channel_or_a_lossy_one_ends_the_session() -> None:
    part = Part()
    async with running(part):
        async with dialled(part) as (foreign, _channel, theirs):
            foreign.open()
            await gone(theirs)
        for label, is_ordered, retries in (("x", True, None), ("p2pmodels-1", False, None)):
            foreign = Foreign()
            foreign.open(label, is_ordered=is_ordered, retries=retries)
            await foreign.take(await part.rtc.accept(await foreign.offer()))
            await foreign.closed()
            await foreign.close()
        assert part.channels.empty()
        await works(part)


async def test_a_page_that_stops_reading_holds_no_more_than_a_window(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(bytes(32 << 20))
    part = Part()
    async with running(part), Tasks() as tasks, dialled(part) as (foreign, channel, theirs):
        theirs.allow(is_guest=True)
        giver = Giver(theirs, tmp_path / "blob", tasks)
        channel.send(pack(Get(1, BLOB, 0, 32 << 20)))
        async with asyncio.timeout(BOUND_S):
            await foreign.messages.get()
        # It acknowledges what it has, and has no room for more.
        foreign.association._advertised_rwnd = -(1 << 30)
        other = Part()
        async with running(other):
            ours, served = await joined(other, part)
            Giver(served, tmp_path / "blob", tasks)
            whole = Landing(32 << 20)
            await ours.pull(BLOB, 0, 32 << 20, whole, whole.on_bytes)
        taken = giver.counted
        assert taken < 8 << 20
        assert part.rtc.memory_bytes < 256 << 20


async def test_offers_that_are_never_finished_are_few_and_short_lived() -> None:
    clock = FakeClock()
    part = Part(clock=clock)
    foreign = Foreign()
    offer = await foreign.offer()
    await foreign.close()
    async with running(part):
        for _ in range(HALF_OPEN_LIMIT):
            await part.rtc.accept(offer)
        for _ in range(100):
            with pytest.raises(Overloaded):
                await part.rtc.accept(offer)
            with pytest.raises(Overloaded):
                await part.rtc.offer()
        assert part.rtc.sessions == (0, HALF_OPEN_LIMIT)
        clock.advance(HALF_OPEN_S)
        async with asyncio.timeout(BOUND_S):
            while part.rtc.sessions != (0, 0):
                await asyncio.sleep(0.01)
        offered = await part.rtc.offer()
        part.rtc.abandon(offered.session)
        assert part.rtc.sessions == (0, 0)


async def test_a_bad_sdp_reaches_no_child() -> None:
    part = Part()
    async with running(part):
        offered = await part.rtc.offer()
        for bad in ("", "x" * (SDP_BYTES_LIMIT + 1), offered.sdp):
            with pytest.raises(ProtocolError):
                await part.rtc.complete(offered.session, bad)
        with pytest.raises(ProtocolError):
            await part.rtc.accept("v=0\r\n")
        answer = offered.sdp.replace("actpass", "active")
        with pytest.raises(RtcFailed):
            await part.rtc.complete(offered.session + 1, answer)
        await part.rtc.complete(offered.session, answer)
        with pytest.raises(RtcFailed):
            await part.rtc.complete(offered.session, answer)


async def test_only_the_chosen_addresses_become_candidates() -> None:
    hosts = [LOOPBACK]
    part = Part(RtcOptions(addresses=lambda: hosts))
    async with running(part):
        assert hosts_of((await part.rtc.offer()).sdp) == [LOOPBACK]
        hosts[:] = ["127.0.0.2", "127.0.0.3"]
        assert hosts_of((await part.rtc.offer()).sdp) == hosts
        hosts.clear()
        with pytest.raises(RtcFailed):
            await part.rtc.offer()


async def test_no_stun_server_is_asked_but_a_configured_one() -> None:
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    class Server(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            asked.put_nowait(data)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=(LOOPBACK, 0))
    port = transport.get_extra_info("sockname")[1]
    configured = Part(RtcOptions(addresses=lambda: [LOOPBACK], stun=f"{LOOPBACK}:{port}"))
    plain = Part()
    async with running(plain, configured):
        await plain.rtc.offer()
        assert asked.empty()
        # The server never answers, so the offer has our own address only.
        assert hosts_of((await configured.rtc.offer()).sdp) == [LOOPBACK]
        assert not asked.empty()
    transport.close()
    gatherer = Gatherer((LOOPBACK,), "")
    assert gatherer.connection.stun_server is None
    assert gatherer.connection.turn_server is None


async def test_another_key_than_the_sdp_pins_is_not_let_in() -> None:
    part = Part()
    async with running(part):
        foreign = Foreign()
        foreign.open()
        offer = await foreign.offer()
        pinned = next(line for line in offer.splitlines() if line.startswith("a=fingerprint"))
        other = pinned[:-2] + ("00" if pinned[-2:] != "00" else "11")
        await foreign.take(await part.rtc.accept(offer.replace(pinned, other)))
        async with asyncio.timeout(BOUND_S):
            while part.rtc.sessions != (0, 0):
                await asyncio.sleep(0.01)
        await foreign.close()
        assert part.channels.empty()
