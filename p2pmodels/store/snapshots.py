"""Snapshots: manifests, what revisions stand for, pins, public proofs and torrents.

Everything is held in memory and written through to the index; by commit a manifest never changes.
What was learned from the origin is used although a full disk kept it from being written: after a
restart the origin is asked again. What a person ordered (pins), or took back, must be written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest, Sha256
from p2pmodels.core.manifest import Manifest
from p2pmodels.core.names import Commit, RepoId, Revision
from p2pmodels.core.torrent import TorrentName
from p2pmodels.errors import StoreFailed
from p2pmodels.store.blobs import Blobs
from p2pmodels.store.index import Index, RefRow
from p2pmodels.workers import Lane

log = logging.getLogger(__name__)

P = ParamSpec("P")

Key = tuple[RepoId, Commit]


@dataclass(frozen=True, slots=True)
class Holding:
    """How much of a snapshot is here."""

    files: int
    files_cached: int
    bytes: int
    bytes_cached: int

    @property
    def is_complete(self) -> bool:
        return self.files == self.files_cached


class Snapshots:
    """What we know of repos at commits."""

    def __init__(self, index: Index, lane: Lane, blobs: Blobs, clock: Clock) -> None:
        self._index, self._lane, self._blobs, self._clock = index, lane, blobs, clock
        self._manifests: dict[Key, Manifest] = {}
        self._by_commit: dict[Commit, Key] = {}
        self._refs: dict[tuple[RepoId, Revision], RefRow] = {}
        self._pins: set[Key] = set()
        self._proofs: dict[Key, float] = {}
        self._torrents: dict[TorrentName, bytes] = {}
        self._homes: dict[Digest, set[Key]] = {}

    async def load(self) -> None:
        """Read the index."""
        for manifest in await self._lane.run(self._index.manifests):
            self._hold(manifest)
        for row in await self._lane.run(self._index.refs):
            self._refs[row.repo, row.revision] = row
        self._pins = await self._lane.run(self._index.pins)
        self._proofs = await self._lane.run(self._index.proofs)

    def _hold(self, manifest: Manifest) -> None:
        key = (manifest.repo, manifest.commit)
        self._manifests[key] = manifest
        self._by_commit[manifest.commit] = key
        for entry in manifest.files:
            self._homes.setdefault(entry.digest, set()).add(key)

    # manifests and revisions

    def manifest(self, repo: RepoId, commit: Commit) -> Manifest | None:
        return self._manifests.get((repo, commit))

    def by_commit(self, commit: Commit) -> Manifest | None:
        """The manifest of a commit, whatever its repo (git commits are unique)."""
        key = self._by_commit.get(commit)
        return self._manifests.get(key) if key else None

    def all(self) -> list[Manifest]:
        return sorted(self._manifests.values(), key=lambda m: (str(m.repo), m.commit.value))

    def homes(self, digest: Digest) -> list[Manifest]:
        """The snapshots that contain this content."""
        return [self._manifests[key] for key in self._homes.get(digest, ())]

    async def put(self, manifest: Manifest) -> None:
        """Keep a manifest for ever (until `forget`)."""
        if self._manifests.get((manifest.repo, manifest.commit)) != manifest:
            self._hold(manifest)
            await self._note(self._index.put_manifest, manifest)

    async def _note(self, write: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Write what can be learned again; if that fails memory alone has it."""
        try:
            await self._lane.run(write, *args, **kwargs)
        except StoreFailed as error:
            log.warning("not written to the index: %s", error)

    def ref(self, repo: RepoId, revision: Revision) -> RefRow | None:
        """What the revision stood for when the origin was last asked."""
        return self._refs.get((repo, revision))

    def revisions(self, repo: RepoId, commit: Commit) -> list[str]:
        """The names that led to this commit."""
        return sorted(
            row.revision.value
            for row in self._refs.values()
            if (row.repo, row.commit) == (repo, commit) and row.revision.commit is None
        )

    async def put_ref(self, repo: RepoId, revision: Revision, commit: Commit) -> None:
        row = RefRow(repo, revision, commit, self._clock.wall())
        self._refs[repo, revision] = row
        await self._note(self._index.put_ref, row)

    async def forget(self, manifest: Manifest) -> None:
        """Drop a snapshot and everything said about it; its blobs are the caller's to evict."""
        key = (manifest.repo, manifest.commit)
        self._manifests.pop(key, None)
        self._by_commit.pop(manifest.commit, None)
        self._pins.discard(key)
        self._proofs.pop(key, None)
        self._refs = {at: row for at, row in self._refs.items() if (row.repo, row.commit) != key}
        for entry in manifest.files:
            self._homes.get(entry.digest, set()).discard(key)
        await self._lane.run(self._index.drop_manifest, manifest.repo, manifest.commit)

    def holding(self, manifest: Manifest) -> Holding:
        """How much of it is here."""
        cached = [entry for entry in manifest.files if self._blobs.find(entry.digest)]
        return Holding(
            len(manifest.files), len(cached), manifest.size, sum(entry.size for entry in cached)
        )

    # pins

    def is_pinned(self, manifest: Manifest) -> bool:
        return (manifest.repo, manifest.commit) in self._pins

    async def pin(self, manifest: Manifest) -> None:
        """Keep its blobs, whatever the cache limit."""
        self._pins.add((manifest.repo, manifest.commit))
        await self._lane.run(self._index.put_pin, manifest.repo, manifest.commit)

    async def unpin(self, manifest: Manifest) -> None:
        self._pins.discard((manifest.repo, manifest.commit))
        await self._lane.run(self._index.drop_pin, manifest.repo, manifest.commit)

    def pinned_blobs(self) -> frozenset[Sha256]:
        """The blobs of all pinned snapshots."""
        found = (
            self._blobs.find(entry.digest)
            for key in self._pins
            if (manifest := self._manifests.get(key))
            for entry in manifest.files
        )
        return frozenset(blob.sha256 for blob in found if blob)

    # public proofs

    def proved_at(self, manifest: Manifest) -> float | None:
        """When an anonymous request last succeeded, in wall-clock seconds."""
        return self._proofs.get((manifest.repo, manifest.commit))

    async def put_proof(self, manifest: Manifest) -> None:
        now = self._clock.wall()
        self._proofs[manifest.repo, manifest.commit] = now
        await self._note(self._index.put_proof, manifest.repo, manifest.commit, now)

    async def drop_proof(self, manifest: Manifest) -> None:
        self._proofs.pop((manifest.repo, manifest.commit), None)
        await self._lane.run(self._index.drop_proof, manifest.repo, manifest.commit)

    # torrents, as bytes: what reads them stands further right

    async def torrents(self) -> list[bytes]:
        return list(await self._lane.run(self._index.torrents))

    async def put_torrent(self, name: TorrentName, body: bytes) -> None:
        await self._note(self._index.put_torrent, name, body)

    async def drop_torrent(self, name: TorrentName) -> None:
        await self._lane.run(self._index.drop_torrent, name)
