"""One kept connection to a peer's port that fetches ranges: the blocking half of `ranges.py`.

1. One thread uses it at a time; `abort` alone may be called from any thread at any moment. After
   it the socket is dead, the thread leaves, and the sink is not called again.
2. The answer is 206 with exactly the range asked for, or an error; nothing else is read.
3. Bytes go from the socket into the caller's buffer, whose parts are handed on when they end where
   pieces may end: full ones from a quick peer, whatever is whole from a slow one.
4. What the sink raises is left alone; what the network raises becomes one of ours.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2pmodels import __version__
from p2pmodels.core.filling import Filling, Sink
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.errors import HolderBusy, LanFailed, NotHeld, PeerMisbehaved
from p2pmodels.sources.lan.client import CONNECT_TIMEOUT_S, PeerSilent

RETRY_AFTER_MS_HEADER = "X-P2PModels-Retry-After-Ms"

SILENCE_S = 5.0  # seconds without a byte; a LAN peer answers in milliseconds
TICK_S = 0.25  # seconds a read may wait for a full buffer before it gives what has come
SILENT_TICKS = int(SILENCE_S / TICK_S)  # reads in a row without a byte
ERROR_BODY_LIMIT = 4096  # bytes of an error answer that are read, so that the connection is kept
RETRY_S_MIN = 0.01  # seconds; a peer must not make us ask without a pause
RETRY_S_LIMIT = 30.0  # seconds; nor keep us away for longer than others need to get its bytes

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")
_NUMBER = re.compile(r"[0-9]{1,9}")
_TIMEVAL = struct.pack("ll", 0, int(TICK_S * 1e6))  # struct timeval; socket(7), SO_RCVTIMEO


class TicketRefused(LanFailed):
    """A LAN peer does not know our ticket."""


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """The bytes start … stop-1 of what is at `path`; `headers` carry the ticket."""

    path: str
    start: int
    stop: int
    headers: dict[str, str]


class RangeConnection(http.client.HTTPConnection):
    """Closed until the first request, then kept while answers are read to their end."""

    def __init__(self, address: PeerAddress) -> None:
        super().__init__(address.host, address.port)
        self._address = address
        self._guard = threading.Lock()
        self._line: socket.socket | None = None  # the socket, also when `sock` is None already
        self._answer: http.client.HTTPResponse | None = None
        self._is_aborted = False
        self._is_read = False  # whether the last answer was read to its end

    @property
    def is_kept(self) -> bool:
        """Whether another request may follow on the same connection."""
        return self.sock is not None and not self._is_aborted

    def abort(self) -> None:
        """Wake the thread that waits for this connection; it finds the socket at its end."""
        with self._guard:
            self._is_aborted = True
            if self._line is not None:
                with contextlib.suppress(OSError):  # not connected, or over already
                    self._line.shutdown(socket.SHUT_RDWR)

    def connect(self) -> None:
        """Connect to the address, which is a literal: no name is ever looked up."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        line = socket.socket(family, socket.SOCK_STREAM)
        with self._guard:
            self.sock = self._line = line
            if self._is_aborted:
                raise ConnectionAbortedError
        line.settimeout(CONNECT_TIMEOUT_S)
        line.connect((self.host, self.port))
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)

    def close(self) -> None:
        """Close the socket; not while `abort` holds it, whose number may be another's by then."""
        with self._guard:
            super().close()
            if self._answer is not None:
                self._answer.close()  # it holds the socket open as well
                self._answer = None

    def pull(
        self,
        request: RangeRequest,
        buffer: bytearray,
        sink: Sink,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Fetch the range into `buffer` and hand it to `sink`, part by part. Blocks.

        Raises HolderBusy, NotHeld, TicketRefused, LanFailed, PeerMisbehaved, and what `sink` does.
        """
        self._is_read = False
        try:
            with self._blamed():
                answer = self._ask(request)
                self._check(answer, request)
            self._receive(answer, Filling(buffer, request.start, request.stop, sink), on_bytes)
            self._is_read = not answer.will_close
            answer.close()
        finally:
            if not self._is_read:
                self.close()

    def _ask(self, request: RangeRequest) -> http.client.HTTPResponse:
        """The head of the answer; a kept connection that the peer has closed is made anew."""
        if self.sock is not None and _is_over(self.sock):
            self.close()
        was_kept = self.sock is not None
        try:
            return self._send(request)
        except ConnectionError:
            if not was_kept or self._is_aborted:
                raise
        self.close()
        return self._send(request)

    def _send(self, request: RangeRequest) -> http.client.HTTPResponse:
        headers = {
            "Host": _host_header(self._address),
            "User-Agent": f"p2pmodels/{__version__}",
            "Accept-Encoding": "identity",
            "Range": f"bytes={request.start}-{request.stop - 1}",
            **request.headers,
        }
        if self.sock is None:
            self.connect()
        self.sock.settimeout(SILENCE_S)
        self.request("GET", request.path, headers=headers)
        self._answer = self.getresponse()
        return self._answer

    def _check(self, answer: http.client.HTTPResponse, request: RangeRequest) -> None:
        """Raise unless the answer is exactly the range asked for."""
        if answer.status != 206:
            if answer.length is not None and answer.length <= ERROR_BODY_LIMIT:
                answer.read()
                self._is_read = not answer.will_close
            raise self._refusal(answer)
        headers = answer.headers
        length = request.stop - request.start
        spans = headers.get_all("Content-Range", [])
        match = _CONTENT_RANGE.fullmatch(spans[0]) if len(spans) == 1 else None
        if (
            match is None
            or (int(match[1]), int(match[2])) != (request.start, request.stop - 1)
            or int(match[3]) < request.stop
            or headers.get_all("Content-Length") != [str(length)]
            or "Transfer-Encoding" in headers
            or headers.get("Content-Encoding", "identity") != "identity"
        ):
            raise PeerMisbehaved(f"{self._address} answers with another range")

    def _refusal(self, answer: http.client.HTTPResponse) -> LanFailed | PeerMisbehaved:
        if answer.status == 404:
            return NotHeld(str(self._address))
        if answer.status == 403:
            return TicketRefused(str(self._address))
        if answer.status in (429, 503):
            return HolderBusy(str(self._address), retry_after_s=_retry_after_s(answer.headers))
        if answer.status >= 500:
            return LanFailed(f"{self._address} answers with status {answer.status}")
        return PeerMisbehaved(f"{self._address} answers with status {answer.status}")

    def _receive(
        self,
        answer: http.client.HTTPResponse,
        filling: Filling,
        on_bytes: Callable[[int], None],
    ) -> None:
        """The body, after what came with the head."""
        with self._blamed():
            early = answer.fp.peek()
        while not filling.is_done:
            room = filling.room
            is_early = bool(early)
            if is_early:
                count = min(len(early), len(room))
                room[:count], early = early[:count], early[count:]
            else:
                with self._blamed():
                    count = self._read(room)
            if count == 0 or self._is_aborted:
                raise LanFailed(f"{self._address} closed the connection")
            on_bytes(count)
            is_slow = not is_early and count < len(room)
            filling.add(count)
            if is_slow:
                filling.hand_whole_pieces()

    def _read(self, room: memoryview) -> int:
        """Fill `room`, or what of it comes within a tick; 0 at the end of the connection.

        The kernel waits for the whole of it, so that no step in Python is between the packets.
        MSG_WAITALL needs a blocking socket; SO_RCVTIMEO bounds each call.
        """
        if self._line is None:
            return 0
        self._line.settimeout(None)
        for _ in range(SILENT_TICKS):
            with contextlib.suppress(BlockingIOError):
                return self._line.recv_into(room, 0, socket.MSG_WAITALL)
        raise PeerSilent(str(self._address))

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """The one place where the network's exceptions become ours."""
        try:
            yield
        except TimeoutError as error:
            raise PeerSilent(str(self._address)) from error
        except (OSError, http.client.IncompleteRead) as error:
            raise LanFailed(f"{self._address}: {type(error).__name__}") from error
        except (http.client.HTTPException, ValueError) as error:
            raise PeerMisbehaved(f"{self._address}: {type(error).__name__}") from error


def _is_over(line: socket.socket) -> bool:
    """Whether an idle connection has something to read: its end, or what nobody asked for."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    return bool(poll.poll(0))


def _host_header(address: PeerAddress) -> str:
    """The literal, without the zone that means something to this machine only."""
    host = address.host.partition("%")[0]
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


def _retry_after_s(headers: http.client.HTTPMessage) -> float:
    milliseconds = headers.get(RETRY_AFTER_MS_HEADER, "")
    seconds = headers.get("Retry-After", "")
    wanted = 1.0
    if _NUMBER.fullmatch(milliseconds):
        wanted = int(milliseconds) / 1000
    elif _NUMBER.fullmatch(seconds):
        wanted = float(seconds)
    return min(max(wanted, RETRY_S_MIN), RETRY_S_LIMIT)
