"""One running fetch: its partial, its readers and where its bytes come from.

States: waiting (for its turn), fetching, verifying, done, failed. A fetch is shared by everybody
who wants the same content; it ends when the content is a blob, when every source has failed, or
some seconds after the last holder left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from p2pmodels.clock import Clock
from p2pmodels.core.caller import Caller
from p2pmodels.core.manifest import Want
from p2pmodels.core.pieces import piece_length
from p2pmodels.errors import P2PModelsError
from p2pmodels.store.blobs import Blob
from p2pmodels.store.partials import Partial

RATE_WINDOW_S = 2.0  # seconds over which the shown rate is taken


class State(StrEnum):
    WAITING = "waiting"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"


class Fetch:
    """`changed` is notified whenever `state`, `partial` or what has landed changes."""

    def __init__(self, want: Want, caller: Caller, clock: Clock) -> None:
        self.want = want
        self.caller = caller
        self.state = State.WAITING
        self.source = ""
        self.sources: Counter[str] = Counter()
        self.partial: Partial | None = None
        self.blob: Blob | None = None
        self.error: P2PModelsError | None = None
        self.generation = 0  # grows when wrong bytes were dropped: what was given out is void
        self.changed = asyncio.Condition()
        self.left = asyncio.Event()
        self._clock = clock
        self._positions: dict[int, int] = {}
        self._next_holder = 0
        self._samples: list[tuple[float, int]] = []

    # who waits for it

    @contextmanager
    def hold(self, position: int = 0) -> Iterator[int]:
        """Want this fetch to go on; the value names this holder for `move`."""
        holder = self._next_holder
        self._next_holder += 1
        self._positions[holder] = position
        try:
            yield holder
        finally:
            self._positions.pop(holder, None)
            self.left.set()

    def move(self, holder: int, position: int) -> None:
        """Tell where a reader stands, in bytes from the start: sources serve readers first."""
        self._positions[holder] = position

    def positions(self) -> list[int]:
        """Where the readers stand."""
        return sorted(self._positions.values())

    @property
    def holders(self) -> int:
        return len(self._positions)

    # how far it is

    @property
    def is_over(self) -> bool:
        return self.state in (State.DONE, State.FAILED)

    @property
    def landed(self) -> int:
        """Bytes that have landed."""
        if self.state is State.DONE:
            return self.want.entry.size
        return self.partial.landed.total if self.partial else 0

    def readable_stop(self, start: int, stop: int) -> int:
        """Up to where an answer for start … stop-1 may be given out now.

        The last piece of an answer is released only when its bytes are vouched for: the whole-file
        digest was checked, or the answer ends before the file does and the origin gave all of it.
        """
        if self.state is State.DONE:
            return stop
        if self.partial is None or self.state is State.FAILED:
            return start
        run = min(self.partial.landed.run_end(start), stop)
        size = self.want.entry.size
        if stop < size and self.partial.vouched.holds(start, stop):
            return run
        held = min(piece_length(size), stop - start)
        return min(run, stop - held)

    def rate(self) -> float:
        """Bytes a second over the last moments."""
        now, landed = self._clock.monotonic(), self.landed
        if not self._samples or now - self._samples[-1][0] >= RATE_WINDOW_S / 8:
            self._samples.append((now, landed))
        while len(self._samples) > 2 and now - self._samples[0][0] > RATE_WINDOW_S:
            self._samples.pop(0)
        then, before = self._samples[0]
        return max(0.0, (landed - before) / (now - then)) if now > then else 0.0

    # events

    async def take(self, partial: Partial) -> None:
        """Fill this partial from now on; what lands in it wakes those who wait for the fetch."""
        partial.changed = self.changed
        self.partial = partial
        await self.set_state(State.FETCHING)

    async def set_state(self, state: State) -> None:
        self.state = state
        await self.notify()

    async def notify(self) -> None:
        """Wake everybody who waits for a change."""
        async with self.changed:
            self.changed.notify_all()

    async def finish(self) -> Blob:
        """Wait for the blob. Raises what made the fetch fail."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.is_over)
        if self.blob is None:
            raise self.failure()
        return self.blob

    def failure(self) -> P2PModelsError:
        """What made it fail, to be raised; without the frames of those who raised it before."""
        return (self.error or P2PModelsError(str(self.want))).with_traceback(None)
