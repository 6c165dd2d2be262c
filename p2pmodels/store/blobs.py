"""Blobs and partials: where bytes live, and how a partial becomes a blob.

1. A file at `blobs/ab/<sha256>` had that digest when it got its name; names are given last.
2. Order of a commit: write, sync the file, verify, link, sync the folder, index.
3. A blob in use (`use`) or pinned is never evicted; being in use is holding a guard.
4. What is damaged moves to `quarantine/`; the newest few are kept for a look. A blob is looked at
   again before it goes: many requests notice the same damage, and the file may be a new one by
   then.
5. A path in `partials/` belongs to one `Partial` at a time: the next one for the same content waits
   until the one before it was settled or discarded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest, GitId, Sha256
from p2pmodels.core.merkle import FileHashes
from p2pmodels.errors import DiskFull, NameRefused, StoreFailed
from p2pmodels.store.blob_files import has_size, hash_file
from p2pmodels.store.disk import Disk
from p2pmodels.store.index import BlobRow, Index
from p2pmodels.store.kept_hashes import KeptHashes
from p2pmodels.store.partials import Partial
from p2pmodels.store.room import RoomOptions, choose_evictions
from p2pmodels.workers import Lane

log = logging.getLogger(__name__)

QUARANTINE_KEPT = 4  # files; enough to see a pattern, too few to fill a disk
TOUCH_AFTER_S = 60.0  # seconds; last use is kept this exactly, so that a hit costs no write


@dataclass(frozen=True, slots=True)
class Blob:
    """A complete, verified file of the store."""

    sha256: Sha256
    size: int
    path: Path


class Blobs:
    """All blobs and partials of one data folder; `load` reads what is there."""

    def __init__(
        self,
        folder: Path,
        options: RoomOptions,
        index: Index,
        index_lane: Lane,
        lane: Lane,
        disk: Disk,
        clock: Clock,
    ) -> None:
        self._blobs = folder / "blobs"
        self._partials_folder = folder / "partials"
        self._quarantine = folder / "quarantine"
        self._options, self._index, self._index_lane = options, index, index_lane
        self._lane, self._disk, self._clock = lane, disk, clock
        self._rows: dict[Sha256, BlobRow] = {}
        self._here: dict[Sha256, Blob] = {}
        self._by_git: dict[GitId, Sha256] = {}
        self._in_use: Counter[Sha256] = Counter()
        self._open: dict[str, Partial] = {}
        self._touched: dict[Sha256, float] = {}
        self._unsettled: dict[str, asyncio.Event] = {}
        self._setting_aside = asyncio.Lock()
        self.hashes = KeptHashes()
        self.pinned: Callable[[], frozenset[Sha256]] = frozenset
        self.on_lost: Callable[[Sha256], None] = lambda _sha256: None

    # what is there

    def path_of(self, sha256: Sha256) -> Path:
        """Where the blob of this name lives or would live."""
        return self._blobs / sha256.value[:2] / sha256.value

    def find(self, digest: Digest) -> Blob | None:
        """The blob with this digest, if it is here."""
        sha256 = self._by_git.get(digest) if isinstance(digest, GitId) else digest
        return self._here.get(sha256) if sha256 is not None else None

    def rows(self) -> list[BlobRow]:
        """All blobs that the store answers for."""
        return list(self._rows.values())

    @property
    def bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(row.size for row in self._rows.values())

    def free_bytes(self) -> int:
        """Bytes free on the file system; blocks."""
        return self._disk.free_bytes(self._blobs)

    async def load(self) -> list[Path]:
        """Compare files and index; returns blob files that the index does not know.

        Nothing is hashed: a file with its name and the right size is known good by the order of
        commits. Rows without a file are dropped, files of the wrong size set aside.
        """
        rows = {row.sha256: row for row in await self._index_lane.run(self._index.blobs)}
        good, unknown = await self._lane.run(self._survey, rows)
        for sha256 in rows.keys() - good.keys():
            await self._index_lane.run(self._index.drop_blob, sha256)
        for row in good.values():
            self._remember(row)
        return unknown

    def _survey(self, rows: dict[Sha256, BlobRow]) -> tuple[dict[Sha256, BlobRow], list[Path]]:
        for folder in (self._blobs, self._partials_folder, self._quarantine):
            self._disk.make_folder(folder)
        good: dict[Sha256, BlobRow] = {}
        unknown: list[Path] = []
        for path in sorted(self._blobs.glob("??/*")):
            try:
                sha256 = Sha256(path.name)
            except NameRefused:
                continue  # not ours; left alone
            row = rows.get(sha256)
            if row is None:
                unknown.append(path)
            elif path.is_symlink() or path.stat().st_size != row.size:
                self._set_aside(path)
            else:
                good[sha256] = row
        for path in self._partials_folder.iterdir():
            # A crash between link and unlink leaves the blob's second name behind.
            if path.suffix != ".checkpoint" and path.stat().st_nlink > 1:
                self._disk.unlink(path)
                self._disk.unlink(path.with_name(path.name + ".checkpoint"))
        return good, unknown

    def _remember(self, row: BlobRow) -> None:
        self._rows[row.sha256] = row
        self._here[row.sha256] = Blob(row.sha256, row.size, self.path_of(row.sha256))
        if row.git_id is not None:
            self._by_git[row.git_id] = row.sha256

    # use

    @contextmanager
    def use(self, blob: Blob) -> Iterator[Blob]:
        """Hold a blob: it is not evicted before the block ends."""
        self._in_use[blob.sha256] += 1
        try:
            yield blob
        finally:
            self._in_use[blob.sha256] -= 1
            if self._in_use[blob.sha256] <= 0:
                del self._in_use[blob.sha256]

    def touch(self, sha256: Sha256) -> None:
        """Note a use now; it is written to the index from time to time (`flush_touched`)."""
        row = self._rows.get(sha256)
        now = self._clock.wall()
        if row is not None and now - row.used_at > TOUCH_AFTER_S:
            self._rows[sha256] = BlobRow(sha256, row.size, row.git_id, now)
            self._touched[sha256] = now

    async def flush_touched(self) -> None:
        """Write pending last uses to the index."""
        touched = dict(self._touched)
        if touched:
            await self._index_lane.run(self._index.touch_blobs, touched)
            for sha256, at in touched.items():
                if self._touched.get(sha256) == at:
                    del self._touched[sha256]

    # filling

    async def partial(self, digest: Digest, size: int, also: int | None = None) -> Partial:
        """Open the partial for this content, making room first. Raises DiskFull, StoreFailed."""
        while (settled := self._unsettled.get(digest.key)) is not None:
            await settled.wait()
        held = self._open.get(digest.key)
        if held is not None and held.is_open:
            return held
        path = self._partials_folder / digest.key
        partial = Partial(digest, size, path, self._disk, self._lane, self._clock, also)
        self._open[digest.key] = partial
        try:
            await self.make_room(size, path)
            await partial.open()
        except BaseException:
            self._let_go(partial)
            raise
        return partial

    def _let_go(self, partial: Partial) -> None:
        if self._open.get(partial.digest.key) is partial:
            del self._open[partial.digest.key]

    def partial_path(self, digest: Digest) -> Path:
        """Where the partial of this content lives or would live."""
        return self._partials_folder / digest.key

    async def make_room(self, size: int, path: Path) -> None:
        """Evict what must go so that the partial at `path` may grow to `size`. Raises DiskFull.

        Blobs go first, then the partials of fetches that were given up.
        """
        while True:
            taken, free = await self._lane.run(self._disk_state)
            filling = [p for p in self._open.values() if p.is_open and p.path != path]
            idle = [p for p in taken if p not in {other.path for other in self._open.values()}]
            mine = min(taken.get(path, 0), size)
            growing = sum(partial.size - partial.landed.total for partial in filling)
            held_by_partials = mine + sum(p.size for p in filling) + sum(taken[p] for p in idle)
            try:
                chosen = choose_evictions(
                    size - mine, self.rows(), self.pinned() | frozenset(self._in_use),
                    partial_bytes=held_by_partials, free_bytes=free - growing,
                    options=self._options,
                )  # fmt: skip
            except DiskFull:
                if not idle:
                    raise
                await self._lane.run(self._drop_partial, idle[0])
            else:
                break
        for row in chosen:
            await self.evict(row.sha256)

    def _disk_state(self) -> tuple[dict[Path, int], int]:
        """The partials on the disk, and its free bytes."""
        return self._partials_on_disk(), self._disk.free_bytes(self._blobs)

    def _partials_on_disk(self) -> dict[Path, int]:
        """The bytes that each partial takes on the disk, those longest untouched first."""
        found = []
        for path in self._partials_folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.lstat()
                if path.suffix not in (".checkpoint", ".new"):
                    found.append((status.st_mtime, path, status.st_blocks * 512))
        return {path: size for _, path, size in sorted(found)}

    def _drop_partial(self, path: Path) -> None:
        log.info("the partial %s makes room", path.name)
        self._disk.unlink(path.with_name(path.name + ".checkpoint"))
        self._disk.unlink(path)

    async def commit(self, partial: Partial) -> Blob:
        """Verify a full partial and give it its name. Raises DigestMismatch, SizeMismatch.

        The partial's own name stays until `settle`: libtorrent may still have it open.
        """
        sha256 = await partial.seal()
        path = self.path_of(sha256)
        hashes = await self._lane.run(self._link, partial, path)
        self._unsettled.setdefault(partial.digest.key, asyncio.Event())
        git = partial.digest if isinstance(partial.digest, GitId) else None
        row = BlobRow(sha256, partial.size, git, self._clock.wall())
        self._remember(row)
        self.hashes.put(sha256, hashes)
        try:
            await self._index_lane.run(self._index.put_blob, row)
        except StoreFailed as error:
            # The file is the truth: the next start finds it and takes it in.
            log.warning("blob %s is not in the index: %s", sha256, error)
        return Blob(sha256, partial.size, path)

    def _link(self, partial: Partial, target: Path) -> FileHashes | None:
        """Give a sealed partial its name as a blob; returns its piece hashes. Blocks."""
        self._disk.make_folder(target.parent)
        self._disk.link(partial.path, target)
        self._disk.sync_folder(target.parent)
        return partial.file_hashes()

    async def settle(self, partial: Partial) -> None:
        """Close a committed partial and remove its second name."""
        try:
            await self.close(partial)
            await self._lane.run(self._drop_names, partial)
        finally:
            settled = self._unsettled.pop(partial.digest.key, None)
            if settled is not None:
                settled.set()

    def _drop_names(self, partial: Partial) -> None:
        self._disk.unlink(partial.checkpoint_path)
        self._disk.unlink(partial.path)

    async def close(self, partial: Partial) -> None:
        """Close a partial that may be taken up again later."""
        self._let_go(partial)
        await partial.close()

    async def close_all(self) -> None:
        """Close what is open still: who was to close it was cancelled before it began."""
        for partial in list(self._open.values()):
            await self.close(partial)

    async def discard(self, partial: Partial) -> None:
        """Set a wrong partial aside; the next one for this content starts empty."""
        await self.close(partial)
        await self._lane.run(self._disk.unlink, partial.checkpoint_path)
        async with self._setting_aside:
            await self._lane.run(self._set_aside, partial.path)

    # going

    async def evict(self, sha256: Sha256) -> int:
        """Delete a blob; returns the bytes that became free."""
        row = self._forget(sha256)
        await self._lane.run(self._disk.unlink, self.path_of(sha256))
        await self._drop_row(sha256)
        return row.size if row else 0

    async def quarantine(self, sha256: Sha256) -> None:
        """Set a blob aside whose bytes were found wrong, so that it is fetched again."""
        async with self._setting_aside:
            if self._rows.get(sha256) is not None:
                await self._quarantine_now(sha256)

    async def doubt(self, blob: Blob) -> None:
        """Set a blob aside if its file is missing or has another size than it should."""
        async with self._setting_aside:
            if self._rows.get(blob.sha256) is None:
                return
            if not await self._lane.run(has_size, blob.path, blob.size):
                log.warning("blob %s was changed behind our back", blob.sha256)
                await self._quarantine_now(blob.sha256)

    async def _quarantine_now(self, sha256: Sha256) -> None:
        self._forget(sha256)
        await self._lane.run(self._set_aside, self.path_of(sha256))
        await self._drop_row(sha256)

    async def _drop_row(self, sha256: Sha256) -> None:
        """A row without a file does no harm: the next start drops it."""
        try:
            await self._index_lane.run(self._index.drop_blob, sha256)
        except StoreFailed as error:
            log.warning("blob %s stays in the index for now: %s", sha256, error)

    def _forget(self, sha256: Sha256) -> BlobRow | None:
        row = self._rows.pop(sha256, None)
        self._here.pop(sha256, None)
        if row is not None and row.git_id is not None:
            self._by_git.pop(row.git_id, None)
        self.hashes.drop(sha256)
        self.on_lost(sha256)
        return row

    def _set_aside(self, path: Path) -> None:
        kept = sorted(self._quarantine.iterdir(), key=lambda p: p.lstat().st_mtime)
        for old in kept[: max(0, len(kept) - QUARANTINE_KEPT + 1)]:
            if stat.S_ISDIR(old.lstat().st_mode):  # somebody made a folder where a blob was
                shutil.rmtree(old, ignore_errors=True)
            else:
                self._disk.unlink(old)
        if path.exists() or path.is_symlink():
            self._disk.rename(path, self._quarantine / f"{path.name}.{os.urandom(4).hex()}")

    async def adopt_unknown(self, path: Path) -> bool:
        """Hash a blob file that the index does not know; index it, or set it aside."""
        sha256 = Sha256(path.name)
        size, found, git_id = await self._lane.run(hash_file, self._disk, path)
        async with self._setting_aside:
            if sha256 in self._rows:
                return True  # fetched meanwhile: the file at `path` is another one now
            if found != sha256:
                await self._lane.run(self._set_aside, path)
                return False
            row = BlobRow(sha256, size, git_id, self._clock.wall())
            await self._index_lane.run(self._index.put_blob, row)
            self._remember(row)
        return True

    async def verify(self, sha256: Sha256) -> bool:
        """Whether the blob's bytes still have its digest; a missing file counts as damaged."""
        try:
            _, found, _ = await self._lane.run(hash_file, self._disk, self.path_of(sha256))
        except StoreFailed:
            return False
        return found == sha256
