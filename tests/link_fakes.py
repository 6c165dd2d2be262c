"""Links for tests: channels in memory, a room in which daemons dial each other, scripted peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Self

from p2pmodels.core.exchange import LINK_PROTOCOL
from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.core.wire import Bye, Frame, Greeting, Welcome, pack, unpack
from p2pmodels.errors import LanFailed
from p2pmodels.sources.lan.carrier import Channel
from p2pmodels.sources.lan.link import Linked
from p2pmodels.sources.lan.links import LinkOptions, Links
from p2pmodels.sources.lan.peers import FoundBy, PeerState, PeerView
from p2pmodels.supervision import Tasks
from tests.fakes import FakeClock

LIMIT_S = 5.0  # seconds for anything that is awaited here
TURNS = 30  # turns of the loop in which everything that can happen in memory has happened


class MemoryChannel:
    """One end of a channel in memory; a deaf one takes nothing more, a broken one fails."""

    def __init__(self, remote_host: str, local_host: str) -> None:
        self.remote_host, self.local_host = remote_host, local_host
        self.other = self
        self.is_deaf = False
        self.is_closed = False
        self.is_broken = False
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def send(self, data: bytes) -> None:
        if self.is_broken or self.is_closed or self.other.is_closed:
            raise ConnectionResetError
        if self.is_deaf:
            await asyncio.Event().wait()
        self.other._inbox.put_nowait(data)

    async def receive(self) -> bytes | None:
        data = await self._inbox.get()
        if self.is_broken:
            raise ConnectionResetError
        return data

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._inbox.put_nowait(None)
            self.other._inbox.put_nowait(None)


def channel_pair(first_host: str, second_host: str) -> tuple[MemoryChannel, MemoryChannel]:
    """The two ends: that of `first_host` and that of `second_host`."""
    first = MemoryChannel(second_host, first_host)
    second = MemoryChannel(first_host, second_host)
    first.other, second.other = second, first
    return first, second


@dataclass(eq=False)
class Member:
    """A daemon of the room, and what it was told."""

    id: PeerId
    address: PeerAddress
    links: Links
    ready: list[Linked] = field(default_factory=list)
    gone: list[Linked] = field(default_factory=list)
    frames: list[tuple[PeerId, Frame]] = field(default_factory=list)
    reaction: Callable[[Linked, Frame], None] = lambda _linked, _frame: None

    def hear(self, linked: Linked, frame: Frame) -> None:
        self.frames.append((linked.id, frame))
        self.reaction(linked, frame)

    @property
    def linked_ids(self) -> list[PeerId]:
        return sorted(linked.id for linked in self.links.links())

    def view(self) -> PeerView:
        return PeerView(
            id=self.id.value, address=str(self.address), host=self.address.host,
            port=self.address.port, bt_port=0, found_by=FoundBy.MDNS, version="0.1.0",
            state=PeerState.READY, last_seen=0.0, bytes_received=0,
        )  # fmt: skip


class MemoryCarrier:
    """Dials the other members of the room; `dials` counts who was dialled."""

    def __init__(self, room: Room, own_host: str) -> None:
        self._room, self._own_host = room, own_host
        self.dials: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def dial(self, address: PeerAddress) -> MemoryChannel:
        self.dials.append(address.host)
        return self._room.connect(self._own_host, address)


class Room:
    """Daemons with links in memory and one clock that the test moves."""

    def __init__(self, tasks: Tasks) -> None:
        self.clock = FakeClock()
        self.tasks = tasks
        self.members: dict[PeerAddress, Member] = {}
        self.carriers: dict[PeerId, MemoryCarrier] = {}
        self.walls: set[tuple[str, str]] = set()
        """(from, to) hosts that cannot connect."""
        self.mute: set[PeerAddress] = set()
        """Where the connection is taken and never a word said."""
        self._numbers = count(1)

    def add(self, id: PeerId, host: str | None = None, secret: Secret | None = None) -> Member:
        """A further daemon, at an address of its own unless told otherwise."""
        number = next(self._numbers)
        address = PeerAddress(host or f"10.0.0.{number}", 7000 + number)
        carrier = MemoryCarrier(self, address.host)
        options = LinkOptions(id, "0.1.0", address.port, secret)
        links = Links(
            options,
            self.clock,
            lambda linked: member.ready.append(linked),
            lambda linked, frame: member.hear(linked, frame),
            lambda linked: member.gone.append(linked),
            carrier=carrier,
        )
        member = Member(id, address, links)
        self.members[address], self.carriers[id] = member, carrier
        return member

    def connect(self, own_host: str, address: PeerAddress) -> MemoryChannel:
        """A channel to the member at `address`. Raises LanFailed when there is none."""
        member = self.members.get(address)
        if member is None or (own_host, address.host) in self.walls:
            raise LanFailed("nobody listens")
        ours, theirs = channel_pair(own_host, address.host)
        if address not in self.mute:
            self.accept(member, theirs)
        return ours

    def accept(self, member: Member, channel: MemoryChannel) -> None:
        serve = member.links.serve(channel, channel.remote_host, channel.local_host)
        self.tasks.start(serve, "serve")

    def dial(self, member: Member, other: Member) -> None:
        """Let one dial another now."""
        self.tasks.start(member.links.keep(other.view()), "keep")

    def run(self, member: Member) -> None:
        """Let it dial everybody by itself; it looks whenever the clock is moved."""
        self.tasks.start(member.links.run(self.views, self.clock.sleep), "run")

    def views(self) -> list[PeerView]:
        return [member.view() for member in self.members.values()]

    def stranger(self, member: Member, host: str = "10.0.9.9") -> Stranger:
        """Somebody without a daemon who opens a channel to the member's peer port."""
        ours, theirs = channel_pair(host, member.address.host)
        self.accept(member, theirs)
        return Stranger(ours)

    async def settle(self) -> None:
        """Let everything happen that can happen without time passing."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float, step: float = 0.25) -> None:
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            await self.settle()


@asynccontextmanager
async def memory_room() -> AsyncIterator[Room]:
    """A room; whoever was added is left properly at its end."""
    async with asyncio.timeout(10 * LIMIT_S), Tasks() as tasks:
        room = Room(tasks)
        yield room
        for member in room.members.values():
            await member.links.__aexit__()


class Stranger:
    """A peer that says what the test wants."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def say(self, *frames: Frame | bytes) -> None:
        for frame in frames:
            await self.channel.send(frame if isinstance(frame, bytes) else pack(frame))

    async def hear(self) -> Frame | None:
        """The next frame; None at the end."""
        async with asyncio.timeout(LIMIT_S):
            data = await self.channel.receive()
        return None if data is None else unpack(data)

    async def hear_all(self) -> list[Frame]:
        """Everything until the end."""
        frames = []
        while (frame := await self.hear()) is not None:
            frames.append(frame)
        return frames

    async def farewell(self) -> str:
        """The reason of the `bye` with which the other side ends; empty without one."""
        *_, last = [None, *await self.hear_all()]
        return last.reason if isinstance(last, Bye) else ""

    async def shake_hands(self, id: PeerId, ticket: bytes = bytes(16)) -> bytes:
        """Become a linked peer without a group secret; returns the ticket that was given."""
        await self.say(hello(id))
        while True:
            frame = await self.hear()
            if isinstance(frame, Welcome):
                await self.say(Welcome(b"", ticket))
                return frame.ticket
            if frame is None:
                raise ConnectionResetError


def hello(id: PeerId, protocol: int = LINK_PROTOCOL, nonce: bytes = b"n" * 16) -> Greeting:
    return Greeting(protocol, id, "0.1.0", 7879, nonce)
