"""The messages of a shard channel that carry bytes of blobs: get, data, end and cancel. No I/O.

1. A message that starts with 0x00 is data: its number, its offset in the blob, then the bytes.
2. Any other is a msgpack map whose first key is "t"; `get`, `end` and `cancel` are read here, all
   others are frames of the link and are read by `core/wire.py`.
3. A message is a checked value: making one that breaks a rule raises ProtocolError, received or
   own. Reading is as strict as that of a link's frames: no nesting, no key twice, no unknown key.

`sources/rtc/` moves the bytes and says which message may come when.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import msgpack

from p2pmodels.core.digests import Digest, GitId, Sha256
from p2pmodels.core.manifest import FILE_SIZE_LIMIT
from p2pmodels.core.pieces import MIB
from p2pmodels.errors import ProtocolError

CHANNEL_LABEL = "p2pmodels-1"  # label of the one data channel; its number is the protocol's version
DATA_BYTES_LIMIT = 64 * 1024  # bytes of a blob in one message; browsers slow down above and below
GET_BYTES_LIMIT = 64 * MIB  # bytes asked for by one get; more would hold an upload slot too long
GETS_LIMIT = 8  # gets under way on one channel; two keep it busy
RETRY_MS_MIN, RETRY_MS_LIMIT = 10, 30_000  # milliseconds of a 503, as for pulls over TCP
SHORT_BYTES_LIMIT = 256  # bytes of a get, end or cancel; the longest needs 90

_DATA = struct.Struct(">BIQ")
DATA_HEAD_BYTES = _DATA.size
MESSAGE_BYTES_LIMIT = DATA_HEAD_BYTES + DATA_BYTES_LIMIT  # bytes of the longest message
_NUMBER_LIMIT = 0xFFFF_FFFF
_OFFSET_LIMIT = 0xFFFF_FFFF_FFFF_FFFF


class Status(IntEnum):
    """How a get ended, in HTTP's numbers."""

    DONE = 200
    """Every byte has been sent."""
    NOT_HELD = 404
    BUSY = 503
    """Come again after `retry_ms`."""
    FAILED = 500
    """It went wrong midway."""


@dataclass(frozen=True, slots=True)
class Get:
    """`get`: send the bytes start … stop-1 of this blob as data of that number."""

    number: int
    blob: Digest
    start: int
    stop: int

    def __post_init__(self) -> None:
        _within("number", self.number, 0, _NUMBER_LIMIT)
        _within("start", self.start, 0, FILE_SIZE_LIMIT)
        _within("length", self.stop - self.start, 1, GET_BYTES_LIMIT)
        _within("stop", self.stop, 1, FILE_SIZE_LIMIT)


@dataclass(frozen=True, slots=True)
class End:
    """`end`: nothing more comes for that number; `retry_ms` is 0 but with BUSY."""

    number: int
    status: Status
    retry_ms: int = 0

    def __post_init__(self) -> None:
        _within("number", self.number, 0, _NUMBER_LIMIT)
        if self.status is Status.BUSY:
            _within("retry_ms", self.retry_ms, RETRY_MS_MIN, RETRY_MS_LIMIT)
        else:
            _within("retry_ms", self.retry_ms, 0, 0)


@dataclass(frozen=True, slots=True)
class Cancel:
    """`cancel`: the asker wants no more of that number."""

    number: int

    def __post_init__(self) -> None:
        _within("number", self.number, 0, _NUMBER_LIMIT)


Message = Get | End | Cancel


class Data(NamedTuple):
    """The head of a data message; its bytes follow at DATA_HEAD_BYTES."""

    number: int
    offset: int
    length: int


def is_data(message: bytes) -> bool:
    """Whether it carries bytes of a blob."""
    return message[:1] == b"\0"


def data_head(number: int, offset: int) -> bytes:
    """What stands before the bytes of a data message."""
    return _DATA.pack(0, number, offset)


def read_data_head(message: bytes) -> Data:
    """The head of a data message of 1 … DATA_BYTES_LIMIT bytes. Raises ProtocolError."""
    length = len(message) - DATA_HEAD_BYTES
    _within("bytes of data", length, 1, DATA_BYTES_LIMIT)
    _kind, number, offset = _DATA.unpack_from(message)
    return Data(number, offset, length)


def is_shard_message(message: bytes) -> bool:
    """Whether `unpack` reads it; other maps are frames of the link."""
    return message[1:].startswith(_BEGINNINGS)


def pack(message: Message) -> bytes:
    """The bytes of a message."""
    fields: dict[str, object] = {"t": _NAMES[type(message)]}
    for key in message.__slots__:
        value = getattr(message, key)
        fields[key] = bytes.fromhex(value.value) if isinstance(value, Sha256 | GitId) else value
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack(data: bytes) -> Message:
    """Read a message. Raises ProtocolError."""
    if len(data) > SHORT_BYTES_LIMIT:
        raise ProtocolError(f"{len(data)} bytes, {SHORT_BYTES_LIMIT} at most")
    try:
        fields = _read_fields(data)
        kind = _KINDS.get(str(fields.pop("t", "")))
        if kind is None or fields.keys() != set(kind.__slots__):
            raise ProtocolError("not a known kind of exactly its keys")
        build: Callable[..., Message] = kind  # each value has the type of its key by now
        return build(**fields)
    except (ValueError, msgpack.UnpackException) as error:  # msgpack raises either
        raise ProtocolError(f"not a message ({type(error).__name__})") from error


def _read_fields(data: bytes) -> dict[str, object]:
    """The map, each value read as the type that its key promises."""
    # As in `core/wire.py`: a value may be no container with anything in it, so depth ends at once.
    unpacker = msgpack.Unpacker(
        max_buffer_size=SHORT_BYTES_LIMIT, max_array_len=0, max_map_len=0, max_ext_len=0
    )
    unpacker.feed(data)
    fields: dict[str, object] = {}
    for _ in range(unpacker.read_map_header()):
        key = unpacker.unpack()
        if not isinstance(key, str) or key in fields or key not in _TYPES:
            raise ProtocolError("a key that is unknown or stands twice")
        value = unpacker.unpack()
        if type(value) is not _TYPES[key]:  # bool is an int in Python, but `true` is no number
            raise ProtocolError(f"{key} of another type")
        fields[key] = _CHECKED[key](value) if key in _CHECKED else value
    if unpacker.tell() != len(data):
        raise ProtocolError("bytes after the message")
    return fields


def _blob(value: bytes) -> Digest:
    if len(value) == 32:
        return Sha256(value.hex())
    _within("bytes of a blob's name", len(value), 20, 20)
    return GitId(value.hex())


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ProtocolError(f"{what} is {value}, not {low} … {high}")


_TYPES: Mapping[str, type] = {
    "t": str, "number": int, "blob": bytes, "start": int, "stop": int, "status": int,
    "retry_ms": int,
}  # fmt: skip
_CHECKED: Mapping[str, Callable[..., object]] = {"blob": _blob, "status": Status}
_KINDS: Mapping[str, type[Message]] = {"get": Get, "end": End, "cancel": Cancel}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_BEGINNINGS = tuple(b"\xa1t" + bytes((0xA0 | len(name),)) + name.encode() for name in _KINDS)
