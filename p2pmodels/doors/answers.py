"""Answers: files with ranges and validators, and errors that never look like files.

1. Complete blobs go out by sendfile, running fetches through a `Reader`.
2. Content-Length is exact; when the bytes cannot be given to the end the connection is reset, so a
   short body never looks whole.
3. Headers are sent within `HEADERS_WITHIN_S`: clients give up after 10 s without a byte, so before
   that the answer is "not yet" (429 with Retry-After), which they all understand.
4. Errors never have status 200 and are never cached.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

from aiohttp import hdrs, web

from p2pmodels.core.manifest import FileEntry
from p2pmodels.core.names import Commit
from p2pmodels.core.ranges import (
    ByteRange,
    RangeUnsatisfiable,
    if_range_allows,
    none_match,
    parse_range,
)
from p2pmodels.doors.opener import Opener
from p2pmodels.doors.sending import reset, send_file
from p2pmodels.errors import AccessRefused, NotFound, Overloaded, P2PModelsError, StoreDamaged
from p2pmodels.metrics import FIRST_BYTE, SERVED_BYTES
from p2pmodels.store.blobs import Blob
from p2pmodels.store.figures import FROM_STORE, SERVED, Figures
from p2pmodels.transfer.fetch import Fetch
from p2pmodels.transfer.reader import Reader, first_byte
from p2pmodels.workers import Lane

HEADERS_WITHIN_S = 8.0  # seconds; huggingface_hub's read time-out is 10
IDLE_WRITE_S = 60.0  # seconds a client may leave its end unread before we reset the connection
INLINE_BYTES = 64 * 1024  # bytes up to which a file is read and sent with its headers in one go

CACHE_FOREVER = "public, max-age=31536000, immutable"
CACHE_NEVER = "no-store"
CACHE_ASK = "no-cache"


@dataclass(frozen=True)
class FileAnswer:
    """What a door found: the entry, and the headers that say where it belongs."""

    entry: FileEntry
    commit: Commit | None = None
    is_immutable: bool = False
    is_private: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        """The strong validator: the digest, as the hub gives it."""
        return f'"{self.entry.digest.value}"'

    def base_headers(self) -> dict[str, str]:
        """The headers that HEAD and GET share."""
        cache = CACHE_FOREVER if self.is_immutable else CACHE_ASK
        headers = {
            hdrs.ETAG: self.etag,
            hdrs.ACCEPT_RANGES: "bytes",
            hdrs.CONTENT_TYPE: "application/octet-stream",
            hdrs.CACHE_CONTROL: "private, no-store" if self.is_private else cache,
            "X-Linked-Size": str(self.entry.size),
            "X-Linked-Etag": self.etag,
            **self.headers,
        }
        if self.commit is not None:
            headers["X-Repo-Commit"] = self.commit.value
        return headers


class Answers:
    """Sends files; one for all doors."""

    def __init__(self, lane: Lane, figures: Figures) -> None:
        self._lane, self._figures = lane, figures
        self._opener = Opener(lane)

    def head(self, request: web.Request, answer: FileAnswer) -> web.Response:
        """The answer to HEAD: from the manifest alone, no source is asked."""
        headers = answer.base_headers()
        if self.is_known(request, answer):
            return web.Response(status=304, headers=headers)
        headers[hdrs.CONTENT_LENGTH] = str(answer.entry.size)
        return web.Response(status=200, headers=headers)

    def is_known(self, request: web.Request, answer: FileAnswer) -> bool:
        """Whether the client has this very content: then nothing is fetched for it."""
        return none_match(request.headers.get(hdrs.IF_NONE_MATCH), answer.etag)

    def asked_range(self, request: web.Request, answer: FileAnswer) -> ByteRange | None:
        """The range to honour. Raises RangeUnsatisfiable."""
        if not if_range_allows(request.headers.get(hdrs.IF_RANGE), answer.etag):
            return None
        return parse_range(request.headers.get(hdrs.RANGE), answer.entry.size)

    async def blob(
        self, request: web.Request, answer: FileAnswer, blob: Blob, *, ignore_range: bool = False
    ) -> web.StreamResponse:
        """A complete file, by sendfile. Raises StoreDamaged before anything was sent."""
        if self.is_known(request, answer):
            return web.Response(status=304, headers=answer.base_headers())
        asked = None if ignore_range else self.asked_range(request, answer)
        span = asked or ByteRange(0, blob.size, blob.size)
        file = await self._opener.open(blob)
        try:
            response = _response(answer, span, is_partial=asked is not None, source="store")
            self._count("store", span.length)
            if span.length <= INLINE_BYTES:
                data = os.pread(file.fileno(), span.length, span.start)
                if len(data) != span.length:
                    raise StoreDamaged(f"blob {blob.sha256} became shorter")
                return web.Response(status=response.status, headers=response.headers, body=data)
            await response.prepare(request)
            await send_file(request, file, span, IDLE_WRITE_S)
            await response.write_eof()
            return response
        finally:
            file.close()

    async def fetch(
        self, request: web.Request, answer: FileAnswer, fetch: Fetch, *, ignore_range: bool
    ) -> web.StreamResponse:
        """A file that is still being fetched; the body follows what lands."""
        asked = None if ignore_range else self.asked_range(request, answer)
        size = answer.entry.size
        span = asked or ByteRange(0, size, size)
        began = arrived(request)
        within_s = max(0.1, began + HEADERS_WITHIN_S - asyncio.get_running_loop().time())
        async with Reader(fetch, span.start, span.stop, self._lane) as reader:
            if not await first_byte(reader, within_s):
                raise Overloaded(f"{fetch.want} is on its way", retry_after_s=2)
            if reader.is_void and span.start > 0:
                # Its client has the beginning from an answer that is void now.
                return await self.fetch(request, answer, fetch, ignore_range=True)
            FIRST_BYTE.observe(asyncio.get_running_loop().time() - began)
            source = fetch.source or "store"
            response = _response(answer, span, is_partial=asked is not None, source=source)
            await response.prepare(request)
            try:
                async for data in reader:
                    async with asyncio.timeout(IDLE_WRITE_S):
                        await response.write(data)
                    self._count(source, len(data))
            except (P2PModelsError, TimeoutError):
                reset(request)
                raise
            await response.write_eof()
            return response

    def _count(self, source: str, amount: int) -> None:
        SERVED_BYTES.labels(source).inc(amount)
        self._figures.count(SERVED, amount)
        if source == "store":
            self._figures.count(FROM_STORE, amount)


def _response(
    answer: FileAnswer, span: ByteRange, *, is_partial: bool, source: str
) -> web.StreamResponse:
    headers = answer.base_headers()
    headers["X-P2PModels-Source"] = source
    headers[hdrs.CONTENT_LENGTH] = str(span.length)
    if is_partial:
        headers[hdrs.CONTENT_RANGE] = span.content_range
    return web.StreamResponse(status=206 if is_partial else 200, headers=headers)


def arrived(request: web.Request) -> float:
    """When the request was first looked at, in the loop's seconds: its client counts from there."""
    at: float = request.setdefault("arrived", asyncio.get_running_loop().time())
    return at


def error_answer(error: P2PModelsError, commit: Commit | None = None) -> web.Response:
    """An error as clients of the hub and of the control API understand it."""
    headers = {hdrs.CACHE_CONTROL: CACHE_NEVER, "X-Error-Message": _one_line(error.message)}
    if isinstance(error, NotFound | AccessRefused):
        headers["X-Error-Code"] = error.hub_code
        if commit is not None:
            headers["X-Repo-Commit"] = commit.value
    if isinstance(error, Overloaded):
        headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after_s)))
    size = error.fields.get("size")
    if isinstance(error, RangeUnsatisfiable) and size is not None:
        headers[hdrs.CONTENT_RANGE] = f"bytes */{size}"
    return web.json_response({"error": error.as_json()}, status=error.status, headers=headers)


def _one_line(text: str) -> str:
    """A header value: visible ASCII only."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:300]
