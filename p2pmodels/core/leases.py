"""The leases of one blob: who takes which pieces from the origin.

A lease ends when its pieces have landed, when its holder gives it back or goes, or when another
takes it over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from p2pmodels.core.digests import Digest
from p2pmodels.core.lease_picker import wins
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import piece_length
from p2pmodels.core.situation import Lease, lease_pieces
from p2pmodels.core.traffic import Traffic

FIRM_AFTER_S = 0.25  # seconds after which a lease is kept against one who begins the same


class Leases:
    """`free_since` says for each lease that was given back or lost, when that was."""

    def __init__(self, blob: Digest, size: int, traffic: Traffic) -> None:
        self._blob, self._traffic = blob, traffic
        self.all: list[Lease] = []
        self.free_since: dict[int, float] = {}
        self.open_since: dict[int, float] = {}
        """For each lease that was the next to begin, since when it was; kept by the picker."""
        self.step, self._size, self._length = lease_pieces(size), size, piece_length(size)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def of(self, peer: PeerId) -> list[Lease]:
        """The leases that a machine holds."""
        return [lease for lease in self.all if lease.holder == peer]

    def number(self, piece: int) -> int:
        """The number of the lease that a piece belongs to, as rendezvous hashing counts them."""
        return piece // self.step

    def add(self, holder: PeerId, start: int, stop: int, now: float) -> Lease:
        """A machine begins pieces start … stop-1."""
        lease = Lease(holder, start, stop, now, now)
        self.all.append(lease)
        return lease

    def cover(
        self, own: PeerId, under_way: Iterable[tuple[int, int]], length: int, now: float
    ) -> list[Lease]:
        """Leases for the bytes that are under way anyway, each to the end of its own lease."""
        covered = []
        for at, stop in under_way:
            first = at // length
            last = min(-(-stop // length), (self.number(first) + 1) * self.step)
            if first < last:
                covered.append(self.add(own, first, last, now))
        return covered

    def take_over(self, holder: PeerId, start: int, stop: int, now: float) -> Lease:
        """The same, and who held any of it holds it no longer."""
        for lease in [lease for lease in self.all if lease.holder != holder]:
            self.cut(lease, start, stop)
        lease = self.add(holder, start, stop, now)
        lease.is_takeover = True
        return lease

    def cut(self, lease: Lease, start: int, stop: int) -> None:
        """Its holder loses pieces start … stop-1 of it."""
        if lease.stop <= start or stop <= lease.start:
            return
        self.all.remove(lease)
        for left, right in ((lease.start, start), (stop, lease.stop)):
            if left < right:
                self.all.append(replace(lease, start=left, stop=right))

    def contest(
        self, own: PeerId, peer: PeerId, span: tuple[int, int], now: float, *, is_taken: bool
    ) -> Lease | None:
        """A peer begins what may be ours: the lease of ours that we keep, or None if it goes on.

        Two that began at the same moment leave it to the hash; one that has gone on for
        FIRM_AFTER_S is kept; one that is taken over is lost.
        """
        start, stop = span
        for lease in self.of(own):
            if lease.stop <= start or stop <= lease.start:
                continue
            is_firm = not is_taken and now - lease.since > FIRM_AFTER_S
            is_equal = not is_taken or (lease.is_takeover and not lease.landed)
            if is_firm or (is_equal and wins(self._blob, self.number(start), own, peer)):
                lease.is_takeover |= is_firm  # said once more, and more strongly
                return lease
            self.cut(lease, start, stop)
        for lease in self.of(peer):
            self.cut(lease, start, stop)  # said again, it is still one lease
        begin = self.take_over if is_taken else self.add
        begin(peer, start, stop, now)
        return None

    def free(self, peer: PeerId, start: int, stop: int, now: float) -> list[Lease]:
        """Its leases there are given back; returns them as they were."""
        freed = [lease for lease in self.of(peer) if lease.start < stop and start < lease.stop]
        for lease in freed:
            self.cut(lease, start, stop)
            for number in range(self.number(lease.start), self.number(lease.stop - 1) + 1):
                self.free_since[number] = now
        return freed

    def progress(self, holder: PeerId, start: int, stop: int, now: float) -> None:
        """Pieces start … stop-1 have landed at a machine: its leases come on by them."""
        for lease in self.of(holder):
            first, last = max(start, lease.start), min(stop, lease.stop)
            if first >= last:
                continue
            lease.progressed = now
            lease.landed += last - first
            amount = min(self._size, last * self._length) - first * self._length
            self._traffic.uplink.count(amount, now)

    def end(self, is_done: Callable[[Lease], bool]) -> None:
        """Leases whose pieces are all there are over."""
        self.all = [lease for lease in self.all if not is_done(lease)]
