"""Calls in threads, and what becomes of them when their caller is cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from p2pmodels.workers import Lane


class Opened:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


@pytest.mark.asyncio
async def test_what_is_opened_for_a_caller_is_the_callers() -> None:
    async with Lane("test") as lane:
        opened = await lane.open(Opened)
        assert not opened.closed.is_set()
        assert await lane.open(nothing) is None


def nothing() -> Opened | None:
    return None


async def begun(event: threading.Event) -> None:
    """Wait until a thread has come so far."""
    while not event.is_set():
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_what_is_opened_for_a_caller_who_has_gone_is_closed() -> None:
    made, may_open, opening = Opened(), threading.Event(), threading.Event()

    def open_slowly() -> Opened:
        opening.set()
        may_open.wait(10)
        return made

    async with Lane("test") as lane:
        caller = asyncio.create_task(lane.open(open_slowly))
        await begun(opening)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert not made.closed.is_set()
        may_open.set()
    assert made.closed.is_set()


@pytest.mark.asyncio
@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_nothing_is_closed_when_nothing_was_opened(*, is_cancelled: bool) -> None:
    may_fail, failing = threading.Event(), threading.Event()

    def fail() -> Opened:
        failing.set()
        may_fail.wait(10)
        raise FileNotFoundError

    async with Lane("test") as lane:
        caller = asyncio.create_task(lane.open(fail))
        waiting = asyncio.create_task(lane.open(fail))  # has not begun when it is cancelled
        await begun(failing)
        waiting.cancel()
        if is_cancelled:
            caller.cancel()
        may_fail.set()
        with pytest.raises(asyncio.CancelledError if is_cancelled else FileNotFoundError):
            await caller
        with pytest.raises(asyncio.CancelledError):
            await waiting
