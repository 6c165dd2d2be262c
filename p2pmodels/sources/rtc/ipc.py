"""What the daemon and its WebRTC child say to each other: notes on one socket, bytes on others.

1. A note is a head of fixed form and a tail of bytes, at most TAIL_LIMIT long. It is read in place:
   one turn of the loop reads at most BUFFER_BYTES.
2. The bytes of pulls go over sockets of their own, the slots, as records: any number of DATA, then
   one END. One pull uses a slot at a time; whoever reads leaves only after its END, so that the
   next finds the slot clean.
3. Neither side sends more than the other has room for: frames are paid back by TAKEN, gives by
   GAVE, and a slot that is full makes the peer's window smaller.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from enum import IntEnum, auto
from typing import NamedTuple, cast

from p2pmodels.core.shard import DATA_BYTES_LIMIT, MESSAGE_BYTES_LIMIT
from p2pmodels.errors import ProtocolError

TAIL_LIMIT = MESSAGE_BYTES_LIMIT  # bytes; the longest message, an SDP has a quarter of it
SLOTS = 16  # pulls at once over all channels, each with a thread; as many as over TCP
FRAME_WEIGHT = 1024  # bytes; a shorter frame counts as so many, as a note costs time

_HEAD = struct.Struct(">IBIIQQ")
BUFFER_BYTES = _HEAD.size + TAIL_LIMIT  # bytes read at once; the longest note

RECORD = struct.Struct(">BII")
"""Head of a record: DATA, length, 0; or END, status, milliseconds until a retry."""
RECORD_DATA, RECORD_END = 1, 2
RECORD_BYTES_LIMIT = DATA_BYTES_LIMIT


class Kind(IntEnum):
    """What a note says; in brackets what it carries besides the session."""

    # to the child
    SETUP = auto()
    """The options. [tail: JSON]"""
    OFFER = auto()
    """Make an offer."""
    ACCEPT = auto()
    """Answer this offer. [tail: SDP]"""
    COMPLETE = auto()
    """The answer to our offer. [tail: SDP]"""
    PROBE = auto()
    """The peer is a daemon: find out how long its datagrams may be."""
    CLOSE = auto()
    """End the session."""
    PULL = auto()
    """Data of this number is expected. [number, first: start, second: stop, tail: slot]"""
    DROP = auto()
    """Nobody wants the data of this number any more. [number]"""
    GIVE = auto()
    """Send these bytes of a file. [number, first: offset, second: length, tail: path]"""
    FINISH = auto()
    """No more bytes of this number are given; say this after them. [number, tail: message]"""
    STOP = auto()
    """Give nothing more of this number. [number]"""

    # from the child
    DESCRIBED = auto()
    """Our offer or answer. [tail: SDP]"""
    OPENED = auto()
    """The channel is open. [tail: the peer's IP address]"""
    ENDED = auto()
    """The session is over. [tail: why]"""
    GAVE = auto()
    """The channel took bytes of a file. [number, first: how many]"""
    FAILED = auto()
    """A file could not be read. [number, tail: why]"""
    ALIVE = auto()
    """The child runs. [first: bytes of its memory]"""

    # both ways
    FRAME = auto()
    """A message of the channel that is not data. [tail: message]"""
    TAKEN = auto()
    """A frame has been taken. [first: its weight]"""


class Note(NamedTuple):
    """One note; what a kind does not carry is 0 or empty."""

    kind: Kind
    session: int = 0
    number: int = 0
    first: int = 0
    second: int = 0
    tail: bytes = b""


def weight(frame: bytes) -> int:
    """What a frame counts as, in bytes."""
    return max(len(frame), FRAME_WEIGHT)


class NoteLine(asyncio.BufferedProtocol):
    """One end of the socket for notes; `on_lost` is called once when the other end is gone."""

    def __init__(self, on_note: Callable[[Note], None], on_lost: Callable[[], None]) -> None:
        self._on_note, self._on_lost = on_note, on_lost
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._transport: asyncio.WriteTransport | None = None

    def send(self, note: Note) -> None:
        """Say it; does nothing when nobody listens any more. Raises ProtocolError if too long."""
        if len(note.tail) > TAIL_LIMIT:
            raise ProtocolError(f"a note with {len(note.tail)} bytes")
        if self._transport is not None and not self._transport.is_closing():
            head = _HEAD.pack(
                len(note.tail), note.kind, note.session, note.number, note.first, note.second
            )
            self._transport.write(head + note.tail)

    def close(self) -> None:
        """Leave; what is not written yet is lost."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, so no isinstance could tell.
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        at = 0
        while self._filled - at >= _HEAD.size:
            length, kind, session, number, first, second = _HEAD.unpack_from(self._buffer, at)
            if length > TAIL_LIMIT:
                self.close()  # the other end is not ours or is broken
                return
            end = at + _HEAD.size + length
            if end > self._filled:
                break
            tail = bytes(self._view[end - length : end])
            self._on_note(Note(Kind(kind), session, number, first, second, tail))
            at = end
        self._view[: self._filled - at] = self._view[at : self._filled]
        self._filled -= at
