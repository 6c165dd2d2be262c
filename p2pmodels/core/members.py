"""The peers that have to do with one blob: what each has, and how far it can be counted on.

1. A machine that fetches or gives says something twice a second; a silent one counts as frozen.
2. Who lets a pull stand still is left alone for a moment; whose pulls break off, longer each time,
   and after STRIKES_LIMIT in a row what it has counts as not there until the pause is over.
3. Who was caught lying is no member any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from p2pmodels.core.peer import PeerId
from p2pmodels.core.situation import Member, Pull, minus, union

SILENCE_S = 2.5  # seconds without a frame after which a machine that fetches counts as frozen
STRIKES_LIMIT = 2  # broken pulls in a row after which a holder is no longer counted on
PAUSE_FIRST_S = 1.5  # seconds that a holder is left alone at first; doubled with each strike
PAUSE_LIMIT_S = 60.0
RATE_WEIGHT = 0.3  # share of the newest pull in a peer's rate
SHARED_WAITS = 2  # peers that the origin told to wait before we believe that it means us, too


class Members:
    """`holders` says for each piece how many members that can be counted on have it."""

    def __init__(self, pieces: int) -> None:
        self.by_id: dict[PeerId, Member] = {}
        self.holders = [0] * pieces
        self.banned: set[PeerId] = set()
        self._pieces = pieces
        self._heard: dict[PeerId, float] = {}
        self._strikes: dict[PeerId, int] = {}
        self._waits: dict[PeerId, float] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(self.by_id.values())

    def get(self, peer: PeerId) -> Member | None:
        """The member, if this peer has to do with the blob."""
        return self.by_id.get(peer)

    def wanting(self) -> list[PeerId]:
        """Those who fetch it."""
        return [member.id for member in self if member.is_wanting]

    def add(self, peer: PeerId) -> Member:
        """The member of this id, new or known."""
        member = self.by_id.get(peer)
        if member is None:
            member = self.by_id[peer] = Member(peer, bytearray(self._pieces))
        return member

    def begins_anew(self, peer: PeerId) -> None:
        """It wants the blob, and will say what it has: what it said before counts no more."""
        member = self.add(peer)
        member.is_wanting = True
        if any(member.has):
            member.has = bytearray(self._pieces)
            self._count()

    def remove(self, peer: PeerId) -> None:
        """It is gone, with all it had."""
        self._waits.pop(peer, None)
        if self.by_id.pop(peer, None) is not None:
            self._count()

    def ban(self, peer: PeerId) -> None:
        """It lied: gone, and never heard again."""
        self.banned.add(peer)
        self.remove(peer)

    # what it said

    def heard(self, peer: PeerId, now: float) -> None:
        """Something was heard of it."""
        self._heard[peer] = now

    def shows(self, member: Member, pieces: Iterable[int]) -> list[int]:
        """It has these; returns those that were news."""
        news = [piece for piece in pieces if not member.has[piece]]
        for piece in news:
            member.has[piece] = 1
            if member.is_usable:
                self.holders[piece] += 1
        return news

    def lacks(self, peer: PeerId, pieces: range) -> None:
        """It has these no longer, or not as they should be."""
        member = self.by_id.get(peer)
        if member is not None:
            member.has[pieces.start : pieces.stop] = bytes(len(pieces))
            self._count()

    def is_busy(self, peer: PeerId, uploads: int, wait_s: float, now: float) -> None:
        """It told its load, and for how long the origin wants it to wait."""
        self._waits[peer] = now + wait_s
        member = self.by_id.get(peer)
        if member is not None:
            member.uploads = uploads
            member.can_ask_origin = wait_s == 0

    def origin_wait_s(self, now: float) -> float:
        """How long the origin wants our address to wait, if enough of our neighbours say so.

        One that has to wait may be alone with that; several share an address with us, most likely.
        """
        waits = sorted(until - now for until in self._waits.values() if until > now)
        return waits[0] if len(waits) >= SHARED_WAITS else 0.0

    # what came of it

    def gave(self, pull: Pull, now: float) -> None:
        """A pull has ended well."""
        member = self.by_id.get(pull.peer)
        if member is not None:
            rate = pull.received / max(0.001, now - pull.since)
            member.rate += (rate - member.rate) * (RATE_WEIGHT if member.rate else 1.0)
            member.is_suspect = False
            if self._strikes.pop(pull.peer, 0):
                member.paused_until = now

    def suspect(self, peer: PeerId, now: float) -> None:
        """A pull from it stands still: others are asked for a moment."""
        member = self.by_id.get(peer)
        if member is not None:
            member.is_suspect = True
            member.paused_until = max(member.paused_until, now + PAUSE_FIRST_S)

    def strike(self, peer: PeerId, now: float) -> None:
        """A pull from it stood still or failed."""
        member = self.by_id.get(peer)
        if member is None:
            return
        strikes = self._strikes[peer] = self._strikes.get(peer, 0) + 1
        pause = min(PAUSE_LIMIT_S, PAUSE_FIRST_S * 2 ** min(strikes - 1, 10))
        member.paused_until = max(member.paused_until, now + pause)

    def look(self, now: float) -> None:
        """Who can be counted on now?"""
        is_changed = False
        for member in self:
            silence = now - self._heard.get(member.id, now)
            is_silent = (member.is_wanting or member.is_suspect) and silence > SILENCE_S
            is_struck = self._strikes.get(member.id, 0) >= STRIKES_LIMIT
            is_usable = not is_silent and not (is_struck and member.paused_until > now)
            is_changed |= is_usable is not member.is_usable
            member.is_usable = is_usable
        if is_changed:
            self._count()

    def want(self) -> bool:
        """Whether one that can be counted on fetches the blob."""
        return any(member.is_usable and member.is_wanting for member in self)

    def can_ask(self, now: float) -> bool:
        """Whether one that fetches the blob may ask the origin, as far as we know."""
        return any(
            member.is_usable and member.is_wanting and self._waits.get(member.id, now) <= now
            for member in self
        )

    def give(self, ours: bytearray, *, at_last: bool = False) -> bool:
        """Whether those who can be counted on have something that we lack; `at_last`, anybody."""
        counted = (member.has for member in self if member.is_usable or at_last)
        return any(minus(union(self._pieces, counted), ours))

    def _count(self) -> None:
        usable = [member.has for member in self if member.is_usable]
        self.holders = list(map(sum, zip(*usable, strict=True))) if usable else [0] * self._pieces
