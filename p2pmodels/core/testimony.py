"""Who said which root a piece has, and who lied.

Nobody knows a cold file's pieces beforehand. The machine that took a piece from the origin says
its root; others repeat what they checked. So:
1. A peer that gives other bytes than it announced lies.
2. Where two roots are said of a piece, its content is in doubt: we take it from the origin, and
   who said otherwise lies. One piece settles it, whatever else the liar said.
3. What only a liar vouched for counts for nothing any more, whoever repeats it.
4. The whole-file digest has the last word: when it fails, a piece of each machine that vouched is
   taken from the origin (`witnesses`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from p2pmodels.core.chance import Chance
from p2pmodels.core.peer import PeerId

WRONG_LIMIT = 4  # wrong pieces of a peer that only repeats, until it counts as a liar


class Testimony:
    """What was said of the pieces of one blob."""

    def __init__(self, pieces: int) -> None:
        self._said: list[dict[bytes, set[PeerId]]] = [{} for _ in range(pieces)]
        self._vouched: list[dict[PeerId, bytes]] = [{} for _ in range(pieces)]
        self._truth: dict[int, bytes] = {}
        self._givers: dict[int, PeerId] = {}
        self._doubted: set[int] = set()
        self._refuted: list[set[bytes]] = [set() for _ in range(pieces)]
        self._wrong: Counter[PeerId] = Counter()

    # hearing

    def hear(self, peer: PeerId, piece: int, root: bytes, *, is_vouched: bool) -> bool:
        """A peer says the root of a piece; returns whether it is known to lie."""
        truth = self._truth.get(piece)
        if truth is not None and truth != root:
            return is_vouched
        said = self._said[piece]
        if any(peer in peers for other, peers in said.items() if other != root):
            return True  # it said something else before
        if is_vouched:
            self._vouched[piece][peer] = root
            self._refuted[piece].discard(root)
        elif root in self._refuted[piece]:
            return False
        said.setdefault(root, set()).add(peer)
        if len(said) > 1:
            self._doubted.add(piece)
        return False

    def check(self, piece: int, root: bytes) -> bool:
        """Whether bytes with this root are what was said of the piece.

        With nothing said of it they are taken as they are; the whole-file digest decides.
        """
        truth = self._truth.get(piece)
        if truth is not None:
            return root == truth
        if root in self._refuted[piece]:
            return False
        return not self._said[piece] or root in self._said[piece]

    def is_what_it_said(self, peer: PeerId, piece: int, root: bytes) -> bool:
        """Whether a peer gave the bytes that it announced."""
        own = [text for text, peers in self._said[piece].items() if peer in peers]
        return not own or root in own

    def given(self, peer: PeerId, piece: int) -> None:
        """A peer's bytes of a piece were taken in."""
        self._givers[piece] = peer

    def settle(self, piece: int, root: bytes) -> set[PeerId]:
        """The origin itself gave us the piece: returns who lied about it.

        Who vouched for another root lies. Who only repeated it was deceived, perhaps by one whose
        words never reached us; the WRONG_LIMIT-th time it counts as a liar, too.
        """
        self._truth[piece] = root
        self._givers.pop(piece, None)
        self._doubted.discard(piece)
        vouched = self._vouched[piece]
        liars = {peer for peer, said in vouched.items() if said != root}
        known = {*vouched.values(), *self._refuted[piece]}
        for said, peers in self._said[piece].items():
            if said == root or said in known:
                continue
            for peer in peers:
                self._wrong[peer] += 1
                if self._wrong[peer] >= WRONG_LIMIT:
                    liars.add(peer)
            self._refuted[piece].add(said)
        return liars

    # judging

    @property
    def in_doubt(self) -> set[int]:
        """Pieces of which different things are said."""
        return self._doubted

    def root(self, piece: int) -> bytes | None:
        """The one root that is said of a piece, or known of it."""
        if piece in self._truth:
            return self._truth[piece]
        said = self._said[piece]
        return next(iter(said)) if len(said) == 1 else None

    def disown(self, liar: PeerId) -> set[int]:
        """Forget all that a liar said; returns the pieces that count for nothing now.

        Those are the ones it gave us and nobody else said the same of, and those that others only
        repeated after it.
        """
        void = set()
        for piece, said in enumerate(self._said):
            had_vouched = self._vouched[piece].pop(liar, None)
            for peers in said.values():
                peers.discard(liar)
            if had_vouched is not None and had_vouched not in self._vouched[piece].values():
                said.pop(had_vouched, None)  # whoever repeats it has it from the liar
                self._refuted[piece].add(had_vouched)
                if piece not in self._truth:
                    void.add(piece)
            self._said[piece] = {root: peers for root, peers in said.items() if peers}
            if len(self._said[piece]) < 2:
                self._doubted.discard(piece)
            if self._givers.get(piece) == liar and not self._said[piece]:
                void.add(piece)
        for piece in void:
            self._givers.pop(piece, None)
        return void

    def retract(self, peer: PeerId) -> None:
        """It begins anew, and will say what it still says; what it vouched for stands."""
        for piece, said in enumerate(self._said):
            for root, peers in list(said.items()):
                if peer in peers and self._vouched[piece].get(peer) != root:
                    peers.discard(peer)
                    if not peers:
                        del said[root]
            if len(said) < 2:
                self._doubted.discard(piece)

    def witnesses(self, pieces: Iterable[int], count: int, random: Chance) -> set[int]:
        """So many pieces of each machine that vouched, or gave what nobody vouched for."""
        by_peer: dict[PeerId, list[int]] = {}
        for piece in pieces:
            if piece in self._truth:
                continue
            giver = self._givers.get(piece)
            for peer in self._vouched[piece] or ({giver} if giver else set()):
                by_peer.setdefault(peer, []).append(piece)
        return {
            piece
            for choices in by_peer.values()
            for piece in random.sample(choices, k=min(count, len(choices)))
        }
