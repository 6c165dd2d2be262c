"""The one bounded executor: every blocking call (hash, fsync, libtorrent, SQLite) runs here.

1. The event loop never hashes or syncs a file itself, and opens none but small ones that a thread
   opened a moment ago (`doors/opener.py`).
2. Work that must keep its order (the index) goes to a `Lane`, a line of one thread.
3. What a thread opened for a caller who has been cancelled meanwhile is closed (`open`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Protocol, Self, TypeVar


class Closable(Protocol):
    """What `close` gives back to the system."""

    def close(self) -> None: ...


P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Closable | None)

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

    async def open(self, function: Callable[P, C], *args: P.args, **kwargs: P.kwargs) -> C:
        """`run` for a function that opens something: nobody else would close it when cancelled."""
        future = self.submit(function, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except BaseException:
            future.add_done_callback(_close_result)
            raise

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start `function` in a thread; for callers that must outlive their own cancellation."""
        return self._executor.submit(function, *args, **kwargs)


def _close_result(future: Future[C]) -> None:
    if future.cancelled() or future.exception() is not None:
        return
    opened = future.result()
    if opened is not None:
        opened.close()


def workers() -> Lane:
    """The shared lane of a daemon."""
    return Lane("p2pmodels-worker", WORKER_THREADS)
