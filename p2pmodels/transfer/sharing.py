"""The sharing policy at work: what is proven public is torrented, seeded and told to peers.

1. Nothing is shared without a public proof: an anonymous request to the origin that succeeded for a
   file of that snapshot at that commit. A fetch that carried no token is such a request.
2. Hubs gate whole repos, so one file's proof stands for its snapshot.
3. A proof is renewed before it is a week old; when the origin refuses, everything is withdrawn.
4. Torrents are made once and kept; at start they are seeded again without hashing anything.
5. A snapshot that is nearly complete is completed, so that it can be shared as a whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest, Sha256
from p2pmodels.core.manifest import FileEntry, Manifest, Want
from p2pmodels.core.names import Commit, FilePath, RepoId, Revision
from p2pmodels.core.pieces import piece_length
from p2pmodels.core.policy import PROOF_LASTS_S, ShareState, may_share, should_complete
from p2pmodels.core.torrent import BLOB_TORRENT_FROM, Torrent, TorrentName
from p2pmodels.errors import AccessRefused, NotFound, NotShared, P2PModelsError, SourceFailed
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.sources.swarm.torrents import make_torrent, read_torrent
from p2pmodels.store.blobs import Blob
from p2pmodels.store.store import Store
from p2pmodels.transfer.lobby import KnownFile
from p2pmodels.transfer.resolve import Hubs
from p2pmodels.workers import Lane

log = logging.getLogger(__name__)

RENEW_BEFORE_S = 24 * 3600.0  # seconds before a proof ends at which it is renewed
TRY_AGAIN_S = 600.0  # seconds until an origin that could not be asked for a proof is asked again
LOOK_EVERY_S = 60.0  # seconds; a withdrawn repo is gone from the network within a minute


@dataclass(frozen=True)
class SharingOptions:
    """Whether anything is shared at all."""

    is_enabled: bool = True


class Sharing:
    """Decides what is shared and keeps the swarm in step with it."""

    def __init__(
        self,
        options: SharingOptions,
        store: Store,
        swarm: Swarm,
        hubs: Hubs,
        complete: Callable[[Manifest], Awaitable[None]],
        lane: Lane,
        clock: Clock,
    ) -> None:
        self._options, self._store, self._swarm, self._hubs = options, store, swarm, hubs
        self._complete = complete
        self._lane, self._clock = lane, clock
        self._torrents: dict[TorrentName, Torrent] = {}
        self._shipped: dict[TorrentName, Torrent] = {}
        self._due: asyncio.Queue[Manifest] = asyncio.Queue()
        self._broken: asyncio.Queue[Torrent] = asyncio.Queue()
        self._try_again: dict[Commit, float] = {}
        self._proving: dict[Commit, asyncio.Lock] = {}
        self.is_fetching: Callable[[Manifest], bool] = lambda _manifest: False
        self.on_proof: Callable[[], None] = lambda: None
        self._lost: asyncio.Event = asyncio.Event()
        store.blobs.on_lost = lambda _sha256: self._lost.set()

    # what others ask

    def state(self, manifest: Manifest) -> ShareState:
        """Whether a snapshot is shared, or why not."""
        proved = self._store.snapshots.proved_at(manifest)
        state = may_share(manifest, proved, self._clock.wall(), is_enabled=self._options.is_enabled)
        if state is ShareState.SHARED and manifest.commit not in self._torrents:
            return ShareState.INCOMPLETE
        return state

    def known(self, name: TorrentName) -> Torrent | None:
        """A torrent made here, or shipped with the program."""
        return self._torrents.get(name) or self._shipped.get(name)

    def shared(self, name: TorrentName) -> Torrent | None:
        """The torrent, if its data is here and may be shared now."""
        torrent = self._torrents.get(name)
        if torrent is None or self._paths(torrent) is None:
            return None
        return torrent if self._may_seed(torrent) else None

    def may_share_blob(self, sha256: Sha256) -> bool:
        """Whether the blob is here and some snapshot that is proven public contains it."""
        if self._store.blobs.find(sha256) is None:
            return False
        homes = self._store.snapshots.homes(sha256)
        return any(self.is_public(manifest) for manifest in homes)

    def may_give(self, digest: Digest) -> bool:
        """Whether some snapshot that is proven public contains it, be it here or on its way."""
        return any(self.is_public(manifest) for manifest in self._store.snapshots.homes(digest))

    def may_ask(self, want: Want) -> bool:
        """Whether peers may be told that we want this: not what only a token opened."""
        manifest = self._store.snapshots.manifest(want.repo, want.commit)
        return manifest is not None and not manifest.is_restricted

    def find(self, repo: RepoId, revision: Revision, path: FilePath) -> KnownFile | None:
        """What is known of a file of a snapshot that may be shared now; asks nobody."""
        row = None if revision.commit else self._store.snapshots.ref(repo, revision)
        commit = revision.commit or (row.commit if row else None)
        manifest = self._store.snapshots.manifest(repo, commit) if commit else None
        if manifest is None or not self.is_public(manifest):
            return None
        try:
            entry = manifest.find(path)
        except NotFound:
            return None
        return KnownFile(entry.digest, entry.size, manifest.commit)

    def piece_length(self, want: Want) -> int | None:
        """That of the snapshot torrent, so that pieces are hashed for it as they land."""
        manifest = self._store.snapshots.manifest(want.repo, want.commit)
        return piece_length(sum(entry.size for entry in manifest.files)) if manifest else None

    async def witnessed(self, want: Want) -> None:
        """The origin gives it to us, who sent no token: that is the proof."""
        manifest = self._store.snapshots.manifest(want.repo, want.commit)
        if manifest is not None and not manifest.is_restricted and not self.is_public(manifest):
            await self._put_proof(manifest)

    async def _put_proof(self, manifest: Manifest) -> None:
        await self._store.snapshots.put_proof(manifest)
        self.on_proof()

    async def prove(self, want: Want) -> None:
        """Look for a public proof of its snapshot; questions at the same time are one."""
        manifest = self._store.snapshots.manifest(want.repo, want.commit)
        if manifest is None:
            return
        async with self._proving.setdefault(manifest.commit, asyncio.Lock()):
            if not self.is_public(manifest):
                await self._prove(manifest)
        self._proving.pop(manifest.commit, None)

    def ship(self, torrents: list[Torrent]) -> None:
        """Take in the torrents that come with the program."""
        self._shipped = {torrent.name: torrent for torrent in torrents}

    # what happens

    async def run(self) -> None:
        """Seed what was shared before, then follow what arrives, goes and grows old."""
        await self._resume()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._watch())
            tasks.create_task(self._check_broken())

    async def on_blob(self, want: Want, blob: Blob, was_anonymous: bool) -> None:
        """A blob has arrived: it may complete a snapshot, or prove one public."""
        for manifest in self._store.snapshots.homes(want.entry.digest):
            is_asked = (manifest.repo, manifest.commit) == (want.repo, want.commit)
            if is_asked and was_anonymous and not manifest.is_restricted:
                await self._put_proof(manifest)
            self._due.put_nowait(manifest)

    def on_broken_seed(self, torrent: Torrent, reason: str) -> None:
        """The swarm could not read a seed's files: they are looked at, byte for byte."""
        log.warning("seeding %s broke: %s", torrent.name, reason)
        self._broken.put_nowait(torrent)

    async def torrent(self, manifest: Manifest) -> Torrent | None:
        """The snapshot torrent, made now if it can be; None while files are missing.

        Raises NotShared for what is not proven public.
        """
        if not self.is_public(manifest) and not await self._prove(manifest):
            raise NotShared(f"{manifest.repo}@{manifest.commit.value[:8]}")
        await self._share_snapshot(manifest)
        return self._torrents.get(manifest.commit)

    async def _follow(self) -> None:
        while True:
            manifest = await self._due.get()
            try:
                await self._consider(manifest)
            except P2PModelsError as error:
                log.warning("sharing %s: %s", manifest.repo, error)

    async def _consider(self, manifest: Manifest) -> None:
        if not self._options.is_enabled or manifest.is_restricted:
            return
        if self._store.snapshots.manifest(manifest.repo, manifest.commit) is None:
            return  # evicted meanwhile
        if not self.is_public(manifest):
            if self.is_fetching(manifest):
                return  # bytes of the origin may be a proof yet, and the last blob comes back here
            if not await self._prove(manifest):
                return
        for entry in manifest.files:
            if isinstance(entry.digest, Sha256) and entry.size >= BLOB_TORRENT_FROM:
                await self._share_blob(entry)
        await self._share_snapshot(manifest)
        holding = self._store.snapshots.holding(manifest)
        is_known = self._store.snapshots.manifest(manifest.repo, manifest.commit) is not None
        if is_known and should_complete(holding.bytes, holding.bytes_cached):
            await self._complete(manifest)

    async def _check_broken(self) -> None:
        while True:
            torrent = await self._broken.get()
            for path in (self._paths(torrent) or {}).values():
                sha256 = Sha256(path.name)
                if not await self._store.blobs.verify(sha256):
                    await self._store.blobs.quarantine(sha256)

    def is_public(self, manifest: Manifest) -> bool:
        """Whether a snapshot may be shared now: proven public, and sharing is on."""
        proved = self._store.snapshots.proved_at(manifest)
        now = self._clock.wall()
        state = may_share(manifest, proved, now, is_enabled=self._options.is_enabled)
        return state is ShareState.SHARED

    async def _prove(self, manifest: Manifest) -> bool:
        """Ask the origin for one of its files with no credentials; the largest is the one gated."""
        if manifest.is_restricted or not self._options.is_enabled:
            return False
        witness = max(manifest.wants, key=lambda want: want.entry.size, default=None)
        if witness is None:
            return False
        try:
            await self._hubs.prove(witness)
        except (AccessRefused, NotFound) as error:
            log.info("%s is not public: %s", manifest.repo, error)
            await self._store.snapshots.drop_proof(manifest)
            await self._withdraw_unproven()
            return False
        except SourceFailed as error:
            log.info("no public proof for %s now: %s", manifest.repo, error)
            self._try_again[manifest.commit] = self._clock.monotonic() + TRY_AGAIN_S
            return False
        await self._put_proof(manifest)
        return True

    async def _share_blob(self, entry: FileEntry) -> None:
        blob = self._store.blobs.find(entry.digest)
        if blob is not None:
            path = FilePath(blob.sha256.value)
            await self._seed(self._torrents.get(blob.sha256), blob.sha256, {path: blob})

    async def _share_snapshot(self, manifest: Manifest) -> None:
        blobs = {}
        for entry in manifest.files:
            blob = self._store.blobs.find(entry.digest)
            if blob is None:
                return
            blobs[entry.path] = blob
        if blobs:
            await self._seed(self._torrents.get(manifest.commit), manifest.commit, blobs)

    async def _seed(
        self, torrent: Torrent | None, name: TorrentName, blobs: dict[FilePath, Blob]
    ) -> None:
        if torrent is None:
            torrent = await self._make(name, blobs)
            await self._store.snapshots.put_torrent(name, torrent.data)
            self._torrents[name] = torrent
        if self._may_seed(torrent) and self._swarm.is_usable:
            await self._swarm.seed(torrent, {path: blob.path for path, blob in blobs.items()})

    async def _make(self, name: TorrentName, blobs: dict[FilePath, Blob]) -> Torrent:
        """Hashes that were kept as the bytes landed spare a second read."""
        files = [(path, blob.size, blob.path) for path, blob in blobs.items()]
        kept = {
            path: hashes
            for path, blob in blobs.items()
            if (hashes := self._store.blobs.hashes.find(blob.sha256)) is not None
        }
        return await self._lane.run(make_torrent, name, files, kept)

    async def _resume(self) -> None:
        """Seed the kept torrents whose data is here and public; nothing is hashed."""
        for data in await self._store.snapshots.torrents():
            try:
                torrent = await self._lane.run(read_torrent, data)
            except P2PModelsError as error:
                log.warning("a kept torrent is unreadable: %s", error)
                continue
            self._torrents[torrent.name] = torrent
            paths = self._paths(torrent)
            if paths is not None and self._may_seed(torrent) and self._swarm.is_usable:
                await self._swarm.seed(torrent, paths)
        for manifest in self._store.snapshots.all():
            self._due.put_nowait(manifest)

    async def _watch(self) -> None:
        """Withdraw what was evicted or is no longer public, and renew proofs in time."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._lost.wait()
            except TimeoutError:
                await self._renew_proofs()
            self._lost.clear()
            await self._withdraw_unproven()

    async def _renew_proofs(self) -> None:
        now = self._clock.monotonic()
        for commit in [commit for commit, at in self._try_again.items() if at <= now]:
            del self._try_again[commit]
            manifest = self._store.snapshots.by_commit(commit)
            if manifest is not None:
                self._due.put_nowait(manifest)
        for manifest in self._store.snapshots.all():
            proved = self._store.snapshots.proved_at(manifest)
            age = self._clock.wall() - proved if proved is not None else 0.0
            if age > PROOF_LASTS_S - RENEW_BEFORE_S:
                await self._prove(manifest)

    async def _withdraw_unproven(self) -> None:
        for torrent in list(self._torrents.values()):
            if self._paths(torrent) is None:
                await self._swarm.withdraw(torrent.infohash)
                self._torrents.pop(torrent.name, None)
                await self._store.snapshots.drop_torrent(torrent.name)
            elif not self._may_seed(torrent):
                await self._swarm.withdraw(torrent.infohash)

    def _may_seed(self, torrent: Torrent) -> bool:
        if isinstance(torrent.name, Commit):
            manifest = self._store.snapshots.by_commit(torrent.name)
            return manifest is not None and self.is_public(manifest)
        return self.may_share_blob(torrent.name)

    def _paths(self, torrent: Torrent) -> dict[FilePath, Path] | None:
        """Where the torrent's files are, or None when one of them is missing."""
        if isinstance(torrent.name, Sha256):
            blob = self._store.blobs.find(torrent.name)
            return {FilePath(torrent.name.value): blob.path} if blob else None
        manifest = self._store.snapshots.by_commit(torrent.name)
        if manifest is None:
            return None
        paths = {}
        for entry in manifest.files:
            blob = self._store.blobs.find(entry.digest)
            if blob is None:
                return None
            paths[entry.path] = blob.path
        return paths
