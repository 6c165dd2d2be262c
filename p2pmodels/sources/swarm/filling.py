"""One torrent being downloaded, file by file, into partials.

1. libtorrent writes only into pieces of which nothing has landed, so it can never damage bytes
   that another source gave or that were handed to a reader. A piece of which a part has landed is
   left to the other sources.
2. A range is marked on its partial after the disk queue that held it was flushed: libtorrent says
   that a piece is done before its bytes can be read.
3. A fill that ends early (cancelled, stalled) takes its file out of libtorrent's hands before it
   returns: the torrent leaves the session and comes back without it, if others still want it.
4. Files that nobody asked for are never created: their pieces have priority 0.
5. While all peers are seeds the pieces come roughly in order, so that the whole-file hash keeps up
   and the end is not a second read of everything. Among downloaders rarest first spreads better.
   (libtorrent's own sequential mode does nothing in a torrent of which not all is wanted.)

Event handlers never wait; what must wait happens under `lock`, one change at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodels.clock import Clock
from p2pmodels.core.names import FilePath
from p2pmodels.core.torrent import PeerAddress, Torrent
from p2pmodels.errors import SourceFailed, SwarmFailed
from p2pmodels.sources.swarm.alerts import (
    Broken,
    Dropped,
    Event,
    Finished,
    Flushed,
    PeerStatus,
    PieceDone,
    Status,
)
from p2pmodels.sources.swarm.layout import ALONG, ALONG_BYTES, WANTED, Layout
from p2pmodels.sources.swarm.session import Session
from p2pmodels.store.partials import Partial

CONNECT_S = 3.0  # seconds until a peer must be connected; on a LAN it takes milliseconds
STALL_S = 8.0  # seconds without a new piece; then the other sources take over
TRICKLE = 64 * 1024  # bytes a second; slower than this, a piece that is still coming is a stall
FLUSH_EVERY_S = 0.2  # seconds between flushes; one for each piece costs a quarter of the rate
FLUSH_S = 2.0  # seconds until a flush that was not answered is asked for again
PEERS_LIMIT = 500  # addresses kept of one torrent, to find them again after a change


@dataclass
class Fill:
    """A file that somebody waits for. `ready` ranges are on disk and not yet marked."""

    path: FilePath
    partial: Partial
    positions: Callable[[], Sequence[int]]
    on_bytes: Callable[[str, int], None] | None
    connect_s: float
    stall_s: float
    wanted: set[int] = field(default_factory=set)
    left_out: set[int] = field(default_factory=set)
    ready: list[tuple[int, int]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    error: SwarmFailed | None = None
    began: float = 0.0
    moved_at: float = 0.0
    bytes_then: int = 0
    landed_now: int = 0
    urgent: dict[int, int] = field(default_factory=dict)

    def fail(self, error: SwarmFailed) -> None:
        """End the fill with an error, unless it has one."""
        self.error = self.error or error
        self.news.set()


class Filling:
    """States: out of the session, in it with fills, in it and idle (`idle_since`)."""

    def __init__(self, torrent: Torrent, session: Session, clock: Clock, folder: Path) -> None:
        self.torrent = torrent
        self.layout = Layout(torrent)
        self.fills: dict[FilePath, Fill] = {}
        self.lock = asyncio.Lock()
        self.quiet = asyncio.Event()
        self.idle_since = clock.monotonic()
        self._session, self._clock, self._folder = session, clock, folder
        self._paths: dict[FilePath, Path] = {}
        self._addresses: dict[PeerAddress, None] = {}
        self._have: set[int] = set()
        self._done: set[int] = set()
        self._flushing: set[int] | None = None
        self._flush_began = 0.0
        self._unasked = 0  # flushes that libtorrent began by itself and has not told of yet
        self._connected = 0
        self._downloaders = 0
        self._bytes = 0
        self._seen: dict[tuple[str, int], int] = {}
        self._received: dict[str, int] = {}

    @property
    def infohash(self) -> str:
        return self.torrent.infohash

    # ---- changes, one at a time

    async def admit(self, fill: Fill) -> None:
        """Start to download the file of a fill; the caller has put it into `fills`."""
        async with self.lock:
            where = fill.partial.path
            if not self._session.has(self.infohash):
                await self._enter()
            elif self._paths.get(fill.path) != where:
                await self._session.rename(self.infohash, fill.path, where)
            self._paths[fill.path] = where
            self._want(fill)

    async def leave(self, fill: Fill) -> None:
        """End a fill; if it is unfinished its file is out of libtorrent's hands afterwards."""
        async with self.lock:
            self.fills.pop(fill.path, None)
            if fill.wanted and self._session.has(self.infohash):
                self._paths.pop(fill.path, None)
                self._have.difference_update(self.layout.pieces_of(fill.path))
                await self._exit()
                await self._return()
            if not self.fills:
                self.idle_since = self._clock.monotonic()
                self.quiet.set()

    async def count_last(self, fill: Fill) -> None:
        """Have the figures of the peers once more, so that `on_bytes` hears of the last pieces."""
        if fill.on_bytes is not None:
            self.count(await self._session.peers(self.infohash))

    async def close(self) -> bool:
        """Leave the session if nobody waits for a file; whether it has left."""
        async with self.lock:
            if not self.fills:
                await self._exit()
            return not self.fills

    async def moved(self, path: FilePath, where: Path) -> None:
        """Read a file that is complete at another place from now on."""
        async with self.lock:
            if self._session.has(self.infohash) and path in self._paths:
                await self._session.rename(self.infohash, path, where)
                self._paths[path] = where

    async def _enter(self) -> None:
        paths = self._paths | {fill.path: fill.partial.path for fill in self.fills.values()}
        await self._session.add(
            self.torrent, paths, self._folder, set(self._have), list(self._addresses)
        )
        self._paths = paths
        self._connected = self._downloaders = 0
        self._seen.clear()
        for fill in self.fills.values():
            # One that joined meanwhile is not placed yet: its pieces would go to another file.
            if paths.get(fill.path) == fill.partial.path:
                self._want(fill)

    async def _return(self) -> None:
        """Come back for the fills that remain; they end with an error if that is impossible."""
        if self.fills:
            try:
                await self._enter()
            except SourceFailed as error:
                self.fail(f"{self.torrent.name}: {error}")

    async def _exit(self) -> None:
        """Leave the session. Then all that was done is on disk, whether flushed before or not."""
        await self._session.remove(self.infohash)
        self._land(self._done | (self._flushing or set()))
        self._done, self._flushing = set(), None

    def _want(self, fill: Fill) -> None:
        if not fill.began:
            fill.wanted, fill.left_out = self.layout.missing(fill.path, fill.partial.landed)
            fill.began = fill.moved_at = self._clock.monotonic()
            # What this torrent had of the file before is only true if the partial has it too.
            self._have.difference_update(fill.wanted, fill.left_out)
        fill.moved_at, fill.bytes_then = self._clock.monotonic(), self._bytes
        # In one call: between two, libtorrent would ask for pieces that no reader waits for.
        fill.urgent = self._urgent(fill)
        priorities = dict.fromkeys(fill.wanted, WANTED) | fill.urgent
        self._session.set_priorities(self.infohash, priorities.items())
        if fill.wanted:
            # Only now: libtorrent closes connections over which neither side wants anything.
            for address in self._addresses:
                self._session.connect(self.infohash, address)
        else:
            fill.news.set()

    # ---- what does not wait

    def add_peers(self, peers: Iterable[PeerAddress]) -> None:
        """Try these peers too, as long as something is wanted."""
        for peer in peers:
            if len(self._addresses) < PEERS_LIMIT:
                self._addresses[peer] = None
            if self._session.has(self.infohash) and any(f.wanted for f in self.fills.values()):
                self._session.connect(self.infohash, peer)

    def on_event(self, event: Event) -> None:
        """Take in what libtorrent says of this torrent."""
        if isinstance(event, PieceDone):
            self._done.add(event.piece)
            self._flush()
        elif isinstance(event, Finished):
            self._unasked += 1
        elif isinstance(event, Flushed) and self._unasked:
            # It may be the answer to our own flush; then the other one answers for it, later.
            # Never earlier: bytes are believed only when they surely are in the file.
            self._unasked -= 1
        elif isinstance(event, Flushed):
            flushed, self._flushing = self._flushing or set(), None
            self._land(flushed)
            self._flush()
        elif isinstance(event, Status):
            self._recover(event.pieces)
        elif isinstance(event, Broken):
            self.fail(f"{self.torrent.name}: {event.error}")
        elif isinstance(event, Dropped) and self._session.has(self.infohash):
            self._session.ask_pieces(self.infohash)

    def fail(self, reason: str) -> None:
        """End all fills with an error."""
        for fill in self.fills.values():
            fill.fail(SwarmFailed(reason))

    def _flush(self) -> None:
        """Have what is done written; if that was asked a moment ago, `tick` comes back to it."""
        if not self._done or self._flushing is not None or not self._session.has(self.infohash):
            return
        now = self._clock.monotonic()
        is_all = any(fill.wanted and fill.wanted <= self._done for fill in self.fills.values())
        if is_all or now - self._flush_began >= FLUSH_EVERY_S:
            self._flushing, self._done = self._done, set()
            self._flush_began = now
            self._session.flush(self.infohash)

    def _land(self, pieces: Iterable[int]) -> None:
        now = self._clock.monotonic()
        for piece in sorted(pieces):
            fill = self.fills.get(self.layout.file_of(piece))
            if fill is None or piece not in fill.wanted:
                continue
            self._have.add(piece)
            fill.wanted.discard(piece)
            start, stop = self.layout.range_of(piece)
            fill.ready.append((start, stop))
            fill.landed_now += stop - start
            fill.moved_at, fill.bytes_then = now, self._bytes
            fill.news.set()

    def _recover(self, pieces: Sequence[bool]) -> None:
        """Take up the pieces whose events were lost."""
        wanted = set().union(*(fill.wanted for fill in self.fills.values()))
        under_way = self._done | (self._flushing or set())
        lost = {piece for piece in wanted - under_way if piece < len(pieces) and pieces[piece]}
        if lost:
            self._done |= lost
            self._flush()

    def count(self, peers: Iterable[PeerStatus]) -> None:
        """Note who is connected, and share out what each gave among the files that grew."""
        self._connected = self._downloaders = 0
        for peer in peers:
            self._connected += peer.is_connected
            self._downloaders += peer.is_downloading
            key = (peer.host, peer.port)
            new = peer.bytes_down - self._seen.get(key, 0)
            self._seen[key] = peer.bytes_down
            if new > 0:
                self._bytes += new
                self._received[peer.host] = self._received.get(peer.host, 0) + new
        grown = [(fill, fill.landed_now) for fill in self.fills.values() if fill.landed_now]
        total = sum(landed for _, landed in grown)
        if not total:
            return
        for fill, landed in grown:
            fill.landed_now = 0
            for host, count in self._received.items():
                if fill.on_bytes is not None:
                    fill.on_bytes(host, count * landed // total)
        self._received.clear()

    # ---- now and then

    def tick(self) -> None:
        """Look after stalls, readers and lost answers."""
        now = self._clock.monotonic()
        if self._flushing is not None and now - self._flush_began > FLUSH_S:
            self._done |= self._flushing
            self._flushing = None
            self._unasked = 0  # what has not come by now is lost
        self._flush()
        for fill in self.fills.values():
            if fill.began and fill.wanted:
                self._hurry(fill)
                self._check(fill, now)

    def _check(self, fill: Fill, now: float) -> None:
        quiet = now - fill.moved_at
        if not self._connected and quiet > fill.connect_s:
            fill.fail(SwarmFailed(f"no peer for {fill.path} within {fill.connect_s:g} s"))
        elif quiet > fill.stall_s:
            if self._bytes - fill.bytes_then < TRICKLE * fill.stall_s:
                fill.fail(SwarmFailed(f"{fill.path} stalled for {fill.stall_s:g} s"))
            fill.moved_at, fill.bytes_then = now, self._bytes

    def _hurry(self, fill: Fill) -> None:
        """Put the pieces in front of the readers first."""
        urgent = self._urgent(fill)
        changed = {piece: WANTED for piece in fill.urgent.keys() - urgent.keys()} | urgent
        changed = {
            piece: priority
            for piece, priority in changed.items()
            if piece in fill.wanted and fill.urgent.get(piece, WANTED) != priority
        }
        fill.urgent = urgent
        if changed:
            self._session.set_priorities(self.infohash, changed.items())

    def _urgent(self, fill: Fill) -> dict[int, int]:
        """The priorities of the pieces in front of the readers, and of the whole-file hash."""
        urgent: dict[int, int] = {}
        if not self._downloaders:
            run = fill.partial.landed.run_end(0)
            urgent = dict.fromkeys(self.layout.pieces_in(fill.path, run, run + ALONG_BYTES), ALONG)
        urgent |= self.layout.priorities(fill.path, fill.positions())
        return {piece: priority for piece, priority in urgent.items() if piece in fill.wanted}
