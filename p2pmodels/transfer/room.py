"""One running fetch in the LAN exchange: its board, its origin connections and its pulls.

1. The board decides, this carries out: frames to the links, claims to the origin's download, pulls
   to the range client.
2. Bytes of peers land piece by piece, each only when its root is what was said of it.
3. The origin may fail or ask us to wait while others can help; when nobody can, its error ends the
   fetch. A refusal (401, 403, 404) ends it at once.
4. Until the repo is proven public nothing we have is announced, and nobody is given any of it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Self

from p2pmodels.core.actions import Action, Ban, Reject, Say, Start, Stop
from p2pmodels.core.board import Board
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import RangeSet
from p2pmodels.core.situation import Pull
from p2pmodels.core.wire import Busy, Frame, Have
from p2pmodels.errors import (
    HolderBusy,
    LanFailed,
    NotHeld,
    Overloaded,
    P2PModelsError,
    PeerMisbehaved,
    SourceFailed,
    StoreFailed,
)
from p2pmodels.metrics import RECEIVED_BYTES
from p2pmodels.sources.lan.link import Linked, Pulling
from p2pmodels.sources.lan.ranges import Endpoint
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.store.partials import Partial
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.fetch import Fetch
from p2pmodels.transfer.flows import SELF
from p2pmodels.transfer.pace import Pace
from p2pmodels.transfer.room_parts import FillFromOrigin, RoomParts

log = logging.getLogger(__name__)

ORIGIN_PAUSE_S = 5.0  # seconds after a failure of the origin before we ask it again, others may
HASH_AGAIN_S = 0.25  # seconds after which we look for unhashed pieces, even if nothing was told
TALKING_S = 1.0  # seconds since its last frame for which a peer counts as talking
ENDED = -1  # stands for the number of a piece: the pull is over
STARVE_S = 10.0  # seconds without a piece, the origin failing, after which the fetch has failed
HELD_STARVE_S = 60.0  # the same while a peer has what we lack: its slots may be taken for long


class Room:
    """Entered: known to the links, and the pulls end with it. `fill` fills the partial."""

    def __init__(self, fetch: Fetch, partial: Partial, parts: RoomParts) -> None:
        self.fetch, self.partial = fetch, partial
        self._parts, self._clock = parts, parts.clock
        self._random = random.Random()  # noqa: S311  choice among equals, no secret
        self.claims = Claims(RangeSet())
        self.board = Board(
            parts.own,
            fetch.want.entry.digest,
            fetch.want.entry.size,
            parts.clock.monotonic(),
            self._random,
            parts.traffic,
            self.claims.under_way,
        )
        self._peers: dict[PeerId, Linked] = {}
        self._givers: dict[int, PeerId] = {}
        self._came: deque[tuple[int, int]] = deque()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._tasks = Tasks()
        self._pace = Pace(parts.clock)
        self._was_public = False
        self._failure: P2PModelsError | None = None
        self._origin_error: P2PModelsError | None = None
        self._landed_at = parts.clock.monotonic()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._parts.traffic.leasing.append(self.board.leases)
        self._parts.traffic.pulling.append(self.board.pulls)
        self.partial.on_piece = self._hashed
        for index in list(self.partial.pieces.landed):
            self._hashed(index)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._parts.traffic.leasing.remove(self.board.leases)
        self._parts.traffic.pulling.remove(self.board.pulls)
        self.partial.on_piece = lambda _index: None
        await self._tasks.__aexit__()

    # the links

    def meets(self, peer: Linked) -> None:
        """There is a link with this peer: it is asked what it knows."""
        self._peers[peer.id] = peer
        now = self._clock.monotonic()
        is_talking = now - peer.last_heard < TALKING_S
        self._send(peer.id, self.board.asked(peer.id, now, is_talking=is_talking))
        self._pace.wake()

    def heard(self, peer: PeerId, frame: Frame) -> None:
        """A peer says something about this blob, or about its load."""
        now = self._clock.monotonic()
        self.board.heard(peer, frame, now)
        # A room's answers come together: one look at them. How busy somebody is changes nothing.
        if not isinstance(frame, Busy) and not self.board.is_awaiting(now):
            self._pace.wake()

    def left(self, peer: PeerId) -> None:
        """The link with this peer has ended."""
        self._peers.pop(peer, None)
        self.board.left(peer, self._clock.monotonic())
        self._pace.wake()

    def expel(self, peer: PeerId) -> None:
        """This peer was caught lying."""
        self._peers.pop(peer, None)
        self.board.expel(peer, self._clock.monotonic())
        self._pace.wake()

    def _send(self, peer: PeerId, frame: Frame) -> None:
        if isinstance(frame, Have) and frame.runs and not self._was_public:
            frame = replace(frame, runs=(), roots=())
        self._parts.links.send(peer, frame)

    # filling

    async def fill(self, from_origin: FillFromOrigin) -> None:
        """Return when every piece has landed and none is in doubt.

        Raises AccessRefused, NotFound, SourceFailed, Overloaded, StoreFailed.
        """
        async with Tasks() as tasks:
            tasks.start(self._ask_origin(from_origin), f"origin for {self.fetch.want}")
            tasks.start(self._hash_along(), f"hashes of {self.fetch.want}")
            while True:
                await self._land_what_came()
                self._look()
                if self._is_done():
                    return
                self._raise_if_over()
                until = self.board.next_look(self._clock.monotonic())
                await self._pace.pause(until, len(self.board.members.by_id))

    def _is_done(self) -> bool:
        return self.partial.is_full and self.board.is_full and not self.board.is_searching

    def _look(self) -> None:
        """One step of the board, and what it wants done."""
        board, now = self.board, self._clock.monotonic()
        self.announce_when_public()
        board.reads(self.fetch.positions())
        for action in board.step(now):
            self._act(action)
        claims = board.claims()
        if claims != self.claims.ranges:
            self.claims.set(claims)

    @property
    def is_announced(self) -> bool:
        """Whether peers have been told what is here."""
        return self._was_public

    def announce_when_public(self) -> None:
        """What is here is told as soon as it may be."""
        if not self._was_public and self._parts.is_public(self.fetch):
            self._was_public = True
            for peer in self.board.members.wanting():
                for frame in self.board.answer():
                    self._send(peer, frame)

    async def _hash_along(self) -> None:
        """Keep the hashes close behind what lands, so that the end costs no second read."""
        partial = self.partial
        try:
            while True:
                await partial.hash_on()
                with suppress(TimeoutError):  # what landed while we came here told nobody
                    async with asyncio.timeout(HASH_AGAIN_S), partial.changed:
                        await partial.changed.wait()
        except P2PModelsError as error:
            self._fail(error)

    def _fail(self, error: P2PModelsError) -> None:
        self._failure = error
        self._pace.wake()

    def _act(self, action: Action) -> None:
        match action:
            case Say(peer, frame):
                self._send(peer, frame)
            case Start(pull):
                task = self._tasks.start(self._pull(pull), f"pull of {self.fetch.want}")
                self._running[pull.number] = task
            case Stop(number):
                running = self._running.get(number)
                if running is not None:
                    running.cancel()
            case Reject(pieces):
                self._reject(pieces)
            case Ban(peer, reason):
                self._parts.ban(peer, reason)

    def _reject(self, pieces: Iterable[int]) -> None:
        """Drop pieces; what was given out of them is void."""
        log.warning("%s: pieces %s are taken anew", self.fetch.want, sorted(pieces)[:20])
        for piece in pieces:
            self._givers.pop(piece, None)
            if self.partial.reject(piece):
                self.fetch.generation += 1

    # the origin

    async def _ask_origin(self, from_origin: FillFromOrigin) -> None:
        """Follow the claims until the partial is full; failures are pauses, refusals the end."""
        while not self.partial.is_full or self.board.is_searching:
            try:
                await from_origin(self.fetch, self.claims)
                if self.partial.is_full:
                    self.claims.changed.clear()
                    await self.claims.changed.wait()
            except Overloaded as error:
                await self._origin_failed(error, error.retry_after_s)
            except SourceFailed as error:
                await self._origin_failed(error, ORIGIN_PAUSE_S)
            except P2PModelsError as error:
                self._fail(error)
                return

    async def _origin_failed(self, error: P2PModelsError, wait_s: float) -> None:
        log.info("%s: %s; asked again in %.0f s", self.fetch.want, error, wait_s)
        self._origin_error = error
        self.board.origin_fails(wait_s, self._clock.monotonic())
        self._pace.wake()
        await self._clock.sleep(wait_s)
        self._origin_error = None

    def _raise_if_over(self) -> None:
        """End the fetch when nobody can bring it on."""
        if self._failure is not None:
            raise self._failure
        if (error := self._origin_error) is None:
            return
        now, fed_at, patience = self._clock.monotonic(), self._landed_at, STARVE_S
        if self.board.members.give(self.board.ours, at_last=True):
            fed_at, patience = max(fed_at, self._parts.progress.at), HELD_STARVE_S
        if self.board.can_others_help(now) and now - fed_at < patience:
            return
        raise error.with_traceback(None)

    # pulls

    async def _pull(self, pull: Pull) -> None:
        board, partial = self.board, self.partial
        peer = self._peers[pull.peer]
        start = pull.start * board.length
        stop = min(board.size, pull.stop * board.length)
        now = self._clock.monotonic

        def on_bytes(count: int) -> None:
            self._parts.flows.count(str(pull.peer), SELF, count)
            board.pulls.progressed(pull.number, count, pull.at, now())

        def on_written(end: int) -> None:
            self._came.append((pull.number, pull.stop if end == stop else end // board.length))
            self._pace.wake()

        def sink(offset: int, view: memoryview) -> None:  # in a thread
            partial.put(offset, view)
            loop.call_soon_threadsafe(on_written, offset + len(view))

        loop = asyncio.get_running_loop()
        try:
            with partial.borrow():
                await self._pull_from(peer)(partial.digest, start, stop, sink, on_bytes)
            self._came.append((pull.number, ENDED))
            self._pace.slacken()
        except HolderBusy as error:
            board.pulls.refused(pull.number, now(), error.retry_after_s)
        except NotHeld:
            board.pulls.missing(pull.number)
        except PeerMisbehaved as error:
            self._parts.ban(pull.peer, str(error))
        except LanFailed as error:
            log.debug("pull from %s: %s", pull.peer, error)
            board.pulls.failed(pull.number, now())
        except StoreFailed as error:
            self._fail(error)
        finally:
            self._running.pop(pull.number, None)
            self._pace.wake()

    def _pull_from(self, peer: Linked) -> Pulling:
        """How bytes come from this peer: by its channel, or over TCP with its ticket."""
        if peer.carrier is not None:
            return peer.carrier.pull
        endpoint = Endpoint(peer.host, peer.port, peer.their_ticket.hex())
        return functools.partial(self._parts.pulls.pull, endpoint)

    async def _land_what_came(self) -> None:
        """Take in the pieces that peers have given since the last look."""
        came, self._came = self._came, deque()
        reached: dict[int, int] = {}
        for number, piece in came:
            reached[number] = max(piece, reached.get(number, 0))
        for number, stop in reached.items():
            pull = self.board.pulls.get(number)
            if pull is not None and stop > pull.at:
                await self._land(pull, stop)
                self.board.pulls.progressed(number, 0, stop, self._clock.monotonic())
        for number, piece in came:
            if piece == ENDED:
                self.board.pulls.ended(number, self._clock.monotonic())

    async def _land(self, pull: Pull, stop: int) -> None:
        """The pieces of a pull up to `stop`, in runs: each is marked by itself."""
        run = range(pull.at, pull.at)
        for index in range(pull.at, stop):
            if self._is_welcome(pull, index):
                run = range(run.start, index + 1) if run else range(index, index + 1)
                if index + 1 < stop:
                    continue
            if run:
                await self._mark(pull, run)
            run = range(0)
            if self.board.pulls.get(pull.number) is not pull:  # its peer may be banned meanwhile
                return

    def _is_welcome(self, pull: Pull, index: int) -> bool:
        """Whether a piece of a pull is missing here, and is what was said of it."""
        if self.partial.landed.holds(*self.partial.pieces.span(index)):
            return False
        root = self.partial.pieces.written_root(index)
        now = self._clock.monotonic()
        return root is None or self.board.accepts(index, root, pull.peer, now)

    async def _mark(self, pull: Pull, run: range) -> None:
        pieces = self.partial.pieces
        start, stop = pieces.span(run.start)[0], pieces.span(run.stop - 1)[1]
        self._givers.update(dict.fromkeys(run, pull.peer))
        peer = self._peers.get(pull.peer)
        kind = "webrtc" if peer is not None and peer.carrier is not None else "lan"
        self.fetch.source = self.fetch.source or kind
        # Before anything waits: the last bytes of a file end the fetch, and this with it.
        self.fetch.sources[kind] += stop - start
        RECEIVED_BYTES.labels(kind).inc(stop - start)
        await self.partial.mark(start, stop)
        self._landed_at = self._parts.progress.at = self._clock.monotonic()

    def _hashed(self, index: int) -> None:
        """A piece has landed and is hashed, wherever it came from."""
        root = self.partial.pieces.root(index)
        if root is None:
            return
        now, giver = self._clock.monotonic(), self._givers.get(index)
        if giver is not None and not self.board.accepts(index, root, giver, now):
            self._reject([index])
            return
        vouched = self.partial.vouched.holds(*self.partial.pieces.span(index))
        self.board.landed(index, root, now, giver=giver, is_vouched=giver is None and vouched)
        if giver is None:
            self._landed_at = now
        self._pace.wake()

    # the end

    def digest_failed(self) -> bool:
        """Every piece landed and the file is wrong; whether it can be found out who lied.

        `fill` finds out, and gets what was wrong anew.
        """
        found = self.board.digest_failed(self._clock.monotonic())
        if found:
            for peer in list(self._peers.values()):
                self.meets(peer)
        return found
