"""Waits on the network that end early once they are in vain.

A reason to end is looked at only when somebody says `look`, so a wait costs nothing meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Waits:
    """The waits of one piece of work."""

    def __init__(self) -> None:
        self._reasons: dict[asyncio.Timeout, Callable[[], bool]] = {}

    @asynccontextmanager
    async def unless(self, is_vain: Callable[[], bool]) -> AsyncIterator[asyncio.Timeout]:
        """Run the block, but leave it quietly once a `look` finds it in vain.

        What it gives tells by `expired()` whether that happened. Cancellation passes through.
        """
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._reasons[scope] = is_vain
                try:
                    yield scope
                finally:
                    self._reasons.pop(scope, None)
        except TimeoutError:
            if not scope.expired():
                raise

    def look(self) -> None:
        """End the waits that are in vain by now."""
        now = asyncio.get_running_loop().time()
        for scope in [scope for scope, is_vain in self._reasons.items() if is_vain()]:
            del self._reasons[scope]  # a scope that is ending cannot be ended again
            scope.reschedule(now)
