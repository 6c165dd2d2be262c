"""Pulls: ranges of blobs from peers' ports, many at once, at the speed of the wire.

1. The event loop decides (which connection, when to give up); threads wait and copy.
2. At most PULLS_LIMIT pulls run, each with a thread and a buffer; further ones wait their turn.
3. A pull that is cancelled has left its sink before `pull` returns.
4. Connections are kept while idle for IDLE_S, no more than IDLE_LIMIT of them; leaving the block
   ends every pull and closes every connection.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from p2pmodels.core.digests import Digest
from p2pmodels.core.filling import Sink
from p2pmodels.core.peer import TICKET_HEADER
from p2pmodels.core.pieces import MIB
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.errors import LanFailed, NameRefused
from p2pmodels.sources.lan.client import PeerSilent
from p2pmodels.sources.lan.range_connection import (
    SILENCE_S,
    RangeConnection,
    RangeRequest,
)
from p2pmodels.workers import Lane

BLOBS_PATH = "/peer/v1/blobs/"  # followed by the digest, 64 or 40 hex digits

PULLS_LIMIT = 16  # pulls at once; three fill a wire, the rest are for slow peers; 1 MiB each
BUFFER_BYTES = MIB  # bytes handed on at once; smaller ones cost calls, larger ones the cache
IDLE_S = 10.0  # seconds a connection is kept idle; less than the 15 that the peer port keeps it
IDLE_LIMIT = 64  # idle connections to all peers together: two to each of thirty machines
RATE_MIN = 64 * 1024  # bytes/s; the deadline of a pull: who is slower helps nobody

_TICKET = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer's port is, and the ticket (32 hex digits) that it gave us over the link."""

    host: str
    port: int
    ticket: str = field(repr=False)

    def __post_init__(self) -> None:
        PeerAddress(self.host, self.port)  # raises NameRefused for what is no address
        if not _TICKET.fullmatch(self.ticket):
            raise NameRefused("ticket (32 lower-case hexadecimal digits)")

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(self.host, self.port)


@dataclass(frozen=True, slots=True)
class _Idle:
    address: PeerAddress
    connection: RangeConnection
    since: float


class RangeClient:
    """Pulls from peers; leaving the block ends what runs."""

    def __init__(self, pulls: int = PULLS_LIMIT) -> None:
        self._lane = Lane("p2pmodels-pull", pulls)
        self._places = asyncio.Semaphore(pulls)
        self._buffers: list[bytearray] = []
        self._idle: deque[_Idle] = deque()  # the oldest first
        self._busy: set[RangeConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        for connection in self._busy:
            connection.abort()
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.popleft().connection.close()
        await self._lane.__aexit__()

    async def pull(
        self,
        peer: Endpoint,
        digest: Digest,
        start: int,
        stop: int,
        sink: Sink,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Fetch the bytes start … stop-1 of a blob from a peer.

        `sink(offset, view)` is called in a thread for each part, in order; the view is valid during
        the call only. `on_bytes(count)` is called on the event loop as bytes come in. When this
        returns or raises, cancelled or not, the thread has left the sink for good.

        Raises HolderBusy, NotHeld, TicketRefused, other LanFailed (the network, time-outs),
        PeerMisbehaved, ValueError for an empty range, and whatever `sink` raises.
        """
        if not 0 <= start < stop:
            raise ValueError(f"range {start}…{stop}")
        request = RangeRequest(f"{BLOBS_PATH}{digest}", start, stop, {TICKET_HEADER: peer.ticket})
        async with self._places:
            if not self._is_open:
                raise LanFailed("the LAN part is not running")
            try:
                async with asyncio.timeout(SILENCE_S + (stop - start) / RATE_MIN):
                    await self._run(peer.address, request, sink, on_bytes)
            except TimeoutError as error:
                raise PeerSilent(f"{peer.address} is too slow") from error

    async def _run(
        self,
        address: PeerAddress,
        request: RangeRequest,
        sink: Sink,
        on_bytes: Callable[[int], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        connection = self._take(address)
        buffer = self._buffers.pop() if self._buffers else bytearray(BUFFER_BYTES)

        def tell(count: int) -> None:
            loop.call_soon_threadsafe(on_bytes, count)

        running = asyncio.wrap_future(
            self._lane.submit(connection.pull, request, buffer, sink, tell)
        )
        self._busy.add(connection)
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            connection.abort()
            await _over(running)
            running.exception()
            raise
        finally:
            self._busy.discard(connection)
            self._buffers.append(buffer)
            self._keep(address, connection)
        running.result()

    def _take(self, address: PeerAddress) -> RangeConnection:
        """The idle connection to the peer that was used last, or a new one."""
        for index in range(len(self._idle) - 1, -1, -1):
            if self._idle[index].address == address:
                found = self._idle[index].connection
                del self._idle[index]
                return found
        return RangeConnection(address)

    def _keep(self, address: PeerAddress, connection: RangeConnection) -> None:
        if not (connection.is_kept and self._is_open):
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle.append(_Idle(address, connection, loop.time()))
        if len(self._idle) > IDLE_LIMIT:
            self._idle.popleft().connection.close()
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_S, self._close_idle)

    def _close_idle(self) -> None:
        """Close what has been idle for long enough, and come again while there is more."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].since + IDLE_S <= loop.time():
            self._idle.popleft().connection.close()
        if self._idle:
            self._sweep = loop.call_at(self._idle[0].since + IDLE_S, self._close_idle)


async def _over(running: asyncio.Future[None]) -> None:
    """Wait until the thread has ended, however often we are cancelled: its socket is dead."""
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            continue
