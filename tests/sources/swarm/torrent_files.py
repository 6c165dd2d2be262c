"""Files of every kind for a torrent, and libtorrent's reading of its text."""

from __future__ import annotations

from typing import Any

import libtorrent as lt

from tests.sources.swarm.places import MIB, random_bytes

FILES = {
    "README.md": random_bytes(1234, 1),
    "a/weights.bin": random_bytes(700_000, 2),
    "a.txt": random_bytes(20, 3),
    "config.json": b"",
    "model.safetensors": random_bytes(3 * MIB + 5, 4),
    "onnx/exact.bin": random_bytes(262_144, 5),
    "two.bin": random_bytes(524_288, 6),
    "zero-at-end": b"",
}


def decoded(data: bytes) -> Any:
    """libtorrent's reading of a text; its type is all that bencoding can hold."""
    return lt.bdecode(data)
