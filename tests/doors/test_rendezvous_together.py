"""Signalling as a whole but for WebRTC itself: daemons meet at a third one, pages at any."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.signalling import Answer, Heard, MemberKind, Offer, Sent
from p2pmodels.sources.rtc.rendezvous import Rendezvous, RendezvousOptions, parse_rendezvous
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.meeting import UNLINKED_S, Meeting, Place
from tests.fakes import FakeClock
from tests.signal_fakes import (
    Callers,
    FakeBook,
    FakeChannel,
    FakeNet,
    FakeSessions,
    description,
    eventually,
    rendezvous_door,
)

OWN, A, B = PeerId("9" * 32), PeerId("a" * 32), PeerId("b" * 32)
SECRET = Secret("correct-horse-battery")


class Daemon:
    """A daemon with a fake WebRTC part and a real seat."""

    def __init__(self, id: PeerId, place: Place, net: FakeNet, clock: FakeClock) -> None:
        self.sessions, self.book = FakeSessions(net), FakeBook()
        self.meeting: Meeting[FakeChannel] = Meeting(
            id, SECRET, self.sessions, self.book, [place], clock
        )
        self.sessions.on_channel = self.meeting.opened

    async def live(self) -> None:
        async with self.meeting:
            await self.meeting.run()


@pytest.mark.asyncio
async def test_two_daemons_and_a_page_meet_at_a_third_daemon() -> None:
    clock, net = FakeClock(), FakeNet()
    async with asyncio.timeout(30), rendezvous_door(own=OWN, clock=clock) as served:
        async with Callers(served) as callers, Tasks() as tasks:
            seats = [
                Rendezvous(RendezvousOptions(parse_rendezvous(served.url), "lan", id), clock)
                for id in (A, B)
            ]
            host = Daemon(OWN, served.lobby, net, clock)
            a, b = Daemon(A, seats[0], net, clock), Daemon(B, seats[1], net, clock)
            for daemon in (host, a, b):
                tasks.start(daemon.live(), "daemon")
            await eventually(lambda: all(len(seat.members()) == 2 for seat in seats))
            for _ in range(round(UNLINKED_S) + 2):
                clock.advance(1.0)
                for _ in range(20):
                    await asyncio.sleep(0)
            await eventually(lambda: host.book.linked == {A, B} and a.book.linked == {B})
            assert [expected for _, expected in b.book.adopted] == [None, None]

            page, joined = await callers.page()
            assert {member.id for member in joined.members} == {OWN, A, B}
            for member in joined.members:
                offer = Offer(member.member, description(0xFFFF, SECRET))
                await page.say(Sent(member.member, offer))
                heard = await page.hear()
                assert isinstance(heard, Heard) and heard.sender == member.member
                assert heard.kind is MemberKind.DAEMON and isinstance(heard.said, Answer)
                assert heard.said.signed.is_proven(SECRET)
