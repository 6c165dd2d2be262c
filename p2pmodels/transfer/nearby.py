"""What peers offer by BitTorrent: a torrent that fits the manifest, and who has its data.

Only those are asked with whom there is no link: a seed in another network, a machine that only
BitTorrent reaches. With the others the exchange is quicker (seconds until the last of the receivers
had it, from one seed on two cores; exchange / BitTorrent): 2 GB to one 9.5 / 12.2, 1 GB to four
24.1 / 27.1, 256 MB to sixteen 37 / 45; 115 files of 217 MB to one 1.5 / 2.2, to four 8.8 / 9.6.

1. A torrent from a peer is a claim: it is used only when its list of files equals the manifest's,
   and every file it brings is checked against the origin's digest in the end.
2. A torrent that brought wrong bytes is not used again while this daemon runs.
3. While a fetch runs, peers that turn up are asked too and join the swarm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from p2pmodels.core.digests import Sha256
from p2pmodels.core.manifest import Manifest, Want
from p2pmodels.core.names import FilePath
from p2pmodels.core.peer import HasQuery, PeerId
from p2pmodels.core.torrent import PeerAddress, Torrent, TorrentName
from p2pmodels.errors import P2PModelsError
from p2pmodels.sources.lan.lan import Holder, Lan
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.sources.swarm.torrents import check_against, read_torrent
from p2pmodels.store.blobs import Blob
from p2pmodels.store.partials import Partial
from p2pmodels.store.snapshots import Snapshots
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.flows import SELF, SWARM, Flows
from p2pmodels.workers import Lane

log = logging.getLogger(__name__)

STALL_S = 5.0  # seconds without a piece; with the origin's first byte it stays under clients' 10
LOOK_EVERY_S = 1.0  # seconds between looks at what the swarm moved and who turned up
LOOK_AGAIN_S = 3.0  # seconds between look-ups of further peers while a swarm fills a partial
KNOWN_LIMIT = 1_000  # torrents of peers kept in memory
HOSTS_LIMIT = 4_096  # greeted addresses let through the filter; a LAN has fewer
REFUSED_LIMIT = 10_000  # infohashes never used again


class KnownTorrents(Protocol):
    """Torrents this daemon has anyway: its own, and those shipped with it."""

    def known(self, name: TorrentName) -> Torrent | None: ...


class SwarmOffer:
    """A torrent that fits, ready to fill a partial."""

    def __init__(
        self, nearby: Nearby, want: Want, torrent: Torrent, path: FilePath, peers: list[PeerAddress]
    ) -> None:
        self._nearby = nearby
        self._want = want
        self.torrent = torrent
        self.path = path
        self.peers = peers

    async def fill(self, partial: Partial, positions: Callable[[], Sequence[int]]) -> None:
        """Let the swarm fill it. Raises SwarmFailed."""
        async with Tasks() as tasks:
            tasks.start(self._nearby.keep_looking(self._want, self.torrent), "look for peers")
            await self._nearby.swarm.fill(
                self.torrent, self.path, partial, self.peers, positions, stall_s=STALL_S
            )

    async def blame(self) -> None:
        """The bytes were wrong: never use this torrent again."""
        await self._nearby.refuse(self.torrent)

    async def committed(self, blob: Blob) -> None:
        """The file is a blob now: upload it from there, so that the partial's name can go."""
        await self._nearby.swarm.moved(self.torrent.infohash, self.path, blob.path)


class Nearby:
    """Asks the LAN, reads and checks torrents, remembers which were bad."""

    def __init__(
        self,
        lan: Lan,
        swarm: Swarm,
        snapshots: Snapshots,
        known: KnownTorrents,
        flows: Flows,
        lane: Lane,
    ) -> None:
        self._lan, self.swarm, self._snapshots = lan, swarm, snapshots
        self._known, self._flows = known, flows
        self._lane = lane
        self._from_peers: dict[TorrentName, Torrent] = {}
        self._refused: set[str] = set()
        self._let_in_hosts: set[str] = set()
        self._reading: dict[TorrentName, asyncio.Lock] = {}
        self.is_linked: Callable[[PeerId], bool] = lambda _peer: False
        self.is_member: Callable[[PeerId], bool] = lambda _peer: True

    async def run(self) -> None:
        """Let greeted peers through the swarm's filter, so that they can connect to us as well."""
        was_down, was_up = self.swarm.totals()
        while True:
            down, up = self.swarm.totals()
            self._flows.count(SWARM, SELF, down - was_down)
            self._flows.count(SELF, SWARM, up - was_up)
            was_down, was_up = down, up
            for peer in self._lan.peers():
                is_ours = peer.state == "ready" and self.is_member(PeerId(peer.id))
                if is_ours and self.swarm.is_usable:
                    await self._let_in(peer.host)
            await self._lan.changed(LOOK_EVERY_S)

    async def _let_in(self, host: str) -> None:
        if host not in self._let_in_hosts and len(self._let_in_hosts) < HOSTS_LIMIT:
            await self.swarm.allow(host)
            self._let_in_hosts.add(host)

    async def offer(self, want: Want) -> SwarmOffer | None:
        """The best offer within the LAN's answer time, or None. Never raises for a bad peer."""
        manifest = self._snapshots.manifest(want.repo, want.commit)
        if manifest is None or not self.swarm.is_usable or want.entry.size == 0:
            return None
        holders = await self._locate(want)
        for name in _names(want):
            having = [holder for holder in holders if _has(holder, name)]
            if not having:
                continue
            torrent = await self._torrent(name, manifest, want, having)
            if torrent is not None:
                peers = await self._reachable(having)
                path = want.entry.path if isinstance(name, type(want.commit)) else _blob_path(name)
                return SwarmOffer(self, want, torrent, path, peers)
        return None

    async def _locate(self, want: Want) -> list[Holder]:
        return await self._lan.locate(_query(want), lambda peer: not self.is_linked(peer))

    async def _torrent(
        self, name: TorrentName, manifest: Manifest, want: Want, having: list[Holder]
    ) -> Torrent | None:
        """The torrent of this name: known, or taken from a peer and checked."""
        async with self._reading.setdefault(name, asyncio.Lock()):
            torrent = self._known.known(name) or self._from_peers.get(name)
            if torrent is not None and torrent.infohash not in self._refused:
                return torrent
            for holder in having:
                torrent = await self._from(holder, name, manifest, want)
                if torrent is not None and torrent.infohash not in self._refused:
                    if len(self._from_peers) >= KNOWN_LIMIT:
                        self._from_peers.pop(next(iter(self._from_peers)))
                    self._from_peers[name] = torrent
                    return torrent
        return None

    async def _from(
        self, holder: Holder, name: TorrentName, manifest: Manifest, want: Want
    ) -> Torrent | None:
        try:
            data = await self._lan.torrent(holder.peer, name)
            torrent = await self._lane.run(read_torrent, data)
            if torrent.name != name:
                raise P2PModelsError(f"{torrent.name} instead of {name}")
            check_against(torrent, manifest if torrent.name == want.commit else want.entry)
        except P2PModelsError as error:
            log.warning("torrent %s of peer %s refused: %s", name, holder.peer.id, error)
            return None
        return torrent

    async def keep_looking(self, want: Want, torrent: Torrent) -> None:
        """Bring peers that turn up later into the swarm of a running fetch."""
        while True:
            await self._lan.changed(LOOK_AGAIN_S)
            holders = await self._locate(want)
            having = [holder for holder in holders if _has(holder, torrent.name)]
            await self.swarm.add_peers(torrent.infohash, await self._reachable(having))

    async def _reachable(self, having: list[Holder]) -> list[PeerAddress]:
        """Their BitTorrent addresses, let through the swarm's filter: we greeted these peers."""
        peers = [
            holder.peer.bt_address
            for holder in having
            if holder.peer.bt_address and self.is_member(PeerId(holder.peer.id))
        ]
        for peer in peers:
            await self._let_in(peer.host)
        return peers

    async def refuse(self, torrent: Torrent) -> None:
        """Forget a torrent that brought wrong bytes."""
        if len(self._refused) < REFUSED_LIMIT:
            self._refused.add(torrent.infohash)
        self._from_peers.pop(torrent.name, None)
        await self.swarm.drop(torrent.infohash)


def _query(want: Want) -> HasQuery:
    digest = want.entry.digest
    return HasQuery((want.commit,), (digest,) if isinstance(digest, Sha256) else ())


def _names(want: Want) -> list[TorrentName]:
    """The snapshot first: its swarm is the larger one."""
    names: list[TorrentName] = [want.commit]
    if isinstance(want.entry.digest, Sha256):
        names.append(want.entry.digest)
    return names


def _has(holder: Holder, name: TorrentName) -> bool:
    if isinstance(name, Sha256):
        return name in holder.answer.torrents
    return name in holder.answer.commits


def _blob_path(name: TorrentName) -> FilePath:
    return FilePath(name.value)
