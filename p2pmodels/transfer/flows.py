"""Flows: who gives bytes to whom now, for people to look at.

1. A flow is a pair of ends, each "self", "origin", "mirror", "swarm" or the id of a peer.
2. Its rate is that of the last RATE_OVER_S and falls to nought by itself; its bytes only grow.
3. What peers do among themselves is not known here, but for one thing: who of them fetches from
   the origin for the room, because they tell each other so.
4. Only figures, nothing is decided by them. They are bounded: the flow that has been idle for
   longest makes room.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from p2pmodels.clock import Clock

SELF = "self"
ORIGIN = "origin"
MIRROR = "mirror"
SWARM = "swarm"

RATE_OVER_S = 3.0  # seconds; shorter flickers from poll to poll, longer shows what is over
SLOT_S = 0.25  # seconds that are counted together
YOUNG_S = 1.0  # seconds; the first bytes of a flow are no rate yet
FLOWS_LIMIT = 520  # pairs: the 256 peers that can be known, both ways, and the others
FETCHING_LIMIT = 256  # peers that say that they fetch from the origin: as many as can be known


@dataclass(frozen=True, slots=True)
class Flow:
    """`bytes_per_s` now and `bytes` in all; both 0 where only the direction is known."""

    source: str
    target: str
    bytes_per_s: float
    bytes: int


@dataclass(slots=True, eq=False)
class _Meter:
    """What one pair has carried; `slots` holds (number of the slot, bytes), oldest first."""

    began: float = 0.0
    last: float = 0.0
    total: int = 0
    slots: deque[tuple[int, int]] = field(default_factory=deque)

    def add(self, amount: int, now: float) -> None:
        self._forget(now)
        if not self.slots:
            self.began = now
        slot = int(now / SLOT_S)
        if self.slots and self.slots[-1][0] == slot:
            amount_before = self.slots.pop()[1]
            self.slots.append((slot, amount_before + amount))
        else:
            self.slots.append((slot, amount))
        self.last = now
        self.total += amount

    def rate(self, now: float) -> float:
        """Bytes a second."""
        first = self._forget(now)
        span = now - max(self.began, first * SLOT_S)
        return sum(amount for _, amount in self.slots) / max(span, YOUNG_S)

    def _forget(self, now: float) -> int:
        """Drop what is too long ago; the number of the first slot that counts."""
        first = int(now / SLOT_S) - int(RATE_OVER_S / SLOT_S) + 1
        while self.slots and self.slots[0][0] < first:
            self.slots.popleft()
        return first


class Flows:
    """Counts on the event loop; costs a few lookups a count."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._meters: dict[tuple[str, str], _Meter] = {}
        self._fetching: dict[str, None] = {}  # an ordered set

    def count(self, source: str, target: str, amount: int) -> None:
        """So many bytes went from `source` to `target` just now."""
        meter = self._meters.get((source, target))
        if meter is None:
            if len(self._meters) >= FLOWS_LIMIT:
                del self._meters[min(self._meters, key=lambda pair: self._meters[pair].last)]
            meter = self._meters[source, target] = _Meter()
        meter.add(amount, self._clock.monotonic())

    def note_peer_origin(self, peer_id: str, is_fetching: bool) -> None:
        """The peer fetches from the origin for the room, or has stopped doing so."""
        self._fetching.pop(peer_id, None)
        if is_fetching:
            self._fetching[peer_id] = None
            if len(self._fetching) > FETCHING_LIMIT:
                del self._fetching[next(iter(self._fetching))]

    def now(self) -> list[Flow]:
        """Every flow there was, idle ones included, then what peers fetch from the origin."""
        now = self._clock.monotonic()
        flows = [
            Flow(source, target, meter.rate(now), meter.total)
            for (source, target), meter in self._meters.items()
        ]
        return flows + [
            Flow(ORIGIN, peer, 0.0, 0)
            for peer in self._fetching
            if (ORIGIN, peer) not in self._meters
        ]
