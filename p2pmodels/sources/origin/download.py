"""One file from one origin into its partial, over several connections.

1. The resolve request is sent once; all connections use the address it led to, until that expires.
2. One connection leads: it alone retries, decides that the origin has failed, and starts the
   others once ranges are known to work. A helper that fails just leaves.
3. `landed` grows by what was written and nothing else, so a failure never loses progress.
4. A body is cut at the size the manifest declares; what comes beyond it is an error.
5. Claims are followed at once, in the middle of a wait as well. Who has nothing to do but claims
   to come waits for them, until the partial is full, whoever filled it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import hdrs
from yarl import URL

from p2pmodels.clock import Clock
from p2pmodels.core.manifest import Want
from p2pmodels.core.secret import Secret
from p2pmodels.errors import (
    EntryNotFound,
    IntegrityFailed,
    NetworkFailed,
    P2PModelsError,
    SizeMismatch,
    SourceFailed,
    SourceTimedOut,
    StoreFailed,
)
from p2pmodels.sources.origin.answers import check_content_range, check_metadata, failure, refusal
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.sources.origin.http import Answer, Ask, Follow, Http
from p2pmodels.sources.origin.limits import Group
from p2pmodels.sources.origin.options import OriginKind, OriginOptions
from p2pmodels.sources.origin.ranges import Segment, Segments
from p2pmodels.sources.origin.retry import BadAnswer, Retry
from p2pmodels.sources.origin.waits import Waits
from p2pmodels.store.partials import Partial
from p2pmodels.supervision import Tasks

log = logging.getLogger(__name__)

SLOW_BYTES_PER_S = 1024  # bytes a second; below it another source has its turn (reliability H7)
SLOW_WINDOW_S = 20.0  # seconds over which that is measured
CALM_S = 5.0  # seconds without new helpers after one has failed

_EXPIRED = (401, 403, 404, 410)  # what object stores answer to an old signature


@dataclass(frozen=True)
class Job:
    """What to fetch, for whom, and whom to tell; `is_patient` when there is no other source."""

    want: Want
    partial: Partial
    positions: Callable[[], Sequence[int]]
    token: Secret | None = None
    on_bytes: Callable[[int], None] = field(default=lambda _count: None)
    is_patient: bool = True
    claims: Claims = field(default_factory=Claims)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the bytes are: the file's own address, or the signed one it redirected to."""

    url: URL
    is_clean: bool
    is_redirected: bool
    etag: str | None


class Download:
    """States: running (`run`), done, failed."""

    def __init__(
        self, url: URL, job: Job, http: Http, options: OriginOptions, clock: Clock
    ) -> None:
        self._url, self._job, self._http, self._clock = url, job, http, clock
        self._connections = options.connections
        self._is_hub = options.kind == OriginKind.HUB
        self._size = job.want.entry.size
        self._claims = job.claims
        self._segments = Segments(
            self._size,
            lambda: job.partial.landed,
            options.segment_bytes,
            options.connections,
            lambda: job.claims.ranges,
        )
        self._waits = Waits()
        self._target: _Target | None = None
        self._resolving = asyncio.Lock()
        self._helpers = Tasks()
        self._disk_error: StoreFailed | None = None
        self._is_whole = False  # the origin ignores ranges: one connection, from the first byte
        self._has_begun = False  # the lead's last question was answered: helpers may join it
        self._received = 0
        self._calm_until = clock.monotonic()
        self._window = (clock.monotonic(), 0)

    async def run(self) -> None:
        """Fill every gap. Raises SourceFailed, AccessRefused, NotFound, StoreFailed."""
        async with Tasks() as watch, self._helpers:
            with self._claims.followed_by(self):  # no longer than helpers can be started
                watch.start(self._watch_landed(), f"what landed of {self._job.want}")
                await self._lead()

    def under_way(self) -> list[tuple[int, int]]:
        """The bytes (at, stop) that connections are fetching now, in order."""
        return self._segments.under_way()

    def follow(self) -> None:
        """Act on claims that have changed, or on bytes that others brought."""
        self._segments.shrink()
        self._waits.look()
        if self._has_begun:
            self._call_helpers()

    async def _watch_landed(self) -> None:
        """Notice bytes that others bring: connections for them, or the whole fill, are in vain."""
        partial = self._job.partial
        async with partial.changed:
            while True:
                self._segments.shrink()
                self._waits.look()
                if partial.is_full:
                    break
                await partial.changed.wait()
        self._claims.changed.set()

    async def _lead(self) -> None:
        retry = Retry(self._clock, is_patient=self._job.is_patient)
        while not self._job.partial.is_full:
            if self._disk_error is not None:
                raise self._disk_error
            segment = self._segments.take(self._job.positions())
            if segment is None:
                self._claims.changed.clear()
                await self._claims.changed.wait()
                self._window = (self._clock.monotonic(), self._received)  # idle is not slow
                continue
            received = self._received
            try:
                await self._fetch(segment, is_lead=True)
            except SourceFailed as error:
                failed: SourceFailed | None = error
            else:
                failed = None
            finally:
                self._segments.release(segment)
            if self._received > received:
                retry.progressed()
            if isinstance(failed, IntegrityFailed):
                raise failed
            if failed is not None and not self._job.partial.is_full:
                log.debug("%s: %s", self._job.want, failed)
                self._has_begun = False
                async with self._waits.unless(lambda: self._job.partial.is_full):
                    await retry.after(failed)

    async def _help(self) -> None:
        """Fetch segments beside the lead until there is none, or one fails."""
        while not self._is_whole:
            segment = self._segments.take(self._job.positions())
            if segment is None:
                return
            try:
                await self._fetch(segment, is_lead=False)
            except P2PModelsError as error:
                if isinstance(error, StoreFailed):
                    self._disk_error = error  # ours, not the origin's: the lead ends it all
                log.debug("%s: helper: %s", self._job.want, error)
                self._calm_until = self._clock.monotonic() + CALM_S
                return
            finally:
                self._segments.release(segment)
                self._claims.changed.set()

    def _call_helpers(self) -> None:
        if self._is_whole or self._clock.monotonic() < self._calm_until:
            return
        wanted = min(self._connections - 1, self._segments.spare)
        for _ in range(wanted - len(self._helpers)):
            self._helpers.start(self._help(), f"helper for {self._job.want}")

    # one segment

    async def _fetch(self, segment: Segment, *, is_lead: bool) -> None:
        asked = (segment.start, segment.stop)
        async with self._waits.unless(lambda: segment.is_over) as wait:
            answer = await self._ask(asked)
        if wait.expired():
            return
        async with answer:
            self._begin(answer, asked)
            if answer.status == 200 and asked != (0, self._size):
                if not is_lead:
                    raise BadAnswer(f"{answer.source} ignores ranges")
                self._is_whole = segment.is_whole = True
                segment.start = segment.at = 0
                segment.stop = self._size
                asked = (0, self._size)
            elif is_lead:
                self._has_begun = True
                self._call_helpers()
            await self._receive(answer, segment, asked, is_lead=is_lead)

    async def _receive(
        self, answer: Answer, segment: Segment, asked: tuple[int, int], *, is_lead: bool
    ) -> None:
        """Write the body as it comes; it must end where `asked` does."""
        at, stop = segment.at, asked[1]
        while at < segment.stop:
            data = b""
            async with self._waits.unless(lambda: segment.is_over) as wait:
                data = await answer.read_some()
            if wait.expired() or segment.is_over:
                return
            if not data:
                raise NetworkFailed(f"{answer.source} ended the body at byte {at} of {stop}")
            if at + len(data) > stop:
                raise SizeMismatch(f"{self._job.want}: more bytes than {answer.source} declared")
            view = memoryview(data)[: segment.stop - at]
            await self._write(at, view)
            at += len(view)
            segment.at = at
            if self._is_whole:
                if not is_lead:
                    return
            elif asked != (0, self._size) and self._segments.should_yield(
                segment, self._job.positions()
            ):
                return
            self._check_pace(answer)
        if at == stop and await answer.has_more():
            raise SizeMismatch(f"{self._job.want}: more bytes than {answer.source} declared")

    async def _write(self, offset: int, data: memoryview) -> None:
        """Write what has not landed yet."""
        partial = self._job.partial
        for start, stop in list(partial.landed.gaps(offset, offset + len(data))):
            part = data[start - offset : stop - offset]
            try:
                # Only the hub's own word is vouched for; a mirror waits for the whole-file digest.
                await partial.write(start, part, vouched=self._is_hub)
            finally:  # the last bytes of a file end the download while they are written
                if partial.landed.holds(start, stop):
                    self._received += len(part)
                    self._job.on_bytes(len(part))

    def _check_pace(self, answer: Answer) -> None:
        now = self._clock.monotonic()
        since, before = self._window
        if now - since < SLOW_WINDOW_S:
            return
        self._window = (now, self._received)
        rate = (self._received - before) / (now - since)
        if rate < SLOW_BYTES_PER_S and not self._job.is_patient:
            raise SourceTimedOut(f"{answer.source} gives {rate:.0f} bytes a second")

    # asking

    async def _ask(self, asked: tuple[int, int]) -> Answer:
        """An answer of status 200 or 206. Raises SourceFailed, AccessRefused, NotFound."""
        headers: dict[str, str] = {}
        if asked != (0, self._size):
            headers[hdrs.RANGE] = f"bytes={asked[0]}-{asked[1] - 1}"
        while True:
            target = self._target
            if target is None:
                async with self._resolving:
                    if self._target is None:
                        return await self._resolve(headers)
                continue
            answer = await self._send(target.url, headers, is_clean=target.is_clean)
            if target.is_redirected and answer.status in _EXPIRED:
                await answer.discard()
                if self._target is target:
                    self._target = None
                continue
            return await self._judged(answer, is_redirected=target.is_redirected)

    async def _resolve(self, headers: dict[str, str]) -> Answer:
        """Ask the origin itself, and remember where it sent us."""
        answer = await self._send(self._url, headers, is_clean=True, on_first=self._check_first)
        answer = await self._judged(answer, is_redirected=answer.hops > 0)
        self._target = _Target(
            answer.url, answer.is_clean, answer.hops > 0, answer.headers.get(hdrs.ETAG)
        )
        return answer

    async def _send(
        self,
        url: URL,
        headers: dict[str, str],
        *,
        is_clean: bool,
        on_first: Callable[[int, Mapping[str, str]], None] | None = None,
    ) -> Answer:
        self._claims.requests += 1
        return await self._http.send(
            Ask(
                url,
                Group.FILES,
                token=self._job.token,
                headers=headers,
                follow=Follow.ANYWHERE,
                is_clean=is_clean,
                on_first=on_first,
                is_in_company=self._claims.ranges is not None,
            )
        )

    async def _judged(self, answer: Answer, *, is_redirected: bool) -> Answer:
        """The answer, if it is one to read from; the caller's connection is given back if not."""
        want = self._job.want
        try:
            if answer.status not in (200, 206):
                what = f"{want} at {answer.source}"
                if is_redirected:
                    raise failure(answer.status, answer.headers, what)
                raise refusal(answer.status, answer.headers, what, missing=EntryNotFound)
        except P2PModelsError:
            await answer.discard()
            raise
        return answer

    def _check_first(self, status: int, headers: Mapping[str, str]) -> None:
        """What the origin's own answer says of the file must be what the manifest says."""
        if status < 400:
            check_metadata(self._job.want, status, headers, is_hub=self._is_hub)

    def _begin(self, answer: Answer, asked: tuple[int, int]) -> None:
        """Check that the answer brings what was asked for, or the whole file for a part of it.

        Raises BadAnswer, SizeMismatch.
        """
        answer.refuse_encoded()
        etag, target = answer.headers.get(hdrs.ETAG), self._target
        if target is not None and target.url == answer.url and target.etag != etag:
            self._target = None
            raise NetworkFailed(f"{self._job.want}: {answer.source} changed the file meanwhile")
        if answer.status == 206:
            if asked == (0, self._size):
                raise BadAnswer(f"{answer.source} sent a part of the whole that was asked for")
            check_content_range(answer.headers.get(hdrs.CONTENT_RANGE), *asked, self._size)
            expected = asked[1] - asked[0]
        else:
            expected = self._size
        if answer.length is not None and answer.length != expected:
            raise SizeMismatch(f"{self._job.want}: {answer.length} bytes, not {expected}")
