"""The one bounded executor: every blocking call (hash, fsync, libtorrent, SQLite) runs here.

1. The event loop never hashes, opens or syncs a file itself.
2. Work that must keep its order (the index) goes to a `Lane`, a line of one thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

WORKER_THREADS = 8  # threads; enough to keep a disk busy, few enough for two cores


class Lane:
    """A fixed number of threads; leaving the block waits for the calls that run."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in a thread of this lane and wait for what it returns."""
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start `function` in a thread; for callers that must outlive their own cancellation."""
        return self._executor.submit(function, *args, **kwargs)


def workers() -> Lane:
    """The shared lane of a daemon."""
    return Lane("p2pmodels-worker", WORKER_THREADS)
