"""Fakes at the seams: a clock that tests move, and a disk that fails when told to."""

from __future__ import annotations

import asyncio
import errno
import heapq
import os
from pathlib import Path

from p2pmodels.store.disk import Buffer, RealDisk, _mapped


class FakeClock:
    """Time stands still until `advance`; `sleep` wakes when the time has come."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.now = 0.0
        self._wall = wall
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = 0
        self._slept = asyncio.Event()

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self._wall + self.now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (self.now + seconds, self._order, future))
        self._slept.set()
        await future

    @property
    def sleeping(self) -> int:
        """How many wait for the time to pass."""
        return sum(1 for _, _, future in self._sleepers if not future.done())

    async def until_sleeping(self) -> None:
        """Wait until somebody waits for the time to pass."""
        while self.sleeping == 0:
            self._slept.clear()
            await self._slept.wait()

    def advance(self, seconds: float) -> None:
        """Let time pass; those whose time has come go on at the next turn of the loop."""
        self.now += seconds
        while self._sleepers and self._sleepers[0][0] <= self.now:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)


class FailingDisk(RealDisk):
    """A real disk whose n-th operation of the named kind fails with an errno."""

    def __init__(self) -> None:
        self.fail: dict[str, tuple[int, int]] = {}
        self.calls: dict[str, int] = {}

    def fail_at(self, operation: str, nth: int, number: int = errno.EIO) -> None:
        """Let the n-th call (from 1) of `operation` from now on fail."""
        self.fail[operation] = (self.calls.get(operation, 0) + nth, number)

    def _count(self, operation: str, path: object) -> None:
        self.calls[operation] = self.calls.get(operation, 0) + 1
        nth, number = self.fail.get(operation, (0, 0))
        if self.calls[operation] == nth:
            with _mapped(path):
                raise OSError(number, os.strerror(number))

    def write(self, fd: int, data: Buffer, offset: int) -> None:
        self._count("write", fd)
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._count("sync", fd)
        super().sync(fd)

    def replace_text(self, path: Path, text: str) -> None:
        self._count("replace_text", path)
        super().replace_text(path, text)

    def link(self, source: Path, target: Path) -> None:
        self._count("link", target)
        super().link(source, target)

    def sync_folder(self, path: Path) -> None:
        self._count("sync_folder", path)
        super().sync_folder(path)

    def unlink(self, path: Path) -> None:
        self._count("unlink", path)
        super().unlink(path)
