"""A room for tests: machines with store, exchange and peer port in one process, and a hub.

Everything between them is real: links and pulls over loopback, the hub's own count of what left
it. `Stranger` is a machine that says and gives what the test wants.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from p2pmodels.clock import RealClock
from p2pmodels.core.caller import ANONYMOUS, Caller
from p2pmodels.core.manifest import Manifest, Want
from p2pmodels.core.merkle import PieceHasher
from p2pmodels.core.names import FilePath, RepoId, Revision
from p2pmodels.core.peer import HELLO_PATH, Hello, PeerId
from p2pmodels.core.pieces import piece_length
from p2pmodels.core.wire import Busy, Frame, Have, Run
from p2pmodels.core.wire import Want as WantFrame
from p2pmodels.demo.hub import Hub
from p2pmodels.doors.guard import GuardOptions
from p2pmodels.doors.peer import peer_app
from p2pmodels.doors.peer_link import LinkDoor
from p2pmodels.sources.lan.carrier import LINK_PATH
from p2pmodels.sources.lan.link import Linked
from p2pmodels.sources.lan.links import LinkOptions, Links
from p2pmodels.sources.lan.peers import FoundBy, PeerState, PeerView
from p2pmodels.sources.lan.ranges import BLOBS_PATH
from p2pmodels.sources.origin.options import OriginOptions
from p2pmodels.sources.origin.origins import Origins
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.store.blobs import Blob
from p2pmodels.store.room import RoomOptions
from p2pmodels.store.store import Store, StoreOptions
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.catalogue import Catalogue
from p2pmodels.transfer.exchange import Exchange
from p2pmodels.transfer.fetch import Fetch
from p2pmodels.transfer.fetcher import Fetcher
from p2pmodels.transfer.flows import Flows
from p2pmodels.transfer.reader import Reader
from p2pmodels.transfer.sharing import Sharing, SharingOptions
from p2pmodels.transfer.uploads import Uploads
from p2pmodels.workers import Lane
from tests.peer_fakes import fresh_id
from tests.sources_fakes import FakeNearby

REPO = RepoId("org/m")
FILE = "model.safetensors"
LIMIT_S = 30.0  # seconds for anything that is awaited here

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(eq=False)
class Machine:
    """One daemon of the room, as far as bytes are concerned."""

    id: PeerId
    port: int
    lane: Lane
    store: Store
    origins: Origins
    sharing: Sharing
    exchange: Exchange
    uploads: Uploads
    fetcher: Fetcher
    exits: AsyncExitStack

    async def die(self) -> None:
        """Leave the room at once, in the middle of whatever it does."""
        await self.exits.aclose()

    async def want(self, file: str = FILE, caller: Caller = ANONYMOUS) -> Want:
        """A file of the repo, from the hub's own list."""
        manifest = next(iter(self.store.snapshots.all()), None)
        if manifest is None:
            manifest = await self.origins.manifest(REPO, Revision("main"), caller.token)
            await self.store.snapshots.put(manifest)
        return manifest.want(FilePath(file))

    async def fetch(self, file: str = FILE, caller: Caller = ANONYMOUS) -> Fetch:
        """The running fetch of a file."""
        found = await self.fetcher.open(await self.want(file, caller), caller)
        assert isinstance(found, Fetch)
        return found

    async def read(self, file: str = FILE, caller: Caller = ANONYMOUS) -> bytes:
        """The whole file, as a client gets it while it arrives."""
        want = await self.want(file, caller)
        found = await self.fetcher.open(want, caller)
        if isinstance(found, Blob):
            return found.path.read_bytes()
        return await self.read_on(found, 0, want.entry.size)

    async def read_on(self, fetch: Fetch, start: int, stop: int) -> bytes:
        """A range of what is being fetched."""
        async with Reader(fetch, start, stop, self.lane) as reader:
            return b"".join([data async for data in reader])

    def sources(self, file: str = FILE) -> dict[str, int]:
        """Where the bytes of its last fetch of that file came from."""
        (last, *_) = [
            fetch for fetch in self.fetcher.transfers() if fetch.want.entry.path.value == file
        ]
        return dict(last.sources)

    @property
    def linked(self) -> set[PeerId]:
        """With whom it has a link."""
        return {peer.id for peer in self.exchange.links.links()}


@dataclass(eq=False)
class Stranger:
    """A peer without a daemon: `hears` answers frames, `gives` answers pulls."""

    id: PeerId
    port: int
    links: Links
    hears: Callable[[Linked, Frame], None] = lambda _peer, _frame: None
    gives: Answer | None = None
    frames: list[tuple[PeerId, Frame]] = field(default_factory=list)
    pulls: list[str] = field(default_factory=list)

    def hear(self, peer: Linked, frame: Frame) -> None:
        self.frames.append((peer.id, frame))
        self.hears(peer, frame)

    def said(self) -> list[Frame]:
        """What it heard about blobs."""
        return [frame for _, frame in self.frames if not isinstance(frame, Busy)]

    async def greet(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=Hello(self.id, "0.1.0", 1, 7880, self.port).format())

    async def give(self, request: web.Request) -> web.StreamResponse:
        self.pulls.append(request.headers["Range"])
        if self.gives is None:
            return web.Response(status=404)
        return await self.gives(request)

    def claims(
        self,
        want: Want,
        roots: list[bytes],
        *,
        is_vouched: bool = False,
        pieces: int | None = None,
    ) -> None:
        """Say to everybody who asks that the first `pieces` are here, with these roots or none."""
        digest, size = want.entry.digest, want.entry.size
        count = -(-size // piece_length(size)) if pieces is None else pieces

        def hears(peer: Linked, frame: Frame) -> None:
            if not isinstance(frame, WantFrame) or frame.blob != digest:
                return
            run = Run(0, count, is_vouched)
            self.links.send(peer.id, Have(digest, size, False, (run,), tuple(roots[:count])))

        self.hears = hears


class Room:
    """The machines, and the hub they all have."""

    def __init__(self, hub: Hub, folder: Path, lane: Lane, exits: AsyncExitStack) -> None:
        self.hub, self.folder, self.lane, self._exits = hub, folder, lane, exits
        self.tasks = Tasks()
        self.machines: list[Machine] = []
        self.strangers: list[Stranger] = []

    @property
    def _everybody(self) -> list[Machine | Stranger]:
        return [*self.machines, *self.strangers]

    def publish(self, files: dict[str, bytes], **options: object) -> None:
        """What the hub has."""
        self.hub.add_repo(str(REPO), files, **options)  # type: ignore[arg-type]

    async def add(self, count: int = 1, *, is_sharing: bool = True) -> list[Machine]:
        """So many more machines, linked with all that are there."""
        added = []
        for _ in range(count):
            machine = await self._exits.enter_async_context(self._machine(is_sharing))
            for other in self._everybody:
                self._link(machine.exchange.links, other)
            self.machines.append(machine)
            added.append(machine)
        await self.until_linked()
        return added

    async def stranger(self) -> Stranger:
        """A stranger, linked with every machine."""
        made = await self._exits.enter_async_context(stranger())
        for machine in self.machines:
            self._link(machine.exchange.links, made)
        self.strangers.append(made)
        await self.until_linked()
        return made

    def _link(self, links: Links, other: Machine | Stranger) -> None:
        view = PeerView(
            id=other.id.value, address=f"127.0.0.1:{other.port}", host="127.0.0.1",
            port=other.port, bt_port=0, found_by=FoundBy.MDNS, version="0.1.0",
            state=PeerState.READY, last_seen=0.0, bytes_received=0,
        )  # fmt: skip
        self.tasks.start(links.keep(view), "link")

    async def until_linked(self) -> None:
        """Wait until everybody has a link with every machine."""
        ids = {peer.id for peer in self._everybody}
        await until(lambda: all(m.linked == ids - {m.id} for m in self.machines))

    @asynccontextmanager
    async def _machine(self, is_sharing: bool) -> AsyncIterator[Machine]:
        id, clock, lane = fresh_id(), RealClock(), self.lane
        async with AsyncExitStack() as exits:
            listener = socket.create_server(("127.0.0.1", 0), backlog=64)
            exits.callback(listener.close)
            port = listener.getsockname()[1]
            options = StoreOptions(self.folder / str(id), RoomOptions(free_floor_bytes=0))
            store = await exits.enter_async_context(Store(options, lane, clock))
            origin = OriginOptions(self.hub.url)
            origins = await exits.enter_async_context(Origins([origin], clock))
            sharing = Sharing(
                SharingOptions(is_sharing), store, _no_swarm(lane), origins, _no_more, lane, clock
            )
            uploads, flows = Uploads(clock), Flows(clock)
            exchange = Exchange(
                LinkOptions(id, "0.1.0", port),
                sharing,
                store.blobs,
                uploads,
                flows,
                clock,
                told_wait_s=lambda: origins.told_wait_s,
                on_peers_wait=origins.defer,
            )
            fetcher = Fetcher(
                store.blobs,
                store.figures,
                origins,
                FakeNearby(),
                exchange,
                flows,
                clock,
                sharing,
            )
            hello = Hello(id, "0.1.0", 1, 7880, port)
            door = peer_app(
                Catalogue(sharing, exchange, lambda: hello),
                exchange.links,
                uploads,
                lambda _host: True,
                GuardOptions(),
                clock,
                lane,
            )
            runner = web.AppRunner(
                door, handler_cancellation=True, shutdown_timeout=0.1, access_log=None
            )
            await runner.setup()
            exits.push_async_callback(runner.cleanup)
            tasks = await exits.enter_async_context(Tasks())
            await exits.enter_async_context(exchange)
            await exits.enter_async_context(fetcher)
            await web.SockSite(runner, listener).start()
            tasks.start(exchange.run(), "busy")
            yield Machine(
                id, port, lane, store, origins, sharing, exchange, uploads, fetcher, exits
            )


@asynccontextmanager
async def room_of(folder: Path, lane: Lane) -> AsyncIterator[Room]:
    """A hub without a repo, and no machine yet."""
    # Rooms choose by measured rates: asyncio's debug mode makes the LAN slower than the uplink.
    asyncio.get_running_loop().set_debug(False)
    async with AsyncExitStack() as exits:
        hub = await exits.enter_async_context(Hub())
        room = Room(hub, folder, lane, exits)
        await exits.enter_async_context(room.tasks)
        yield room


@asynccontextmanager
async def stranger() -> AsyncIterator[Stranger]:
    """A stranger on a port of this machine; who knows the port can greet it and link."""
    id, clock = fresh_id(), RealClock()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    port = listener.getsockname()[1]
    links = Links(
        LinkOptions(id, "0.1.0", port),
        clock,
        lambda _peer: None,
        lambda peer, frame: made.hear(peer, frame),
        lambda _peer: None,
    )
    made = Stranger(id, port, links)
    app = web.Application()
    app.router.add_get(HELLO_PATH, made.greet)
    app.router.add_get(LINK_PATH, LinkDoor(links).link)
    app.router.add_get(BLOBS_PATH + "{digest}", made.give)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    async with links:
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield made
        finally:
            await runner.cleanup()
            listener.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(LIMIT_S):
        while not holds():
            await asyncio.sleep(0.01)


def roots_of(data: bytes) -> list[bytes]:
    """The root of each piece."""
    length = piece_length(len(data))
    roots = []
    for at in range(0, len(data), length):
        hasher = PieceHasher(len(data), length)
        hasher.update(memoryview(data)[at : at + length])
        roots.append(hasher.result().root)
    return roots


def span_of(request: web.Request) -> tuple[int, int]:
    """Start and stop of the range that a pull asks for."""
    start, stop = request.headers["Range"].removeprefix("bytes=").split("-")
    return int(start), int(stop) + 1


def giver(data: bytes) -> Answer:
    """Gives these bytes to whoever asks."""

    async def gives(request: web.Request) -> web.StreamResponse:
        start, stop = span_of(request)
        return web.Response(
            status=206,
            body=data[start:stop],
            headers={"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"},
        )

    return gives


def _no_swarm(lane: Lane) -> Swarm:
    """BitTorrent that was never switched on."""
    return Swarm(SwarmOptions(), lane, RealClock())


async def _no_more(_manifest: Manifest) -> None: ...
