"""Bytes for peers: one range of a blob to one who shows a ticket.

1. What is not here, not shared or has not landed looks like what does not exist.
2. A range is answered whole by sendfile, or the connection is reset; a slot is held meanwhile.
3. A peer that stops reading is reset after PEER_IDLE_WRITE_S.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from aiohttp import hdrs, web

from p2pmodels.core.digests import Digest, GitId, Sha256
from p2pmodels.core.pieces import MIB
from p2pmodels.core.ranges import ByteRange, RangeUnsatisfiable
from p2pmodels.doors.sending import send_file
from p2pmodels.doors.tickets import Tickets, admitted
from p2pmodels.errors import NotFound, P2PModelsError, UsageError
from p2pmodels.transfer.uploads import HeldBytes, Uploads
from p2pmodels.workers import Lane

PEER_IDLE_WRITE_S = 15.0  # seconds a peer may leave its end unread; it gives up after 5 itself
PULL_BYTES_LIMIT = 64 * MIB  # bytes of one pull; half a second of a gigabit wire frees a slot
FRESH_LOOKS = 2  # looks for the file; one that is committed meanwhile has another name

_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})")


class Held(Protocol):
    """Which bytes may be pulled."""

    def held(self, digest: Digest, start: int, stop: int) -> HeldBytes | None:
        """The file with the bytes start … stop-1; None when they are not all here and shared."""


class RangeNeeded(UsageError):
    """Pulls name one range of bytes."""

    advice = "Send `Range: bytes=a-b` with at most 64 MiB."


@dataclass(eq=False)
class BytesDoor:
    """The route of blobs."""

    held: Held
    tickets: Tickets
    uploads: Uploads
    lane: Lane

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """One range of a blob."""
        peer = admitted(request, self.tickets)
        digest = _parse_digest(request.match_info["digest"])
        start, stop = _parse_range(request.headers.getall(hdrs.RANGE, []))
        held = self._held(digest, start, stop)
        with self.uploads.take(peer, digest, start, stop, held.size) as upload:
            file = await self._open(digest, start, stop)
            try:
                span = ByteRange(start, stop, held.size)
                answer = _head(span)
                await answer.prepare(request)
                try:
                    await send_file(request, file, span, PEER_IDLE_WRITE_S, upload)
                except P2PModelsError as error:  # too late to say so
                    raise ConnectionResetError(str(error)) from error
                await answer.write_eof()
                return answer
            finally:
                file.close()

    def _held(self, digest: Digest, start: int, stop: int) -> HeldBytes:
        held = self.held.held(digest, start, stop)
        if held is None:
            raise NotFound("no such bytes")
        if stop > held.size:
            raise RangeUnsatisfiable(f"bytes {start}-{stop - 1} of {held.size}", size=held.size)
        return held

    async def _open(self, digest: Digest, start: int, stop: int) -> BinaryIO:
        """The file; one that vanished since is looked up again."""
        for _ in range(FRESH_LOOKS):
            file = await self.lane.open(_open_file, self._held(digest, start, stop).path, stop)
            if file is not None:
                return file
        raise NotFound("no such bytes")


def _open_file(path: Path, stop: int) -> BinaryIO | None:
    """The open file, unless it vanished or ends before `stop`. Blocks."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size < stop:
        os.close(fd)
        return None
    return os.fdopen(fd, "rb", buffering=0)


def _parse_digest(text: str) -> Digest:
    """The sha256 or git id that names a blob. Raises NameRefused."""
    return GitId(text) if len(text) == 40 else Sha256(text)


def _parse_range(values: list[str]) -> tuple[int, int]:
    """Start and stop. Raises RangeNeeded: a pull has exactly one range, with both its ends."""
    match = _RANGE.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        raise RangeNeeded(f"{len(values)} ranges")
    start, stop = int(match[1]), int(match[2]) + 1
    if not 0 < stop - start <= PULL_BYTES_LIMIT:
        raise RangeNeeded(f"{stop - start} bytes")
    return start, stop


def _head(span: ByteRange) -> web.StreamResponse:
    headers = {
        hdrs.CONTENT_LENGTH: str(span.length),
        hdrs.CONTENT_RANGE: span.content_range,
        hdrs.CONTENT_TYPE: "application/octet-stream",
        hdrs.CACHE_CONTROL: "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return web.StreamResponse(status=206, headers=headers)
