"""Tasks that live inside a block, and parts that are started again when they fail.

1. A task is started through `Tasks.start` only; leaving the `async with` cancels and awaits all.
2. A failing task never takes its siblings down: its error is logged, or handed to `on_error`.
3. `supervise` restarts an optional part with a jittered back-off; `GiveUp` leaves it stopped,
   `Fatal` ends the program.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

from p2pmodels.clock import Clock

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 1.0
BACKOFF_CEILING_S = 300.0  # seconds; Syncthing's figure: a broken part must not fill the log
HEALTHY_AFTER_S = 60.0  # seconds of running after which the back-off starts anew


class GiveUp(Exception):
    """The part cannot work here and must not be started again."""


class Fatal(Exception):
    """The program cannot go on; its argument is the exit status."""


class Tasks:
    """A set of tasks that ends with its block."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._live: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._live:
            task.cancel()
        await self._group.__aexit__(None, None, None)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` until it ends or the block is left."""
        task = self._group.create_task(_contained(work, name), name=name)
        self._live.add(task)
        task.add_done_callback(self._live.discard)
        # A task cancelled before its first step never takes up `work`.
        task.add_done_callback(lambda _task: work.close())
        return task

    def __len__(self) -> int:
        return len(self._live)


async def _contained(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except (Fatal, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("task %s failed", name)


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    clock: Clock,
    on_state: Callable[[str, str], None] = lambda _name, _state: None,
) -> None:
    """Run an optional part for ever, starting it again after a jittered pause when it fails."""
    pause = BACKOFF_FIRST_S
    while True:
        began = clock.monotonic()
        on_state(name, "running")
        try:
            await run()
            on_state(name, "ended")
            return
        except GiveUp as reason:
            log.warning("%s stays off: %s", name, reason)
            on_state(name, f"off: {reason}")
            return
        except Fatal:
            raise
        except Exception as error:
            log.exception("%s failed", name)
            on_state(name, f"failed: {type(error).__name__}")
        if clock.monotonic() - began > HEALTHY_AFTER_S:
            pause = BACKOFF_FIRST_S
        await clock.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter, not a secret
        pause = min(pause * 2, BACKOFF_CEILING_S)
