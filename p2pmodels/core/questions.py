"""Who was asked about a blob and may still answer, before the origin is asked instead."""

from __future__ import annotations

from p2pmodels.core.peer import PeerId

ANSWER_S = 0.15  # seconds that peers have to say what they know, before the origin is asked
TALKING_ANSWER_S = 1.0  # the same for peers that said something in the last second
CROWD = 3  # peers that talk: with as many, others will want this blob in a moment


class Questions:
    """`is_crowded` while enough of those asked were busy talking already."""

    def __init__(self) -> None:
        self._until: dict[PeerId, float] = {}
        self._talking = 0

    def ask(self, peer: PeerId, now: float, *, is_talking: bool) -> None:
        """A bit more time for one that `is_talking`: it is there, and busy with the same model."""
        self._talking += is_talking
        self._until[peer] = now + (TALKING_ANSWER_S if is_talking else ANSWER_S)

    def over(self, peer: PeerId) -> None:
        """It has answered, or is gone."""
        self._until.pop(peer, None)

    @property
    def is_crowded(self) -> bool:
        return self._talking >= CROWD

    @property
    def are_unanswered(self) -> bool:
        """Whether anybody has not answered, in time or not."""
        return bool(self._until)

    def is_open(self, now: float) -> bool:
        """Whether somebody may still answer in time."""
        return any(now < until for until in self._until.values())

    def ends(self, now: float) -> list[float]:
        """When the time of each of them is over."""
        return [until for until in self._until.values() if until > now]
