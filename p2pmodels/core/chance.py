"""Chance, as far as the pure part needs it: `random.Random` has it, and a test its own."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol


class Chance(Protocol):
    """Choices among equals; never a secret."""

    def random(self) -> float:
        """A number from 0 up to 1."""

    def shuffle(self, x: MutableSequence[Any], /) -> None:
        """Put into any order, in place."""

    def sample(self, population: Sequence[int], /, k: int) -> list[int]:
        """So many of them, none twice."""
