"""The swarm source: seeds what the store has, fills partials from BitTorrent peers.

1. Seeding reads blobs where they lie: nothing is copied, nothing is hashed at the start, nothing
   is ever written. A blob that turns out damaged or gone is withdrawn and reported.
2. Files of one torrent that are filled at the same time share one torrent in the session.
3. Nothing has to be saved: at the next start the daemon seeds again what the store has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from p2pmodels.clock import Clock
from p2pmodels.core.names import FilePath
from p2pmodels.core.torrent import PeerAddress, Torrent, TorrentName
from p2pmodels.errors import SwarmFailed
from p2pmodels.sources.swarm.alerts import (
    Broken,
    Connecting,
    Dropped,
    Event,
    PeerStatus,
    StateChanged,
    Status,
    Totals,
)
from p2pmodels.sources.swarm.filling import CONNECT_S, STALL_S, Fill, Filling
from p2pmodels.sources.swarm.session import Session
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.store.partials import Partial
from p2pmodels.supervision import Tasks
from p2pmodels.workers import Lane

log = logging.getLogger(__name__)

TICK_S = 0.5  # seconds between looks at stalls, readers and figures
GRACE_S = 5.0  # seconds a downloaded torrent goes on uploading before its files are let go


@dataclass(frozen=True, slots=True)
class SwarmPeer:
    """A connection of a torrent; bytes of payload, rates in bytes per second."""

    address: str
    client: str
    bytes_down: int
    bytes_up: int
    rate_down: int
    rate_up: int


@dataclass(frozen=True, slots=True)
class SwarmTransfer:
    """A torrent of the session; bytes of payload, rates in bytes per second."""

    name: TorrentName
    infohash: str
    is_seed: bool
    bytes_down: int
    bytes_up: int
    rate_down: int
    rate_up: int
    peers: list[SwarmPeer]


class Swarm:
    """States: new, open (inside the block), running (`run`). Only a running swarm moves bytes."""

    def __init__(
        self,
        options: SwarmOptions,
        lane: Lane,
        clock: Clock,
        *,
        on_broken_seed: Callable[[Torrent, str], None] = lambda _torrent, _reason: None,
    ) -> None:
        self._session = Session(options, lane)
        self._page_tracker = options.page_tracker
        self._clock = clock
        self._on_broken_seed = on_broken_seed
        self._seeds: dict[str, Torrent] = {}
        self._broken: set[str] = set()
        self._fillings: dict[str, Filling] = {}
        self._statuses: dict[str, Status] = {}
        self._peers: dict[str, tuple[PeerStatus, ...]] = {}
        self._totals = Totals(0, 0)
        self._changing: dict[str, asyncio.Lock] = {}
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start to listen; if that fails the swarm is not usable, and `run` tries again."""
        try:
            await self._session.open()
        except SwarmFailed as error:
            log.warning("no BitTorrent for now: %s", error)
        return self

    async def __aexit__(self, *_: object) -> None:
        for filling in self._fillings.values():
            filling.fail("the daemon stops")
        await self._session.close()

    @property
    def is_usable(self) -> bool:
        """Whether it listens and its events are, or will soon be, taken in."""
        return self._session.is_usable

    @property
    def port(self) -> int:
        """The TCP port it listens on; 0 while it is not usable."""
        return self._session.port

    async def run(self) -> None:
        """Take in libtorrent's events until cancelled. Raises SwarmFailed when it cannot listen."""
        if not self._session.is_open:
            await self._session.open()
        loop = asyncio.get_running_loop()
        signal, awake = self._session.signal, asyncio.Event()
        loop.add_reader(signal, awake.set)
        self._session.start_answers()
        next_tick = self._clock.monotonic()
        try:
            async with Tasks() as tasks:
                while self._session.is_open:
                    events = self._session.events()
                    for event in events:
                        self._on_event(event, tasks)
                    if Connecting() in events:
                        tasks.start(self._session.hurry_connections(), "hurry connections")
                    if self._clock.monotonic() >= next_tick:
                        self._tick(tasks)
                        next_tick = self._clock.monotonic() + TICK_S
                    # Not `wait_for`: in Python 3.11 it can swallow a cancellation.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(TICK_S):
                            await awake.wait()
                    awake.clear()
        finally:
            loop.remove_reader(signal)
            self._session.stop_answers()

    # ---- seeding

    async def seed(self, torrent: Torrent, paths: Mapping[FilePath, Path]) -> None:
        """Give complete files to the swarm from where they lie; nothing happens if it does so.

        A torrent that is being filled is replaced once its fills have ended.
        """
        missing = [file.path for file in torrent.files if file.path not in paths]
        if missing:
            raise SwarmFailed(f"no place given for {missing[0]}")
        if not self.is_usable:
            raise SwarmFailed("BitTorrent is off")
        async with self._changing.setdefault(torrent.infohash, asyncio.Lock()):
            if torrent.infohash not in self._seeds:
                await self.release(torrent.infohash)
                await asyncio.shield(self._add_seed(torrent, paths))

    async def _add_seed(self, torrent: Torrent, paths: Mapping[FilePath, Path]) -> None:
        folder = next(iter(paths.values())).parent
        await self._session.add(torrent, paths, folder, None)
        self._seeds[torrent.infohash] = torrent

    async def withdraw(self, infohash: str) -> None:
        """Stop to seed; the files are closed afterwards."""
        async with self._changing.setdefault(infohash, asyncio.Lock()):
            if self._seeds.pop(infohash, None) is not None:
                await self._session.remove(infohash)
                self._broken.discard(infohash)
                self._forget(infohash)

    def is_seeding(self, infohash: str) -> bool:
        """Whether this torrent is seeded."""
        return infohash in self._seeds

    def seeds(self) -> list[Torrent]:
        """The torrents that are seeded."""
        return list(self._seeds.values())

    # ---- filling

    async def fill(
        self,
        torrent: Torrent,
        path: FilePath,
        partial: Partial,
        peers: Iterable[PeerAddress],
        positions: Callable[[], Sequence[int]] = tuple,
        *,
        on_bytes: Callable[[str, int], None] | None = None,
        connect_s: float = CONNECT_S,
        stall_s: float = STALL_S,
    ) -> None:
        """Download one file into its partial; returns when all of it has landed there.

        Bytes that landed before are kept and not asked for again. `positions` are the places where
        readers wait; `on_bytes` hears which address gave how much. Raises SwarmFailed when no peer
        answers, nothing comes any more, the disk fails, or what remains is pieces of which a part
        had landed; the file is then out of libtorrent's hands.
        """
        if not partial.size:
            return
        fill = Fill(path, partial, positions, on_bytes, connect_s, stall_s)
        filling = await self._join(torrent, fill)
        try:
            filling.add_peers(peers)
            # Shielded, so that a cancellation finds the torrent either in the session or not.
            await asyncio.shield(filling.admit(fill))
            await self._follow(fill)
            await filling.count_last(fill)
        finally:
            await asyncio.shield(filling.leave(fill))
        if fill.left_out:
            raise SwarmFailed(f"{len(fill.left_out)} pieces of {path} are left to other sources")

    async def _join(self, torrent: Torrent, fill: Fill) -> Filling:
        """Enter a fill at its torrent, which is made known if it is the first."""
        async with self._changing.setdefault(torrent.infohash, asyncio.Lock()):
            if not self.is_usable:
                raise SwarmFailed("BitTorrent is off")
            if torrent.infohash in self._seeds:
                raise SwarmFailed(f"{torrent.name} is complete here")
            filling = self._fillings.get(torrent.infohash)
            if filling is None:
                folder = fill.partial.path.parent
                filling = Filling(torrent, self._session, self._clock, folder)
                self._fillings[torrent.infohash] = filling
            if fill.path in filling.fills:
                raise SwarmFailed(f"{fill.path} is being filled")
            filling.fills[fill.path] = fill
            filling.quiet.clear()
            return filling

    async def _follow(self, fill: Fill) -> None:
        """Mark what has landed until the file is whole."""
        while True:
            await fill.news.wait()
            fill.news.clear()
            while fill.ready:
                await fill.partial.mark(*fill.ready.pop(0))
            if not fill.wanted:
                return
            if fill.error:
                raise fill.error

    async def add_peers(self, infohash: str, peers: Iterable[PeerAddress]) -> None:
        """Tell a torrent, filled or seeded, of further peers."""
        if infohash in self._fillings:
            self._fillings[infohash].add_peers(peers)
        elif infohash in self._seeds:
            for peer in peers:
                self._session.connect(infohash, peer)

    def meet_pages(self, infohash: str) -> None:
        """Let a seed be found by web pages, if there is a tracker for them.

        Not from the start: a torrent on a WebSocket tracker costs libtorrent twenty sockets.
        """
        if self.is_usable and self._page_tracker and infohash in self._seeds:
            self._session.meet_pages(infohash)

    async def allow(self, host: str) -> None:
        """Let this address be a peer although it is outside the home networks."""
        await self._session.allow(host)

    async def moved(self, infohash: str, path: FilePath, where: Path) -> None:
        """Upload a filled file from `where` from now on, so that its partial can be deleted.

        `where` must be the same file under another name, a hard link.
        """
        if infohash in self._fillings:
            await self._fillings[infohash].moved(path, where)

    async def release(self, infohash: str) -> None:
        """Wait until no fill of this torrent runs and libtorrent has closed its files."""
        while (filling := self._fillings.get(infohash)) is not None:
            if filling.fills:
                await filling.quiet.wait()
            if await filling.close() and self._fillings.get(infohash) is filling:
                del self._fillings[infohash]
                self._forget(infohash)

    async def drop(self, infohash: str) -> None:
        """Forget a torrent entirely; fills of it end with SwarmFailed."""
        await self.withdraw(infohash)
        if infohash in self._fillings:
            self._fillings[infohash].fail("the torrent was dropped")
            await self.release(infohash)

    # ---- figures

    def transfers(self) -> list[SwarmTransfer]:
        """Every torrent with its peers, as of the last tick."""
        torrents = [filling.torrent for filling in self._fillings.values()]
        return [self._transfer(torrent) for torrent in [*torrents, *self._seeds.values()]]

    def totals(self) -> tuple[int, int]:
        """Bytes of payload received and sent since the start."""
        return self._totals.bytes_down, self._totals.bytes_up

    def _transfer(self, torrent: Torrent) -> SwarmTransfer:
        infohash = torrent.infohash
        status = self._statuses.get(infohash) or Status(infohash, 0, 0, 0, 0, 0)
        peers = [
            SwarmPeer(
                address=f"[{peer.host}]:{peer.port}"
                if ":" in peer.host
                else f"{peer.host}:{peer.port}",
                client=peer.client,
                bytes_down=peer.bytes_down,
                bytes_up=peer.bytes_up,
                rate_down=peer.rate_down,
                rate_up=peer.rate_up,
            )
            for peer in self._peers.get(infohash, ())
            if peer.is_connected
        ]
        return SwarmTransfer(
            name=torrent.name,
            infohash=infohash,
            is_seed=infohash in self._seeds,
            bytes_down=status.bytes_down,
            bytes_up=status.bytes_up,
            rate_down=status.rate_down,
            rate_up=status.rate_up,
            peers=peers,
        )

    def _forget(self, infohash: str) -> None:
        self._statuses.pop(infohash, None)
        self._peers.pop(infohash, None)

    # ---- events

    def _on_event(self, event: Event, tasks: Tasks) -> None:
        if isinstance(event, Totals):
            self._totals = event
            return
        if isinstance(event, Connecting):
            return
        if isinstance(event, Dropped):
            log.warning("libtorrent dropped events; looking at everything again")
            for filling in self._fillings.values():
                filling.on_event(event)
            return
        if isinstance(event, Status):
            self._statuses[event.infohash] = event
        if event.infohash in self._fillings:
            self._fillings[event.infohash].on_event(event)
        elif event.infohash in self._seeds:
            if isinstance(event, Broken):
                self._seed_broke(event.infohash, event.error, tasks)
            elif isinstance(event, StateChanged) and not event.is_whole:
                self._seed_broke(event.infohash, "damaged on disk", tasks)

    def _seed_broke(self, infohash: str, reason: str, tasks: Tasks) -> None:
        if infohash in self._broken:
            return
        self._broken.add(infohash)
        torrent = self._seeds[infohash]
        log.warning("%s is no longer seeded: %s", torrent.name, reason)
        tasks.start(self.withdraw(infohash), "withdraw")
        self._on_broken_seed(torrent, reason)

    def _tick(self, tasks: Tasks) -> None:
        self._session.ask_figures()
        now = self._clock.monotonic()
        for infohash, filling in self._fillings.items():
            filling.tick()
            if not filling.fills and now - filling.idle_since > GRACE_S:
                tasks.start(self.release(infohash), "let go")
        if self._looking is None or self._looking.done():
            self._looking = tasks.start(self._look_at_peers(), "look at peers")

    async def _look_at_peers(self) -> None:
        """Ask who is connected, where it matters: fills, and seeds that have peers."""
        busy = [infohash for infohash, status in self._statuses.items() if status.peers]
        for infohash in {*self._fillings, *busy}:
            peers = await self._session.peers(infohash)
            self._peers[infohash] = peers
            if infohash in self._fillings:
                self._fillings[infohash].count(peers)
        for infohash in self._peers.keys() - self._fillings.keys() - set(busy):
            del self._peers[infohash]
