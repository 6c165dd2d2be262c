"""A partial: a blob being filled, with its checkpoint of landed bytes.

1. `landed` says which bytes are in the file and may be read; it only grows while the partial lives,
   but for pieces that turn out wrong (`reject`, `void`).
2. `vouched` is the part of `landed` that the origin itself gave over its own connection.
3. A checkpoint is written only after the data it speaks of is synced, so that after a power cut we
   may have lost bytes but never believe in bytes that we lack.
4. Every byte is hashed while it is at hand, or soon after it landed: into its piece's hashes
   (`pieces`, in any order) and into the digest of the whole file (in order). After a restart what
   had landed is read once more; until then its pieces are not in `pieces.landed`.
5. A cancelled caller leaves its write running in a thread: `close` waits for all of them, so that
   a file descriptor is never reused under a late write.

Sources fill it: on the event loop with `write`; in threads with `put`, and `mark` on the loop when
it is done; with `mark` alone for bytes that libtorrent wrote into `path`. Readers wait on
`changed`, the fetch has the store commit it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest, Sha256
from p2pmodels.core.merkle import FileHashes
from p2pmodels.core.pieces import MIB, RangeSet
from p2pmodels.errors import ProtocolError, SizeMismatch
from p2pmodels.store.disk import Buffer, Disk
from p2pmodels.store.partial_file import PartialFile
from p2pmodels.store.piece_hashes import HASH_STEP, PieceHashes, PieceWork
from p2pmodels.store.whole_hash import WholeHash
from p2pmodels.workers import Lane

CHECKPOINT_BYTES = 64 * MIB  # bytes landed since the last checkpoint; what a crash may cost
CHECKPOINT_S = 1.0  # seconds; the same for a slow line, at the cost of one sync a second
PIECE_BATCHES = 2  # threads that read pieces back beside the one of the whole-file digest


class Partial:
    """States: filling, full (`is_full`), closed."""

    def __init__(
        self,
        digest: Digest,
        size: int,
        path: Path,
        disk: Disk,
        lane: Lane,
        clock: Clock,
        also: int | None = None,
    ) -> None:
        """`also` is a second piece length for which SHA-1 are made: that of a snapshot torrent."""
        self.digest = digest
        self.size = size
        self.path = path
        self.landed = RangeSet()
        self.vouched = RangeSet()
        self.pieces = PieceHashes(size)
        self.changed = asyncio.Condition()
        self.on_piece: Callable[[int], None] = lambda _index: None
        self._also = None if also == self.pieces.length else also
        self._disk, self._lane, self._clock = disk, lane, clock
        self._file = PartialFile(path, size, disk, self.pieces)
        self._whole = WholeHash(digest, size, self._also)
        self._hashing = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._saved_total = 0
        self._saved_at = clock.monotonic()

    @property
    def checkpoint_path(self) -> Path:
        return self.path.with_name(self.path.name + ".checkpoint")

    @property
    def is_full(self) -> bool:
        """Whether every byte has landed."""
        return self.landed.holds(0, self.size)

    @property
    def is_open(self) -> bool:
        return self._file.is_open

    async def open(self) -> None:
        """Open or create the file and take over what its checkpoint vouches for."""
        try:
            self.landed, self.vouched = await self._lane.run(self._open)
        except BaseException:
            self._lane.submit(self._file.close)  # cancelled: a thread may still be opening it
            raise
        self._saved_total = self.landed.total

    def _open(self) -> tuple[RangeSet, RangeSet]:
        present = self._file.open()
        landed, vouched = self._read_checkpoint()
        if present < self.size:
            landed.remove(present, self.size)
            vouched.remove(present, self.size)
        self._file.begin_anew(landed)
        self.pieces.settle(landed, 0, self.size)
        return landed, vouched

    def _read_checkpoint(self) -> tuple[RangeSet, RangeSet]:
        """The saved ranges; a checkpoint that is missing or damaged counts as empty."""
        try:
            saved = json.loads(self._disk.read_text(self.checkpoint_path))
            if saved["size"] != self.size or saved["digest"] != self.digest.key:
                raise ProtocolError("checkpoint of another file")
            landed, vouched = (
                RangeSet((int(start), int(stop)) for start, stop in saved[name])
                for name in ("landed", "vouched")
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ProtocolError):
            return RangeSet(), RangeSet()
        for held in (landed, vouched):
            held.remove(self.size, 1 << 62)
        return landed, vouched

    # filling

    async def write(self, offset: int, data: Buffer, *, vouched: bool) -> None:
        """Put `data` at `offset`. Raises SizeMismatch beyond the end, DiskFull, StoreFailed.

        Bytes that landed before stay as they are.
        """
        stop = self._stop_of(offset, data)
        written = await self._lane.run(self._write, offset, data, self._file.epoch)
        await self._land(offset, stop, written if vouched else [])

    def _stop_of(self, offset: int, data: Buffer) -> int:
        stop = offset + len(data)
        if offset < 0 or stop > self.size:
            raise SizeMismatch(f"bytes {offset}…{stop} of a file of {self.size}")
        return stop

    def _write(self, offset: int, data: Buffer, epoch: int) -> list[tuple[int, int]]:
        whole = self._whole
        written = self._file.write(offset, data, keep_since=epoch)
        if written == [(offset, offset + len(data))]:
            whole.follow(offset, data, self._file)
        return written

    def put(self, offset: int, data: Buffer) -> None:
        """Write from a thread of a source; `await mark(…)` on the event loop makes it land.

        Until it is marked, another source may write the same bytes anew; what has landed stays as
        it is. Blocks, and hashes pieces that are put from their first byte to their last, so that
        `pieces.written_root` knows them before they land. Raises SizeMismatch beyond the end,
        DiskFull, StoreFailed; the latter also once the partial was closed: a late thread does no
        harm.
        """
        self._stop_of(offset, data)
        self._file.write(offset, data)

    def borrow(self) -> AbstractContextManager[object]:
        """Keep the file open for a block of code, on the event loop or in a thread.

        `put` does that for itself; who pulls a run of pieces borrows it around the pull, so that
        none of its puts comes too late. `close` waits, with no time limit, until all blocks are
        left: cancel the pulls first. Raises StoreFailed when the partial is closed.
        """
        return self._file.borrow()

    async def mark(self, start: int, stop: int, *, vouched: bool = False) -> None:
        """Bytes start … stop-1 were written into `path`: they can be read now, and stay."""
        if not self._file.keep_at_once(start, stop):
            await self._lane.run(self._file.keep, start, stop)
        await self._land(start, stop, [(start, stop)] if vouched else [])

    async def _land(self, start: int, stop: int, vouched: list[tuple[int, int]]) -> None:
        """Let everybody know of start … stop-1, but for what was given up a moment ago."""
        for held, ranges in ((self.landed, [(start, stop)]), (self.vouched, vouched)):
            for asked in ranges:
                for left, right in self._file.kept(*asked):
                    held.add(left, right)
        for index in self.pieces.settle(self.landed, start, stop):
            self.on_piece(index)
        await self.wake()
        if self._checkpoint_is_due():
            await self.checkpoint()

    async def wake(self) -> None:
        """Let everybody who waits on `changed` look again."""
        async with self.changed:
            self.changed.notify_all()

    def _checkpoint_is_due(self) -> bool:
        new = self.landed.total - self._saved_total
        is_late = self._clock.monotonic() - self._saved_at >= CHECKPOINT_S
        return not self._saving.locked() and (new >= CHECKPOINT_BYTES or (is_late and new > 0))

    async def checkpoint(self) -> None:
        """Sync the data, then record what had landed before the sync."""
        async with self._saving:
            if not self.is_open:
                return
            ranges = {"landed": list(self.landed), "vouched": list(self.vouched)}
            text = json.dumps({"digest": self.digest.key, "size": self.size, **ranges})
            self._saved_total, self._saved_at = self.landed.total, self._clock.monotonic()
            await self._lane.run(self._save, text)

    def _save(self, text: str) -> None:
        with self._file.borrow():
            self._file.sync()
            self._disk.replace_text(self.checkpoint_path, text)

    # hashes

    async def hash_on(self) -> None:
        """Bring the hashes of pieces and of the whole file up to what has landed.

        Threads take steps of `HASH_STEP` bytes side by side; `on_piece` is called for each piece.
        """
        async with self._hashing:
            while steps := self._steps():
                await self._run_together(step for step, _ in steps)
                for _, works in steps:
                    for work in works:
                        if self.pieces.finish(work):
                            self.on_piece(work.index)

    def _steps(self) -> list[tuple[Callable[[], None], list[PieceWork]]]:
        """What can be hashed at the same time now, each with the pieces it may finish."""
        steps: list[tuple[Callable[[], None], list[PieceWork]]] = [
            (partial(self._feed, works), works) for works in self.pieces.due(PIECE_BATCHES)
        ]
        if self._whole.position < self.landed.run_end(0):
            steps.append((partial(self._whole.catch_up, self._file), []))
        return steps

    def _feed(self, works: list[PieceWork]) -> None:
        budget = HASH_STEP
        for work in works:
            budget -= work.feed(self._file.read, budget)

    async def _run_together(self, steps: Iterable[Callable[[], None]]) -> None:
        """Run each in a thread; raises the first error when all have ended."""
        running = [asyncio.wrap_future(self._lane.submit(step)) for step in steps]
        try:
            await asyncio.wait(running)
        finally:
            for future in running:
                future.cancel()
        for error in [future.exception() for future in running]:
            if error is not None:
                raise error

    async def seal(self) -> Sha256:
        """Check the whole-file digest and sync. Raises DigestMismatch, SizeMismatch.

        All pieces are hashed then, too. One that `on_piece` rejects meanwhile is a SizeMismatch.
        """
        if self.is_full:
            await self.hash_on()
        if not self.is_full:
            raise SizeMismatch(f"{self.landed.total} of {self.size} bytes landed")
        sha256 = self._whole.check()
        await self._lane.run(self._file.sync)
        return sha256

    def file_hashes(self) -> FileHashes | None:
        """All piece hashes of a sealed partial, None for an empty file; may block for 10 ms."""
        return self.pieces.file_hashes(self._whole.v1())

    # wrong bytes

    def reject(self, index: int) -> bool:
        """Forget a piece that turned out wrong; whether it had landed. Raises IndexError.

        At once, and without waiting: its bytes can be written anew. The whole-file digest begins
        anew if the piece went into it already.
        """
        start, stop = self.pieces.span(index)
        if not self.landed.holds(start, stop):
            return False
        self.landed.remove(start, stop)
        self.vouched.remove(start, stop)
        self._file.give_up(start, stop)
        self.pieces.forget(index)
        if self._whole.reach > start:  # asked after `give_up`, see `whole_hash.py`
            self._whole = WholeHash(self.digest, self.size, self._also)
        self._saved_total = -CHECKPOINT_BYTES  # the last checkpoint speaks of it: renew it soon
        return True

    def void(self) -> bool:
        """Drop bytes that turned out wrong; what the origin gave stays, if peers gave the rest.

        Takes effect at once; `restart` must follow. Returns whether anything was kept.
        """
        kept = RangeSet() if self.vouched == self.landed else RangeSet(self.vouched)
        self.landed, self.vouched = kept, RangeSet(kept)
        self._file.begin_anew(kept)
        self.pieces.keep(kept)
        self._whole = WholeHash(self.digest, self.size, self._also)
        return kept.total > 0

    async def restart(self) -> None:
        """After `void`: forget the checkpoint, and let readers look again."""
        self._saved_total = 0
        await self._lane.run(self._disk.unlink, self.checkpoint_path)
        await self.wake()

    async def close(self) -> None:
        """Let the file go; what has landed stays recorded if `checkpoint` ran."""
        try:
            async with self._saving:
                pass  # a checkpoint under way is finished first
        finally:
            closing = self._lane.submit(self._file.close)  # for a cancelled caller, too
        await asyncio.shield(asyncio.wrap_future(closing))
        await self.wake()
