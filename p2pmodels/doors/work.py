"""Longer work that the control door starts: fetch a snapshot, check and repair the store.

Each is a stream of events (one JSON object a line) so that a person sees it move; ending the stream
early ends the work, and what it had done stays.
"""

from __future__ import annotations

import asyncio
import fnmatch
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from p2pmodels.core.caller import ANONYMOUS, OPERATOR
from p2pmodels.core.digests import Sha256
from p2pmodels.core.manifest import Manifest, Want
from p2pmodels.core.names import RepoId, Revision
from p2pmodels.doors.parts import Parts
from p2pmodels.errors import EntryNotFound, P2PModelsError, RepoNotFound
from p2pmodels.store.blobs import Blob
from p2pmodels.store.scrub import scrub
from p2pmodels.store.store import Store
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.fetch import Fetch

PROGRESS_EVERY_S = 0.5  # seconds between progress lines
FILES_AT_ONCE = 12  # files of one snapshot at once; small ones wait for round trips, not bytes

Event = dict[str, object]


def chosen(manifest: Manifest, patterns: Sequence[str]) -> list[Want]:
    """The wants whose path matches one of the patterns; all without patterns.

    Raises EntryNotFound for a pattern that matches nothing.
    """
    if not patterns:
        return list(manifest.wants)
    wants = [
        want
        for want in manifest.wants
        if any(fnmatch.fnmatchcase(want.entry.path.value, pattern) for pattern in patterns)
    ]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(want.entry.path.value, pattern) for want in wants):
            raise EntryNotFound(f"{pattern} in {manifest.repo}")
    return wants


class SnapshotFetch:
    """Fetches the chosen files of a snapshot, a few at a time."""

    def __init__(self, parts: Parts, manifest: Manifest, wants: Sequence[Want]) -> None:
        self._parts = parts
        self._wants = wants
        self._caller = OPERATOR if manifest.is_restricted else ANONYMOUS
        self._running: dict[Want, Fetch] = {}
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._sources: Counter[str] = Counter()
        self._error: P2PModelsError | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        """The lines of the control API's `fetch`; the plan is the caller's first line."""
        async with Tasks() as tasks:
            tasks.start(self._fetch_all(), "fetch snapshot")
            tasks.start(self._report(), "report")
            while (event := await self._events.get()) is not None:
                yield event
        if self._error is not None:
            yield {"event": "error", "error": self._error.as_json()}
            return
        size = sum(want.entry.size for want in self._wants)
        sources = dict(self._sources)
        yield {"event": "done", "files": len(self._wants), "bytes": size, "sources": sources}

    async def _fetch_all(self) -> None:
        waiting = list(reversed(self._wants))

        async def take_turns() -> None:
            while waiting and self._error is None:
                await self._fetch_one(waiting.pop())

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(FILES_AT_ONCE, len(waiting))):
                    group.create_task(take_turns())
        finally:
            self._events.put_nowait(None)

    async def _fetch_one(self, want: Want) -> None:
        try:
            found = await self._parts.fetcher.open(want, self._caller)
            if isinstance(found, Blob):
                blob, sources = found, Counter({"store": found.size})
            else:
                self._running[want] = found
                with found.hold():
                    blob = await found.finish()
                sources = found.sources
        except P2PModelsError as error:
            self._error = self._error or error
            return
        finally:
            self._running.pop(want, None)
        self._sources.update(sources)
        self._events.put_nowait(
            {
                "event": "file",
                "path": want.entry.path.value,
                "size": blob.size,
                "sha256": blob.sha256.value,
                "local_path": str(blob.path),
                "sources": dict(sources),
            }
        )

    async def _report(self) -> None:
        while True:
            await self._parts.clock.sleep(PROGRESS_EVERY_S)
            files = [
                {
                    "path": want.entry.path.value,
                    "landed": fetch.landed,
                    "size": want.entry.size,
                    "rate_bytes_per_s": round(fetch.rate(), 1),
                    "sources": dict(fetch.sources),
                }
                for want, fetch in self._running.items()
            ]
            if files:
                self._events.put_nowait({"event": "progress", "files": files})


async def fetch_snapshot(
    parts: Parts, repo: RepoId, revision: Revision, patterns: Sequence[str]
) -> AsyncGenerator[Event, None]:
    """`POST /fetch`: the plan, then what happens."""
    manifest = (await parts.resolver.resolve(repo, revision, OPERATOR)).manifest
    wants = chosen(manifest, patterns)
    yield {
        "event": "plan",
        "repo": str(repo),
        "commit": manifest.commit.value,
        "files": [
            {
                "path": want.entry.path.value,
                "size": want.entry.size,
                "is_cached": parts.store.blobs.find(want.entry.digest) is not None,
            }
            for want in wants
        ],
    }
    async with aclosing(SnapshotFetch(parts, manifest, wants).events()) as events:
        async for event in events:
            yield event


async def check_store(
    store: Store, repo: RepoId | None, *, repair: bool
) -> AsyncGenerator[Event, None]:
    """`POST /check` and `/repair`: every blob (of one repo, or all) is read again."""
    only = blobs_of(store, repo) if repo is not None else None
    total = len(only) if only is not None else len(store.blobs.rows()) + len(store.unknown)
    checked = damaged = repaired = size = 0
    async for scrubbed in scrub(store, only, repair=repair):
        checked += 1
        size += scrubbed.size
        if not scrubbed.is_good:
            damaged += 1
            reason = "its bytes no longer have its digest"
            yield {"event": "damaged", "name": scrubbed.sha256.value, "reason": reason}
        repaired += scrubbed.was_repaired
        yield {"event": "progress", "checked": checked, "total": total, "bytes": size}
    figures = {"checked": checked, "damaged": damaged, "repaired": repaired, "bytes": size}
    yield {"event": "done", **figures}


def blobs_of(store: Store, repo: RepoId) -> list[Sha256]:
    """The blobs of every snapshot of a repo. Raises RepoNotFound when nothing of it is here."""
    manifests = [manifest for manifest in store.snapshots.all() if manifest.repo == repo]
    if not manifests:
        raise RepoNotFound(f"{repo} is not in this cache")
    found = (store.blobs.find(entry.digest) for m in manifests for entry in m.files)
    return sorted({blob.sha256 for blob in found if blob})
