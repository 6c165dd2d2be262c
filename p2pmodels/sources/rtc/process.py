"""The WebRTC process as the daemon sees it: started, watched, ended.

1. It is ended when it is silent for SILENT_LIMIT_S or uses more memory than allowed; the kernel
   refuses it much more than that already.
2. Leaving the block ends it for certain, and its slots with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from p2pmodels.clock import Clock
from p2pmodels.errors import LanFailed
from p2pmodels.sources.rtc.ipc import SLOTS, Kind, Note, NoteLine
from p2pmodels.sources.rtc.pulls import Slot

SILENT_LIMIT_S = 10.0  # seconds without a sign of life, of which there are two a second
START_LIMIT_S = 60.0  # seconds until the first; a laptop that wakes up is slow
WATCH_S = 2.0  # seconds between looks at it
DATA_LIMIT_FACTOR = 2  # times the memory allowed at which the kernel refuses it any more
LEAVE_LIMIT_S = 2.0  # seconds in which it may leave by itself when we close its socket

_MODULE = "p2pmodels.sources.rtc.child"


class RtcFailed(LanFailed):
    """A WebRTC session could not be made."""


class ChildProcess:
    """One running child; `on_note` hears all its notes but signs of life."""

    def __init__(
        self, slots: list[Slot], memory_limit: int, clock: Clock, on_note: Callable[[Note], None]
    ) -> None:
        self._clock, self._on_note, self._memory_limit = clock, on_note, memory_limit
        self._slots = slots
        self._free = list(slots)
        self._places = asyncio.Semaphore(len(slots))
        self._line = NoteLine(self._hear, lambda: self.fail("it ended"))
        self._heard = clock.monotonic()
        self._setup = b""
        self._is_closed = False
        self._is_up = asyncio.Event()
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.memory_bytes = 0
        """Resident memory, when it last told."""
        self.pid = 0

    @property
    def line(self) -> NoteLine:
        return self._line

    def tell(self, note: Note) -> None:
        """Say something to it."""
        self._line.send(note)

    def set_up(self, addresses: Sequence[str], stun: str) -> None:
        """Let further sessions gather candidates there."""
        setup = json.dumps({"addresses": list(addresses), "stun": stun}).encode()
        if setup != self._setup:
            self._setup = setup
            self.tell(Note(Kind.SETUP, tail=setup))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """A slot for one pull, when one is free. Raises LanFailed when the child has ended."""
        async with self._places:
            if self._over.done():
                raise LanFailed("the WebRTC process has ended")
            slot = self._free.pop()
            try:
                yield slot
            finally:
                if self._is_closed:
                    slot.release()
                else:
                    self._free.append(slot)
                    if not slot.is_clean:
                        self.fail("a pull that does not end")

    def fail(self, why: str) -> None:
        """It is to be ended."""
        if not self._over.done():
            self._over.set_result(why)

    async def until_up(self) -> None:
        """Wait for the first sign of life."""
        await self._is_up.wait()

    async def ended(self) -> str:
        """Wait until it has ended or has to be; why."""
        return await self._over

    async def watch(self) -> None:
        """End it when it gives no sign of life; runs for ever."""
        while True:
            await self._clock.sleep(WATCH_S)
            limit_s = SILENT_LIMIT_S if self._is_up.is_set() else START_LIMIT_S
            if self._clock.monotonic() - self._heard > limit_s:
                self.fail("no sign of life")

    def _hear(self, note: Note) -> None:
        self._heard = self._clock.monotonic()
        self._is_up.set()
        if note.kind is not Kind.ALIVE:
            self._on_note(note)
            return
        self.memory_bytes = note.first
        if note.first > self._memory_limit:
            self.fail(f"{note.first >> 20} MiB of memory")

    def close_slots(self) -> None:
        """Wake the threads that read slots; each slot goes when nobody reads it any more."""
        if self._is_closed:
            return
        self._is_closed = True
        for slot in self._slots:
            slot.close()
        while self._free:
            self._free.pop().release()


@asynccontextmanager
async def child_process(
    memory_limit: int, clock: Clock, on_note: Callable[[Note], None]
) -> AsyncIterator[ChildProcess]:
    """Run a child during the block."""
    pairs = [socket.socketpair() for _ in range(1 + SLOTS)]
    theirs = [their for _, their in pairs]
    slots = [Slot(own, index) for index, (own, _) in enumerate(pairs[1:])]
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            _MODULE,
            str(memory_limit * DATA_LIMIT_FACTOR),
            *(str(their.fileno()) for their in theirs),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[their.fileno() for their in theirs],
        )
    except BaseException:
        for own, _ in pairs:
            own.close()
        raise
    finally:
        for their in theirs:
            their.close()
    child = ChildProcess(slots, memory_limit, clock, on_note)
    child.pid = process.pid
    try:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: child.line, pairs[0][0])
        yield child
    finally:
        child.fail("stopped")
        child.line.close()
        child.close_slots()
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Give it a moment to leave, then none; it is reaped in either case, cancelled or not."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_LIMIT_S):
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
