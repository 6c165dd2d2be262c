"""Opening complete blobs: in a thread, but small ones that were opened a moment ago at once.

A turn in a thread is two waits for the processor. Where others keep it busy these were the larger
part of the time of a small file: p99 of 1 KB beside three WebRTC processes was 20 ms, and is 7. A
file of which the kernel holds name and inode opens in microseconds; any other may wait for a disk,
which the event loop must not.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import BinaryIO

from p2pmodels.core.digests import Sha256
from p2pmodels.errors import Overloaded, StoreDamaged
from p2pmodels.store.blobs import Blob
from p2pmodels.workers import Lane

AT_ONCE_BYTES = 64 * 1024  # bytes of the largest blob that is opened at once
RECENT_S = 10.0  # seconds for which an opened file counts as at hand; the kernel forgets far later
RECENT_LIMIT = 1024  # blobs that are remembered as opened; the oldest go


class Opener:
    """Remembers which blobs were opened lately."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._opened_at: dict[Sha256, float] = {}

    async def open(self, blob: Blob) -> BinaryIO:
        """The blob, to be closed by the caller.

        Raises StoreDamaged when it vanished or has another size, Overloaded.
        """
        now = asyncio.get_running_loop().time()
        opened_at = self._opened_at.pop(blob.sha256, float("-inf"))
        if blob.size <= AT_ONCE_BYTES and now - opened_at < RECENT_S:
            file = _open(blob)
        else:
            file = await self._lane.open(_open, blob)
        self._opened_at[blob.sha256] = now
        if len(self._opened_at) > RECENT_LIMIT:
            self._opened_at.pop(next(iter(self._opened_at)))
        return file


def _open(blob: Blob) -> BinaryIO:
    try:
        fd = os.open(blob.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # says nothing about the blob
            raise Overloaded("too many files are open") from error
        raise StoreDamaged(f"blob {blob.sha256}: {error.strerror}") from error
    if os.fstat(fd).st_size != blob.size:
        os.close(fd)
        raise StoreDamaged(f"blob {blob.sha256} has another size")
    return os.fdopen(fd, "rb", buffering=0)
