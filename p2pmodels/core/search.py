"""The search for who gave wrong bytes of one blob.

Pieces are taken from the origin to compare: one piece in doubt is enough to find a liar; when the
whole file is wrong, one of each source, and four times as many each time that finds nothing. In
company every machine waits a random while first: what one finds out, the others hear of.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pmodels.core.chance import Chance
from p2pmodels.core.testimony import Testimony

AUDIT_GROWTH = 4  # times as many pieces in each search as in the one before
AUDIT_APART_S = 0.4  # seconds between the searches of two machines, on average


class Search:
    """States: calm, planned (`due_at`), comparing (`pieces` are awaited from the origin)."""

    def __init__(self, testimony: Testimony, random: Chance) -> None:
        self.pieces: set[int] = set()
        self.due_at: float | None = None
        self.rounds = 0
        self._testimony, self._random = testimony, random

    @property
    def is_on(self) -> bool:
        """Whether something is planned or awaited."""
        return bool(self.pieces) or self.due_at is not None

    @property
    def is_calm(self) -> bool:
        """Whether the digest was never wrong: it decides, or has decided well."""
        return not self.rounds and self.due_at is None

    def plan(self, here: Sequence[int], company: int, now: float) -> bool:
        """The whole file is wrong; False when the origin itself gave every piece."""
        if not self._testimony.witnesses(here, 1, self._random):
            return False
        self.due_at = now + self._random.random() * AUDIT_APART_S * company
        return True

    def call_off(self) -> None:
        """Pieces are fetched anew for another reason: the digest tells whether they were all."""
        self.due_at = None

    def begin(self, here: Sequence[int], now: float) -> set[int]:
        """The pieces to take from the origin, if it is time."""
        if self.due_at is None or now < self.due_at:
            return set()
        self.due_at = None
        chosen = self._testimony.witnesses(here, AUDIT_GROWTH**self.rounds, self._random)
        self.rounds += 1
        self.pieces |= chosen
        return chosen

    def doubt(self) -> set[int]:
        """A piece of which different things are said, to take from the origin; one at a time."""
        if self.pieces or not self._testimony.in_doubt:
            return set()
        self.pieces.add(min(self._testimony.in_doubt))
        return set(self.pieces)
