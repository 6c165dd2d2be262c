"""The data channel in the child: frames and files out, frames and data in, within bounds.

1. At most BUFFERED_LIMIT bytes wait in the channel (reliability F9). Frames go first; gives take
   turns, a message each.
2. What came in and is not yet taken by the daemon counts against the peer's window.
3. Data must have a number that was asked for and go on where it ended; what does not ends the
   session. Data of a number that was dropped is thrown away until its `end`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aiortc.rtcdatachannel import RTCDataChannel

from p2pmodels.core.shard import (
    DATA_BYTES_LIMIT,
    DATA_HEAD_BYTES,
    MESSAGE_BYTES_LIMIT,
    End,
    Status,
    data_head,
    is_data,
    is_shard_message,
    read_data_head,
    unpack,
)
from p2pmodels.errors import ProtocolError
from p2pmodels.sources.rtc.ipc import Kind, Note, weight
from p2pmodels.sources.rtc.sluices import Sluice

BUFFERED_LIMIT = 512 * 1024  # bytes that wait in the channel; half of what F9 allows
BUFFERED_LOW = 256 * 1024  # bytes at which more is given to the channel
DROPPED_LIMIT = 64  # numbers of dropped pulls that may still get data; eight gets run at once


@dataclass(slots=True)
class _Give:
    """A file on its way out: bytes at … stop-1 are to be sent now."""

    fd: int
    at: int
    stop: int
    end: bytes = b""


@dataclass(slots=True)
class _Pull:
    """Data expected: the byte `at` next, up to stop-1."""

    at: int
    stop: int
    sluice: Sluice


class ChildChannel:
    """An open channel; `tell` reaches the daemon, `on_broken(why)` ends the session."""

    def __init__(
        self,
        session: int,
        channel: RTCDataChannel,
        message_size: int,
        tell: Callable[[Note], None],
        on_broken: Callable[[str], None],
        on_room: Callable[[], None],
    ) -> None:
        """`on_room` is called when the daemon has taken something of what came in."""
        self._session, self._channel = session, channel
        self._tell, self._on_broken, self._on_room = tell, on_broken, on_room
        self._block = min(DATA_BYTES_LIMIT, (message_size or MESSAGE_BYTES_LIMIT) - DATA_HEAD_BYTES)
        self._frames: deque[bytes] = deque()
        self._gives: dict[int, _Give] = {}
        self._turns: deque[int] = deque()
        self._given: dict[int, int] = {}
        self._pulls: dict[int, _Pull] = {}
        self._dropped: dict[int, None] = {}
        self._untaken = 0
        channel.bufferedAmountLowThreshold = BUFFERED_LOW
        channel.on("bufferedamountlow", self._push)
        channel.on("message", self._hear)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that came in and that the daemon has not taken yet."""
        return self._untaken + sum(pull.sluice.waiting_bytes for pull in self._pulls.values())

    # out

    def send(self, frame: bytes) -> None:
        """Say a frame, before whatever else waits."""
        self._frames.append(frame)
        self._push()

    def give(self, number: int, path: str, offset: int, length: int) -> None:
        """Send bytes of a file as data; each step goes on where the last one ended."""
        give = self._gives.get(number)
        try:
            if give is None:
                give = _Give(os.open(path, os.O_RDONLY | os.O_CLOEXEC), offset, offset)
                self._gives[number] = give
            give.stop = offset + length
            # The disk reads ahead while the bytes before these are sent.
            os.posix_fadvise(give.fd, offset, length, os.POSIX_FADV_WILLNEED)
        except OSError as error:
            self._fail(number, type(error).__name__)
            return
        self._queue(number)

    def finish(self, number: int, end: bytes) -> None:
        """After the bytes given so far, say this and forget the number."""
        give = self._gives.get(number)
        if give is None:
            self.send(end)
        else:
            give.end = end
            self._queue(number)

    def stop(self, number: int) -> None:
        """Give nothing more of that number."""
        give = self._gives.pop(number, None)
        if give is not None:
            os.close(give.fd)

    def close(self) -> None:
        """The session is over: end what runs."""
        for number in list(self._gives):
            self.stop(number)
        for pull in self._pulls.values():
            pull.sluice.end(Status.FAILED)
        self._pulls.clear()

    def _queue(self, number: int) -> None:
        if number not in self._turns:
            self._turns.append(number)
        self._push()

    def _push(self) -> None:
        """Fill the channel up to its bound."""
        channel = self._channel
        while channel.readyState == "open" and channel.bufferedAmount < BUFFERED_LIMIT:
            if self._frames:
                frame = self._frames.popleft()
                channel.send(frame)
                self._tell(Note(Kind.TAKEN, self._session, first=weight(frame)))
            elif self._turns:
                self._send_block(self._turns.popleft())
            else:
                break
        self._tell_given()

    def _tell_given(self) -> None:
        """Tell the daemon of the bytes that the channel took, in one note for each number."""
        for number, amount in self._given.items():
            self._tell(Note(Kind.GAVE, self._session, number, amount))
        self._given.clear()

    def _send_block(self, number: int) -> None:
        """One message of a give, or its end."""
        give = self._gives.get(number)
        if give is None:
            return  # stopped
        if give.at < give.stop:
            try:
                data = os.pread(give.fd, min(self._block, give.stop - give.at), give.at)
            except OSError as error:
                data, reason = b"", type(error).__name__
            else:
                reason = "the file is too short"
            if not data:
                self._fail(number, reason)
                return
            self._channel.send(data_head(number, give.at) + data)
            give.at += len(data)
            self._given[number] = self._given.get(number, 0) + len(data)
        if give.at < give.stop:
            self._turns.append(number)
        elif give.end:
            end = give.end
            self.stop(number)
            self._channel.send(end)

    def _fail(self, number: int, reason: str) -> None:
        self._tell_given()
        self.stop(number)
        self._tell(Note(Kind.FAILED, self._session, number, tail=reason.encode()))

    # in

    def pull(self, number: int, start: int, stop: int, sluice: Sluice) -> None:
        """Let data of that number through to the sluice."""
        self._dropped.pop(number, None)
        sluice.on_moved = self._on_room
        self._pulls[number] = _Pull(start, stop, sluice)

    def drop(self, number: int) -> None:
        """End a pull that nobody wants any more."""
        pull = self._pulls.pop(number, None)
        if pull is not None:
            pull.sluice.end(Status.FAILED)
            self._dropped[number] = None
            if len(self._dropped) > DROPPED_LIMIT:
                self._dropped.pop(next(iter(self._dropped)))

    def taken(self, amount: int) -> None:
        """The daemon has taken so many bytes of frames."""
        self._untaken = max(0, self._untaken - amount)
        self._on_room()

    def _hear(self, message: bytes | str) -> None:
        try:
            if not isinstance(message, bytes) or not 1 <= len(message) <= MESSAGE_BYTES_LIMIT:
                raise ProtocolError("a message of a wrong form")
            if is_data(message):
                self._hear_data(message)
            elif is_shard_message(message) and isinstance(said := unpack(message), End):
                self._hear_end(said)
            else:
                self._untaken += weight(message)
                self._tell(Note(Kind.FRAME, self._session, tail=message))
        except ProtocolError as error:
            self._on_broken(error.detail)

    def _hear_data(self, message: bytes) -> None:
        head = read_data_head(message)
        pull = self._pulls.get(head.number)
        if pull is None:
            if head.number not in self._dropped:
                raise ProtocolError("data that nobody asked for")
            return
        if head.offset != pull.at or head.offset + head.length > pull.stop:
            raise ProtocolError("data out of place")
        pull.at += head.length
        pull.sluice.write(memoryview(message)[DATA_HEAD_BYTES:])

    def _hear_end(self, end: End) -> None:
        pull = self._pulls.pop(end.number, None)
        if pull is None:
            if end.number not in self._dropped:
                raise ProtocolError("the end of what nobody asked for")
            del self._dropped[end.number]
            return
        is_whole = pull.at == pull.stop
        status = end.status if end.status is not Status.DONE or is_whole else Status.FAILED
        pull.sluice.end(status, end.retry_ms)
