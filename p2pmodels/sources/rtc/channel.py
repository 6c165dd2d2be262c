"""A shard channel as the daemon sees it: link frames, pulls and gives to one peer.

1. Until `allow` only frames may come; a get before that breaks the rules, as do more than
   GETS_LIMIT of a number in use and a flood of them. What breaks the rules ends the channel.
2. `send` waits while SEND_LIMIT bytes are on their way; a peer that takes nothing of a file for
   STALL_LIMIT_S is left.
3. When the session ends, `receive` gives None, `send` raises ConnectionError, and pulls and gives
   that run fail.

Everything is called on the event loop; only a pull's sink is called in a thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest
from p2pmodels.core.filling import Sink
from p2pmodels.core.shard import (
    GET_BYTES_LIMIT,
    GETS_LIMIT,
    RETRY_MS_LIMIT,
    RETRY_MS_MIN,
    Cancel,
    End,
    Get,
    Status,
    is_shard_message,
    pack,
    unpack,
)
from p2pmodels.errors import LanFailed, ProtocolError, StoreFailed
from p2pmodels.sources.rtc.ipc import Kind, Note, weight
from p2pmodels.sources.rtc.process import ChildProcess
from p2pmodels.sources.rtc.pulls import SILENCE_S, Pull
from p2pmodels.workers import Lane

SEND_LIMIT = 256 * 1024  # bytes of frames on their way to the peer before `send` waits
STEP_BYTES = 512 * 1024  # bytes of a file that the child is told to send at once
STALL_LIMIT_S = 20.0  # seconds in which the peer must take something of a file; a page may sleep
RATE_MIN = 64 * 1024  # bytes/s; the deadline of a pull: who is slower helps nobody
GETS_PER_S = 100.0  # gets and cancels a second of one peer, on average; a quick page says 30
GETS_BURST = 200.0  # gets and cancels at once
_NUMBERS = 1 << 32


class _Get:
    """A get of the peer's that is not answered to the end; `ahead` bytes are with the child."""

    def __init__(self) -> None:
        self.ahead = 0
        self.count: Callable[[int], None] = lambda _amount: None
        self.failure: Exception | None = None
        self.moved = asyncio.Event()

    def fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        self.moved.set()

    def gave(self, amount: int) -> None:
        self.ahead -= amount
        self.count(amount)
        self.moved.set()

    async def until(self, ahead: int) -> None:
        """Wait until at most so many bytes are with the child."""
        while self.ahead > ahead and self.failure is None:
            self.moved.clear()
            async with asyncio.timeout(STALL_LIMIT_S):
                await self.moved.wait()
        if self.failure is not None:
            raise self.failure


class ShardChannel:
    """Open until `close`, the peer or the child ends it."""

    def __init__(
        self,
        child: ChildProcess,
        session: int,
        lane: Lane,
        clock: Clock,
        *,
        is_dialler: bool,
        hosts: tuple[str, str],
        remote_address: str,
    ) -> None:
        """`hosts`: the fingerprint texts of our side and of theirs."""
        self.is_dialler = is_dialler
        self.local_host, self.remote_host = hosts
        self.remote_address = remote_address
        """The other end's IP address; "" if unknown."""
        self.on_get: Callable[[Get], None] = lambda get: self.refuse(get.number, Status.NOT_HELD)
        """Hears of each get; `give` or `refuse` must follow."""
        self._child, self._session, self._lane, self._clock = child, session, lane, clock
        self._is_allowed = self._is_over = False
        self._frames: deque[bytes] = deque()
        self._came, self._room = asyncio.Event(), asyncio.Event()
        self._sending = 0
        self._gets: dict[int, _Get] = {}
        self._number = 0
        self._places = asyncio.Semaphore(GETS_LIMIT)
        self._allowance, self._counted = GETS_BURST, clock.monotonic()

    # frames

    async def send(self, data: bytes) -> None:
        """Send one frame, waiting while the peer is slow. Raises ConnectionError at its end."""
        while self._sending >= SEND_LIMIT and not self._is_over:
            self._room.clear()
            await self._room.wait()
        if self._is_over:
            raise ConnectionResetError("the WebRTC channel has ended")
        self._say(data)

    async def receive(self) -> bytes | None:
        """The next frame; None once the channel has ended."""
        while True:
            while not self._frames and not self._is_over:
                self._came.clear()
                await self._came.wait()
            if not self._frames:
                return None
            frame = self._frames.popleft()
            self._tell(Kind.TAKEN, first=weight(frame))
            if not is_shard_message(frame):
                return frame
            try:
                self._hear_message(frame)
            except ProtocolError:
                await self.close()

    async def close(self) -> None:
        """End the channel; a second time is nothing."""
        if not self._is_over:
            self._tell(Kind.CLOSE)
            self.ended("closed")

    def allow(self, *, is_guest: bool) -> None:
        """The conversation is ready: gets may be said and heard from now on."""
        self._is_allowed = True
        if not is_guest:
            self._tell(Kind.PROBE)

    # pulls

    async def pull(
        self,
        digest: Digest,
        start: int,
        stop: int,
        sink: Sink,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Fetch the bytes start … stop-1 of a blob, at most GET_BYTES_LIMIT, from the peer.

        `sink(offset, view)` is called in a thread for each part, in order; the view is valid during
        the call only. `on_bytes(count)` is called on the event loop as bytes come in. When this
        returns or raises, cancelled or not, the thread has left the sink for good.

        Raises HolderBusy, NotHeld, other LanFailed, ValueError for a range that no get can have,
        and whatever `sink` raises.
        """
        if not 0 <= start < stop <= start + GET_BYTES_LIMIT:
            raise ValueError(f"range {start}…{stop}")
        async with self._places, self._child.slot() as slot:
            if self._is_over or not self._is_allowed:
                raise LanFailed("no WebRTC channel")
            loop = asyncio.get_running_loop()
            number = self._number = (self._number + 1) % _NUMBERS

            def tell(count: int) -> None:
                loop.call_soon_threadsafe(on_bytes, count)

            def drop() -> None:
                loop.call_soon_threadsafe(self._drop, number)

            pull = Pull(slot, start, stop, sink, tell, drop)
            self._tell(Kind.PULL, number, start, stop, bytes((slot.index,)))
            self._say(pack(Get(number, digest, start, stop)))
            running = asyncio.wrap_future(self._lane.submit(pull.run))
            try:
                async with asyncio.timeout(SILENCE_S + (stop - start) / RATE_MIN):
                    await asyncio.wait([running])
            except (asyncio.CancelledError, TimeoutError) as error:
                pull.give_up()
                self._drop(number)
                await _over(running)
                if isinstance(error, TimeoutError):
                    raise LanFailed("the WebRTC peer is too slow") from error
                raise
            running.result()

    def _drop(self, number: int) -> None:
        """Nobody wants the rest of it."""
        self._tell(Kind.DROP, number)
        self._say(pack(Cancel(number)))

    # gives

    async def give(
        self,
        number: int,
        path: Path,
        start: int,
        stop: int,
        *,
        pace: Callable[[int], Awaitable[None]],
        count: Callable[[int], None],
        step_bytes: int = STEP_BYTES,
    ) -> None:
        """Answer a get with the bytes start … stop-1 of a file that begins where its blob does.

        The child reads the file. `pace(amount)` is awaited before each step of at most
        `step_bytes`, `count(amount)` called as the channel takes bytes. Returns when it has taken
        all of them.

        Raises ConnectionResetError (the peer is gone or has cancelled), StoreFailed (the file),
        TimeoutError (the peer takes nothing; the channel is closed then).
        """
        get = self._gets.get(number)
        if get is None:
            raise ConnectionResetError("the peer wants it no more")
        get.count = count
        try:
            at = start
            while at < stop:
                amount = min(step_bytes, STEP_BYTES, stop - at)
                await pace(amount)
                get.ahead += amount
                self._tell(Kind.GIVE, number, at, amount, str(path).encode())
                at += amount
                await get.until(amount)  # the next step is there before this one is done
            await get.until(0)
            self._finish(number, Status.DONE)
        except TimeoutError:
            await self.close()
            raise
        except BaseException:
            self._tell(Kind.STOP, number)
            self._finish(number, Status.FAILED)
            raise

    def refuse(self, number: int, status: int, retry_s: float = 0.0) -> None:
        """Answer a get without bytes; `retry_s` counts for status 503 only."""
        self._finish(number, Status(status), retry_s)

    def _finish(self, number: int, status: Status, retry_s: float = 0.0) -> None:
        """Say `end` unless the peer is gone or wants it no more."""
        if self._gets.pop(number, None) is not None:
            self._tell(Kind.FINISH, number, tail=pack(End(number, status, _retry(status, retry_s))))

    # what the child says

    def hear(self, note: Note) -> None:
        """Take a note of this session. Raises ProtocolError when the peer breaks the rules."""
        match note.kind:
            # A get may come right behind the welcome that permits it, which nobody has read yet.
            case Kind.FRAME if is_shard_message(note.tail) and not self._frames:
                self._tell(Kind.TAKEN, first=weight(note.tail))
                self._hear_message(note.tail)
            case Kind.FRAME:
                self._frames.append(note.tail)
                self._came.set()
            case Kind.TAKEN:
                self._sending -= note.first
                self._room.set()
            case Kind.GAVE if note.number in self._gets:
                self._gets[note.number].gave(note.first)
            case Kind.FAILED if note.number in self._gets:
                self._gets[note.number].fail(StoreFailed(note.tail.decode(errors="replace")))

    def ended(self, why: str) -> None:
        """The session is over; does nothing a second time."""
        self._is_over = True
        self._came.set()
        self._room.set()
        for get in self._gets.values():
            get.fail(ConnectionResetError(why))
        self._gets.clear()

    def _hear_message(self, data: bytes) -> None:
        message = unpack(data)
        if not self._is_allowed:
            raise ProtocolError("a get before the handshake is done")
        self._count()
        match message:
            case Cancel(number):
                get = self._gets.pop(number, None)
                if get is not None:
                    self._tell(Kind.STOP, number)
                    get.fail(ConnectionResetError("cancelled"))
            case Get(number):
                if number in self._gets:
                    raise ProtocolError("a get with a number in use")
                self._gets[number] = _Get()
                if len(self._gets) > GETS_LIMIT:
                    self.refuse(number, Status.BUSY, RETRY_MS_LIMIT / 1000)
                else:
                    self.on_get(message)

    def _count(self) -> None:
        """Take a message from the peer's allowance. Raises ProtocolError when none is left."""
        now = self._clock.monotonic()
        refilled = self._allowance + (now - self._counted) * GETS_PER_S
        self._allowance, self._counted = min(GETS_BURST, refilled) - 1, now
        if self._allowance < 0:
            raise ProtocolError("a flood of gets")

    def _say(self, frame: bytes) -> None:
        if not self._is_over:
            self._sending += weight(frame)
            self._tell(Kind.FRAME, tail=frame)

    def _tell(
        self, kind: Kind, number: int = 0, first: int = 0, second: int = 0, tail: bytes = b""
    ) -> None:
        if not self._is_over:
            self._child.tell(Note(kind, self._session, number, first, second, tail))


def _retry(status: Status, retry_s: float) -> int:
    """Milliseconds for an `end`."""
    if status is not Status.BUSY:
        return 0
    return min(max(round(retry_s * 1000), RETRY_MS_MIN), RETRY_MS_LIMIT)


async def _over(running: asyncio.Future[None]) -> None:
    """Wait until the thread has ended, however often we are cancelled, and forget its error."""
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            continue
    running.exception()
