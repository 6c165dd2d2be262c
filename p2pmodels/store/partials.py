"""A partial: a blob being filled, with its checkpoint of landed bytes.

1. `landed` says which bytes are in the file and may be read; it only grows while the partial lives.
2. `vouched` is the part of `landed` that the origin itself gave over its own connection.
3. A checkpoint is written only after the data it speaks of is synced, so that after a power cut we
   may have lost bytes but never believe in bytes that we lack.
4. The whole-file digest is computed along the way, over the unbroken run from the first byte. Its
   state belongs to the worker threads and is touched under `_hash_mutex` only.
5. A cancelled caller leaves its write running in a thread: `close` waits for all of them, so that
   a file descriptor is never reused under a late write.

Sources fill it (`write`, or `mark` for bytes that libtorrent wrote into `path`), readers wait on
`changed`, the fetch has the store commit it.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import ParamSpec, TypeVar

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest, Hasher, Sha256
from p2pmodels.core.pieces import MIB, RangeSet
from p2pmodels.errors import DigestMismatch, ProtocolError, SizeMismatch
from p2pmodels.store.disk import Buffer, Disk
from p2pmodels.workers import Lane

P = ParamSpec("P")
T = TypeVar("T")

CHECKPOINT_BYTES = 64 * MIB  # bytes landed since the last checkpoint; what a crash may cost
CHECKPOINT_S = 1.0  # seconds; the same for a slow line, at the cost of one sync a second
HASH_STEP = 4 * MIB  # bytes hashed in one go, so that a worker is never held for long


class Partial:
    """States: filling, full (`is_full`), closed."""

    def __init__(
        self, digest: Digest, size: int, path: Path, disk: Disk, lane: Lane, clock: Clock
    ) -> None:
        self.digest = digest
        self.size = size
        self.path = path
        self.landed = RangeSet()
        self.vouched = RangeSet()
        self.changed = asyncio.Condition()
        self._disk, self._lane, self._clock = disk, lane, clock
        self._fd = -1
        self._running: set[Future[object]] = set()
        self._hash_mutex = threading.Lock()
        self._hashed = 0  # every byte before this one went into the hash
        self._hasher, self._sha256 = self._fresh_hashers()
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
        return self._fd >= 0

    async def open(self) -> None:
        """Open or create the file and take over what its checkpoint vouches for."""
        self._fd, self.landed, self.vouched = await self._lane.run(self._open)
        self._saved_total = self.landed.total

    def _open(self) -> tuple[int, RangeSet, RangeSet]:
        fd = self._disk.open(self.path, os.O_RDWR | os.O_CREAT)
        present = self._disk.size(fd)
        landed, vouched = self._read_checkpoint()
        if present < self.size:
            landed.remove(present, self.size)
            vouched.remove(present, self.size)
        self._disk.truncate(fd, self.size)
        return fd, landed, vouched

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

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run in a thread; `close` waits for it even if the caller is cancelled meanwhile."""
        job = self._lane.submit(function, *args, **kwargs)
        self._running.add(job)  # type: ignore[arg-type]
        job.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(job)

    # filling

    async def write(self, offset: int, data: Buffer, *, vouched: bool) -> None:
        """Put `data` at `offset`. Raises SizeMismatch beyond the end, DiskFull, StoreFailed."""
        stop = offset + len(data)
        if offset < 0 or stop > self.size:
            raise SizeMismatch(f"bytes {offset}…{stop} of a file of {self.size}")
        await self._call(self._write, offset, data)
        await self.mark(offset, stop, vouched=vouched)

    def _write(self, offset: int, data: Buffer) -> None:
        self._disk.write(self._fd, data, offset)
        # Bytes that continue the hashed run are hashed while they are at hand: no second read.
        if self._hash_mutex.acquire(blocking=False):
            try:
                if self._hashed == offset:
                    self._update(data)
            finally:
                self._hash_mutex.release()

    async def mark(self, start: int, stop: int, *, vouched: bool = False) -> None:
        """Note that start … stop-1 can now be read from `path`, and wake the readers."""
        self.landed.add(start, stop)
        if vouched:
            self.vouched.add(start, stop)
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
            if self._fd < 0:
                return
            ranges = {"landed": list(self.landed), "vouched": list(self.vouched)}
            text = json.dumps({"digest": self.digest.key, "size": self.size, **ranges})
            self._saved_total, self._saved_at = self.landed.total, self._clock.monotonic()
            await self._call(self._save, text)

    def _save(self, text: str) -> None:
        self._disk.sync(self._fd)
        self._disk.replace_text(self.checkpoint_path, text)

    # the whole-file digest

    def _fresh_hashers(self) -> tuple[Hasher, Hasher]:
        """One hash serves an LFS file; a small file needs git's for the check, sha256 as name."""
        check = self.digest.hasher(self.size)
        is_sha256 = isinstance(self.digest, Sha256)
        return check, check if is_sha256 else Sha256("0" * 64).hasher(self.size)

    def _update(self, data: Buffer) -> None:
        self._hasher.update(data)
        if self._sha256 is not self._hasher:
            self._sha256.update(data)
        self._hashed += len(data)

    async def hash_on(self) -> None:
        """Bring the whole-file hash up to the end of the unbroken run from the first byte."""
        while self._hashed < self.landed.run_end(0):
            await self._call(self._hash_step, self.landed.run_end(0))

    def _hash_step(self, stop: int) -> None:
        with self._hash_mutex:
            length = min(HASH_STEP, stop - self._hashed)
            if length > 0:
                data = self._disk.read(self._fd, length, self._hashed)
                if not data:
                    raise SizeMismatch(f"{self.path.name} ends at {self._hashed}")
                self._update(data)

    async def seal(self) -> Sha256:
        """Check the whole-file digest and sync. Raises DigestMismatch, SizeMismatch."""
        if not self.is_full:
            raise SizeMismatch(f"{self.landed.total} of {self.size} bytes landed")
        await self.hash_on()
        actual = self._hasher.hexdigest()
        if actual != self.digest.value:
            raise DigestMismatch(f"{actual} instead of {self.digest.value}")
        await self._call(self._disk.sync, self._fd)
        return Sha256(self._sha256.hexdigest())

    def void(self) -> bool:
        """Drop bytes that turned out wrong; what the origin gave stays, if peers gave the rest.

        Takes effect at once; `restart` must follow. Returns whether anything was kept.
        """
        kept = RangeSet() if self.vouched == self.landed else RangeSet(self.vouched)
        self.landed, self.vouched = kept, RangeSet(kept)
        return kept.total > 0

    async def restart(self) -> None:
        """After `void`: begin the whole-file hash anew, and forget the checkpoint."""
        await self._call(self._restart)
        await self.wake()

    def _restart(self) -> None:
        with self._hash_mutex:
            self._hashed = 0
            self._hasher, self._sha256 = self._fresh_hashers()
        self._saved_total = 0
        self._disk.unlink(self.checkpoint_path)

    async def close(self) -> None:
        """Let the file go; what has landed stays recorded if `checkpoint` ran."""
        async with self._saving:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                running = tuple(self._running)
                await self._lane.run(_close_after, running, self._disk, fd)
        await self.wake()


def _close_after(running: tuple[Future[object], ...], disk: Disk, fd: int) -> None:
    wait(running)
    disk.close(fd)
