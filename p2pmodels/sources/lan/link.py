"""One open link: its conversation, its queue, and the two tasks that move the bytes.

1. `send` never waits: it queues, one task writes. A peer that does not take what is queued loses
   the link; nothing is dropped silently.
2. What is decided here is decided synchronously; the tasks only carry it out.
3. `run` returns when the link is over, whoever ended it, and has closed the channel by then.

`links.py` keeps the book of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest
from p2pmodels.core.exchange import ByeReason, Conversation, State
from p2pmodels.core.peer import PeerId
from p2pmodels.core.shard import Get
from p2pmodels.core.wire import Frame, Greeting
from p2pmodels.errors import PeerMisbehaved, ProtocolError
from p2pmodels.sources.lan.carrier import CLOSE_LIMIT_S, Channel, OpenedChannel
from p2pmodels.supervision import Tasks

log = logging.getLogger(__name__)

QUEUE_FRAMES_LIMIT = 4096  # frames waiting for one peer; a snapshot of 1000 files wants as many
QUEUE_BYTES_LIMIT = 4 * 1024 * 1024  # bytes waiting for one peer; all pieces of 1 TB need 3 MiB
TURN = 16  # frames heard before others have their turn: the longest ones take 1 ms each


Pulling = Callable[
    [Digest, int, int, Callable[[int, memoryview], None], Callable[[int], None]], Awaitable[None]
]
"""As `RangeClient.pull` without its peer: digest, start, stop, sink, on_bytes."""


class ByteCarrier(OpenedChannel, Protocol):
    """A channel that carries bytes of blobs as well; its ends are named by what proves them."""

    @property
    def is_dialler(self) -> bool: ...

    @property
    def remote_address(self) -> str: ...

    on_get: Callable[[Get], None]

    def allow(self, *, is_guest: bool) -> None:
        """The conversation is ready: bytes may be asked for; a guest is a page."""

    async def pull(
        self,
        digest: Digest,
        start: int,
        stop: int,
        sink: Callable[[int, memoryview], None],
        on_bytes: Callable[[int], None],
        /,
    ) -> None:
        """Fetch bytes, as `RangeClient.pull` does."""

    async def give(
        self,
        number: int,
        path: Path,
        start: int,
        stop: int,
        *,
        pace: Callable[[int], Awaitable[None]],
        count: Callable[[int], None],
        step_bytes: int,
    ) -> None:
        """Answer a get. Raises ConnectionResetError, StoreFailed, TimeoutError."""

    def refuse(self, number: int, status: int, retry_s: float = 0.0) -> None:
        """Answer a get without bytes."""


@dataclass(eq=False, slots=True)
class Linked:
    """A peer with which there is a link."""

    id: PeerId
    host: str
    """Its address as we see it."""
    port: int
    """Its peer port."""
    their_ticket: bytes
    """What to show with requests to that port."""
    is_dialler: bool
    """Whether we opened the link."""
    last_heard: float
    """When its last frame came; monotonic, in seconds."""
    carrier: ByteCarrier | None = None
    """What its bytes come by; None when they come from its peer port."""

    @property
    def is_guest(self) -> bool:
        """A page: it has no port, asks and takes, and is no member of any room."""
        return self.port == 0


class Link:
    """From the first `hello` to the last `bye`; `on_*` are called inside the change."""

    def __init__(
        self,
        channel: Channel,
        conversation: Conversation,
        host: str,
        clock: Clock,
        *,
        is_dialler: bool,
        carrier: ByteCarrier | None = None,
        on_ready: Callable[[Link, Linked], None],
        on_frame: Callable[[Linked, Frame], None],
        on_misbehaved: Callable[[Link, str], None],
    ) -> None:
        self.host, self.is_dialler, self.carrier = host, is_dialler, carrier
        self.linked: Linked | None = None
        """The peer, from readiness on."""
        self._channel, self._conversation, self._clock = channel, conversation, clock
        self._on_ready, self._on_frame, self._on_misbehaved = on_ready, on_frame, on_misbehaved
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._wake, self._over = asyncio.Event(), asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether messages may go both ways now."""
        return self._conversation.state is State.READY and not self._over.is_set()

    @property
    def peer(self) -> Greeting | None:
        """Who they say they are, as soon as they have said it."""
        return self._conversation.peer

    @property
    def farewell(self) -> str:
        """Why it is over; empty when the connection was just lost."""
        return self._conversation.farewell

    def send(self, frame: Frame) -> bool:
        """Queue a frame for the peer; False when it does not take them, which ends the link."""
        self._conversation.send(frame)
        self._enqueue()
        if len(self._queue) > QUEUE_FRAMES_LIMIT or self._queued > QUEUE_BYTES_LIMIT:
            self.end(ByeReason.SLOW)
            return False
        return True

    def end(self, reason: str) -> None:
        """Leave, with a `bye` instead of what is still queued; `run` does the rest."""
        self._conversation.say_bye(reason)
        self._over.set()

    async def run(self) -> None:
        """Converse until the link is over."""
        if not self._over.is_set():
            self._enqueue()
        try:
            async with Tasks() as tasks:
                tasks.start(self._write(), "write to a peer")
                tasks.start(self._read(), "hear a peer")
                tasks.start(self._expire(), "shake hands with a peer")
                await self._over.wait()
        except asyncio.CancelledError:
            self.end(ByeReason.LEAVING)
            raise
        finally:
            await self._close()

    # inside

    def _enqueue(self) -> None:
        for data in self._conversation.outgoing():
            self._queue.append(data)
            self._queued += len(data)
            self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    data = self._queue.popleft()
                    self._queued -= len(data)
                    await self._channel.send(data)
        except ConnectionError as error:
            log.debug("link with %s: %s", self.host, type(error).__name__)
        finally:
            self._over.set()

    async def _read(self) -> None:
        try:
            heard = 0
            while (data := await self._channel.receive()) is not None:
                self._hear(data)
                if self._over.is_set():
                    break
                heard += 1
                if heard % TURN == 0:
                    await asyncio.sleep(0)
        except (ProtocolError, PeerMisbehaved) as error:
            # The one place where a broken rule becomes the fault of the peer that broke it.
            self._on_misbehaved(self, error.detail)
            self.end(ByeReason.RULES)
        except ConnectionError as error:
            log.debug("link with %s: %s", self.host, type(error).__name__)
        finally:
            self._over.set()

    def _hear(self, data: bytes) -> None:
        now = self._clock.monotonic()
        frame = self._conversation.receive(data, now)
        if self._conversation.state is State.OVER:
            self._over.set()
            return
        self._enqueue()
        if self.linked is not None:
            self.linked.last_heard = now
            if frame is not None:
                self._on_frame(self.linked, frame)
        elif self.is_ready and self.peer is not None:
            self.linked = Linked(
                self.peer.id,
                self.host,
                self.peer.port,
                self._conversation.their_ticket,
                self.is_dialler,
                now,
                self.carrier,
            )
            self._on_ready(self, self.linked)

    async def _expire(self) -> None:
        while (deadline := self._conversation.deadline) is not None:
            # A clock may wake us a moment early; then it is asked once more.
            await self._clock.sleep(max(0.01, deadline - self._clock.monotonic()))
            self._conversation.expire(self._clock.monotonic())
        if self._conversation.state is State.OVER:
            self._over.set()

    async def _close(self) -> None:
        """Say the last word and close, as far as the peer takes it in time."""
        farewell = self._conversation.outgoing()[-1:]
        with suppress(OSError, RuntimeError):  # aiohttp raises either when a socket is gone
            async with asyncio.timeout(CLOSE_LIMIT_S):
                for data in farewell:
                    await self._channel.send(data)
        with suppress(OSError, RuntimeError):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await self._channel.close()
