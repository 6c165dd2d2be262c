"""One machine of the simulation: a daemon with its boards, and a client."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from p2pmodels.core.actions import Ban, Reject, Say, Start, Stop
from p2pmodels.core.board import Board
from p2pmodels.core.digests import Digest
from p2pmodels.core.peer import PeerId
from p2pmodels.core.situation import Pull
from p2pmodels.core.traffic import Traffic
from p2pmodels.core.wire import Busy, Frame, Have, Run, Want

if TYPE_CHECKING:
    from tests.simulation.world import World

ORIGIN_FIRST_BYTE_S = 0.15
SEGMENT = 8 << 20  # bytes of one request of a machine that is alone
STREAMS = 4  # origin connections of one machine


@dataclass
class Stream:
    """One connection to the origin."""

    at: int
    stop: int
    begins: float


def under_way(streams: list[Stream]) -> list[tuple[int, int]]:
    """As `Claims.under_way`."""
    return [(stream.at, stream.stop) for stream in streams]


@dataclass
class Fetch:
    """A blob that a machine fetches: its board, its file, its streams."""

    board: Board
    landed: dict[int, bytes] = field(default_factory=dict)
    vouched: set[int] = field(default_factory=set)
    streams: list[Stream] = field(default_factory=list)
    bytes_of: Counter[int] = field(default_factory=Counter)
    pulls: dict[int, Pull] = field(default_factory=dict)
    pull_bytes: Counter[int] = field(default_factory=Counter)
    has_resolved: bool = False
    looks_at: float = 0.0
    done_at: float | None = None


class Machine:
    """A daemon with a client that wants the blobs in order, some at once."""

    def __init__(self, world: World, number: int, up: float, down: float) -> None:
        self.id = PeerId(hashlib.sha256(b"%d %d" % (world.seed, number)).hexdigest()[:32])
        self.world, self.number, self.up, self.down = world, number, up, down
        self.traffic = Traffic()
        self.wanted: deque[Digest] = deque()
        self.fetches: dict[Digest, Fetch] = {}
        self.whole: dict[Digest, dict[int, bytes]] = {}
        self.is_alive = True
        self.is_frozen = False
        self.is_liar = False
        self.lies = "gives"
        """How a liar lies: it gives other bytes than it announced, or vouches for wrong ones."""
        self.limited_until = 0.0
        self.done_at: float | None = None
        self.banned: set[PeerId] = set()
        self.origin_bytes = 0
        self.busy_at = 0.0
        self.at_once = 8

    @property
    def runs(self) -> bool:
        return self.is_alive and not self.is_frozen

    def begin(self) -> None:
        """Start fetches up to the client's number at once."""
        world = self.world
        while self.wanted and len(self.fetches) < self.at_once:
            blob = self.wanted.popleft()
            size = world.sizes[blob]
            streams: list[Stream] = []
            board = Board(
                self.id,
                blob,
                size,
                world.now,
                Random(world.random.random()),
                self.traffic,
                partial(under_way, streams),
            )
            self.traffic.leasing.append(board.leases)
            self.traffic.pulling.append(board.pulls)
            fetch = self.fetches[blob] = Fetch(board, streams=streams)
            for peer in world.neighbours(self):
                world.post(self, peer, board.asked(peer.id, world.now))
            fetch.looks_at = world.now
        if not self.wanted and not self.fetches and self.done_at is None:
            self.done_at = world.now

    def receive(self, sender: Machine, frame: Frame) -> None:
        if sender.id in self.banned:
            return
        if isinstance(frame, Busy):
            for fetch in self.fetches.values():
                fetch.board.heard(sender.id, frame, self.world.now)
            return
        blob = frame.blob  # type: ignore[union-attr]
        found = self.fetches.get(blob)
        if found is not None:
            found.board.heard(sender.id, frame, self.world.now)
            found.looks_at = self.world.now
        elif isinstance(frame, Want):
            held = self.whole.get(blob)
            size = self.world.sizes[blob]
            runs: tuple[Run, ...] = ()
            roots: tuple[bytes, ...] = ()
            if held is not None:
                runs = (Run(0, len(held), False),)
                roots = tuple(held[piece] for piece in range(len(held)))
            self.world.post(self, sender, Have(blob, size, False, runs, roots))

    def content(self, blob: Digest, piece: int) -> bytes:
        """The bytes (their root) that this machine gives."""
        fetch = self.fetches.get(blob)
        held = fetch.landed if fetch else self.whole.get(blob, {})
        return held.get(piece, b"")

    def act(self, fetch: Fetch) -> None:
        """One step of a board, and what it wants done."""
        world, board = self.world, fetch.board
        board.reads([0])
        for action in board.step(world.now):
            match action:
                case Say(peer, frame):
                    world.post(self, world.by_id[peer], frame)
                case Start(pull):
                    world.ask(self, fetch, pull)
                case Stop(number):
                    fetch.pulls.pop(number, None)
                case Ban(peer, reason):
                    self.ban(peer, reason)
                case Reject(pieces):
                    for piece in pieces:
                        fetch.landed.pop(piece, None)
                        fetch.vouched.discard(piece)
                        fetch.bytes_of[piece] = 0
        fetch.looks_at = board.next_look(world.now)

    def gives_wrong(self, piece: int) -> bool:
        """Whether a liar gives other bytes of this piece than it announced."""
        return self.lies == "gives" and piece % 2 == 0

    def ban(self, peer: PeerId, reason: str) -> None:
        self.banned.add(peer)
        self.world.bans.append((self.number, self.world.by_id[peer].number, reason))
        for fetch in self.fetches.values():
            fetch.board.expel(peer, self.world.now)

    def take_from_origin(self, fetch: Fetch) -> None:
        """Keep the streams in step with the claims."""
        world, board = self.world, fetch.board
        if self.limited_until > world.now:
            fetch.streams.clear()
            return
        claims = board.claims()
        length, size = board.length, board.size
        if claims is not None and not claims.total:
            fetch.streams.clear()
            return
        if claims is not None:
            for stream in list(fetch.streams):
                stop = claims.run_end(stream.at)
                stream.stop = min(stream.stop, stop)
                if stream.at >= stream.stop:
                    fetch.streams.remove(stream)
        missing = [
            (piece * length + fetch.bytes_of[piece], min(size, (piece + 1) * length))
            for piece in range(board.pieces)
            if piece not in fetch.landed
        ]
        for start, stop in missing:
            if len(fetch.streams) >= STREAMS:
                break
            if claims is not None and not claims.holds(start, stop):
                continue
            if any(stream.at <= start < stream.stop for stream in fetch.streams):
                continue
            end = stop
            for other, further in missing:
                is_next = other == end and further - start <= SEGMENT
                if is_next and (claims is None or claims.holds(other, further)):
                    end = further
            if not world.request(self, fetch):
                return
            fetch.streams.append(Stream(start, end, world.now + ORIGIN_FIRST_BYTE_S))

    def origin_gave(self, fetch: Fetch, stream: Stream, amount: int) -> None:
        board, world = fetch.board, self.world
        stop = min(stream.stop, stream.at + amount)
        world.origin_bytes += stop - stream.at
        self.origin_bytes += stop - stream.at
        while stream.at < stop:
            piece = stream.at // board.length
            end = min(board.size, (piece + 1) * board.length)
            step = min(stop, end) - stream.at
            fetch.bytes_of[piece] += step
            stream.at += step
            if stream.at == end and piece not in fetch.landed:
                root = world.truth(board.blob, piece)
                if self.is_liar:
                    root = hashlib.sha256(root).digest()
                fetch.landed[piece] = root
                fetch.vouched.add(piece)
                board.landed(piece, root, world.now, giver=None, is_vouched=True)
                fetch.looks_at = world.now
        if stream.at >= stream.stop:
            fetch.streams.remove(stream)

    def finish(self, fetch: Fetch) -> None:
        """Every piece is here: the whole-file digest decides."""
        world, board = self.world, fetch.board
        self.act(fetch)
        if not board.is_full or board.is_searching:
            return
        wrong = [
            piece for piece, root in fetch.landed.items() if root != world.truth(board.blob, piece)
        ]
        if wrong and not self.is_liar:
            world.mismatches += 1
            if not board.digest_failed(world.now):
                raise AssertionError("wrong bytes that nobody gave")
            fetch.looks_at = world.now
            return
        del self.fetches[board.blob]
        self.traffic.leasing.remove(board.leases)
        self.traffic.pulling.remove(board.pulls)
        self.whole[board.blob] = fetch.landed
        self.begin()
