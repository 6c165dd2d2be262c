"""The frames of a link: what two daemons of one LAN say to each other, one msgpack map a frame.

1. A frame is a checked value: making one that breaks a rule raises ProtocolError, received or own.
2. `unpack` reads what the keys promise and nothing else: no nesting but that of `runs`, no float,
   no ext, no integer key, no key twice, no unknown key, no byte after the map. A hostile frame
   costs no more memory than an honest one of the same length.
3. A digest travels as bytes: 32 are a sha256, 20 a git id.

`core/exchange.py` says in which order frames come; this module knows single frames only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack

from p2pmodels.core.digests import Digest, GitId, Sha256
from p2pmodels.core.manifest import FILE_SIZE_LIMIT
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import PIECE_LENGTH_MAX, piece_length
from p2pmodels.errors import ProtocolError

FRAME_BYTES_LIMIT = 64 * 1024  # bytes of a frame; 1024 pieces with their roots need 45 KB
PIECES_LIMIT = 1024  # pieces with roots in one `have`; 32 KiB of roots
RUNS_LIMIT = 512  # runs in one `have` without roots; 6 KB
PIECE_NUMBER_LIMIT = FILE_SIZE_LIMIT // PIECE_LENGTH_MAX  # pieces; what the largest file has
REASON_LIMIT = 100  # characters of the reason in a `bye`; it is logged
PROTOCOL_NUMBER_LIMIT = 65535  # the largest protocol number; far from ours, to be parted from
SLOTS_LIMIT = 65535  # uploads or slots that a peer may report; a daemon has a few dozen
ORIGIN_WAIT_LIMIT_MS = 86_400_000  # milliseconds; a day, longer than any Retry-After is obeyed

NO_PORT = 0  # the port of a guest, a page: nobody can connect to it
ID_BYTES = 16
NONCE_BYTES = 16
PROOF_BYTES = 32  # HMAC-SHA256
TICKET_BYTES = 16
ROOT_BYTES = 32  # SHA-256

_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,32}")  # as in the hello of the peer port


class LeaseState(IntEnum):
    """What became of a lease."""

    FREE = 0
    """Given back: somebody else may fetch it."""
    HELD = 1
    """The sender fetches it from the origin now."""
    TAKEN = 2
    """The sender has taken it over from one who is too slow."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """`hello`: who speaks, where its peer port is, and the nonce that proofs answer to."""

    protocol: int
    id: PeerId
    version: str
    port: int
    nonce: bytes

    def __post_init__(self) -> None:
        _within("protocol", self.protocol, 0, PROTOCOL_NUMBER_LIMIT)
        if self.port != NO_PORT:
            # A peer must not aim us at a system service (reliability D9), as in `PeerAddress`.
            _within("port", self.port, 1024, 65535)
        _long("nonce", self.nonce, NONCE_BYTES)
        if not _VERSION.fullmatch(self.version):
            raise ProtocolError(f"version {self.version[:60]!r}")


@dataclass(frozen=True, slots=True)
class Welcome:
    """`welcome`: the proof of the group secret (empty: there is none) and a ticket for pulls."""

    proof: bytes
    ticket: bytes

    def __post_init__(self) -> None:
        if self.proof:
            _long("proof", self.proof, PROOF_BYTES)
        _long("ticket", self.ticket, TICKET_BYTES)


@dataclass(frozen=True, slots=True)
class Want:
    """`want`: the sender fetches this blob and asks what is known of it."""

    blob: Digest
    size: int

    def __post_init__(self) -> None:
        _within("size", self.size, 0, FILE_SIZE_LIMIT)


@dataclass(frozen=True, slots=True)
class Run:
    """The pieces start … stop-1; vouched are those that the sender took from the origin itself."""

    start: int
    stop: int
    is_vouched: bool


@dataclass(frozen=True, slots=True)
class Have:
    """`have`: these pieces may be pulled from the sender; it adds, it never takes back.

    `roots` holds the root of each listed piece in order, or nothing when they are not known. Then
    there are at most RUNS_LIMIT runs, with roots at most PIECES_LIMIT pieces.
    """

    blob: Digest
    size: int
    is_wanting: bool
    runs: tuple[Run, ...]
    roots: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _within("size", self.size, 0, FILE_SIZE_LIMIT)
        last, pieces = -(-self.size // piece_length(self.size)), 0
        stop = 0
        for run in self.runs:
            if not stop <= run.start < run.stop <= last:
                raise ProtocolError(f"run {run.start}…{run.stop} after {stop} of {last} pieces")
            stop = run.stop
            pieces += run.stop - run.start
        if not self.roots:
            _within("runs", len(self.runs), 0, RUNS_LIMIT)
        elif len(self.roots) != pieces or pieces > PIECES_LIMIT:
            raise ProtocolError(f"{len(self.roots)} roots for {pieces} pieces")
        for root in self.roots:
            _long("root", root, ROOT_BYTES)


@dataclass(frozen=True, slots=True)
class Unwant:
    """`unwant`: the sender no longer fetches this blob."""

    blob: Digest


@dataclass(frozen=True, slots=True)
class Lease:
    """`lease`: what the sender does about the pieces start … stop-1 of the blob.

    The frame carries no size: whether the blob has these pieces is for the receiver to know.
    """

    blob: Digest
    start: int
    stop: int
    state: LeaseState

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= PIECE_NUMBER_LIMIT:
            raise ProtocolError(f"lease of {self.start}…{self.stop}")


@dataclass(frozen=True, slots=True)
class Busy:
    """`busy`: how loaded the sender is, and how long its origin asked it to wait (0: not)."""

    uploads: int
    slots: int
    origin_wait_ms: int

    def __post_init__(self) -> None:
        _within("uploads", self.uploads, 0, SLOTS_LIMIT)
        _within("slots", self.slots, 0, SLOTS_LIMIT)
        _within("origin_wait_ms", self.origin_wait_ms, 0, ORIGIN_WAIT_LIMIT_MS)


@dataclass(frozen=True, slots=True)
class Bye:
    """`bye`: the sender leaves; nothing follows."""

    reason: str

    def __post_init__(self) -> None:
        # Printable, because it ends in a log: no line of a peer's making may appear there.
        if len(self.reason) > REASON_LIMIT or not self.reason.isprintable():
            raise ProtocolError("the reason of a bye")


Frame = Greeting | Welcome | Want | Have | Unwant | Lease | Busy | Bye


def pack(frame: Frame) -> bytes:
    """The bytes of a frame, at most FRAME_BYTES_LIMIT by the rules of its fields."""
    fields: dict[str, object] = {"t": _NAMES[type(frame)]}
    for key in frame.__slots__:
        value = getattr(frame, key)
        fields[key] = _WRITERS[key](value) if key in _WRITERS else value
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack(data: bytes) -> Frame:
    """Read a frame. Raises ProtocolError."""
    if len(data) > FRAME_BYTES_LIMIT:
        raise ProtocolError(f"{len(data)} bytes, {FRAME_BYTES_LIMIT} at most")
    try:
        fields = _read_fields(data)
    except (ValueError, msgpack.UnpackException) as error:  # msgpack raises either
        raise ProtocolError(f"not a frame ({type(error).__name__})") from error
    kind = _KINDS.get(str(fields.pop("t", "")))
    if kind is None or fields.keys() != set(kind.__slots__):
        raise ProtocolError("not a known kind of exactly its keys")
    build: Callable[..., Frame] = kind  # each value has the type of its key by now
    return build(**fields)


# reading


def _read_fields(data: bytes) -> dict[str, object]:
    """The map, each value read as the type that its key promises."""
    # Containers are opened by their headers only, where their lengths are checked: `unpack` of
    # a single value may find none with anything in it, so depth and crowds end at once.
    unpacker = msgpack.Unpacker(
        max_buffer_size=FRAME_BYTES_LIMIT, max_array_len=0, max_map_len=0, max_ext_len=0
    )
    unpacker.feed(data)
    fields: dict[str, object] = {}
    for _ in range(unpacker.read_map_header()):
        key = unpacker.unpack()
        if not isinstance(key, str) or key in fields or key not in _READERS:
            raise ProtocolError("a key that is unknown or stands twice")
        fields[key] = _READERS[key](unpacker)
    if unpacker.tell() != len(data):
        raise ProtocolError("bytes after the frame")
    return fields


def _integer(unpacker: msgpack.Unpacker) -> int:
    value = unpacker.unpack()
    if type(value) is not int:  # bool is an int in Python, but `true` is no number
        raise ProtocolError("not a whole number")
    return value


def _boolean(unpacker: msgpack.Unpacker) -> bool:
    value = unpacker.unpack()
    if not isinstance(value, bool):
        raise ProtocolError("not true or false")
    return value


def _text(unpacker: msgpack.Unpacker) -> str:
    value = unpacker.unpack()
    if not isinstance(value, str):
        raise ProtocolError("not a text")
    return value


def _bytes(unpacker: msgpack.Unpacker) -> bytes:
    value = unpacker.unpack()
    if not isinstance(value, bytes):
        raise ProtocolError("not bytes")
    return value


def _digest(unpacker: msgpack.Unpacker) -> Digest:
    value = _bytes(unpacker)
    if len(value) == 32:
        return Sha256(value.hex())
    _long("blob", value, 20)
    return GitId(value.hex())


def _id(unpacker: msgpack.Unpacker) -> PeerId:
    value = _bytes(unpacker)
    _long("id", value, ID_BYTES)
    return PeerId(value.hex())


def _runs(unpacker: msgpack.Unpacker) -> tuple[Run, ...]:
    count = unpacker.read_array_header()
    _within("runs", count, 0, PIECES_LIMIT)
    runs = []
    for _ in range(count):
        _within("fields of a run", unpacker.read_array_header(), 3, 3)
        runs.append(Run(_integer(unpacker), _integer(unpacker), _boolean(unpacker)))
    return tuple(runs)


def _roots(unpacker: msgpack.Unpacker) -> tuple[bytes, ...]:
    value = _bytes(unpacker)
    _within("bytes of roots", len(value), 0, PIECES_LIMIT * ROOT_BYTES)
    if len(value) % ROOT_BYTES:
        raise ProtocolError("roots of a wrong length")
    return tuple(value[at : at + ROOT_BYTES] for at in range(0, len(value), ROOT_BYTES))


def _lease_state(unpacker: msgpack.Unpacker) -> LeaseState:
    return LeaseState(_integer(unpacker))


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ProtocolError(f"{what} is {value}, not {low} … {high}")


def _long(what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise ProtocolError(f"{what} of {len(value)} bytes, not {length}")


_READERS: Mapping[str, Callable[[msgpack.Unpacker], object]] = {
    "t": _text,
    "protocol": _integer, "id": _id, "version": _text, "port": _integer, "nonce": _bytes,
    "proof": _bytes, "ticket": _bytes,
    "blob": _digest, "size": _integer,
    "is_wanting": _boolean, "runs": _runs, "roots": _roots,
    "start": _integer, "stop": _integer, "state": _lease_state,
    "uploads": _integer, "slots": _integer, "origin_wait_ms": _integer,
    "reason": _text,
}  # fmt: skip

_WRITERS: Mapping[str, Callable[[Any], object]] = {
    "id": lambda id: bytes.fromhex(id.value),
    "blob": lambda blob: bytes.fromhex(blob.value),
    "runs": lambda runs: [(run.start, run.stop, run.is_vouched) for run in runs],
    "roots": b"".join,
}

_KINDS: Mapping[str, type[Frame]] = {
    "hello": Greeting,
    "welcome": Welcome,
    "want": Want,
    "have": Have,
    "unwant": Unwant,
    "lease": Lease,
    "busy": Busy,
    "bye": Bye,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
