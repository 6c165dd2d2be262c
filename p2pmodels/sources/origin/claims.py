"""Claims: which bytes of one blob this machine is to take from the origins now.

1. The owner sets them at any time; the download under way follows before `set` returns.
2. A claim is leave to ask, not a duty: what has landed, from wherever, is not asked for.
3. One download follows them at a time; a second origin follows them after the first has failed.

The exchange sets them while other machines fetch the rest of the blob; without claims, or while
they are None, everything is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from p2pmodels.core.pieces import RangeSet


class Follower(Protocol):
    """A download under way."""

    def under_way(self) -> list[tuple[int, int]]: ...

    def follow(self) -> None: ...


class Claims:
    """States: everything (`ranges` is None), or the bytes of `ranges` only, maybe none.

    `changed` is set whenever they were; who waits for it clears it first. `requests` counts the
    requests that went out on their behalf; a redirect belongs to the request that led to it.
    """

    def __init__(self, ranges: RangeSet | None = None) -> None:
        self.changed = asyncio.Event()
        self.requests = 0
        self._ranges = None if ranges is None else RangeSet(ranges)
        self._follower: Follower | None = None

    @property
    def ranges(self) -> RangeSet | None:
        """What is claimed, in bytes; None is everything. To change it, `set` it."""
        return self._ranges

    def set(self, ranges: RangeSet | None) -> None:
        """Claim these bytes from now on and no others; on the event loop's thread only."""
        self._ranges = None if ranges is None else RangeSet(ranges)
        self.changed.set()
        if self._follower is not None:
            self._follower.follow()

    def under_way(self) -> list[tuple[int, int]]:
        """The bytes (at, stop) that connections are fetching now, in order."""
        return [] if self._follower is None else self._follower.under_way()

    @contextmanager
    def followed_by(self, follower: Follower) -> Iterator[None]:
        """Tell this download of every change, while the block runs."""
        self._follower = follower
        try:
            yield
        finally:
            self._follower = None
