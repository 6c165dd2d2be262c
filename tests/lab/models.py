"""The models of the lab: one large file, or the 115 files of a model for a browser.

1. A plan is pure: the same size gives the same files, which sum up to exactly that size.
2. Their bytes are random, so that nothing is found in a cache and nothing can be compressed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILES = 115  # a WebLLM model of a few hundred megabytes (design 1)
LARGE_FILES = 8  # they hold LARGE_SHARE of the bytes: embedding tables and long shards
LARGE_SHARE = 0.6  # so that 256 MB get files of 13 to 26 MB, and a hundred of about 1 MB
SMALL_SIZES = (1_000, 1_500, 3_000, 5_000, 8_000, 12_000, 20_000)  # bytes of the JSON files
BLOCK = 1 << 20  # bytes written at once

Plan = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Model:
    """A repo that the lab's origin serves."""

    repo: str
    files: Mapping[str, Path]
    digests: Mapping[str, str]
    """sha256 by path."""
    size: int

    @property
    def only_file(self) -> str | None:
        """Its path, if there is just one file."""
        return next(iter(self.files)) if len(self.files) == 1 else None


def plan_file(size: int) -> Plan:
    """One file."""
    return {"model.safetensors": size}


def plan_many(size: int) -> Plan:
    """115 files: small JSON files that git holds, shards that LFS holds. Size from 2 MB."""
    plan = {f"config-{number}.json": small for number, small in enumerate(SMALL_SIZES)}
    if size < 10 * sum(SMALL_SIZES):
        raise ValueError(f"{size} bytes are too few for {FILES} files")
    rest = size - sum(SMALL_SIZES)
    weights = [LARGE_FILES + number for number in range(1, LARGE_FILES + 1)]
    for number, weight in enumerate(weights):
        plan[f"large-{number}.safetensors"] = int(rest * LARGE_SHARE * weight / sum(weights))
    shards = FILES - len(plan)
    rest = size - sum(plan.values())
    for number in range(shards):
        plan[f"params_shard_{number}.bin"] = rest * (number + 1) // shards - rest * number // shards
    return plan


PLANS = {"file": plan_file, "model": plan_many}


def make_model(folder: Path, kind: str, size: int) -> Model:
    """Write the files of a plan. Blocks."""
    plan = PLANS[kind](size)
    folder.mkdir(parents=True)
    files, digests = {}, {}
    for path, length in plan.items():
        files[path] = folder / path
        digests[path] = _write(files[path], length)
    return Model(f"lab/{kind}", files, digests, size)


def _write(path: Path, size: int) -> str:
    """Fill a file with random bytes; their sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            block = os.urandom(min(BLOCK, size - start))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()
