"""The files door: content by digest, and snapshots as plain trees; only what is shared.

`/files/{sha256}`, `/snapshots/{repo}@{commit}/{path}` and the BEP 19 web seed
`/webseed/{commit}/{path}`. These routes ask no origin and know no tokens, so they give out nothing
that is not proven public, unless the request carries the control token.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import hdrs, web

from p2pmodels.core.digests import Sha256
from p2pmodels.core.manifest import FileEntry, Manifest
from p2pmodels.core.names import Commit, FilePath, RepoId
from p2pmodels.doors.answers import Answers, FileAnswer
from p2pmodels.doors.parts import Parts
from p2pmodels.doors.routes import decode
from p2pmodels.errors import NotFound, RepoNotFound, StoreDamaged


class FilesDoor:
    """Gives cached, public content to anything that speaks HTTP."""

    def __init__(
        self, parts: Parts, answers: Answers, is_admitted: Callable[[web.Request], bool]
    ) -> None:
        self._store, self._sharing = parts.store, parts.sharing
        self._answers = answers
        self._is_admitted = is_admitted

    async def by_digest(self, request: web.Request) -> web.StreamResponse:
        """`/files/{sha256}`."""
        sha256 = Sha256(request.rel_url.raw_path.removeprefix("/files/"))
        blob = self._store.blobs.find(sha256)
        may_read = self._sharing.may_share_blob(sha256) or self._is_admitted(request)
        if blob is None or not may_read:
            raise NotFound(f"file {sha256}")
        return await self._give(request, FileEntry(FilePath(sha256.value), blob.size, sha256), None)

    async def by_snapshot(self, request: web.Request) -> web.StreamResponse:
        """`/snapshots/{repo}@{commit}/{path}`."""
        rest = request.rel_url.raw_path.removeprefix("/snapshots/")
        repo_text, _, after = rest.partition("@")
        commit_text, _, path = after.partition("/")
        commit = Commit(commit_text)
        manifest = self._store.snapshots.manifest(RepoId.parse(decode(repo_text)), commit)
        return await self._from(request, manifest, path)

    async def by_commit(self, request: web.Request) -> web.StreamResponse:
        """`/webseed/{commit}/{path}` (BEP 19)."""
        rest = request.rel_url.raw_path.removeprefix("/webseed/")
        commit_text, _, path = rest.partition("/")
        manifest = self._store.snapshots.by_commit(Commit(commit_text))
        return await self._from(request, manifest, path)

    async def _from(
        self, request: web.Request, manifest: Manifest | None, raw_path: str
    ) -> web.StreamResponse:
        if manifest is None or not self._sharing.is_public(manifest):
            raise RepoNotFound("no such snapshot here")
        path = FilePath("/".join(decode(segment) for segment in raw_path.split("/")))
        return await self._give(request, manifest.find(path), manifest.commit)

    async def _give(
        self, request: web.Request, entry: FileEntry, commit: Commit | None
    ) -> web.StreamResponse:
        blob = self._store.blobs.find(entry.digest)
        if blob is None:
            raise NotFound(f"file {entry.path} is not cached")
        answer = FileAnswer(entry, commit, is_immutable=True)
        if request.method == hdrs.METH_HEAD:
            return self._answers.head(request, answer)
        self._store.blobs.touch(blob.sha256)
        with self._store.blobs.use(blob):
            try:
                return await self._answers.blob(request, answer, blob)
            except StoreDamaged as error:
                await self._store.blobs.doubt(blob)
                if request.get("has_begun"):
                    raise
                raise NotFound(f"file {entry.path} is not cached any more") from error
