"""Words and figures as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

SIZE_STEP = 1000  # bytes to the kB; what the hub and BitTorrent clients show

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def clean(value: object) -> str:
    """The text without control characters: a peer's name must not steer the terminal."""
    return "".join(
        " " if character in "\n\t" else character
        for character in str(value)
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
    )


def human_bytes(count: float) -> str:
    """`90868376` → `90.9 MB`."""
    size = float(count)
    for unit in _UNITS:
        if abs(size) < SIZE_STEP or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= SIZE_STEP
    raise AssertionError("unreachable: the last unit always returns")


def human_seconds(seconds: float) -> str:
    """`93784` → `1 d 2 h`: the two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def human_sources(sources: Mapping[str, int]) -> str:
    """`origin 1.0 MB, swarm 4.2 MB`; sources that gave nothing are left out."""
    given = sorted(sources.items(), key=lambda item: -item[1])
    return ", ".join(f"{clean(name)} {human_bytes(count)}" for name, count in given if count)
