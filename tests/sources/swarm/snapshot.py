"""The files of a snapshot to seed and to fill, and partials that check whatever is marked."""

from __future__ import annotations

import os
from pathlib import Path

from p2pmodels.core.names import FilePath
from p2pmodels.store.partials import Partial
from tests.sources.swarm.places import MIB, Bench, random_bytes

BOUND_S = 30.0  # seconds for everything a test waits for
SLOW = 4 * MIB  # bytes a second; so that a test can act in the middle
FILES = {
    "README.md": random_bytes(1234, 1),
    "a/weights.bin": random_bytes(5 * MIB + 17, 2),
    "a.txt": random_bytes(20, 3),
    "empty": b"",
    "model.safetensors": random_bytes(12 * MIB, 4),
}
BIG = FilePath("model.safetensors")


class Watched(Partial):
    """A partial that reads every marked range back and compares it with the source."""

    truth = b""
    marks = 0

    async def mark(self, start: int, stop: int, *, vouched: bool = False) -> None:
        with self.path.open("rb") as file:
            assert os.pread(file.fileno(), stop - start, start) == self.truth[start:stop]
        self.marks += 1
        await super().mark(start, stop, vouched=vouched)


async def watched(bench: Bench, name: str) -> Watched:
    partial = await bench.partial(FILES[name])
    partial.__class__ = Watched
    assert isinstance(partial, Watched)
    partial.truth = FILES[name]
    return partial


async def landed(partial: Partial, size: int) -> None:
    """Wait until this many bytes have landed."""
    async with partial.changed:
        await partial.changed.wait_for(lambda: partial.landed.total >= size)


def open_files(folder: Path) -> list[str]:
    """The paths below `folder` that this process has open, with their access mode."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith(str(folder)):
            writes = bool(entry.lstat().st_mode & 0o200)
            found.append(f"{target} {'w' if writes else 'r'}")
    return found
