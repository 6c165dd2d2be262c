"""How much flows to the room and to this machine, all blobs together, as far as is told here.

Slow is a matter of comparison: twenty leases that share one uplink bring a piece each every few
seconds, and eight pulls through a narrow cable stand still in turns. To begin any of them anew
would make all of them slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from typing import Protocol

from p2pmodels.core.questions import AnswerTimes

WINDOW_S = 2.0  # seconds over which a rate is taken; `have` frames come in bursts
PEAK_KEPT = 0.995  # of the highest rate that is left with each report: lines may become slower


class PeakRate:
    """Bytes a second when most came lately."""

    def __init__(self) -> None:
        self.rate = 0.0
        """0: unknown."""
        self._came: deque[tuple[float, int]] = deque()
        self._sum = 0

    def count(self, amount: int, now: float) -> None:
        """So many bytes have come."""
        self._came.append((now, amount))
        self._sum += amount
        while now - self._came[0][0] > WINDOW_S:
            self._sum -= self._came.popleft()[1]
        self.rate = max(self._sum / WINDOW_S, self.rate * PEAK_KEPT)


class PullBook(Protocol):
    """The pulls of one blob."""

    def __len__(self) -> int: ...

    @property
    def sound(self) -> int: ...


class Traffic:
    """`leasing` are the leases and `pulling` the pulls under way, of each blob fetched here."""

    def __init__(self) -> None:
        self.leasing: list[Sized] = []
        self.pulling: list[PullBook] = []
        self.uplink = PeakRate()
        """What all leases of the room bring."""
        self.intake = PeakRate()
        """What comes to this machine, from the origin and from peers."""
        self.answer_times = AnswerTimes()
        """How busy the room is, as its answers tell."""

    @property
    def leases(self) -> int:
        """How many leases share the uplink."""
        return sum(map(len, self.leasing))

    @property
    def pull_rate(self) -> float:
        """Bytes a second of a pull when all share this machine's line evenly; 0: unknown."""
        return self.intake.rate / max(1, sum(map(len, self.pulling)))

    @property
    def sound_pulls(self) -> int:
        """How many pulls are not given up for sick."""
        return sum(book.sound for book in self.pulling)

    def turn_s(self, amount: int) -> float:
        """Seconds in which a lease brings so many bytes when all share evenly; 0 when unknown."""
        return max(1, self.leases) * amount / self.uplink.rate if self.uplink.rate else 0.0
