"""Checking what a client got, on its own machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def wrong_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """The paths below `folder` whose sha256 is not that of `digests`, absent ones among them."""
    wrong = []
    for path, digest in digests.items():
        try:
            with (folder / path).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    wrong.append(path)
        except FileNotFoundError:
            wrong.append(path)
    return wrong
