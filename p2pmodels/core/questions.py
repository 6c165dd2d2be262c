"""Who was asked about a blob and may still answer, before the origin is asked instead."""

from __future__ import annotations

from p2pmodels.core.peer import PeerId

ANSWER_S = 0.15  # seconds that peers have to say what they know, before the origin is asked
TALKING_ANSWER_S = 1.0  # the same for peers that said something in the last second
TALKING_MAX_S = 2.5  # seconds for them at the most, where answers have been slow
SLOW_ANSWERS = 2.0  # times the slowest answer lately that is waited for
SLOWEST_KEPT = 0.99  # of the slowest answer that is left with each further one
CROWD = 3  # peers that talk: with as many, others will want this blob in a moment


class AnswerTimes:
    """How long peers that talk take to answer, whatever the blob: a busy room needs its time."""

    def __init__(self) -> None:
        self._slowest_s = 0.0

    def note(self, seconds: float) -> None:
        """One has answered after so long, in time or not."""
        self._slowest_s = max(min(seconds, TALKING_MAX_S), SLOWEST_KEPT * self._slowest_s)

    @property
    def patience_s(self) -> float:
        """How long to wait for the next ones."""
        return min(TALKING_MAX_S, max(TALKING_ANSWER_S, SLOW_ANSWERS * self._slowest_s))


class Questions:
    """`is_crowded` while enough of those asked were busy talking already."""

    def __init__(self, times: AnswerTimes) -> None:
        self._times = times
        self._until: dict[PeerId, float] = {}
        self._asked: dict[PeerId, float] = {}
        self._talking = 0

    def ask(self, peer: PeerId, now: float, *, is_talking: bool) -> None:
        """A bit more time for one that `is_talking`: it is there, and busy with the same model."""
        self._talking += is_talking
        if is_talking:
            self._asked[peer] = now
        self._until[peer] = now + (self._times.patience_s if is_talking else ANSWER_S)

    def answered(self, peer: PeerId, now: float) -> None:
        """It has said something about the blob."""
        asked = self._asked.get(peer)
        if asked is not None:
            self._times.note(now - asked)
        self.over(peer)

    def over(self, peer: PeerId) -> None:
        """It has answered, or is gone."""
        self._until.pop(peer, None)
        self._asked.pop(peer, None)

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
