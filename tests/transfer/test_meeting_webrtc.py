"""Two daemons meet at a third with real WebRTC, real sockets and real time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from p2pmodels.clock import RealClock
from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.rtc.rendezvous import Rendezvous, RendezvousOptions, parse_rendezvous
from p2pmodels.sources.rtc.rtc import Rtc, RtcOptions
from p2pmodels.supervision import Tasks
from p2pmodels.transfer import meeting as module
from p2pmodels.transfer.meeting import Meeting
from tests.signal_fakes import rendezvous_door

A, B = PeerId("a" * 32), PeerId("b" * 32)
SECRET = Secret("correct-horse-battery")
LIMIT_S = 60.0  # seconds for all of it; two processes start


class Book:
    """Takes one channel and keeps it."""

    def __init__(self) -> None:
        self.adopted: asyncio.Future[tuple[ShardChannel, PeerId | None]] = (
            asyncio.get_running_loop().create_future()
        )

    def is_linked(self, _id: PeerId) -> bool:
        return self.adopted.done()

    async def adopt(self, channel: ShardChannel, expected: PeerId | None) -> None:
        self.adopted.set_result((channel, expected))
        await asyncio.Event().wait()


async def live(exits: AsyncExitStack, id: PeerId, url: str) -> Book:
    """A daemon that can reach nobody but the rendezvous."""
    clock, book = RealClock(), Book()
    place = Rendezvous(RendezvousOptions(parse_rendezvous(url), "lan", id), clock)
    options = RtcOptions(addresses=lambda: ["127.0.0.1"])
    rtc = Rtc(options, clock, lambda channel: meeting.opened(channel))
    meeting = Meeting(id, SECRET, rtc, book, [place], clock)
    for part in (rtc, meeting):
        await exits.enter_async_context(part)
    tasks = await exits.enter_async_context(Tasks())
    tasks.start(rtc.run(), "webrtc")
    await rtc.until_running()
    tasks.start(meeting.run(), "meeting")
    return book


@pytest.mark.asyncio
async def test_daemons_that_only_reach_a_rendezvous_open_a_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "UNLINKED_S", 0.2)
    monkeypatch.setattr(module, "LOOK_S", 0.1)
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as exits:
        served = await exits.enter_async_context(rendezvous_door())
        books = [await live(exits, id, served.url) for id in (A, B)]
        (dialled, expected), (accepted, nobody) = [await book.adopted for book in books]
        assert (expected, nobody) == (B, None)
        assert (dialled.is_dialler, accepted.is_dialler) == (True, False)
        assert dialled.local_host == accepted.remote_host
        for channel in (dialled, accepted):
            await channel.send(b"\x81\xa1t\xa3bye")
        assert await dialled.receive() == await accepted.receive() == b"\x81\xa1t\xa3bye"
