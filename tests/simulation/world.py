"""Hundreds of machines in memory: a network, a clock and an origin that are none, real boards.

1. Every machine runs the `Board` that the daemon runs; frames, pulls and origin connections are
   carried by this world instead of by sockets.
2. Time goes in steps of TICK_S. A machine's link and the room's uplink are shared evenly by what
   uses them at the moment, as TCP would.
3. A piece's content is its root: a liar's pieces have other roots than the origin's.
4. Everything random comes from one seed; the same seed gives the same run.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from random import Random

from p2pmodels.core.digests import Digest, Sha256
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import piece_length
from p2pmodels.core.situation import Pull
from p2pmodels.core.wire import Busy, Frame
from tests.simulation.machine import Fetch, Machine

TICK_S = 0.02
FRAME_S = 0.004  # seconds a frame takes from one machine to another
SLOTS, SLOTS_PER_PEER, SAME = 8, 3, 2  # as `transfer/uploads.py`
REFUSED_S = 0.2
BUSY_EVERY_S = 0.5
LINK_DEAD_S = 6.0  # seconds until the heartbeat finds a frozen machine


class World:
    """`run` lets time pass until every living machine has all it wants."""

    def __init__(self, seed: int, sizes: list[int], uplink: float) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now = 100.0
        self.uplink = uplink
        self.sizes: dict[Digest, int] = {}
        for number, size in enumerate(sizes):
            self.sizes[Sha256(hashlib.sha256(b"%d %d" % (seed, number)).hexdigest())] = size
        self.machines: list[Machine] = []
        self.by_id: dict[PeerId, Machine] = {}
        self.mail: deque[tuple[float, Machine, Machine, Frame]] = deque()
        self.events: list[tuple[float, str, Machine]] = []
        self.origin_bytes = 0
        self.requests = 0
        self.refused = self.refused_pulls = 0
        self.frames = 0
        self.mismatches = 0
        self.bans: list[tuple[int, int, str]] = []
        self.limit: int | None = None
        self.limit_window = 300.0
        self.window_since, self.window_requests = self.now, 0
        self.origin_is_dead = False
        self.running: dict[PeerId, list[tuple[Machine, Fetch, Pull]]] = {}
        """The pulls that each machine serves."""

    def add(self, *, up: float = 100e6, down: float = 100e6, wants: bool = True) -> Machine:
        machine = Machine(self, len(self.machines), up, down)
        self.machines.append(machine)
        self.by_id[machine.id] = machine
        if wants:
            machine.wanted.extend(self.sizes)
        return machine

    def warm(self, machine: Machine) -> None:
        """It has everything already."""
        machine.wanted.clear()
        for blob, size in self.sizes.items():
            count = -(-size // piece_length(size))
            machine.whole[blob] = {piece: self.truth(blob, piece) for piece in range(count)}

    def truth(self, blob: Digest, piece: int) -> bytes:
        return hashlib.sha256(f"{blob} {piece}".encode()).digest()

    def at(self, seconds: float, what: str, machine: Machine) -> None:
        self.events.append((self.now + seconds, what, machine))

    def neighbours(self, machine: Machine) -> list[Machine]:
        return [
            other
            for other in self.machines
            if other is not machine
            and other.is_alive
            and machine.id not in other.banned
            and other.id not in machine.banned
        ]

    def post(self, sender: Machine, to: Machine, frame: Frame) -> None:
        self.frames += 1
        self.mail.append((self.now + FRAME_S, sender, to, frame))

    def request(self, machine: Machine, fetch: Fetch) -> bool:
        """Ask the hub, once a machine and blob; further ranges go to where it led."""
        if self.origin_is_dead:
            return False
        if not fetch.has_resolved:
            if self.now - self.window_since >= self.limit_window:
                self.window_since, self.window_requests = self.now, 0
            self.window_requests += 1
            if self.limit is not None and self.window_requests > self.limit:
                self.refused += 1
                wait = self.limit_window - (self.now - self.window_since)
                machine.limited_until = self.now + wait
                for other in machine.fetches.values():
                    other.board.origin_fails(wait, self.now)
                return False
            self.requests += 1
            fetch.has_resolved = True
        return True

    def ask(self, machine: Machine, fetch: Fetch, pull: Pull) -> None:
        """A pull begins, unless the holder has no slot."""
        holder = self.by_id[pull.peer]
        if holder.runs:
            blob = fetch.board.blob
            if not all(holder.content(blob, piece) for piece in range(pull.start, pull.stop)):
                fetch.board.pulls.missing(pull.number)
                return
            running = [
                (other, found, other_pull) for other, found, other_pull in self.running[holder.id]
            ]
            same = sum(
                found.board.blob == fetch.board.blob
                and other_pull.start < pull.stop
                and pull.start < other_pull.stop
                for _, found, other_pull in running
            )
            mine = sum(other is machine for other, _, _ in running)
            is_small = fetch.board.size <= 1 << 20
            is_full = len(running) >= SLOTS or mine >= SLOTS_PER_PEER
            if is_full or (same >= SAME and not is_small):
                pause = self.random.uniform(0.5, 1.0) if is_full else REFUSED_S
                fetch.board.pulls.refused(pull.number, self.now, pause)
                self.refused_pulls += 1
                return
            self.running[holder.id].append((machine, fetch, pull))
        fetch.pulls[pull.number] = pull

    # time

    def run(self, until_s: float) -> None:
        end = self.now + until_s
        while self.now < end:
            self.now += TICK_S
            self._events()
            self._deliver()
            self._origin()
            self._transfers()
            self._boards()
            if all(m.done_at is not None for m in self.machines if m.runs) and not self.events:
                return
        stuck = [m.number for m in self.machines if m.runs and m.done_at is None]
        raise AssertionError(f"seed {self.seed}: machines {stuck} are not done in {until_s} s")

    def _events(self) -> None:
        due = [event for event in self.events if event[0] <= self.now]
        self.events = [event for event in self.events if event[0] > self.now]
        for _, what, machine in due:
            if what == "arrive":
                machine.begin()
            elif what == "kill":
                machine.is_alive = False
                self._cut_off(machine)
            elif what == "freeze":
                machine.is_frozen = True
                self.at(LINK_DEAD_S, "links die", machine)
            elif what == "links die":
                machine.is_alive = False
                self._cut_off(machine)
            elif what == "origin dies":
                self.origin_is_dead = True

    def _cut_off(self, machine: Machine) -> None:
        for other in self.machines:
            for fetch in other.fetches.values():
                fetch.board.left(machine.id, self.now)

    def _deliver(self) -> None:
        while self.mail and self.mail[0][0] <= self.now:
            _, sender, to, frame = self.mail.popleft()
            if to.runs and sender.is_alive and to.id not in sender.banned:
                to.receive(sender, frame)

    def _origin(self) -> None:
        flowing = []
        for machine in self.machines:
            if machine.runs:
                for fetch in list(machine.fetches.values()):
                    machine.take_from_origin(fetch)
                    flowing += [
                        (machine, fetch, stream)
                        for stream in fetch.streams
                        if stream.begins <= self.now
                    ]
        if not flowing or self.origin_is_dead:
            return
        own = Counter(machine.number for machine, _, _ in flowing)
        share = self.uplink / len(flowing)
        for machine, fetch, stream in flowing:
            rate = min(share, machine.down / own[machine.number] / 2)
            machine.origin_gave(fetch, stream, round(rate * TICK_S))

    def _transfers(self) -> None:
        going: list[tuple[Machine, Fetch, Pull]] = [
            (machine, fetch, pull)
            for machine in self.machines
            if machine.runs
            for fetch in machine.fetches.values()
            for pull in list(fetch.pulls.values())
        ]
        ups = Counter(pull.peer for _, _, pull in going)
        downs = Counter(machine.number for machine, _, _ in going)
        for machine, fetch, pull in going:
            holder = self.by_id[pull.peer]
            if not holder.runs:
                continue
            rate = min(holder.up / ups[pull.peer], machine.down / downs[machine.number])
            self._move(machine, fetch, pull, round(rate * TICK_S))

    def _move(self, machine: Machine, fetch: Fetch, pull: Pull, amount: int) -> None:
        board = fetch.board
        fetch.pull_bytes[pull.number] += amount
        done = pull.start + fetch.pull_bytes[pull.number] // board.length
        if (
            pull.stop == board.pieces
            and pull.start * board.length + fetch.pull_bytes[pull.number] >= board.size
        ):
            done = pull.stop
        done = min(done, pull.stop)
        first = pull.at
        board.pulls.progressed(pull.number, amount, done, self.now)
        holder = self.by_id[pull.peer]
        for piece in range(first, done):
            root = holder.content(board.blob, piece)
            if holder.is_liar and holder.gives_wrong(piece):
                root = hashlib.sha256(root).digest()
            if not root or piece in fetch.landed:
                continue
            if board.accepts(piece, root, holder.id, self.now):
                fetch.landed[piece] = root
                board.landed(piece, root, self.now, giver=holder.id, is_vouched=False)
        if done > first:
            fetch.looks_at = self.now
        if done >= pull.stop:
            fetch.pulls.pop(pull.number, None)
            board.pulls.ended(pull.number, self.now)

    def _boards(self) -> None:
        self.running = {machine.id: [] for machine in self.machines}
        for machine in self.machines:
            if machine.is_alive:
                for fetch in machine.fetches.values():
                    for pull in fetch.pulls.values():
                        self.running[pull.peer].append((machine, fetch, pull))
        for machine in self.machines:
            if not machine.runs:
                continue
            for fetch in list(machine.fetches.values()):
                if fetch.board.is_full and not fetch.board.is_searching:
                    machine.finish(fetch)
                elif fetch.looks_at <= self.now:
                    machine.act(fetch)
            self._say_busy(machine)

    def _say_busy(self, machine: Machine) -> None:
        if self.now - machine.busy_at < BUSY_EVERY_S or not machine.fetches:
            return
        machine.busy_at = self.now
        wait = max(0, round((machine.limited_until - self.now) * 1000))
        frame = Busy(len(self.running[machine.id]), SLOTS, wait)
        for other in self.neighbours(machine):
            self.post(machine, other, frame)
