"""The clock as an argument: nothing else in the package reads the time of day or sleeps.

1. Deadlines and rates use `monotonic`; `wall` is only shown to people and stored as a date.
2. Tests hand in a `FakeClock` and move it themselves.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the parts may ask of time, in seconds."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class RealClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
