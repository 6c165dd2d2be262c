"""ICE and DTLS below a data channel: aiortc's and aioice's own, narrowed to what we need.

1. Candidates are gathered at the given addresses only; aioice alone would use every adapter, and
   aiortc would ask a public STUN server.
2. Datagrams wait in a bounded queue, as in a socket; further ones are lost, as on a network.
3. No keys for media are made, so packets of media are dropped.
4. Datagrams of one length go out in runs, each with one system call that the kernel cuts again
   (udp(7), UDP_SEGMENT): a call for each was a third of what sending costs. Whoever puts them
   flushes before anything else may run.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

from aioice import Candidate, Connection
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, server_reflexive_candidate
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsTransport, State
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport
from OpenSSL import SSL

QUEUE_LIMIT = 1024  # datagrams; 1.5 MB of usual ones, three times the window that we allow the peer
SOCKET_BUFFER_BYTES = 2 << 20  # bytes; the kernel's default holds 10 ms of 25 MB/s
DATAGRAM_BYTES_LIMIT = 9000  # bytes of a datagram; ours have 8.3 KB where six frames arrive
BATCH_LIMIT = 16  # datagrams read before they are acknowledged, if so many are there
RUN_LIMIT = 24  # datagrams sent at once; a browser's socket holds 56, and 64 are the kernel's limit
RUN_BYTES_LIMIT = 60_000  # bytes sent at once; with all heads an IP packet has 65,535
UDP_SEGMENT = 103  # linux/udp.h; not in Python's socket module
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0  # linux/in.h; not in Python's socket module
STUN_LIMIT_S = 2.0  # seconds for the answer of a configured STUN server


class Datagrams(StunProtocol):
    """A UDP socket of a session."""

    def __init__(self, receiver: Connection, line: socket.socket) -> None:
        super().__init__(receiver)
        self._line, self._is_cut_by_kernel = line, hasattr(socket, "SOL_UDP")

    def send_run(self, run: bytes, length: int, address: tuple[str, int]) -> None:
        """Send datagrams of that length, the last of which may be shorter, now or never."""
        if self._is_cut_by_kernel and len(run) > length:
            cut = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", length))]
            try:
                self._line.sendmsg([run], cut, 0, address)
                return
            except BlockingIOError:
                return  # lost, as in any queue that is full
            except OSError:
                self._is_cut_by_kernel = False  # an old kernel, or frames that are smaller
        for start in range(0, len(run), length):
            self.transport.sendto(run[start : start + length], address)

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        data = cast(bytes, data)
        # aioice tries to read each datagram as STUN, by exception; the first byte tells (RFC 7983).
        if data and 20 <= data[0] <= 63:
            self.receiver.data_received(data, 1)
        else:
            super().datagram_received(data, addr)


class LanConnection(Connection):
    """An ICE agent at chosen addresses."""

    def __init__(self, addresses: tuple[str, ...], stun: tuple[str, int] | None) -> None:
        super().__init__(ice_controlling=False)
        self._addresses, self._stun = addresses, stun

    @property
    def remote_host(self) -> str:
        """The IP address that packets go to now; empty before there is one."""
        pair = self._nominated.get(1)
        return pair.remote_addr[0] if pair else ""

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[Candidate]:
        """Called by aioice with the addresses of all adapters."""
        own = [one for address in self._addresses if (one := await self._bind(address))]
        candidates = [one.local_candidate for one in own]
        if self._stun is not None:
            for one in own:
                reflexive = await self._ask_stun(one, self._stun)
                if reflexive is not None:
                    candidates.append(reflexive)
        self._protocols += own
        return candidates

    async def _bind(self, address: str) -> Datagrams | None:
        loop = asyncio.get_running_loop()
        line = socket.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM
        )
        line.setblocking(False)
        try:
            line.bind((address, 0))
        except OSError:
            line.close()
            return None  # the address went away
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: Datagrams(self, line), sock=line
        )
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        if line.family == socket.AF_INET:
            # Where frames are smaller than Ethernet's, routers may cut our datagrams.
            line.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        host, port = transport.get_extra_info("sockname")[:2]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=1,
            transport="udp",
            priority=candidate_priority(1, "host"),
            host=host,
            port=port,
            type="host",
        )
        return protocol

    async def _ask_stun(self, own: Datagrams, server: tuple[str, int]) -> Candidate | None:
        try:
            async with asyncio.timeout(STUN_LIMIT_S):
                candidate, _ = await server_reflexive_candidate(own, server)
        except (OSError, ConnectionError, ValueError):
            return None
        return candidate

    def send_run(self, run: bytes, length: int) -> None:
        """Send datagrams to the peer (`Datagrams.send_run`), or lose them when there is no way."""
        pair = self._nominated.get(1)
        if pair is not None:
            cast(Datagrams, pair.protocol).send_run(run, length, pair.remote_addr)

    def waiting(self, limit: int) -> Iterator[bytes]:
        """The datagrams that have come already, at most so many."""
        while limit and not self._queue.empty():
            limit -= 1
            came = self._queue.get_nowait()
            if came is None:
                self._queue.put_nowait(None)  # the end, for whoever waits next
                return
            yield came[0]

    def data_received(self, data: bytes, component: int) -> None:
        if self._queue.qsize() < QUEUE_LIMIT and len(data) <= DATAGRAM_BYTES_LIMIT:
            super().data_received(data, component)


class Gatherer(RTCIceGatherer):
    """aiortc's gatherer over a `LanConnection`; `stun` is host:port or empty."""

    def __init__(self, addresses: tuple[str, ...], stun: str) -> None:
        super().__init__(iceServers=[])
        host, _, port = stun.rpartition(":")
        self.connection = LanConnection(addresses, (host, int(port)) if stun else None)
        self._connection = self.connection


class DataDtls(RTCDtlsTransport):
    """DTLS for data channels only; `on_batch` is called when a batch of datagrams has been read."""

    def __init__(self, transport: RTCIceTransport, certificates: list[RTCCertificate]) -> None:
        super().__init__(transport, certificates)
        self._connection = cast(LanConnection, transport._connection)
        self.on_batch: Callable[[], Awaitable[None]] = _nothing
        self._is_settled = False
        self._lengths: list[int] = []

    def set_role(self, *, is_active: bool) -> None:
        """Say who begins the handshake; before `start`."""
        self._set_role("client" if is_active else "server")

    def put(self, data: bytes) -> None:
        """Encrypt one datagram, for `flush` to send; before and after the session it is lost."""
        if self._state != State.CONNECTED or self._ssl is None:
            return
        lengths = self._lengths
        if lengths and not (
            lengths[-1] == lengths[0] >= len(data)
            and len(lengths) < RUN_LIMIT
            and (len(lengths) + 1) * lengths[0] <= RUN_BYTES_LIMIT
        ):
            self.flush()
        self._ssl.send(data)
        self._lengths.append(len(data))

    def flush(self) -> None:
        """Send what was put."""
        lengths = self._lengths
        if not lengths or self._ssl is None:
            return
        run = self._ssl.bio_read(len(lengths) * DATAGRAM_BYTES_LIMIT)
        # What DTLS adds is the same for each: so long is the first.
        length = (len(run) + lengths[0] - lengths[-1]) // len(lengths)
        lengths.clear()
        self._connection.send_run(run, length)

    def _setup_srtp(self) -> None:
        """No media, no keys."""

    async def _recv_next(self) -> None:
        if not self._is_settled:
            await super()._recv_next()
            await self.on_batch()
            # The last flight of a handshake may have to be sent again, which aiortc sees to.
            if self.encrypted and self._ssl is not None:
                self._is_settled = self._ssl.DTLSv1_get_timeout() is None
            return
        await self._read(await self._connection.recv())
        for data in self._connection.waiting(BATCH_LIMIT - 1):
            await self._read(data)
        await self.on_batch()

    async def _read(self, data: bytes) -> None:
        """Decrypt one datagram. Raises ConnectionError when the peer says that it leaves."""
        if not 20 <= data[0] <= 63 or self._ssl is None:
            return
        self._ssl.bio_write(data)
        try:
            plain = self._ssl.recv(DATAGRAM_BYTES_LIMIT)
        except SSL.ZeroReturnError:
            raise ConnectionError("the peer left") from None
        except SSL.Error:
            await self._write_ssl()  # there may be something to answer, an alert or a repetition
            return
        if self._data_receiver is not None:
            await self._data_receiver._handle_data(plain)


async def _nothing() -> None:
    """Nobody waits for batches."""
