"""Shard channels between two real children: frames, pulls, gives, and their ends."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import pytest

from p2pmodels.core.digests import Sha256
from p2pmodels.core.pieces import MIB
from p2pmodels.core.sdp import IpAddress
from p2pmodels.core.shard import GETS_LIMIT, Cancel, Get, pack
from p2pmodels.core.wire import FRAME_BYTES_LIMIT
from p2pmodels.errors import DiskFull, HolderBusy, LanFailed, NotHeld, StoreFailed
from p2pmodels.sources.rtc.channel import SEND_LIMIT
from p2pmodels.sources.rtc.rtc import RtcOptions
from p2pmodels.supervision import Tasks
from tests.sources.rtc.pairs import (
    BOUND_S,
    LOOPBACK,
    Giver,
    Landing,
    Part,
    joined,
    pair,
    running,
)

BLOB = Sha256("b1" * 32)
CONTENT = random.Random(11).randbytes(9 * MIB + 12_345)

pytestmark = pytest.mark.asyncio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


async def test_both_sides_see_the_same_keys_and_frames_go_both_ways() -> None:
    async with pair() as (ours, theirs):
        assert (ours.is_dialler, theirs.is_dialler) == (True, False)
        assert (ours.local_host, ours.remote_host) == (theirs.remote_host, theirs.local_host)
        assert ours.local_host != ours.remote_host
        assert ours.local_host.startswith("sha-256 ")
        assert ours.remote_address == theirs.remote_address == "127.0.0.1"
        longest = b"\x81" + b"x" * (FRAME_BYTES_LIMIT - 1)
        await ours.send(longest)
        await theirs.send(b"\x81y")
        async with asyncio.timeout(BOUND_S):
            assert await theirs.receive() == longest
            assert await ours.receive() == b"\x81y"


async def test_who_comes_from_no_home_address_is_not_talked_to() -> None:
    """The offer may have come through a rendezvous far away, with any candidates."""
    asked: list[str] = []

    def may_contact(address: IpAddress) -> bool:
        asked.append(str(address))
        return False

    dialler = Part()
    acceptor = Part(RtcOptions(addresses=lambda: [LOOPBACK], may_contact=may_contact))
    async with running(dialler, acceptor):
        offered = await dialler.rtc.offer()
        answer = await acceptor.rtc.accept(offered.sdp)
        asked.clear()
        await dialler.rtc.complete(offered.session, answer)
        ours = await dialler.channel()
        async with asyncio.timeout(BOUND_S):
            assert await ours.receive() is None
        assert asked == [LOOPBACK]
        assert acceptor.channels.empty() and acceptor.rtc.sessions == (0, 0)


async def test_closing_ends_the_other_side_too() -> None:
    async with pair() as (ours, theirs):
        await ours.send(b"\x81last")
        async with asyncio.timeout(BOUND_S):
            assert await theirs.receive() == b"\x81last"
            await ours.close()
            await ours.close()
            assert await ours.receive() is None
            assert await theirs.receive() is None
            with pytest.raises(ConnectionError):
                await theirs.send(b"\x81x")


async def test_a_blob_is_pulled_in_order_with_ranges_both_ways(file: Path) -> None:
    async with pair() as (ours, theirs), Tasks() as tasks:
        there, here = Giver(theirs, file, tasks), Giver(ours, file, tasks)
        landing, other = Landing(len(CONTENT)), Landing(len(CONTENT))
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            group.create_task(ours.pull(BLOB, 0, len(CONTENT), landing, landing.on_bytes))
            group.create_task(ours.pull(BLOB, 5, MIB, other, other.on_bytes))
            group.create_task(theirs.pull(BLOB, 7, 8, Landing(8), other.on_bytes))
        assert landing.data == CONTENT and landing.received == len(CONTENT)
        assert landing.parts == sorted(landing.parts)
        assert other.data[5:MIB] == CONTENT[5:MIB]
        assert sum(there.paced) == there.counted == len(CONTENT) + MIB - 5
        assert here.gets == [Get(1, BLOB, 7, 8)]


async def test_refusals_come_as_errors_of_their_own() -> None:
    async with pair() as (ours, theirs):
        landing = Landing(1)
        with pytest.raises(NotHeld):
            await ours.pull(BLOB, 0, 1, landing, landing.on_bytes)
        theirs.on_get = lambda get: theirs.refuse(get.number, 503, 1.5)
        with pytest.raises(HolderBusy) as busy:
            await ours.pull(BLOB, 0, 1, landing, landing.on_bytes)
        assert busy.value.retry_after_s == 1.5
        theirs.on_get = lambda get: theirs.refuse(get.number, 500)
        with pytest.raises(LanFailed):
            await ours.pull(BLOB, 0, 1, landing, landing.on_bytes)
        assert landing.parts == []


async def test_a_file_that_is_too_short_fails_both_sides(file: Path) -> None:
    async with pair() as (ours, theirs), Tasks() as tasks:
        giver = Giver(theirs, file, tasks)
        landing = Landing(len(CONTENT) + 1)
        with pytest.raises(LanFailed):
            await ours.pull(BLOB, 0, len(CONTENT) + 1, landing, landing.on_bytes)
        assert isinstance(await giver.failure(), StoreFailed)
        file.unlink()
        with pytest.raises(LanFailed):
            await ours.pull(BLOB, 0, 1, landing, landing.on_bytes)
        assert isinstance(await giver.failure(), StoreFailed)


async def test_a_cancelled_pull_leaves_its_sink_and_stops_the_giver(file: Path) -> None:
    async with pair() as (ours, theirs), Tasks() as tasks:
        giver = Giver(theirs, file, tasks)
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        go_on = threading.Event()

        def hold(_offset: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(BOUND_S)

        landing = Landing(len(CONTENT), hold)
        work = ours.pull(BLOB, 0, len(CONTENT), landing, landing.on_bytes)
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            pulling = group.create_task(work)
            await begun.wait()
            pulling.cancel()
            go_on.set()
            await asyncio.wait([pulling])
        parts = list(landing.parts)
        assert isinstance(await giver.failure(), ConnectionError)
        # The slot is clean again, and the channel goes on.
        whole = Landing(len(CONTENT))
        await ours.pull(BLOB, 0, len(CONTENT), whole, whole.on_bytes)
        assert whole.data == CONTENT
        assert landing.parts == parts


async def test_an_error_of_the_sink_ends_that_pull_only(file: Path) -> None:
    async with pair() as (ours, theirs), Tasks() as tasks:
        Giver(theirs, file, tasks)

        def fail(offset: int) -> None:
            if offset >= 2 * MIB:
                raise DiskFull

        broken, whole = Landing(len(CONTENT), fail), Landing(len(CONTENT))
        with pytest.raises(DiskFull):
            await ours.pull(BLOB, 0, len(CONTENT), broken, broken.on_bytes)
        await ours.pull(BLOB, 0, len(CONTENT), whole, whole.on_bytes)
        assert whole.data == CONTENT


async def test_gets_beyond_the_limit_are_told_to_come_later() -> None:
    async with pair() as (ours, theirs):
        held: list[Get] = []
        theirs.on_get = held.append
        for number in range(100, 100 + GETS_LIMIT + 1):
            await ours.send(pack(Get(number, BLOB, 0, 1)))
        await ours.send(b"\x81x")
        async with asyncio.timeout(BOUND_S):
            assert await theirs.receive() == b"\x81x"
        assert [get.number for get in held] == list(range(100, 100 + GETS_LIMIT))


@pytest.mark.parametrize("is_allowed", [False, True])
async def test_gets_against_the_rules_end_the_channel(is_allowed: bool) -> None:
    dialler, acceptor = Part(), Part()
    async with running(dialler, acceptor):
        offered = await dialler.rtc.offer()
        await dialler.rtc.complete(offered.session, await acceptor.rtc.accept(offered.sdp))
        ours, theirs = await dialler.channel(), await acceptor.channel()
        theirs.on_get = lambda _get: None
        if is_allowed:
            theirs.allow(is_guest=False)
            await ours.send(pack(Get(1, BLOB, 0, 1)))
        await ours.send(pack(Get(1, BLOB, 0, 1)))
        async with asyncio.timeout(BOUND_S):
            assert await theirs.receive() is None
            assert await ours.receive() is None


@pytest.mark.parametrize("is_permitted", [False, True])
async def test_a_get_counts_after_what_was_said_before_it(is_permitted: bool) -> None:
    dialler, acceptor = Part(), Part()
    async with running(dialler, acceptor):
        offered = await dialler.rtc.offer()
        await dialler.rtc.complete(offered.session, await acceptor.rtc.accept(offered.sdp))
        ours, theirs = await dialler.channel(), await acceptor.channel()
        held: asyncio.Queue[Get] = asyncio.Queue()
        theirs.on_get = held.put_nowait
        await ours.send(b"\x81x")  # the welcome, as it were
        await ours.send(pack(Get(1, BLOB, 0, 1)))
        async with asyncio.timeout(BOUND_S):
            assert await theirs.receive() == b"\x81x"
            if is_permitted:
                theirs.allow(is_guest=False)
                await ours.send(b"\x81y")
                assert await theirs.receive() == b"\x81y"
                assert (await held.get()).number == 1
            else:
                assert await theirs.receive() is None
                assert await ours.receive() is None


async def test_a_flood_of_gets_ends_the_channel() -> None:
    async with pair() as (ours, theirs):
        theirs.on_get = lambda _get: None
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(ConnectionError):
                while True:
                    await ours.send(pack(Get(1, BLOB, 0, 1)))
                    await ours.send(pack(Cancel(1)))


async def test_a_sender_waits_while_the_other_side_takes_nothing() -> None:
    async with pair() as (ours, _theirs):
        frame = b"\x81" + b"x" * 60_000
        sent = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                while True:
                    await ours.send(frame)
                    sent += len(frame)
        # Two bounded sockets, two bounded windows, and what we let wait here.
        assert SEND_LIMIT <= sent < 4 * MIB


async def test_a_sink_that_stalls_holds_back_the_sender_and_no_other_channel(file: Path) -> None:
    a, b, c = Part(), Part(), Part()
    async with running(a, b, c), Tasks() as tasks:
        slow, giving = await joined(a, b)
        quick, also = await joined(a, c)
        giver, _other = Giver(giving, file, tasks), Giver(also, file, tasks)
        go_on = threading.Event()
        landing = Landing(len(CONTENT), lambda _offset: (go_on.wait(BOUND_S), None)[1])
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            group.create_task(slow.pull(BLOB, 0, len(CONTENT), landing, landing.on_bytes))
            whole = Landing(len(CONTENT))
            await quick.pull(BLOB, 0, len(CONTENT), whole, whole.on_bytes)
            assert whole.data == CONTENT
            assert giver.counted < 6 * MIB
            go_on.set()
        assert landing.data == CONTENT


async def test_ranges_that_no_get_can_have_are_refused_here() -> None:
    async with pair() as (ours, _theirs):
        for start, stop in ((0, 0), (5, 4), (-1, 4), (0, 65 * MIB)):
            with pytest.raises(ValueError, match="range"):
                await ours.pull(BLOB, start, stop, Landing(0), lambda _count: None)
