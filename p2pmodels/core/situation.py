"""What the pickers look at: members, leases, pulls and readers of one blob at one moment.

Sets of pieces are bytearrays of one byte a piece, 1 for what is in the set: whole-number arithmetic
on them does a thousand pieces at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from p2pmodels.core.digests import Digest
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import MIB, piece_length
from p2pmodels.core.traffic import Traffic

LEASE_BYTES = 8 * MIB  # bytes of a lease (design 6)
WHOLE_LEASE_BYTES = 32 * MIB  # bytes up to which a blob is one lease: one request, one rate limit


def lease_pieces(size: int) -> int:
    """How many pieces a lease of a blob of `size` bytes has."""
    length = piece_length(size)
    if size <= WHOLE_LEASE_BYTES:
        return max(1, -(-size // length))
    return max(1, LEASE_BYTES // length)


@dataclass(slots=True, eq=False)
class Member:
    """A peer, as far as this blob is concerned."""

    id: PeerId
    has: bytearray
    """One byte a piece: 1 where it can be pulled from this peer."""
    is_wanting: bool = False
    is_usable: bool = True
    """Linked, and not caught lying."""
    can_ask_origin: bool = True
    uploads: int = 0
    """Uploads that it said are under way there."""
    pulls: int = 0
    rate: float = 0.0
    """Bytes a second that it gave lately; 0 when unknown."""
    paused_until: float = 0.0
    is_suspect: bool = False
    """A pull from it stands still."""


@dataclass(slots=True, eq=False)
class Lease:
    """Pieces start … stop-1, which `holder` takes from the origin."""

    holder: PeerId
    start: int
    stop: int
    since: float
    progressed: float
    landed: int = 0
    """Pieces of it that have landed there since."""
    is_takeover: bool = False


@dataclass(slots=True, eq=False)
class Pull:
    """Pieces start … stop-1, asked of a peer; `at` is the first that has not come."""

    number: int
    peer: PeerId
    start: int
    stop: int
    since: float
    progressed: float
    at: int
    received: int = 0
    is_sick: bool = False


@dataclass(frozen=True, slots=True)
class Take:
    """Begin a lease; `is_takeover` when another's is passed on."""

    start: int
    stop: int
    is_takeover: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Pull pieces start … stop-1 from a peer."""

    peer: PeerId
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the choice depends on; nothing in it is changed."""

    now: float
    own: PeerId
    blob: Digest
    size: int
    ours: bytearray
    """One byte a piece: 1 where it has landed."""
    members: Mapping[PeerId, Member]
    holders: Sequence[int]
    """For each piece how many usable members have it."""
    leases: Sequence[Lease]
    pulls: Sequence[Pull]
    readers: Sequence[int]
    """The pieces that readers need next."""
    began: float
    """When the blob was first wanted here."""
    free_since: Mapping[int, float] = field(default_factory=dict)
    """For each lease that was begun and given back or lost, when that was."""
    shown_since: Mapping[int, float] = field(default_factory=dict)
    """For each piece that a member has, when the newest of its holders showed it."""
    traffic: Traffic = field(default_factory=Traffic)
    """What flows now, for other blobs as well."""
    can_ask_origin: bool = True
    closed: frozenset[int] | set[int] = frozenset()
    """Pieces that must not be pulled: their content is in doubt."""

    @property
    def pieces(self) -> int:
        return len(self.ours)

    @property
    def turn_s(self) -> float:
        """Seconds in which a lease brings a piece when all of the room share alike; 0: unknown."""
        return self.traffic.turn_s(piece_length(self.size))


# sets of pieces


def union(pieces: int, sets: Iterable[bytes | bytearray]) -> bytearray:
    """The pieces that are in any of the sets."""
    total = 0
    for has in sets:
        total |= int.from_bytes(has)
    return bytearray(total.to_bytes(pieces))


def minus(one: bytes | bytearray, other: bytes | bytearray) -> bytearray:
    """The pieces of one set that are not in the other."""
    both = int.from_bytes(one)
    return bytearray((both ^ (both & int.from_bytes(other))).to_bytes(len(one)))


def ones(pieces: bytearray) -> Iterator[int]:
    """The numbers of the pieces in a set, in order."""
    at = pieces.find(1)
    while at >= 0:
        yield at
        at = pieces.find(1, at + 1)


def runs(pieces: bytearray, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The unbroken runs of a set within start … stop-1."""
    while (at := pieces.find(1, start, stop)) >= 0:
        end = pieces.find(0, at, stop)
        start = stop if end < 0 else end
        yield at, start
