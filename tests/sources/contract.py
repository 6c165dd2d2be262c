"""What every source promises, as tests: subclass `SourceContract` and say how to make the source.

A subclass is named `Test…` and gives the fixture `subject`. The tests need a partial of
`subject.want` only; whatever serves the bytes is the subclass's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio

import p2pmodels
from p2pmodels.clock import RealClock
from p2pmodels.core.manifest import Want
from p2pmodels.core.pieces import RangeSet
from p2pmodels.errors import SourceFailed
from p2pmodels.store.disk import RealDisk
from p2pmodels.store.partials import Partial
from p2pmodels.workers import Lane

PACKAGE = Path(p2pmodels.__file__).parent
BOUND_S = 20.0  # seconds for anything that must happen


class Subject(Protocol):
    """A source with one file, and the switches of what serves it."""

    want: Want
    data: bytes

    async def fill(self, partial: Partial, positions: Callable[[], Sequence[int]]) -> None: ...

    def break_after(self, count: int) -> None:
        """From now on the serving side fails for good, about `count` bytes into each answer."""

    def hold_after(self, count: int) -> None:
        """From now on the serving side falls silent about `count` bytes into each answer."""


async def open_partial(want: Want, folder: Path, lane: Lane) -> Partial:
    """An empty partial of the wanted file."""
    partial = Partial(
        want.entry.digest, want.entry.size, folder / "partial", RealDisk(), lane, RealClock()
    )
    await partial.open()
    return partial


def assert_truthful(partial: Partial, data: bytes) -> None:
    """Every byte that is said to have landed is in the file, and is right."""
    written = partial.path.read_bytes()
    for start, stop in partial.landed:
        assert written[start:stop] == data[start:stop], f"bytes {start}…{stop} are not right"
    for start, stop in partial.vouched:
        assert partial.landed.holds(start, stop)


def _our_tasks() -> set[asyncio.Task[object]]:
    """The running tasks whose code is the package's own, without the demo hub's."""
    found = set()
    for task in asyncio.all_tasks():
        code = getattr(task.get_coro(), "cr_code", None)
        path = Path(code.co_filename) if code is not None else PACKAGE
        if path.is_relative_to(PACKAGE) and not path.is_relative_to(PACKAGE / "demo"):
            found.add(task)
    return found


class SourceContract:
    """Fills a partial right, stops when cancelled, fails with SourceFailed, never lies."""

    @pytest_asyncio.fixture
    async def partial(self, subject: Subject, tmp_path: Path, lane: Lane) -> Partial:
        return await open_partial(subject.want, tmp_path, lane)

    @pytest.mark.asyncio
    async def test_fills_an_empty_partial_right(self, subject: Subject, partial: Partial) -> None:
        async with asyncio.timeout(BOUND_S):
            await subject.fill(partial, lambda: [0])
        assert partial.is_full
        assert_truthful(partial, subject.data)
        await partial.seal()
        await partial.close()

    @pytest.mark.asyncio
    async def test_fills_the_gaps_and_leaves_the_rest(
        self, subject: Subject, partial: Partial
    ) -> None:
        third = len(subject.data) // 3
        marks = [(0, third // 2), (third, 2 * third)]
        for start, stop in marks:
            await partial.write(start, subject.data[start:stop], vouched=False)
        async with asyncio.timeout(BOUND_S):
            await subject.fill(partial, lambda: [third // 2])
        assert_truthful(partial, subject.data)
        await partial.seal()
        overlap = RangeSet(partial.vouched)
        for start, stop in RangeSet([(0, len(subject.data))]):
            for gap in RangeSet(marks).gaps(start, stop):
                overlap.remove(*gap)
        assert overlap.total == 0, "bytes that somebody else gave are vouched for"
        await partial.close()

    @pytest.mark.asyncio
    async def test_does_nothing_for_a_full_partial(
        self, subject: Subject, partial: Partial
    ) -> None:
        await partial.write(0, subject.data, vouched=False)
        subject.break_after(0)
        async with asyncio.timeout(BOUND_S):
            await subject.fill(partial, lambda: [])
        assert partial.vouched.total == 0
        await partial.close()

    @pytest.mark.asyncio
    async def test_stops_when_cancelled_and_keeps_what_landed(
        self, subject: Subject, partial: Partial
    ) -> None:
        before = _our_tasks()
        subject.hold_after(len(subject.data) // 4)
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            task = group.create_task(subject.fill(partial, lambda: [0]))
            async with partial.changed:
                await partial.changed.wait_for(lambda: partial.landed.total > 0)
            task.cancel()
        assert task.cancelled()
        landed = list(partial.landed)
        assert not partial.is_full
        assert_truthful(partial, subject.data)
        assert _our_tasks() <= before, "a task outlived the fill"
        assert list(partial.landed) == landed
        await partial.close()

    @pytest.mark.asyncio
    async def test_fails_with_source_failed_and_keeps_what_landed(
        self, subject: Subject, partial: Partial
    ) -> None:
        subject.break_after(len(subject.data) // 4)
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(SourceFailed):
                await subject.fill(partial, lambda: [0])
        assert not partial.is_full
        assert_truthful(partial, subject.data)
        await partial.close()
