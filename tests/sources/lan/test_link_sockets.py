"""Links over real WebSockets on loopback, from the dialler to the door and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from aiohttp import WSMsgType, web

from p2pmodels.clock import RealClock
from p2pmodels.core.digests import Sha256
from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.core.wire import FRAME_BYTES_LIMIT, Frame, Have, Run, Want, Welcome, pack
from p2pmodels.doors.peer_link import LinkDoor
from p2pmodels.errors import LanFailed
from p2pmodels.sources.lan import carrier
from p2pmodels.sources.lan.carrier import LINK_PATH, DialledSocket, WebSockets
from p2pmodels.sources.lan.link import Linked
from p2pmodels.sources.lan.links import LinkOptions, Links
from p2pmodels.sources.lan.peers import FoundBy, PeerState, PeerView
from p2pmodels.supervision import Tasks
from tests.link_fakes import Stranger, hello
from tests.peer_fakes import listening

A, B = PeerId("a" * 32), PeerId("b" * 32)
LIMIT_S = 10.0  # seconds for anything that is awaited here
LOOK_AGAIN_S = 0.05  # seconds between looks while nothing is announced
CRASH_SHOWS_S = 6.0
NOBODY = PeerAddress("127.0.0.1", 9_999)
WANT = Want(Sha256("0" * 64), 5)


@dataclass(eq=False)
class Daemon:
    """Links behind a real peer port."""

    id: PeerId
    links: Links
    tasks: Tasks
    address: PeerAddress = NOBODY
    ready: list[Linked] = field(default_factory=list)
    gone: list[Linked] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def view(self, address: PeerAddress | None = None) -> PeerView:
        address = address or self.address
        return PeerView(
            id=self.id.value, address=str(address), host=address.host, port=address.port,
            bt_port=0, found_by=FoundBy.MDNS, version="0.1.0", state=PeerState.READY,
            last_seen=0.0, bytes_received=0,
        )  # fmt: skip

    def dial(self, peer: PeerView) -> None:
        self.tasks.start(self.links.keep(peer), "keep")

    async def until(self, is_so: Callable[[], bool]) -> float:
        """Wait until `is_so`, looking after each change; returns how long it took, in seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(LIMIT_S):
            while not is_so():
                self.changed.clear()
                with suppress(TimeoutError):  # not every change is announced
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self.changed.wait()
        return loop.time() - began


@asynccontextmanager
async def daemon(id: PeerId, secret: Secret | None = None) -> AsyncIterator[Daemon]:
    def note(add: Callable[[], None]) -> None:
        add()
        made.changed.set()

    async with Tasks() as tasks:
        links = Links(
            LinkOptions(id, "0.1.0", 7879, secret),
            RealClock(),
            lambda linked: note(lambda: made.ready.append(linked)),
            lambda _linked, frame: note(lambda: made.frames.append(frame)),
            lambda linked: note(lambda: made.gone.append(linked)),
        )
        made = Daemon(id, links, tasks)
        app = web.Application()
        app.router.add_get(LINK_PATH, LinkDoor(links).link)
        async with listening(app) as address, links:
            made.address = address
            yield made


class Cable:
    """Carries one TCP connection to `target` until it is cut or goes dead."""

    def __init__(self, target: PeerAddress) -> None:
        self._target = target
        self._writers: list[asyncio.StreamWriter] = []
        self._is_dead = False

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[PeerAddress]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        try:
            yield PeerAddress(*server.sockets[0].getsockname()[:2])
        finally:
            self.cut()
            server.close()
            await server.wait_closed()

    def cut(self) -> None:
        """The process dies: both ends see the connection reset."""
        for writer in self._writers:
            writer.transport.abort()

    def die(self) -> None:
        """The machine loses its power: nothing more arrives anywhere."""
        self._is_dead = True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection(self._target.host, self._target.port)
        self._writers += [writer, out]
        async with Tasks() as tasks:
            back = tasks.start(self._copy(there, writer), "copy")
            await self._copy(reader, out)
            await asyncio.wait([back])

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if not self._is_dead:
                    writer.write(data)
                    await writer.drain()
        writer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("secret", [None, Secret("correct-horse-battery")])
async def test_two_daemons_link_and_talk(secret: Secret | None) -> None:
    async with daemon(A, secret) as a, daemon(B, secret) as b:
        a.dial(b.view())
        await a.until(lambda: a.links.is_linked(B))
        await b.until(lambda: b.links.is_linked(A))
        [linked] = a.links.links()
        assert (linked.host, linked.port, linked.is_dialler) == ("127.0.0.1", 7879, True)
        assert b.links.admits(linked.their_ticket.hex()) == A
        runs = tuple(Run(2 * n, 2 * n + 1, True) for n in range(1024))
        longest = Have(Sha256("f" * 64), 4 << 40, True, runs, (bytes(32),) * 1024)
        said: list[Frame] = [WANT, longest] * 50
        for frame in said:
            assert a.links.send(B, frame)
        assert b.links.send(A, WANT)
        await b.until(lambda: len(b.frames) == len(said))
        assert b.frames == said
        await a.until(lambda: a.frames == [WANT])


@pytest.mark.asyncio
async def test_daemons_that_dial_each_other_end_with_one_link() -> None:
    async with daemon(A) as a, daemon(B) as b:
        for _ in range(5):
            a.dial(b.view())
            b.dial(a.view())
        await a.until(lambda: a.links.is_linked(B) and len(a.links._open) == 1)
        await b.until(lambda: b.links.is_linked(A) and len(b.links._open) == 1)
        assert a.links.links()[0].is_dialler
        assert not b.links.links()[0].is_dialler
        assert a.links.send(B, WANT)
        await b.until(lambda: b.frames == [WANT])


@pytest.mark.asyncio
@pytest.mark.parametrize("is_power_lost", [False, True])
async def test_crash_is_noticed_by_both_ends(is_power_lost: bool) -> None:
    async with daemon(A) as a, daemon(B) as b:
        cable = Cable(b.address)
        async with cable.laid() as address:
            a.dial(b.view(address))
            await a.until(lambda: a.links.is_linked(B))
            await b.until(lambda: b.links.is_linked(A))
            (cable.die if is_power_lost else cable.cut)()
            limit = CRASH_SHOWS_S if is_power_lost else 1.0
            assert await a.until(lambda: len(a.gone) == 1) < limit
            assert await b.until(lambda: len(b.gone) == 1) < limit
            assert not a.links.send(B, WANT)


@pytest.mark.asyncio
async def test_leaving_tells_the_other_side_and_takes_no_time() -> None:
    async with daemon(B) as b:
        async with daemon(A) as a:
            a.dial(b.view())
            await b.until(lambda: b.links.is_linked(A))
        assert await b.until(lambda: len(b.gone) == 1) < 1.0


@asynccontextmanager
async def rogue_port(
    handle: Callable[[web.Request], object],
) -> AsyncIterator[PeerAddress]:
    """A peer port whose links are `handle`'s business."""
    app = web.Application()
    app.router.add_get(LINK_PATH, handle)  # type: ignore[arg-type]
    async with listening(app) as address:
        yield address


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [200, 301, 302, 307, 403, 404, 503])
async def test_answer_that_is_no_websocket_is_a_failure_and_no_redirect_is_followed(
    status: int,
) -> None:
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response()

    app = web.Application()
    app.router.add_get("/metadata", elsewhere)
    async with listening(app) as inner, WebSockets() as sockets:

        async def handle(_request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": f"http://{inner}/metadata"})

        async with rogue_port(handle) as address:
            with pytest.raises(LanFailed):
                await sockets.dial(address)
    assert reached == []


@pytest.mark.asyncio
async def test_nobody_listening_is_a_failure() -> None:
    async with listening(web.Application()) as address:
        pass
    async with WebSockets() as sockets:
        with pytest.raises(LanFailed):
            await sockets.dial(address)
    with pytest.raises(LanFailed):
        await WebSockets().dial(address)


@pytest.mark.asyncio
async def test_dial_carries_nothing_personal() -> None:
    seen: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.WebSocketResponse:
        seen.append(dict(request.headers))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        return socket

    async with rogue_port(handle) as address, WebSockets() as sockets:
        channel = await sockets.dial(address)
        assert (channel.remote_host, channel.local_host) == ("127.0.0.1", "127.0.0.1")
        await channel.close()
    [headers] = seen
    assert headers["Host"] == str(address)
    assert not {"Cookie", "Authorization", "Origin", "Sec-WebSocket-Extensions"} & set(headers)


MISDEEDS: dict[str, Callable[[web.WebSocketResponse], object]] = {
    "text": lambda socket: socket.send_str("hello"),
    "too long": lambda socket: socket.send_bytes(bytes(FRAME_BYTES_LIMIT + 1)),
    "garbage": lambda socket: socket.send_bytes(b"\x90" * FRAME_BYTES_LIMIT),
    "close": lambda socket: socket.close(),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", MISDEEDS)
async def test_dialled_peer_that_breaks_the_rules_loses_the_link(name: str) -> None:
    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for frame in (hello(B), Welcome(b"", bytes(16))):
            await socket.send_bytes(pack(frame))
        while (message := await socket.receive()).type is WSMsgType.BINARY:
            if message.data == pack(WANT):
                await MISDEEDS[name](socket)  # type: ignore[misc]
        return socket

    async with rogue_port(handle) as address, daemon(A) as a:
        b = Daemon(B, a.links, a.tasks, address)
        a.dial(b.view())
        await a.until(lambda: a.links.is_linked(B))
        a.links.send(B, WANT)
        assert await a.until(lambda: len(a.gone) == 1) < 2.0


@pytest.mark.asyncio
@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90" * (FRAME_BYTES_LIMIT - 1)])
async def test_dialling_peer_that_breaks_the_rules_is_told_and_left(data: bytes) -> None:
    async with daemon(A) as a, WebSockets() as sockets:
        channel: DialledSocket = await sockets.dial(a.address)
        stranger = Stranger(channel)
        await stranger.say(data)
        assert await stranger.farewell() == "rules"
        assert a.ready == []


@pytest.mark.asyncio
async def test_socket_of_a_peer_that_never_reads_ends_soon_after_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carrier, "DEAF_LIMIT_S", 0.5)

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await asyncio.Event().wait()
        return socket

    async with rogue_port(handle) as address, WebSockets() as sockets:
        channel = await sockets.dial(address)
        kept = channel._socket.get_extra_info("socket")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while True:
                    await channel.send(bytes(FRAME_BYTES_LIMIT))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await channel.close()
        assert kept.fileno() != -1  # aiohttp alone would leave it like this for ever
        async with asyncio.timeout(LIMIT_S):
            while kept.fileno() != -1:
                await asyncio.sleep(LOOK_AGAIN_S)
