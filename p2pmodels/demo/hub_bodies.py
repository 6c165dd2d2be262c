"""How the demo hub sends the bytes of a file: ranges, sendfile, and the faults of a body.

1. A file on disk without a fault goes out by sendfile, so that a measurement is not bound by us.
2. Every byte that went out is counted in the exchange, also when the client has gone.
3. Ranges as RFC 9110, 14: one range; several or malformed ones are ignored, as object stores do.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
import zlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from p2pmodels.clock import Clock
from p2pmodels.demo.hub_faults import Faults, Pacer
from p2pmodels.demo.hub_log import Exchange
from p2pmodels.demo.hub_repos import HubFile
from p2pmodels.workers import Lane

SENDFILE_BYTES = 8 << 20  # bytes for one call; what an aborted call sent is read from the file
WRITE_BYTES = 64 << 10  # bytes; small, so that pacing and the limits of faults are exact
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


class Refused(Exception):
    """An answer that is not what was asked for: status, the hub's error code, a message."""

    def __init__(
        self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] = {}
    ) -> None:
        self.status, self.code, self.message, self.headers = status, code, message, headers
        super().__init__(status, code)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file: the first byte and how many."""

    start: int
    length: int


def parse_range(text: str, size: int) -> Span | None:
    """Read a Range header; None means the whole file. Raises Refused (416)."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        raise Refused(416, headers={"Content-Range": f"bytes */{size}"})
    return Span(start, end - start)


@dataclass(frozen=True, slots=True)
class BodySender:
    """Sends files; all bodies of a hub share one."""

    pacer: Pacer
    lane: Lane
    clock: Clock

    async def answer(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        file: HubFile,
        headers: dict[str, str],
        faults: Faults,
    ) -> web.StreamResponse:
        """Answer a GET or HEAD for `file`; `headers` hold its ETag. Raises Refused (416)."""
        is_head = request.method == "HEAD"
        ignored = is_head or faults.ignore_range
        span = None if ignored else _span(request, file, headers["ETag"])
        part = span or Span(0, file.size)
        response = web.StreamResponse(status=206 if span else 200, headers=headers)
        response.headers["Accept-Ranges"] = "bytes"
        if span:
            start = span.start + (1 if faults.wrong_content_range else 0)
            end = start + span.length - 1
            response.headers["Content-Range"] = f"bytes {start}-{end}/{file.size}"
        if faults.gzip:
            response.headers["Content-Encoding"] = "gzip"
        else:
            response.content_length = part.length
        exchange.status = response.status
        if faults.delay_s and not is_head:
            await self.clock.sleep(faults.delay_s)
        await response.prepare(request)
        if not is_head:
            await _Body(self, request, response, exchange, file, part, faults).send()
        await response.write_eof()
        return response


@dataclass(frozen=True, slots=True)
class _Body:
    """One body that is going out; its headers have gone."""

    sender: BodySender
    request: web.BaseRequest
    response: web.StreamResponse
    exchange: Exchange
    file: HubFile
    part: Span
    faults: Faults

    async def send(self) -> None:
        """Send all of it. Raises ConnectionError when the client has gone or a fault cut it."""
        content = self.file.content
        if not self.faults.spare_body(self.file.path):
            await self._send_with_faults()
        elif isinstance(content, bytes):
            view = memoryview(content)[self.part.start : self.part.start + self.part.length]
            for offset in range(0, self.part.length, SENDFILE_BYTES):
                await self._write(view[offset : offset + SENDFILE_BYTES])
        else:
            await self._sendfile(content)

    async def _write(self, data: bytes | memoryview) -> None:
        await self.response.write(data)
        self.exchange.sent(len(data))

    async def _sendfile(self, path: Path) -> None:
        """Let the kernel send it."""
        opened = await self.sender.lane.open(_open, path)
        try:
            loop = asyncio.get_running_loop()
            offset, end = self.part.start, self.part.start + self.part.length
            while offset < end:
                transport = self.request.transport
                if transport is None:
                    raise ConnectionResetError("the client has gone")
                opened.seek(offset)
                try:
                    count = min(SENDFILE_BYTES, end - offset)
                    await loop.sendfile(transport, opened, offset, count)
                finally:
                    # asyncio leaves the position behind the last byte sent, also after an error.
                    sent = opened.tell() - offset
                    self.exchange.sent(sent)
                if not sent:
                    self._cut("the file on disk became shorter")
                offset += sent
        finally:
            opened.close()

    async def _send_with_faults(self) -> None:
        """Send in small blocks that end exactly where a fault is to act."""
        packer = zlib.compressobj(1, wbits=31) if self.faults.gzip else None
        async with aclosing(self._blocks()) as blocks:
            async for block in blocks:
                data = packer.compress(block) if packer else block
                if data:
                    await self.sender.pacer.take(len(data), self.faults.rate_bytes_per_s)
                    await self._write(data)
        if packer:
            await self._write(packer.flush())

    async def _blocks(self) -> AsyncGenerator[bytes, None]:
        """The bytes, with the stall, the cut and the flipped byte where they belong."""
        faults, content, done = self.faults, self.file.content, 0
        cut, stall = faults.cut_after, faults.stall_after
        bad = self.file.size // 2 if self.file.path in faults.corrupt else None
        opened = None if isinstance(content, bytes) else await self.sender.lane.open(_open, content)
        try:
            while True:
                if stall is not None and done >= stall:
                    stall = None
                    await faults.stall_until.wait()
                if cut is not None and done >= cut:
                    cut = None
                    if faults.take_cut():
                        self._cut("cut by a fault")
                if done >= self.part.length:
                    return
                limits = [limit - done for limit in (cut, stall) if limit is not None]
                size = min(WRITE_BYTES, self.part.length - done, *limits)
                start = self.part.start + done
                if isinstance(content, bytes):
                    block = content[start : start + size]
                elif opened is not None:
                    block = await self.sender.lane.run(os.pread, opened.fileno(), size, start)
                if not block:
                    self._cut("the file on disk became shorter")
                yield block if bad is None else _flipped(block, bad - start)
                done += len(block)
        finally:
            if opened is not None:
                opened.close()

    def _cut(self, reason: str) -> NoReturn:
        reset(self.request)
        raise ConnectionResetError(reason)


def _span(request: web.BaseRequest, file: HubFile, etag: str) -> Span | None:
    """The part asked for, or None; If-Range must be this very ETag (RFC 9110, 13.1.5)."""
    text = request.headers.get("Range", "")
    if not text or request.headers.get("If-Range", etag) != etag:
        return None
    return parse_range(text, file.size)


def reset(request: web.BaseRequest) -> None:
    """Cut the connection with a TCP reset, as a dying server or a middle box does."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        # No lingering makes close() send RST and drop what is unsent (socket(7), SO_LINGER).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _open(path: Path) -> FileIO:
    return FileIO(path)


def _flipped(block: bytes, offset: int) -> bytes:
    """`block` with the byte at `offset` flipped, if it lies inside."""
    if not 0 <= offset < len(block):
        return block
    return block[:offset] + bytes([block[offset] ^ 0xFF]) + block[offset + 1 :]
