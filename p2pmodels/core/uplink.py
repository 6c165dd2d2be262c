"""What a room takes from the origin together, all machines and blobs, as far as is told here.

A lease is late only by comparison: twenty leases that share one slow uplink bring a piece each
every few seconds, and to begin one of them anew would make all of them slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized

WINDOW_S = 2.0  # seconds over which the rate is taken; `have` frames come in bursts
PEAK_KEPT = 0.995  # of the highest rate that is left with each report: an origin may become slower


class Uplink:
    """`books` are the lists of leases that are under way, one for each blob fetched here."""

    def __init__(self) -> None:
        self.books: list[Sized] = []
        self.rate = 0.0
        """Bytes a second that all leases brought when the room was busiest lately; 0: unknown."""
        self._landed: deque[tuple[float, int]] = deque()
        self._sum = 0

    def landed(self, amount: int, now: float) -> None:
        """So many bytes have landed at somebody who takes them from the origin."""
        self._landed.append((now, amount))
        self._sum += amount
        while now - self._landed[0][0] > WINDOW_S:
            self._sum -= self._landed.popleft()[1]
        self.rate = max(self._sum / WINDOW_S, self.rate * PEAK_KEPT)

    @property
    def leases(self) -> int:
        """How many leases share it."""
        return sum(map(len, self.books))

    def turn_s(self, amount: int) -> float:
        """Seconds in which a lease brings so many bytes when all share evenly; 0 when unknown."""
        return max(1, self.leases) * amount / self.rate if self.rate else 0.0
