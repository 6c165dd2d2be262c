"""Signalling for tests: WebRTC parts that connect in memory, a book of links, the real doors."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Self

import aiohttp
from aiohttp import web

from p2pmodels.clock import Clock, RealClock
from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.signal_texts import format_request, parse_notice
from p2pmodels.core.signalling import (
    SIGNAL_PATH,
    Join,
    Joined,
    MemberKind,
    Notice,
    Request,
    SignedSdp,
    signed_sdp,
)
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.doors.guard import GuardOptions, allowed_origin
from p2pmodels.doors.meeting import MeetingDoors
from p2pmodels.doors.rtc import Answers, RtcDoor
from p2pmodels.doors.signal import SignalDoor
from p2pmodels.errors import P2PModelsError, ProtocolError
from p2pmodels.transfer.lobby import FindFile, KnownFile, Lobby
from tests.peer_fakes import fresh_id

LIMIT_S = 5.0  # seconds for anything that is awaited here
PAGE_ORIGIN = "https://chat.webllm.ai"


def sdp(number: int, candidates: int = 1) -> str:
    """An SDP whose fingerprint is made of the number."""
    key = ":".join(f"{byte:02X}" for byte in number.to_bytes(32, "big"))
    lines = ["v=0", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"]
    lines.append(f"a=fingerprint:sha-256 {key}")
    lines += [f"a=candidate:{n} 1 udp 1 10.0.0.1 {9000 + n} typ host" for n in range(candidates)]
    return "\r\n".join(lines) + "\r\n"


def description(number: int = 1, secret: Secret | None = None) -> SignedSdp:
    return signed_sdp(sdp(number), secret)


@dataclass(eq=False)
class FakeChannel:
    """A channel between two sessions."""

    is_dialler: bool
    local_host: str
    remote_host: str
    is_closed: bool = False

    async def close(self) -> None:
        self.is_closed = True


@dataclass(frozen=True)
class FakeOffered:
    session: int
    sdp: str


class FakeNet:
    """The fingerprints of everybody, and the sessions that answer them."""

    def __init__(self) -> None:
        self.numbers = count(1)
        self.answerers: dict[str, FakeSessions] = {}


@dataclass(eq=False)
class FakeSessions:
    """A WebRTC part whose channels open at once, unless it is `walled`."""

    net: FakeNet
    on_channel: Callable[[FakeChannel], None] = lambda _channel: None
    walled: bool = False
    failure: P2PModelsError | None = None
    offers: dict[int, str] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)

    async def offer(self) -> FakeOffered:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        number = next(self.net.numbers)
        self.offers[number] = sdp(number)
        return FakeOffered(number, sdp(number))

    async def accept(self, sdp_text: str) -> str:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.accepted.append(sdp_text)
        answer = sdp(next(self.net.numbers))
        self.net.answerers[answer] = self
        return answer

    async def complete(self, session: int, sdp_text: str) -> None:
        await asyncio.sleep(0)
        other = self.net.answerers.get(sdp_text)
        if other is None:
            raise ProtocolError("an answer of nobody")
        ours = SignedSdp(self.offers[session], "").fingerprint
        theirs = SignedSdp(sdp_text, "").fingerprint
        if not (self.walled or other.walled):
            other.on_channel(FakeChannel(False, theirs, ours))
            self.on_channel(FakeChannel(True, ours, theirs))

    def abandon(self, session: int) -> None:
        self.abandoned.append(session)


class FakeBook:
    """Links with whoever is adopted until the test lets go; knows whom it expects only."""

    def __init__(self) -> None:
        self.linked: set[PeerId] = set()
        self.adopted: list[tuple[FakeChannel, PeerId | None]] = []
        self.refuses = False
        self._left = asyncio.Event()

    def is_linked(self, id: PeerId) -> bool:
        return id in self.linked

    async def adopt(self, channel: FakeChannel, expected: PeerId | None) -> None:
        self.adopted.append((channel, expected))
        if self.refuses:
            return
        if expected is not None:
            self.linked.add(expected)
        try:
            await self._left.wait()
        finally:
            self.linked.discard(expected or PeerId("0" * 32))

    def let_go(self) -> None:
        """Every link is lost."""
        self._left.set()
        self._left = asyncio.Event()


def nothing_known(*_: object) -> KnownFile | None:
    return None


def web_origin(request: web.Request) -> str | None:
    return allowed_origin(request, GuardOptions())


class NoMeeting:
    """Answers with what it was told to."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.failure: P2PModelsError | None = None

    async def answer(self, offer: SignedSdp, source: str) -> SignedSdp:
        self.sources.append(source)
        if self.failure is not None:
            raise self.failure
        return description(7)


@dataclass
class Served:
    """Where the doors are, and the lobby behind them."""

    address: PeerAddress
    lobby: Lobby

    @property
    def url(self) -> str:
        return f"ws://{self.address}{SIGNAL_PATH}"


@asynccontextmanager
async def listening(
    app: web.Application, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[PeerAddress]:
    """The app on a port of this machine, perhaps over TLS."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        yield PeerAddress(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def rendezvous_door(
    *,
    own: PeerId | None = None,
    find: FindFile = nothing_known,
    clock: Clock | None = None,
    meeting: Answers | None = None,
    is_home: Callable[[str], bool] = lambda _host: True,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Served]:
    """The real doors of signalling on a free port."""
    lobby = Lobby(own or fresh_id(), find, clock or RealClock())
    app = web.Application()
    rtc = RtcDoor(meeting or NoMeeting(), web_origin, is_home)
    MeetingDoors(SignalDoor(lobby, web_origin, is_home), rtc).add_routes(app)
    async with listening(app, port=port, tls=tls) as address:
        yield Served(address, lobby)


class Caller:
    """A member of a room with a real WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.name = ""

    async def say(self, request: Request | str | bytes) -> None:
        if isinstance(request, bytes):
            await self.socket.send_bytes(request)
        else:
            text = request if isinstance(request, str) else format_request(request)
            await self.socket.send_str(text)

    async def hear(self) -> Notice | None:
        """The next notice; None at the end."""
        async with asyncio.timeout(LIMIT_S):
            message = await self.socket.receive()
        return parse_notice(message.data) if message.type is aiohttp.WSMsgType.TEXT else None

    async def hear_all(self) -> list[Notice]:
        notices = []
        while (notice := await self.hear()) is not None:
            notices.append(notice)
        return notices


class Callers:
    """Opens members' sockets to one rendezvous; leaving the block closes them."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for socket in self._sockets:
            await socket.close()
        await self._session.close()

    async def open(self, origin: str = "") -> Caller:
        headers = {"Origin": origin} if origin else {}
        socket = await self._session.ws_connect(self._served.url, headers=headers, compress=0)
        self._sockets.append(socket)
        return Caller(socket)

    async def join(
        self,
        kind: MemberKind = MemberKind.DAEMON,
        id: PeerId | None = None,
        origin: str = "",
    ) -> tuple[Caller, Joined]:
        """A member that is in, and the `joined` that it was told."""
        caller = await self.open(origin)
        await caller.say(Join("lan", kind, id or fresh_id()))
        joined = await caller.hear()
        assert isinstance(joined, Joined)
        caller.name = joined.own
        return caller, joined

    async def page(self) -> tuple[Caller, Joined]:
        """The same for a page of an allowed web origin."""
        return await self.join(MemberKind.PAGE, origin=PAGE_ORIGIN)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.005)
