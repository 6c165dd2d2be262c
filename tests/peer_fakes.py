"""Peers for tests: the real door before a catalogue in memory, and one that misbehaves."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

from aiohttp import web

from p2pmodels.clock import Clock, RealClock
from p2pmodels.core.digests import Digest, Sha256
from p2pmodels.core.names import Commit
from p2pmodels.core.peer import HasAnswer, HasQuery, Hello, PeerId
from p2pmodels.core.torrent import PeerAddress, TorrentName
from p2pmodels.doors.guard import GuardOptions
from p2pmodels.doors.peer import peer_app
from p2pmodels.sources.lan.carrier import Channel
from p2pmodels.transfer.uploads import HeldBytes, Uploads
from p2pmodels.workers import workers

COMMIT = Commit("c0" * 20)
BLOB = Sha256("b1" * 32)
QUERY = HasQuery((COMMIT,), (BLOB,))


def fresh_id() -> PeerId:
    return PeerId(secrets.token_hex(16))


@dataclass
class MemoryCatalogue:
    """Has the torrents and the blobs it was given, and says so."""

    id: PeerId = field(default_factory=fresh_id)
    torrents: dict[TorrentName, bytes] = field(default_factory=dict)
    blobs: dict[Digest, HeldBytes] = field(default_factory=dict)
    bt_port: int = 7880
    asked: int = 0

    def hello(self) -> Hello:
        return Hello(self.id, "0.1.0", 1, self.bt_port, 7879)

    def has(self, query: HasQuery) -> HasAnswer:
        self.asked += 1
        blobs = tuple(blob for blob in query.blobs if blob in self.torrents)
        commits = tuple(commit for commit in query.commits if commit in self.torrents)
        return HasAnswer(commits, blobs, blobs)

    def torrent(self, name: TorrentName) -> bytes | None:
        return self.torrents.get(name)

    def held(self, digest: Digest, start: int, stop: int) -> HeldBytes | None:
        return self.blobs.get(digest)


@dataclass
class MemoryLinks:
    """Knows the tickets it was given; on a link it sends every message back."""

    tickets: dict[str, PeerId] = field(default_factory=dict)
    ends: list[tuple[str, str]] = field(default_factory=list)

    def ticket(self, peer: PeerId | None = None) -> str:
        """A fresh ticket for a peer."""
        ticket = secrets.token_hex(16)
        self.tickets[ticket] = peer or fresh_id()
        return ticket

    def admits(self, ticket_hex: str) -> PeerId | None:
        return self.tickets.get(ticket_hex)

    async def serve(self, channel: Channel, remote_host: str, local_host: str) -> None:
        self.ends.append((remote_host, local_host))
        while (data := await channel.receive()) is not None:
            await channel.send(data)


@asynccontextmanager
async def listening(
    app: web.Application, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[PeerAddress]:
    """The app on a free port of `host`."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield PeerAddress(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def door(
    catalogue: MemoryCatalogue,
    options: GuardOptions | None = None,
    clock: Clock | None = None,
    port: int = 0,
    links: MemoryLinks | None = None,
    uploads: Uploads | None = None,
    is_home: Callable[[str], bool] = lambda _host: True,
    *,
    host: str = "127.0.0.1",
    needs_ticket: bool = False,
) -> AsyncIterator[PeerAddress]:
    """The real peer port in front of `catalogue`."""
    clock = clock or RealClock()
    async with workers() as lane:
        app = peer_app(
            catalogue,
            links or MemoryLinks(),
            uploads or Uploads(clock),
            is_home,
            options or GuardOptions(),
            clock,
            lane,
            needs_ticket=needs_ticket,
        )
        async with listening(app, host, port) as address:
            yield address


@asynccontextmanager
async def rogue(
    answer: Callable[[web.Request], web.StreamResponse], id: PeerId | None = None
) -> AsyncIterator[PeerAddress]:
    """A peer that greets properly (when it has an id) and answers all else as it likes."""
    app = web.Application()

    async def handle(request: web.Request) -> web.StreamResponse:
        if id is not None and request.path.endswith("/hello"):
            return web.Response(body=Hello(id, "0.1.0", 1, 7880, 7879).format())
        await request.read()
        return answer(request)

    app.router.add_route("*", "/{path:.*}", handle)
    async with listening(app) as address:
        yield address


@asynccontextmanager
async def silent(id: PeerId) -> AsyncIterator[PeerAddress]:
    """A peer that greets properly and never answers a question."""
    app = web.Application()

    async def hello(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=Hello(id, "0.1.0", 1, 7880, 7879).format())

    async def hang(_request: web.Request) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    app.router.add_get("/peer/v1/hello", hello)
    app.router.add_route("*", "/{path:.*}", hang)
    async with listening(app) as address:
        yield address
