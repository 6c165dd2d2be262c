"""The pulls of one blob that are under way, and what their ends say of the peers."""

from __future__ import annotations

from collections.abc import Iterator

from p2pmodels.core.members import Members
from p2pmodels.core.peer import PeerId
from p2pmodels.core.situation import Ask, Pull
from p2pmodels.core.traffic import PeakRate


class Pulls:
    """By number; a report about one that is no more is nothing."""

    def __init__(self, members: Members, intake: PeakRate) -> None:
        self._members, self._intake = members, intake
        self._running: dict[int, Pull] = {}
        self._number = 0

    def __iter__(self) -> Iterator[Pull]:
        return iter(self._running.values())

    def __len__(self) -> int:
        return len(self._running)

    @property
    def sound(self) -> int:
        """How many are not given up for sick."""
        return sum(not pull.is_sick for pull in self)

    def get(self, number: int) -> Pull | None:
        """The pull of that number, while it runs."""
        return self._running.get(number)

    def start(self, ask: Ask, now: float) -> Pull:
        """Begin one."""
        self._number += 1
        pull = Pull(self._number, ask.peer, ask.start, ask.stop, now, now, ask.start)
        self._running[pull.number] = pull
        self._members.add(ask.peer).pulls += 1
        return pull

    def take_out(self, number: int) -> Pull | None:
        """It is over, whatever came of it."""
        pull = self._running.pop(number, None)
        member = self._members.get(pull.peer) if pull else None
        if member is not None:
            member.pulls -= 1
        return pull

    def drop(self, peer: PeerId) -> list[Pull]:
        """Those from a peer that is gone."""
        found = [pull for pull in self if pull.peer == peer]
        for pull in found:
            self.take_out(pull.number)
        return found

    # reports

    def progressed(self, number: int, received: int, piece: int, now: float) -> None:
        """Bytes came; `piece` is the first that is not here."""
        pull = self._running.get(number)
        if pull is not None:
            pull.received += received
            pull.at = max(pull.at, piece)
            if received:
                pull.progressed = now
                self._intake.count(received, now)
                self._members.heard(pull.peer, now)

    def ended(self, number: int, now: float) -> None:
        """It has brought all that was asked."""
        pull = self.take_out(number)
        if pull is not None:
            self._members.gave(pull, now)

    def failed(self, number: int, now: float) -> None:
        """It broke off."""
        pull = self.take_out(number)
        if pull is not None:
            self._members.strike(pull.peer, now)

    def refused(self, number: int, now: float, pause_s: float) -> None:
        """The holder has no slot free; it asked to be left alone for so long."""
        pull = self.take_out(number)
        member = self._members.get(pull.peer) if pull else None
        if member is not None:
            member.paused_until = max(member.paused_until, now + pause_s)

    def missing(self, number: int) -> None:
        """The holder has these pieces no longer."""
        pull = self.take_out(number)
        if pull is not None:
            self._members.lacks(pull.peer, range(pull.start, pull.stop))
