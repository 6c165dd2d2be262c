"""Who may take how much from us now: upload slots, fan-out and the rate that all uploads share.

1. At most UPLOADS_LIMIT uploads run, at most PEER_UPLOADS_LIMIT of them for one peer.
2. At most SAME_LIMIT of them send overlapping bytes of one blob: the third asker is told to come
   back in a moment, when the first two can give the bytes as well. So copies fan out as a tree.
   Cheap ranges, small blobs and bytes whose takers are all nearly done are free of this rule.
3. Whose peer has taken nothing for `stalled_s` stands in nobody's way; only its peer's own slots
   are still counted.
4. Everything is decided at once, without waiting; only `Upload.pace` waits, for the rate limit.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import MIB
from p2pmodels.errors import Overloaded

UPLOADS_LIMIT = 8  # uploads at once; two fill a wire, more only make each of them slower
PEER_UPLOADS_LIMIT = 3  # uploads to one peer at once; leaves slots for others
SAME_LIMIT = 2  # uploads of the same bytes at once; each of the two then gives them to two more
CHEAP_BYTES = MIB  # bytes of a blob that is sent in less time than a second question takes
NEARLY_DONE = 8  # an upload is nearly done when 1/8 of it is left; the kernel holds about as much
RETRY_S_MIN, RETRY_S_MAX = 0.05, 2.0  # seconds until an asker may come again
SAME_RETRY_S_MAX = 0.2  # seconds; the bytes of a lease pass a gigabit wire in less
RATE_GUESS = 50e6  # bytes/s of one upload before any was measured: half a gigabit
RATE_WEIGHT = 0.3  # weight of the newest measurement
MEASURED_BYTES = MIB  # bytes of an upload from which its rate says something about the network
BURST_S = 0.1  # seconds of the rate limit that may be caught up: 1 % of E20's ten seconds
STEP_S = 0.1  # seconds of the rate limit that one step may take
STEP_BYTES_MIN = 4096  # bytes of a step under the lowest of limits
STEP_BYTES = 8 * MIB  # bytes of a step without a limit
PEERS_LIMIT = 1024  # peers whose bytes are counted one by one; more than a LAN has


class UploadsFull(Overloaded):
    """Every upload slot is taken: try again in a moment."""

    status = 503


@dataclass(frozen=True, slots=True)
class HeldBytes:
    """The file that holds the bytes asked for, and the size of its blob."""

    path: Path
    size: int


class Upload:
    """One running upload: bytes start … stop-1 of a blob; the door says what has been sent."""

    def __init__(
        self, uploads: Uploads, peer: PeerId, digest: Digest, start: int, stop: int, began: float
    ) -> None:
        self._uploads = uploads
        self.peer, self.digest, self.start, self.stop = peer, digest, start, stop
        self.began = self.moved_at = began
        self.sent = 0

    @property
    def left(self) -> int:
        """Bytes that are still to be sent."""
        return self.stop - self.start - self.sent

    @property
    def is_nearly_done(self) -> bool:
        return self.left * NEARLY_DONE <= self.stop - self.start

    @property
    def step_limit(self) -> int:
        """How many bytes may be sent at once."""
        return self._uploads.step_limit

    def overlaps(self, digest: Digest, start: int, stop: int) -> bool:
        """Whether it sends some of these bytes."""
        return self.digest == digest and self.start < stop and start < self.stop

    async def pace(self, amount: int) -> None:
        """Wait until so many bytes may be sent."""
        await self._uploads.pace(amount)

    def count(self, amount: int) -> None:
        """So many bytes have been sent."""
        self.sent += amount
        self.moved_at = self._uploads.count(self.peer, amount)


class RateLimit:
    """Bytes per second that all who share it may send together; 0 means no limit."""

    def __init__(self, clock: Clock, bytes_per_s: int = 0) -> None:
        self._clock, self._limit = clock, bytes_per_s
        self._paid_until = clock.monotonic()  # when the bytes let through so far are paid for

    @property
    def step_limit(self) -> int:
        """How many bytes may be sent at once, so that the rate limit holds in short times too."""
        if not self._limit:
            return STEP_BYTES
        return min(max(int(self._limit * STEP_S), STEP_BYTES_MIN), STEP_BYTES)

    async def pace(self, amount: int) -> None:
        """Wait until so many bytes (at most `step_limit`) may be sent: first come, first served."""
        if not self._limit:
            return
        now = self._clock.monotonic()
        self._paid_until = max(self._paid_until, now - BURST_S) + amount / self._limit
        await self._clock.sleep(self._paid_until - now)


class Uploads:
    """The running uploads of one carrier and what they have sent."""

    def __init__(
        self,
        clock: Clock,
        limit: RateLimit | None = None,
        on_sent: Callable[[PeerId, int], None] = lambda _peer, _amount: None,
        stalled_s: float = math.inf,
    ) -> None:
        self._clock, self._on_sent = clock, on_sent
        self._limit = limit or RateLimit(clock)
        self._stalled_s = stalled_s
        self._running: list[Upload] = []
        self._rate = RATE_GUESS
        self._by_peer: OrderedDict[PeerId, int] = OrderedDict()
        self.total = 0
        """Bytes sent to all peers since the start."""

    @property
    def load(self) -> tuple[int, int]:
        """Running uploads and slots."""
        return len(self._running), UPLOADS_LIMIT

    @property
    def rate(self) -> float:
        """Bytes per second that one upload gets, as far as measured."""
        return self._rate

    def sent_to(self, peer: PeerId) -> int:
        """Bytes sent to this peer since the start."""
        return self._by_peer.get(peer, 0)

    @contextmanager
    def take(
        self, peer: PeerId, digest: Digest, start: int, stop: int, size: int
    ) -> Iterator[Upload]:
        """A slot for the bytes start … stop-1 of a blob of `size` bytes. Raises UploadsFull."""
        self._refuse_the_same(digest, start, stop, size)
        own = [upload for upload in self._running if upload.peer == peer]
        if len(own) >= PEER_UPLOADS_LIMIT:
            raise UploadsFull("slots of one peer", retry_after_s=self._until_one_ends(own))
        moving = self._moving()
        if len(moving) >= UPLOADS_LIMIT:
            wait_s = self._until_one_ends(moving)
            raise UploadsFull("upload slots", retry_after_s=wait_s)
        upload = Upload(self, peer, digest, start, stop, self._clock.monotonic())
        self._running.append(upload)
        try:
            yield upload
        finally:
            self._running.remove(upload)
            self._measure(upload)

    def _refuse_the_same(self, digest: Digest, start: int, stop: int, size: int) -> None:
        if min(size, stop - start) <= CHEAP_BYTES:
            return
        same = [upload for upload in self._moving() if upload.overlaps(digest, start, stop)]
        if len(same) >= SAME_LIMIT and not all(upload.is_nearly_done for upload in same):
            wait_s = min(self._until_one_ends(same), SAME_RETRY_S_MAX)
            raise UploadsFull("others get these bytes first", retry_after_s=wait_s)

    def _moving(self) -> list[Upload]:
        """The uploads whose peers take something."""
        since = self._clock.monotonic() - self._stalled_s
        return [upload for upload in self._running if upload.moved_at >= since]

    def _until_one_ends(self, uploads: list[Upload]) -> float:
        """Seconds until a slot is likely to be free."""
        left = min(upload.left for upload in uploads)
        return min(max(left / self._rate, RETRY_S_MIN), RETRY_S_MAX)

    def _measure(self, upload: Upload) -> None:
        seconds = self._clock.monotonic() - upload.began
        if upload.sent >= MEASURED_BYTES and seconds > 0:
            self._rate += (upload.sent / seconds - self._rate) * RATE_WEIGHT

    def count(self, peer: PeerId, amount: int) -> float:
        """So many bytes have gone to this peer; the time of it."""
        self._on_sent(peer, amount)
        self.total += amount
        self._by_peer[peer] = self._by_peer.pop(peer, 0) + amount
        if len(self._by_peer) > PEERS_LIMIT:
            self._by_peer.popitem(last=False)
        return self._clock.monotonic()

    @property
    def step_limit(self) -> int:
        """How many bytes may be sent at once."""
        return self._limit.step_limit

    async def pace(self, amount: int) -> None:
        """Wait until so many bytes may be sent."""
        await self._limit.pace(amount)
