"""The LAN exchange: one download for the whole room.

1. `Exchange` knows the links and the rooms: a room is one running fetch with its board. What peers
   say about a blob goes to its room; about complete blobs the store answers.
2. Only content that is proven public leaves this machine, and only about such that may be public
   peers are asked.
3. Peers give bytes; digests come from the origin, or from the manifest already held.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, Self

from p2pmodels.clock import Clock
from p2pmodels.core.digests import Digest
from p2pmodels.core.frames import have_frames
from p2pmodels.core.manifest import Want
from p2pmodels.core.members import SHARED_WAITS
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import piece_length
from p2pmodels.core.traffic import Traffic
from p2pmodels.core.wire import Busy, Frame, Have, Run, Unwant
from p2pmodels.core.wire import Lease as LeaseFrame
from p2pmodels.core.wire import Want as WantFrame
from p2pmodels.sources.lan.link import ByteCarrier, Linked
from p2pmodels.sources.lan.links import LinkOptions, Links
from p2pmodels.sources.lan.ranges import RangeClient
from p2pmodels.store.blobs import Blobs
from p2pmodels.store.partials import Partial
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.fetch import Fetch
from p2pmodels.transfer.flows import Flows
from p2pmodels.transfer.giving import Gives
from p2pmodels.transfer.room import Room
from p2pmodels.transfer.room_parts import Progress, RoomParts
from p2pmodels.transfer.uploads import HeldBytes, Uploads

log = logging.getLogger(__name__)

BUSY_EVERY_S = 0.5  # seconds between two `busy`; who is silent for five of them counts as frozen
TALK_S = 5.0  # seconds after its last word for which a peer is told our load
OWED_LIMIT = 64  # blobs that wait for a proof to be announced; it takes a moment to be noted
PROVE_SOON_S = 0.3  # seconds after which a fetch that needs no origin looks for a public proof
PROVE_LATE_S = 10.0  # seconds that a fetch waits for bytes of the origin, which are a proof


class Shares(Protocol):
    """What may leave this machine, and what peers may be asked about."""

    def may_give(self, digest: Digest) -> bool:
        """Whether some snapshot with this content is proven public."""

    def may_ask(self, want: Want) -> bool:
        """Whether this may be public, as far as known."""

    async def prove(self, want: Want) -> None:
        """Look for a public proof of its snapshot, once for all who ask; never raises."""


class Exchange:
    """Entered: links can be served and pulls can run. `run` tells peers our load."""

    def __init__(
        self,
        options: LinkOptions,
        shares: Shares,
        blobs: Blobs,
        uploads: Uploads,
        flows: Flows,
        clock: Clock,
        *,
        told_wait_s: Callable[[], float],
        on_peers_wait: Callable[[float], None],
        channel_uploads: Uploads | None = None,
    ) -> None:
        """`channel_uploads` are those to peers whose bytes do not go through the peer port."""
        self._shares, self._blobs, self._uploads = shares, blobs, uploads
        self._flows, self._clock = flows, clock
        self._told_wait_s, self._on_peers_wait = told_wait_s, on_peers_wait
        self._waits: dict[PeerId, float] = {}
        self._holders: set[PeerId] = set()
        self._rooms: dict[Digest, Room] = {}
        self._owed: dict[Digest, tuple[int, list[PeerId]]] = {}
        self._talked: dict[PeerId, float] = {}
        self._leases_at = clock.monotonic() - PROVE_LATE_S
        self.needs_secret = options.secret is not None
        self._gives = Gives(self.held, channel_uploads or Uploads(clock))
        self.links = Links(options, clock, self._linked, self._heard, self._gone)
        self._parts = RoomParts(
            options.id,
            self.links,
            RangeClient(),
            flows,
            clock,
            Traffic(),
            Progress(clock.monotonic()),
            is_public=lambda fetch: shares.may_give(fetch.want.entry.digest),
            ban=self._ban,
        )
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(self._parts.pulls)
            await exits.enter_async_context(self._gives)
            await exits.enter_async_context(self.links)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def run(self) -> None:
        """Tell those whom we talk to how busy we are, twice a second."""
        while True:
            await self._clock.sleep(BUSY_EVERY_S)
            now = self._clock.monotonic()
            self._show_leases()
            self._talked = {id: at for id, at in self._talked.items() if now - at < TALK_S}
            if self._talked:
                uploads, slots = self._uploads.load
                busy = Busy(uploads, slots, round(self._told_wait_s() * 1000))
                for id in self._talked:
                    self.links.send(id, busy)

    def gives(self, peer: PeerId) -> None:
        """This peer takes bytes from us: it is told our load."""
        self._talked[peer] = self._clock.monotonic()

    def _show_leases(self) -> None:
        """Who fetches from the origin for the room now."""
        holders = {
            lease.holder
            for room in self._rooms.values()
            for lease in room.board.leases
            if lease.holder != self._parts.own
        }
        for peer in holders ^ self._holders:
            self._flows.note_peer_origin(str(peer), peer in holders)
        self._holders = holders

    def _note_wait(self, peer: PeerId, wait_ms: int) -> None:
        """Several peers that the origin told to wait share our address, most likely."""
        now = self._clock.monotonic()
        self._waits[peer] = now + wait_ms / 1000
        self._waits = {id: until for id, until in self._waits.items() if until > now}
        if len(self._waits) >= SHARED_WAITS:
            self._on_peers_wait(min(self._waits.values()) - now)

    # our fetches

    @asynccontextmanager
    async def room(self, fetch: Fetch, partial: Partial) -> AsyncIterator[Room]:
        """The room of a running fetch; everybody linked is asked about it, if that may be."""
        digest = fetch.want.entry.digest
        async with Room(fetch, partial, self._parts) as room, Tasks() as tasks:
            is_open = self._shares.may_ask(fetch.want) and digest not in self._rooms
            if is_open:
                self._rooms[digest] = room
                for peer in self.links.links():
                    room.meets(peer)
                tasks.start(self._prove(room), f"proof for {fetch.want}")
            try:
                yield room
            finally:
                if is_open:
                    del self._rooms[digest]
                    if not fetch.is_over or fetch.blob is None:
                        self._unwant(room)
                    elif not room.is_announced:
                        self._owe(room)

    def _owe(self, room: Room) -> None:
        """It is here, but not proven public yet: those who want it are told when it is."""
        board = room.board
        self._owed[board.blob] = board.size, board.members.wanting()
        if len(self._owed) > OWED_LIMIT:
            self._owed.pop(next(iter(self._owed)))
        self.say_owed()

    def say_owed(self) -> None:
        """Something was proven public: say what was waiting for that."""
        for digest in [digest for digest in self._owed if self._shares.may_give(digest)]:
            size, peers = self._owed.pop(digest)
            for have in self._answer(WantFrame(digest, size)):
                for peer in peers:
                    self.links.send(peer, have)
        for room in self._rooms.values():
            room.announce_when_public()

    def _unwant(self, room: Room) -> None:
        for peer in room.board.members.by_id:
            self.links.send(peer, Unwant(room.board.blob))

    async def _prove(self, room: Room) -> None:
        """Without bytes of the origin a machine cannot give; it asks for a proof then.

        In a cold room everybody's turn comes to take a lease, which is a proof: no request is
        spent on what the next second may bring.
        """
        await self._clock.sleep(PROVE_SOON_S)
        is_cold = self._clock.monotonic() - self._leases_at < PROVE_LATE_S
        if is_cold:
            await self._clock.sleep(PROVE_LATE_S - PROVE_SOON_S)
        if not self._shares.may_give(room.board.blob):
            await self._shares.prove(room.fetch.want)

    # what peers may have

    def held(self, digest: Digest, start: int, stop: int) -> HeldBytes | None:
        """The file with the bytes start … stop-1; None when they are not all here and shared."""
        if not self._shares.may_give(digest):
            return None
        blob = self._blobs.find(digest)
        if blob is not None:
            return HeldBytes(blob.path, blob.size) if stop <= blob.size else None
        room = self._rooms.get(digest)
        if room is None or not room.partial.landed.holds(start, stop):
            return None
        return HeldBytes(room.partial.path, room.partial.size)

    def _answer(self, frame: WantFrame) -> list[Have]:
        """What a peer that wants a blob is told when we are not fetching it."""
        blob = self._blobs.find(frame.blob)
        if blob is None or blob.size != frame.size or not self._shares.may_give(frame.blob):
            return [Have(frame.blob, frame.size, False, (), ())]
        hashes = self._blobs.hashes.find(blob.sha256)
        if hashes is None:
            count = -(-blob.size // piece_length(blob.size))
            return [Have(frame.blob, frame.size, False, (Run(0, count, False),), ())]
        roots = dict(enumerate(hashes.pieces))
        return have_frames(frame.blob, frame.size, roots, bytes(len(roots)), is_wanting=False)

    # the links

    async def adopt(self, channel: ByteCarrier, expected: PeerId | None) -> None:
        """Serve a link over a channel that carries bytes, too, until it ends."""
        await self.links.adopt(channel, expected)

    def is_linked(self, id: PeerId) -> bool:
        """Whether there is a link with this peer."""
        return self.links.is_linked(id)

    def carried(self) -> list[Linked]:
        """Daemons and pages that are linked by a channel."""
        return self.links.carried()

    def _linked(self, peer: Linked) -> None:
        if peer.carrier is not None:
            self._gives.serve(peer.carrier, peer.id)
        if peer.is_guest:
            return
        for room in self._rooms.values():
            room.meets(peer)

    def _tell_guest(self, peer: Linked, frame: WantFrame) -> None:
        """A page asks what is here now; it will ask again."""
        room = self._rooms.get(frame.blob)
        if room is None:
            haves = self._answer(frame)
        elif room.is_announced and frame.size == room.board.size:
            haves = [said for said in room.board.answer() if isinstance(said, Have)]
        else:
            haves = [Have(frame.blob, frame.size, True, (), ())]
        for have in haves:
            self.links.send(peer.id, have)

    def _heard(self, peer: Linked, frame: Frame) -> None:
        if peer.is_guest:
            if isinstance(frame, WantFrame):
                self._tell_guest(peer, frame)
            return
        match frame:
            case Busy():
                self._note_wait(peer.id, frame.origin_wait_ms)
                for room in self._rooms.values():
                    room.heard(peer.id, frame)
            case WantFrame() | Have() | Unwant() | LeaseFrame():
                self._talked[peer.id] = self._clock.monotonic()
                if isinstance(frame, LeaseFrame):
                    self._leases_at = self._clock.monotonic()
                room_of_it = self._rooms.get(frame.blob)
                if room_of_it is not None:
                    room_of_it.heard(peer.id, frame)
                elif isinstance(frame, WantFrame):
                    for have in self._answer(frame):
                        self.links.send(peer.id, have)
            case _:
                pass

    def _ban(self, peer: PeerId, reason: str) -> None:
        """It lied over one blob: it is believed in nothing."""
        self.links.ban(peer, reason)
        for room in self._rooms.values():
            room.expel(peer)

    def _gone(self, peer: Linked) -> None:
        self._talked.pop(peer.id, None)
        for room in self._rooms.values():
            room.left(peer.id)
