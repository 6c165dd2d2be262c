"""`GET /announce`: the tracker for BitTorrent clients (HTTP) and for web pages (WebSocket).

1. Over HTTP no web page gets an answer. A WebSocket with a web origin is a page, and only origins
   that are let in may have one; without it is a program: libtorrent, ours or another daemon's.
2. A client is known by the address its connection comes from; nothing it says changes that.
3. Who says too much is read more slowly; who reads too slowly misses messages: an offer that is
   lost is made again at the next announce.
4. WebSockets end at once when the application does: nobody waits for pages that stay.
5. The daemon itself stands in every answer over HTTP, at the address it was asked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import WSMsgType, hdrs, web

from p2pmodels.clock import Clock
from p2pmodels.core.announce import (
    ANNOUNCE_BYTES_LIMIT,
    format_refused,
    parse_message,
    parse_query,
)
from p2pmodels.core.pieces import KIB
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.core.tracker import LISTENER_INTERVAL_S, PATIENCE, Delivery, Line, Tracker
from p2pmodels.doors.signal import WebOrigin
from p2pmodels.doors.tickets import NotHome
from p2pmodels.errors import Overloaded, P2PModelsError, ProtocolError, WebOriginRefused
from p2pmodels.sources.lan.carrier import CLOSE_LIMIT_S, give_up_on_the_deaf, plain_host
from p2pmodels.sources.swarm.bencode import Bencoded, encode
from p2pmodels.supervision import Tasks

ANNOUNCE_PATH = "/announce"

LINES_LIMIT = 512  # WebSockets at once; two schools, 256 KiB each at the very most
ADDRESS_LINES_LIMIT = 64  # of one address; a class behind one router
OUTBOX_BYTES_LIMIT = 128 * KIB  # bytes that wait for one page; 40 offers
SAYS_PER_S = 50.0  # messages a second of one address, on average
SAYS_BURST = 500  # messages of one address at once; a class behind one router opens a page
ADDRESSES_LIMIT = 1024  # addresses whose rate is remembered; more than a LAN has
HEARTBEAT_S = 20.0  # seconds between pings; the answer has half of it
SWEEP_EVERY_S = 30.0  # seconds between looks for peers that did not renew


@dataclass(frozen=True)
class AnnounceOptions:
    """What the door asks of the rest of the daemon; addresses are texts."""

    web_origin: WebOrigin
    """The web origin of a request if it is let in, None without one; raises WebOriginRefused."""
    may_come: Callable[[str], bool] = lambda _address: True
    """Whether the machine at this address is answered at all."""
    is_home: Callable[[str], bool] = lambda _address: True
    """Whether other programs may be told of this address and may tell of it."""
    is_own: Callable[[str], bool] = lambda _address: True
    """Whether this machine may be reached by others at this address of its own."""
    bt_port: Callable[[], int] = lambda: 0
    """The port on which this daemon's BitTorrent listens, 0 for none."""


@dataclass(eq=False)
class _Client:
    """A WebSocket, and what waits to be written to it."""

    sock: web.WebSocketResponse
    texts: deque[str] = field(default_factory=deque)
    waiting: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, text: str) -> None:
        """Have a message written, unless its reader is too slow."""
        if self.waiting + len(text) <= OUTBOX_BYTES_LIMIT:
            self.texts.append(text)
            self.waiting += len(text)
            self.news.set()

    async def write(self) -> None:
        """Write what is put here until the socket ends."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self.news.wait()
                self.news.clear()
                while self.texts:
                    text = self.texts.popleft()
                    await self.sock.send_str(text)
                    self.waiting -= len(text)


class Pace:
    """How long an address has to wait before its next message is read."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str, now: float) -> float:
        """Count one message; seconds to wait."""
        left, then = self._left.pop(address, (float(SAYS_BURST), now))
        left = min(float(SAYS_BURST), left + (now - then) * SAYS_PER_S) - 1.0
        self._left[address] = (left, now)
        if len(self._left) > ADDRESSES_LIMIT:
            self._left.popitem(last=False)
        return max(0.0, -left / SAYS_PER_S)


class AnnounceDoor:
    """The route of the tracker."""

    def __init__(self, tracker: Tracker, options: AnnounceOptions, clock: Clock) -> None:
        self._tracker, self._options, self._clock = tracker, options, clock
        self._clients: dict[Line, _Client] = {}
        self._of_address: Counter[str] = Counter()
        self._pace = Pace()
        self._next_sweep = 0.0
        self._is_closing = False

    @property
    def paths(self) -> tuple[str, ...]:
        """What pages may ask of it."""
        return (ANNOUNCE_PATH,)

    def add_routes(self, app: web.Application) -> None:
        """Register the route, and that WebSockets end when the application does."""
        app.router.add_get(ANNOUNCE_PATH, self.announce, allow_head=False)
        app.on_shutdown.append(lambda _app: self.close())

    async def close(self) -> None:
        """End all WebSockets, and let nobody open another."""
        self._is_closing = True
        async with Tasks() as tasks:
            closing = [
                tasks.start(_close(client.sock), "tracker close")
                for client in self._clients.values()
                if client.sock.prepared
            ]
            if closing:
                await asyncio.wait(closing, timeout=2 * CLOSE_LIMIT_S)

    async def announce(self, request: web.Request) -> web.StreamResponse:
        """Answer an announce, or become a WebSocket for many."""
        if not self._options.may_come(request.remote or ""):
            raise NotHome(request.remote or "")
        is_upgrade = request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
        return await self._line(request) if is_upgrade else self._listener(request)

    def _now(self) -> float:
        """The time; every so often, those who did not renew are forgotten."""
        now = self._clock.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_EVERY_S
            self._tracker.sweep(now)
        return now

    # ---- HTTP

    def _listener(self, request: web.Request) -> web.Response:
        if hdrs.ORIGIN in request.headers or "Sec-Fetch-Site" in request.headers:
            raise WebOriginRefused("an announce over HTTP", advice="Pages use a WebSocket.")
        try:
            message = parse_query(request.raw_path.partition("?")[2])
            host = plain_host(request.remote or "")
            told = self._tracker.announce(host, message, self._now())
        except P2PModelsError as error:
            return _bencoded({b"failure reason": error.message.encode()})
        own = self._own_address(request)
        peers = [*([own] if own else []), *told.peers]
        answer: dict[bytes, Bencoded] = {
            b"complete": told.complete,
            b"incomplete": told.incomplete,
            b"interval": LISTENER_INTERVAL_S,
            b"peers": _compact(peers, socket.AF_INET),
        }
        if six := _compact(peers, socket.AF_INET6):
            answer[b"peers6"] = six
        return _bencoded(answer)

    def _own_address(self, request: web.Request) -> PeerAddress | None:
        """Where the one who asks reaches our BitTorrent: it has just reached this address."""
        port = self._options.bt_port()
        local = request.transport.get_extra_info("sockname") if request.transport else None
        return PeerAddress(plain_host(local[0]), port) if local and port else None

    # ---- WebSocket

    async def _line(self, request: web.Request) -> web.StreamResponse:
        is_page = self._options.web_origin(request) is not None
        host = plain_host(request.remote or "")
        if len(self._clients) >= LINES_LIMIT or self._of_address[host] >= ADDRESS_LINES_LIMIT:
            raise Overloaded("too many WebSockets", retry_after_s=30.0)
        sock = web.WebSocketResponse(
            timeout=CLOSE_LIMIT_S,
            heartbeat=HEARTBEAT_S,
            compress=False,
            # aiohttp refuses messages of this length already, we only longer ones
            max_msg_size=ANNOUNCE_BYTES_LIMIT + 1,
        )
        line, client = self._opened(request, is_page=is_page), _Client(sock)
        # Counted before anything waits, so that many at once are not more than the limit.
        self._clients[line] = client
        self._of_address[host] += 1
        try:
            await sock.prepare(request)
            await self._converse(line, client, host)
        finally:
            self._tracker.leave(line)
            del self._clients[line]
            self._of_address[host] -= 1
            if not self._of_address[host]:
                del self._of_address[host]
            await sock.close()
        return sock

    async def _converse(self, line: Line, client: _Client, host: str) -> None:
        give_up_on_the_deaf(client.sock.get_extra_info("socket"))
        async with Tasks() as tasks:
            tasks.start(client.write(), "tracker client")
            try:
                await self._listen(line, client.sock, host)
                return
            except ProtocolError as error:
                farewell = format_refused(None, error.message)
        with contextlib.suppress(ConnectionError):
            await client.sock.send_str(farewell)

    def _opened(self, request: web.Request, *, is_page: bool) -> Line:
        """A page may say and hear what it likes; programs keep to the home networks.

        Browsers hide their addresses behind names that end in `.local`; a program that looked them
        up would ask the network for what a page made up.
        """
        if is_page:
            return Line(is_page=True)
        local = request.transport.get_extra_info("sockname") if request.transport else None
        is_ours = local is not None and plain_host(request.remote or "") == plain_host(local[0])
        may_say = self._options.is_own if is_ours else self._options.is_home
        return Line(is_page=False, may_say=may_say, may_hear=self._options.is_home)

    async def _listen(self, line: Line, sock: web.WebSocketResponse, host: str) -> None:
        """Take in messages until the client goes or falls silent. Raises ProtocolError."""
        while not self._is_closing:
            try:
                async with asyncio.timeout(PATIENCE * line.interval_s):
                    message = await sock.receive()
            except TimeoutError:
                return
            if message.type is not WSMsgType.TEXT:
                return
            heard, now = parse_message(message.data), self._now()
            self._deliver(self._tracker.hear(line, heard, now))
            if wait := self._pace.take(host, now):
                await self._clock.sleep(wait)

    def _deliver(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if (client := self._clients.get(delivery.line)) is not None:
                client.put(delivery.text)


async def _close(sock: web.WebSocketResponse) -> None:
    await sock.close()


def _compact(peers: list[PeerAddress], family: int) -> bytes:
    """The peers of one family, six or eighteen bytes each (BEP 23, BEP 7)."""
    is_six = family == socket.AF_INET6
    return b"".join(
        socket.inet_pton(family, peer.host) + peer.port.to_bytes(2, "big")
        for peer in peers
        if (":" in peer.host) == is_six
    )


def _bencoded(answer: dict[bytes, Bencoded]) -> web.Response:
    return web.Response(
        body=encode(answer),
        content_type="text/plain",
        headers={"X-Content-Type-Options": "nosniff", hdrs.CACHE_CONTROL: "no-store"},
    )
