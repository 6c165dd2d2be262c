"""Small files that were opened a moment ago cost no turn in a thread, and no truth."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from p2pmodels.core.digests import Sha256
from p2pmodels.doors import opener as module
from p2pmodels.doors.opener import AT_ONCE_BYTES, RECENT_LIMIT, Opener
from p2pmodels.errors import StoreDamaged
from p2pmodels.store.blobs import Blob
from p2pmodels.workers import C, Lane, P

pytestmark = pytest.mark.asyncio


class CountedLane(Lane):
    """Counts the files that were opened in a thread."""

    turns = 0

    async def open(self, function: Callable[P, C], *args: P.args, **kwargs: P.kwargs) -> C:
        self.turns += 1
        return await super().open(function, *args, **kwargs)


@pytest_asyncio.fixture
async def lane() -> AsyncIterator[CountedLane]:
    async with CountedLane("test") as running:
        yield running


def blob(folder: Path, data: bytes, name: str = "a") -> Blob:
    path = folder / name
    path.write_bytes(data)
    return Blob(Sha256(name.rjust(64, "0")), len(data), path)


async def read(opener: Opener, blob: Blob) -> bytes:
    with await opener.open(blob) as file:
        return file.read()


async def test_the_first_time_takes_a_thread_and_the_next_none(
    lane: CountedLane, tmp_path: Path
) -> None:
    opener, small = Opener(lane), blob(tmp_path, b"x" * AT_ONCE_BYTES)
    assert [await read(opener, small) for _ in range(3)] == [b"x" * AT_ONCE_BYTES] * 3
    assert lane.turns == 1


async def test_large_ones_and_old_ones_always_take_a_thread(
    lane: CountedLane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = Opener(lane)
    large, small = blob(tmp_path, b"x" * (AT_ONCE_BYTES + 1)), blob(tmp_path, b"x", "b")
    for _ in range(2):
        await read(opener, large)
    assert lane.turns == 2
    monkeypatch.setattr(module, "RECENT_S", 0.0)
    for _ in range(2):
        await read(opener, small)
    assert lane.turns == 4


async def test_a_file_that_vanished_or_changed_its_size_is_damaged_all_the_same(
    lane: CountedLane, tmp_path: Path
) -> None:
    opener, small = Opener(lane), blob(tmp_path, b"right")
    await read(opener, small)
    small.path.write_bytes(b"short"[:4])
    with pytest.raises(StoreDamaged, match="another size"):
        await read(opener, small)
    small.path.unlink()
    for _ in range(2):
        with pytest.raises(StoreDamaged):
            await read(opener, small)
    small.path.write_bytes(b"again")
    assert await read(opener, small) == b"again"


async def test_what_is_remembered_is_bounded(lane: CountedLane, tmp_path: Path) -> None:
    opener = Opener(lane)
    blobs = [blob(tmp_path, b"x", f"{number:x}") for number in range(RECENT_LIMIT + 1)]
    for one in blobs:
        await read(opener, one)
    lane.turns = 0
    await read(opener, blobs[-1])
    assert lane.turns == 0
    await read(opener, blobs[0])
    assert lane.turns == 1
