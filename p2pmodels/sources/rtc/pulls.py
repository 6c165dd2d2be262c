"""Pulls over shard channels, the blocking half: a thread reads a slot and fills the caller's sink.

1. One thread uses a slot at a time and reads it up to the END of its pull, whatever happens; only
   when the child is gone or silent for too long is the slot given up.
2. Bytes are handed on as in pulls over TCP: full buffers from a quick peer, whole pieces from a
   slow one.
3. After `Pull.give_up` (or an error of the sink itself) no further call of the sink begins, and
   none runs any more once `run` has ended.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from p2pmodels.core.filling import Filling, Sink
from p2pmodels.core.pieces import MIB
from p2pmodels.core.shard import Status
from p2pmodels.errors import HolderBusy, LanFailed, NotHeld
from p2pmodels.sources.rtc.ipc import RECORD, RECORD_BYTES_LIMIT, RECORD_DATA, RECORD_END

BUFFER_BYTES = MIB  # bytes handed on at once; as in pulls over TCP
SILENCE_S = 5.0  # seconds without a byte; a LAN peer answers in milliseconds
TICK_S = 0.25  # seconds until what is whole goes on from a peer that is slow
END_LIMIT_S = 2.0  # seconds for the child to end a pull that was given up


class Slot:
    """The parent's end of a data socket; `is_clean` says whether another pull may use it."""

    def __init__(self, line: socket.socket, index: int) -> None:
        line.settimeout(TICK_S)
        self.line, self.index = line, index
        self.is_clean = True
        self.buffer = bytearray(BUFFER_BYTES)

    def close(self) -> None:
        """End it; a thread that reads it leaves. Call `release` when no thread does."""
        self.is_clean = False
        # A socket that is closed under a reader would not wake it.
        self.line.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        self.line.close()


class Pull:
    """One pull on its slot; `run` is called in a thread, everything else on the loop."""

    def __init__(
        self,
        slot: Slot,
        start: int,
        stop: int,
        sink: Sink,
        tell: Callable[[int], None],
        drop: Callable[[], None],
    ) -> None:
        """`tell` hears of bytes, `drop` that nobody wants the rest; both are called in a thread."""
        self._slot, self._sink, self._tell, self._drop = slot, sink, tell, drop
        self._filling = Filling(slot.buffer, start, stop, self._hand)
        self._given_up = threading.Event()
        self._failure: BaseException | None = None
        self._silent_s = 0.0

    def give_up(self) -> None:
        """Let the thread leave; the child must have been told to drop the pull."""
        self._given_up.set()

    def run(self) -> None:
        """Read until END. Raises HolderBusy, NotHeld, other LanFailed, what the sink raises."""
        self._slot.is_clean = False
        try:
            status, retry_ms = self._read_records()
        except OSError as error:
            raise self._failure or LanFailed(f"the WebRTC process: {error}") from error
        self._slot.is_clean = True
        if self._failure is not None:
            raise self._failure
        if status == Status.BUSY:
            raise HolderBusy(retry_after_s=retry_ms / 1000)
        if status == Status.NOT_HELD:
            raise NotHeld
        if self._given_up.is_set() or status != Status.DONE or not self._filling.is_done:
            raise LanFailed(f"the pull ended with {status}")

    def _read_records(self) -> tuple[int, int]:
        """Status and pause of the END."""
        head = memoryview(bytearray(RECORD.size))
        while True:
            self._receive(head)
            kind, length, retry_ms = RECORD.unpack(head)
            if kind == RECORD_END:
                return length, retry_ms
            if kind != RECORD_DATA or length > RECORD_BYTES_LIMIT:
                raise ConnectionError("not a record")
            self._take(length)

    def _take(self, length: int) -> None:
        """Fill the buffer with the bytes of a record, or read past them."""
        while length:
            room = self._filling.room[:length]
            if not room:
                raise ConnectionError("more bytes than asked for")
            self._receive(room)
            length -= len(room)
            if not self._given_up.is_set():
                self._tell(len(room))
            self._filling.add(len(room))

    def _hand(self, offset: int, view: memoryview) -> None:
        """Give the sink its part unless it has failed or is not to be called any more."""
        if not self._given_up.is_set():
            try:
                self._sink(offset, view)
            except BaseException as error:
                self._fail(error)

    def _receive(self, room: memoryview) -> None:
        """Fill `room`, handing on what is whole while the peer is slow."""
        while room:
            try:
                count = self._slot.line.recv_into(room)
            except TimeoutError:
                self._wait()
                continue
            if not count:
                raise ConnectionError("it is gone")
            self._silent_s = 0.0
            room = room[count:]

    def _wait(self) -> None:
        self._silent_s += TICK_S
        if not self._given_up.is_set():
            self._filling.hand_whole_pieces()
            if self._silent_s >= SILENCE_S:
                self._fail(LanFailed(f"no byte for {SILENCE_S:g} s"))
        elif self._silent_s >= SILENCE_S + END_LIMIT_S:
            raise TimeoutError("it does not end a pull")

    def _fail(self, error: BaseException) -> None:
        """Remember why, and have the pull ended by the child: the END is read as ever."""
        self._failure = error
        self.give_up()
        self._drop()
