"""One blob in the room: who wants it, who has which pieces, who takes what from the origin.

Sans-io: frames, landed pieces and times go in, actions come out. The same code runs in the daemon
(`transfer/exchange.py`) and in the simulation of hundreds of machines.

1. Alone, a machine takes everything from the origin as fast as it can (`claims` is None). As soon
   as somebody else wants the blob or has some of it, it takes only its leases.
2. Nobody decides for others: a lease is announced when it begins, `have` as pieces land.
3. Nothing a peer says is believed further than `testimony.py` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from p2pmodels.core.actions import Action, Ban, Reject, Say, Start, Stop
from p2pmodels.core.chance import Chance
from p2pmodels.core.digests import Digest
from p2pmodels.core.frames import have_frames, lease_frame
from p2pmodels.core.lease_picker import pick_leases
from p2pmodels.core.leases import Leases
from p2pmodels.core.members import Members
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import RangeSet, piece_length
from p2pmodels.core.pull_picker import pick_crawling, pick_pulls, pick_sick
from p2pmodels.core.pulls import Pulls
from p2pmodels.core.questions import Questions
from p2pmodels.core.search import Search
from p2pmodels.core.situation import WHOLE_LEASE_BYTES, Lease, Situation, ones
from p2pmodels.core.testimony import Testimony
from p2pmodels.core.traffic import Traffic
from p2pmodels.core.wire import Busy, Frame, Have, LeaseState, Unwant, Want
from p2pmodels.core.wire import Lease as LeaseFrame

HAVE_EVERY_S = 0.05  # seconds between two `have` of a blob: a frame a piece would drown a room
HAVE_APART_S = 0.01  # seconds that every machine of the room adds to that
LOOK_ALONE_S, LOOK_EVERY_S = 1.0, 0.1  # seconds between looks at who stands still; in company


class Board:
    """States: alone, in company; it is done when every piece has landed."""

    def __init__(
        self,
        own: PeerId,
        blob: Digest,
        size: int,
        now: float,
        random: Chance,
        traffic: Traffic,
        under_way: Callable[[], Sequence[tuple[int, int]]] = tuple,
    ) -> None:
        """`under_way` tells the bytes (at, stop) that origin connections are fetching now."""
        self.own, self.blob, self.size = own, blob, size
        self.length = piece_length(size)
        self.pieces = -(-size // self.length)
        self.ours = bytearray(self.pieces)
        self.members = Members(self.pieces)
        self.leases, self._traffic = Leases(blob, size, traffic), traffic
        self.pulls = Pulls(self.members, traffic.intake)
        self.testimony = Testimony(self.pieces)
        self.is_alone = False
        self._random, self._under_way = random, under_way
        self._began = self._origin_until = now
        self._questions = Questions(traffic.answer_times)
        self._shown_since: dict[int, float] = {}
        self._readers: tuple[int, ...] = ()
        self._roots: dict[int, bytes] = {}
        self._vouched = bytearray(self.pieces)
        self._fresh: list[int] = []
        self._said_at = now
        self._search = Search(self.testimony, random)
        self._is_anew = False
        self._actions: list[Action] = []

    @property
    def is_full(self) -> bool:
        return 0 not in self.ours

    @property
    def is_searching(self) -> bool:  # who gave wrong bytes
        return self._search.is_on

    def claims(self) -> RangeSet | None:
        """The bytes to take from the origin now; None for all that are missing."""
        if self.is_alone and not self._search.pieces:
            return None
        claims = RangeSet()
        for lease in self.leases.of(self.own):
            for piece in range(lease.start, lease.stop):
                if lease.is_takeover or not self.members.holders[piece]:
                    claims.add(*self._bytes(piece, piece + 1))
        for piece in self._search.pieces:
            claims.add(*self._bytes(piece, piece + 1))
        return claims

    def can_others_help(self, now: float) -> bool:
        """Whether somebody has, or may get, something that we lack, or has not answered yet."""
        members = self.members
        may_come = self._questions.are_unanswered or members.can_ask(now)
        return may_come or members.give(self.ours, at_last=True)

    def answer(self) -> list[Frame]:
        """What a peer that wants the blob is told: what we have, and our leases."""
        frames: list[Frame] = [*self._haves(list(self._roots))]
        if not frames:
            frames.append(Have(self.blob, self.size, True, (), ()))
        frames.extend(lease_frame(self.blob, lease) for lease in self.leases.of(self.own))
        return frames

    # what peers say

    def asked(self, peer: PeerId, now: float, *, is_talking: bool = False) -> Want:
        """The frame by which a peer is asked what it knows; its answer is awaited for a moment."""
        self._questions.ask(peer, now, is_talking=is_talking)
        return Want(self.blob, self.size)

    def heard(self, peer: PeerId, frame: Frame, now: float) -> None:
        """A frame about this blob, or a `busy`."""
        if peer in self.members.banned:
            return
        self.members.heard(peer, now)
        match frame:
            case Want():
                if self.members.get(peer) is not None:
                    self.testimony.retract(peer)
                self._meet_company(now)
                self.members.begins_anew(peer)
                self._actions.extend(Say(peer, answer) for answer in self.answer())
            case Have():
                self._has(peer, frame, now)
            case Unwant():
                self._unwants(peer, now)
            case LeaseFrame():
                self._begins(peer, frame, now)
            case Busy():
                self.members.is_busy(peer, frame.uploads, frame.origin_wait_ms / 1000, now)
            case _:
                ...

    def left(self, peer: PeerId, now: float) -> None:
        """Its link has ended: what it had and held is gone."""
        self._questions.over(peer)
        self.leases.free(peer, 0, self.pieces, now)
        self._actions.extend(Stop(pull.number) for pull in self.pulls.drop(peer))
        self.members.remove(peer)

    def _has(self, peer: PeerId, have: Have, now: float) -> None:
        self._questions.answered(peer, now)
        is_of_use = have.runs or have.is_wanting or self.members.get(peer)
        if have.size != self.size or not is_of_use:
            return
        member = self.members.add(peer)
        member.is_wanting = have.is_wanting
        roots = iter(have.roots)
        for run in have.runs:
            said = dict(zip(range(run.start, run.stop), roots, strict=False))
            for piece, root in said.items():
                is_vouched = run.is_vouched or not have.is_wanting  # whole: the digest was checked
                if self.testimony.hear(peer, piece, root, is_vouched=is_vouched):
                    self._ban(peer, f"a wrong root of piece {piece}", now)
                    return
            believed = [
                piece
                for piece in range(run.start, run.stop)
                if piece not in said or self.testimony.check(piece, said[piece])
            ]
            for piece in self.members.shows(member, believed):
                self._shown_since[piece] = now
            member.is_wanting = member.is_wanting and 0 in member.has
            self.leases.progress(peer, run.start, run.stop, now)
        self.leases.end(self._is_done)

    def _unwants(self, peer: PeerId, now: float) -> None:
        member = self.members.get(peer)
        if member is not None:
            member.is_wanting = False
            self.leases.free(peer, 0, self.pieces, now)

    def _begins(self, peer: PeerId, frame: LeaseFrame, now: float) -> None:
        start, stop = frame.start, min(frame.stop, self.pieces)
        if start >= stop:
            return
        if frame.state is LeaseState.FREE:
            self.leases.free(peer, start, stop, now)
            return
        self.members.add(peer).is_wanting = True
        is_taken = frame.state is LeaseState.TAKEN
        kept = self.leases.contest(self.own, peer, (start, stop), now, is_taken=is_taken)
        if kept is not None:
            self._actions.append(Say(peer, lease_frame(self.blob, kept)))

    # what happens here

    def reads(self, positions: Iterable[int]) -> None:
        """Where readers stand, in bytes."""
        found = {
            self.ours.find(0, min(self.pieces, position // self.length)) for position in positions
        }
        self._readers = tuple(sorted(piece for piece in found if piece >= 0))

    def accepts(self, piece: int, root: bytes, giver: PeerId, now: float) -> bool:
        """Whether bytes that a peer gave may be taken in; a liar is banned at once."""
        if giver in self.members.banned:
            return False
        if not self.testimony.is_what_it_said(giver, piece, root):
            self._ban(giver, f"other bytes than it announced of piece {piece}", now)
            return False
        if self.testimony.check(piece, root):
            return True
        # It may have been deceived itself: it is not asked for this piece again.
        self.members.lacks(giver, range(piece, piece + 1))
        return False

    def landed(
        self, piece: int, root: bytes, now: float, *, giver: PeerId | None, is_vouched: bool
    ) -> None:
        """A piece is here: from a peer, or from the origin (a hub vouches, a mirror does not)."""
        self._roots[piece] = root
        if giver is not None:
            self.testimony.given(giver, piece)
        elif is_vouched:
            self._vouched[piece] = 1
            self._search.pieces.discard(piece)
            for liar in self.testimony.settle(piece, root):
                self._ban(liar, f"a wrong piece {piece}", now)
        if not self.ours[piece]:
            self.ours[piece] = 1
            self._fresh.append(piece)
            if giver is None and self.leases.of(self.own):  # else it was here from the start
                start, stop = self._bytes(piece, piece + 1)
                self._traffic.intake.count(stop - start, now)
            self.leases.progress(self.own, piece, piece + 1, now)
            self.leases.end(self._is_done)
        self._shown_since.pop(piece, None)

    def digest_failed(self, now: float) -> bool:
        """The whole file is wrong: pieces of each source will be taken from the origin.

        Returns False when the origin itself gave every piece, or nobody knows who did.
        """
        return self._search.plan(list(ones(self.ours)), len(self.members.wanting()), now)

    def origin_fails(self, wait_s: float, now: float) -> None:
        """The origin gives us nothing for so long: others may get it, so our leases are theirs."""
        self._origin_until = max(self._origin_until, now + wait_s)
        for lease in self.leases.free(self.own, 0, self.pieces, now):
            self._tell(LeaseFrame(self.blob, lease.start, lease.stop, LeaseState.FREE))

    # what to do

    def step(self, now: float) -> list[Action]:
        """What follows from all that was told."""
        self.members.look(now)
        self._look_for_company(now)
        situation = self._situation(now)
        for pull in pick_sick(situation):
            pull.is_sick = True
            self.members.suspect(pull.peer, now)
        for pull in pick_crawling(situation):
            self._actions.append(Stop(pull.number))
            self.pulls.failed(pull.number, now)
        for ask in pick_pulls(situation, self._random):
            self._actions.append(Start(self.pulls.start(ask, now)))
        if not self.is_alone and not self.is_awaiting(now):
            for take in pick_leases(situation, self.leases.open_since):
                begin = self.leases.take_over if take.is_takeover else self.leases.add
                self._tell(lease_frame(self.blob, begin(self.own, take.start, take.stop, now)))
        self._look_for_liars(now)
        self._tell_fresh(now)
        if self._is_anew:
            self._begin_anew()
        actions, self._actions = self._actions, []
        return actions

    def next_look(self, now: float) -> float:
        """When `step` should be called at the latest, if nothing happens before."""
        look_s = LOOK_ALONE_S if self.is_alone else LOOK_EVERY_S
        times = [*self._questions.ends(now), now + look_s]
        if self._fresh:
            times.append(max(now, self._said_at + self._have_every_s))
        return min(times)

    def is_awaiting(self, now: float) -> bool:
        """Whether peers that were asked may still answer."""
        return self._questions.is_open(now)

    def _look_for_company(self, now: float) -> None:
        """Alone or not?"""
        will_come = self._questions.is_crowded and self.size <= WHOLE_LEASE_BYTES
        has_company = will_come or self.members.want() or self.members.give(self.ours)
        if has_company:
            self._meet_company(now)
        elif not self.is_alone:
            self.leases.free(self.own, 0, self.pieces, now)
        self.is_alone = not (has_company or self.is_awaiting(now))

    def _meet_company(self, now: float) -> None:
        """What is under way when company comes becomes our first leases."""
        if not self.is_alone:
            return
        self.is_alone = False
        for lease in self.leases.cover(self.own, self._under_way(), self.length, now):
            self._tell(lease_frame(self.blob, lease))

    def _situation(self, now: float) -> Situation:
        origin_until = now + self.members.origin_wait_s(now)
        return Situation(
            now=now,
            own=self.own,
            blob=self.blob,
            size=self.size,
            ours=self.ours,
            members=self.members.by_id,
            holders=self.members.holders,
            leases=self.leases.all,
            pulls=list(self.pulls),
            readers=self._readers,
            began=self._began,
            free_since=self.leases.free_since,
            shown_since=self._shown_since,
            traffic=self._traffic,
            can_ask_origin=now >= max(origin_until, self._origin_until),
            closed=self.testimony.in_doubt | self._search.pieces,
        )

    def _look_for_liars(self, now: float) -> None:
        if self.is_full:
            self._reject(self._search.begin(list(ones(self.ours)), now))
        if not (self.is_full and self._search.is_calm):
            self._reject(piece for piece in self._search.doubt() if self.ours[piece])

    def expel(self, peer: PeerId, now: float) -> None:
        """It was caught lying, here or over another blob: nothing it said or gave counts."""
        if peer in self.members.banned:
            return
        self.left(peer, now)
        self.members.ban(peer)
        void = self.testimony.disown(peer)
        if self.is_full and self._search.is_calm:
            return
        self._reject(piece for piece in void if self.ours[piece] and not self._vouched[piece])

    def _ban(self, peer: PeerId, reason: str, now: float) -> None:
        if peer not in self.members.banned:
            self._actions.append(Ban(peer, reason))
            self.expel(peer, now)

    def _reject(self, pieces: Iterable[int]) -> None:
        gone = frozenset(pieces)
        for piece in gone:
            self.ours[piece] = self._vouched[piece] = 0
            self._roots.pop(piece, None)
        if gone:
            self._actions.append(Reject(gone))
            self._is_anew = True
            self._search.call_off()

    def _begin_anew(self) -> None:
        """A `have` takes nothing back; a `want` does, and asks what the others have by now."""
        self._is_anew = False
        for member in self.members:
            for frame in (Want(self.blob, self.size), *self.answer()):
                self._actions.append(Say(member.id, frame))

    # words

    def _tell(self, frame: Frame) -> None:
        """Say it to everybody who wants the blob."""
        self._actions.extend(Say(peer, frame) for peer in self.members.wanting())

    @property
    def _have_every_s(self) -> float:
        return max(HAVE_EVERY_S, HAVE_APART_S * len(self.members.by_id))

    def _tell_fresh(self, now: float) -> None:
        """Tell everybody who wants the blob of the pieces that are new here and that it lacks."""
        if not self._fresh or (now < self._said_at + self._have_every_s and not self.is_full):
            return
        for peer in self.members.wanting():
            has = self.members.add(peer).has
            for have in self._haves(piece for piece in self._fresh if not has[piece]):
                self._actions.append(Say(peer, have))
            if self.is_full and any(has):  # who had nothing has just been told that all is here
                self._actions.append(Say(peer, Unwant(self.blob)))
        self._fresh, self._said_at = [], now

    def _haves(self, pieces: Iterable[int]) -> list[Have]:
        """These pieces as frames, as far as they are hashed."""
        here = {piece: self._roots[piece] for piece in pieces if piece in self._roots}
        return have_frames(self.blob, self.size, here, self._vouched)

    def _bytes(self, start: int, stop: int) -> tuple[int, int]:
        return start * self.length, min(self.size, stop * self.length)

    def _is_done(self, lease: Lease) -> bool:
        if lease.holder == self.own:
            return self.ours.find(0, lease.start, lease.stop) < 0
        member = self.members.get(lease.holder)
        return member is None or member.has.find(0, lease.start, lease.stop) < 0
