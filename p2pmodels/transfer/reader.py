"""A client's stream over content that is still being fetched.

1. Bytes are given in order, each only when `Fetch.readable_stop` allows it.
2. The reader holds the fetch and tells it where it stands; leaving the block lets go.
3. When bytes that were given out turn out wrong, the stream ends with an error, never quietly. A
   stream that does not begin at the first byte ends so, too, before it gave anything: its client
   has the beginning from an earlier answer.
4. It reads through a file descriptor of its own: the partial may become a blob, and the blob be
   evicted, while a slow client still reads.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Self

from p2pmodels.core.pieces import MIB
from p2pmodels.errors import DigestMismatch, StoreFailed
from p2pmodels.transfer.fetch import Fetch
from p2pmodels.workers import Lane

READ_STEP = 1 * MIB  # bytes given to the socket at once; measured best with aiohttp's writer


class Reader:
    """One answer: the bytes start … stop-1 of what `fetch` makes."""

    def __init__(self, fetch: Fetch, start: int, stop: int, lane: Lane) -> None:
        self.fetch = fetch
        self._start, self._stop = start, stop
        self._position = start
        self._lane = lane
        self._exits = ExitStack()
        self._holder = 0
        self._file: FileIO | None = None
        self._generation = fetch.generation

    async def __aenter__(self) -> Self:
        self._holder = self._exits.enter_context(self.fetch.hold(self._start))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._exits.close()
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    async def ready(self) -> None:
        """Wait until the first byte may be given out. Raises what made the fetch fail."""
        await self._readable()

    @property
    def is_void(self) -> bool:
        """Whether wrong bytes were dropped since it began, so that a range must not go on."""
        return self._generation != self.fetch.generation

    async def _readable(self) -> int:
        """Wait until more may be given out; returns up to where."""
        fetch = self.fetch
        while True:
            stop = fetch.readable_stop(self._position, self._stop)
            if stop > self._position or self._position >= self._stop:
                return stop
            if fetch.error is not None:
                raise fetch.failure()
            async with fetch.changed:
                if not self._may_go_on():
                    await fetch.changed.wait()

    def _may_go_on(self) -> bool:
        fetch = self.fetch
        stop = fetch.readable_stop(self._position, self._stop)
        return fetch.is_over or stop > self._position

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._position < self._stop:
            stop = await self._readable()
            if self._generation != self.fetch.generation:
                if self._position > 0:
                    raise DigestMismatch(f"{self.fetch.want}: what was sent so far is void")
                self._generation = self.fetch.generation
                self._close()
            if self._file is None:
                self._file = await self._lane.open(_open, self._path())
            length = min(READ_STEP, stop - self._position)
            data = await self._lane.run(os.pread, self._file.fileno(), length, self._position)
            if not data:
                raise StoreFailed(f"{self.fetch.want} ends at {self._position}")
            if self._generation != self.fetch.generation:
                continue  # dropped while we read: these bytes are not given out
            self._position += len(data)
            self.fetch.move(self._holder, self._position)
            yield data

    def _path(self) -> Path:
        if self.fetch.blob is not None:
            return self.fetch.blob.path
        if self.fetch.partial is not None:
            return self.fetch.partial.path
        raise StoreFailed(f"{self.fetch.want} has no file")


def _open(path: Path) -> FileIO:
    try:
        return FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        raise StoreFailed(f"{path.name}: {error.strerror}") from error


async def first_byte(reader: Reader, within_s: float) -> bool:
    """Whether the first byte may be given out within so many seconds."""
    try:
        async with asyncio.timeout(within_s):
            await reader.ready()
    except TimeoutError:
        return False
    return True
