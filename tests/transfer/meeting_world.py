"""A lobby with daemons and guests that meet there: fake WebRTC parts, the real lobby, fake time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.signal_texts import format_request
from p2pmodels.core.signalling import (
    Came,
    Heard,
    Join,
    Joined,
    Left,
    Member,
    MemberKind,
    Notice,
    Offer,
    Said,
    Sent,
)
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.lobby import Lobby, Visit
from p2pmodels.transfer.meeting import Meeting, Place
from tests.fakes import FakeClock
from tests.signal_fakes import FakeBook, FakeChannel, FakeNet, FakeSessions, nothing_known

A, B, C = PeerId("a" * 32), PeerId("b" * 32), PeerId("c" * 32)
SECRET, OTHER = Secret("correct-horse-battery"), Secret("wrong-horse-battery!")
TURNS = 30  # turns of the loop in which everything that can happen in memory has happened


class Guest:
    """A member of the lobby that does what the test wants."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.present: dict[str, Member] = {}
        self.on_heard: Callable[[Heard], None] = lambda _heard: None
        self.visit: Visit | None = None

    def tell(self, notice: Notice) -> None:
        self.notices.append(notice)
        match notice:
            case Joined():
                self.present = {member.member: member for member in notice.members}
            case Came():
                self.present[notice.member.member] = notice.member
            case Left():
                del self.present[notice.member]
            case Heard():
                self.on_heard(notice)

    @property
    def name(self) -> str:
        assert self.visit is not None
        return self.visit.name

    @property
    def heard(self) -> list[Heard]:
        return [notice for notice in self.notices if isinstance(notice, Heard)]

    @property
    def offers(self) -> list[Heard]:
        return [heard for heard in self.heard if isinstance(heard.said, Offer)]

    def member(self, id: PeerId) -> str:
        [name] = [name for name, member in self.present.items() if member.id == id]
        return name

    def send(self, to: str, said: Said) -> None:
        assert self.visit is not None
        self.visit.hear(format_request(Sent(to, said)))


@dataclass(eq=False)
class GuestSeat:
    """A guest's place at the lobby, for another daemon."""

    guest: Guest

    async def run(self, hear: Callable[[Heard], None]) -> None:
        self.guest.on_heard = hear
        await asyncio.Event().wait()

    def members(self) -> list[Member]:
        return list(self.guest.present.values())

    def say(self, sent: Sent) -> None:
        self.guest.send(sent.to, sent.said)

    def source_of(self, member: str) -> str:
        return member


@dataclass(eq=False)
class Daemon:
    """A meeting with its fakes."""

    meeting: Meeting[FakeChannel]
    sessions: FakeSessions
    book: FakeBook


@dataclass
class World:
    """The lobby of daemon A, its meeting, and others as the test wants."""

    tasks: Tasks
    exits: ExitStack
    clock: FakeClock = field(default_factory=FakeClock)
    net: FakeNet = field(default_factory=FakeNet)

    def __post_init__(self) -> None:
        self.lobby = Lobby(A, nothing_known, self.clock)

    def daemon(
        self, place: Place | None = None, id: PeerId = A, secret: Secret | None = None
    ) -> Daemon:
        """A running daemon; by default the one whose lobby this is."""
        sessions, book = FakeSessions(self.net), FakeBook()
        meeting = Meeting(id, secret, sessions, book, [place or self.lobby], self.clock)
        sessions.on_channel = meeting.opened

        async def live() -> None:
            async with meeting:
                await meeting.run()

        self.tasks.start(live(), "meeting")
        return Daemon(meeting, sessions, book)

    def guest(
        self, id: PeerId, kind: MemberKind = MemberKind.DAEMON, address: str = "10.0.0.9"
    ) -> Guest:
        guest = Guest()
        visit = self.lobby.visit(address, guest.tell, is_page=kind is MemberKind.PAGE)
        guest.visit = self.exits.enter_context(visit)
        guest.visit.hear(format_request(Join("lan", kind, id)))
        return guest

    def other(self, id: PeerId, secret: Secret | None = None) -> Daemon:
        """A running daemon that has a seat at the lobby."""
        return self.daemon(GuestSeat(self.guest(id)), id, secret)

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            await self.settle()
            self.clock.advance(0.5)
        await self.settle()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with asyncio.timeout(30), Tasks() as tasks:
        with ExitStack() as exits:
            yield World(tasks, exits)
