"""SCTP of one session: aiortc's, with the bounds it lacks and without its slow paths.

1. What the peer may keep pending here is bounded: WINDOW_BYTES are announced, against which counts
   all that the daemon has not taken; what comes beyond is dropped, to be sent again.
2. What the peer may make us do is bounded: few streams, no lossy channel, no acknowledgement of
   what was never sent; a chunk against that breaks the rules.
3. No more is sent than the peer has room for (aiortc does not look at the peer's window).
4. To daemons, messages are cut into pieces of several Ethernet frames if such datagrams arrive,
   which a HEARTBEAT of that length finds out (RFC 8899, 6.2): a datagram costs Python the same
   whatever its length. Browsers take none above 2 KB, and give the session up.
5. Five things are quicker than in aiortc, each measured: acknowledgements are sent for batches of
   datagrams, and those of a batch are taken as one; what may go out goes out in runs; messages are
   put together when their last fragment comes; and chunks are looked through for retransmission
   only after a loss.

RFC 9260 is SCTP, RFC 8831 its use for data channels.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from typing import Protocol

from aiortc.rtcsctptransport import (
    SCTP_DATA_FIRST_FRAG,
    SCTP_DATA_LAST_FRAG,
    SCTP_DATA_UNORDERED,
    SCTP_RTO_MAX,
    USERDATA_MAX_LENGTH,
    Chunk,
    DataChunk,
    ForwardTsnChunk,
    HeartbeatAckChunk,
    HeartbeatChunk,
    InitChunk,
    RTCSctpTransport,
    SackChunk,
    parse_packet,
    serialize_packet,
)
from aiortc.utils import uint16_add, uint32_gt

from p2pmodels.core.shard import MESSAGE_BYTES_LIMIT
from p2pmodels.errors import ProtocolError
from p2pmodels.sources.rtc.datagrams import DataDtls

WINDOW_BYTES = 512 * 1024  # bytes the peer may send ahead; 20 ms of 25 MB/s
FRAGMENTS_LIMIT = 2048  # fragments pending (reliability F8); a window of full ones has 450
STREAMS_LIMIT = 8  # streams each way; the one channel has number 0 or 1
GAPS_LIMIT = 128  # gaps told in one acknowledgement, which must fit a datagram
DUPLICATES_LIMIT = 16  # duplicates told in one acknowledgement
FRAGMENT_BYTES = 1360  # bytes of a message in one datagram: 1481 with all heads over IPv6
LONG_FRAGMENT_BYTES = 8192 + 16  # the same where six frames in a row arrive; eight make a message
PROBE_NONCE_BYTES = 16
PROBES = 3  # long heartbeats, before the way counts as one of single frames
PROBE_EVERY_S = 1.0  # seconds between them
EXPIRED_LIMIT = 5  # repetitions in vain after which a way of long datagrams counts as gone
HEARTBEAT_INFO = 1  # the parameter of a heartbeat (RFC 9260, 3.3.6)
BURST_BYTES = 24 * FRAGMENT_BYTES  # bytes sent at once; half of what a browser's socket holds
FLIGHT_BYTES_LIMIT = 1024 * 1024  # bytes sent and not acknowledged, whatever window is announced
FIRST_WINDOW_BYTES = 64 * 1024  # bytes sent before the peer has told how much room it has
RTO_MIN_S = 0.25  # seconds until a repetition; aiortc's is one second, browsers' 0.2 to 0.4
_TSN = 1 << 32


class WaitingBytes(Protocol):
    """Whoever keeps what came in until the daemon takes it."""

    @property
    def waiting_bytes(self) -> int: ...


class Association(RTCSctpTransport):
    """An association with one channel; `on_broken(why)` is called when the peer breaks a rule."""

    def __init__(self, transport: DataDtls, port: int, on_broken: Callable[[str], None]) -> None:
        super().__init__(transport, port)
        transport.on_batch = self._batch_read
        self.channel: WaitingBytes | None = None
        """What may hold bytes that have come in, once the channel is open."""
        self._dtls, self._on_broken = transport, on_broken
        self._advertised_rwnd = WINDOW_BYTES
        self._inbound_streams_max = self._outbound_streams_count = STREAMS_LIMIT
        self._local_partial_reliability = False
        self._fragments = 0
        self._told_window = WINDOW_BYTES
        self._peer_window = FIRST_WINDOW_BYTES
        self._has_losses = False
        self._held: SackChunk | None = None
        self._fragment, self._expired = FRAGMENT_BYTES, 0
        self._padding = secrets.token_bytes(PROBE_NONCE_BYTES).ljust(LONG_FRAGMENT_BYTES, b"\0")

    # the way

    def probe(self, tries: int = PROBES) -> None:
        """Find out whether long datagrams arrive, there and back; never with a browser."""
        is_open = self._association_state is self.State.ESTABLISHED
        if is_open and tries and self._fragment == FRAGMENT_BYTES:
            heartbeat = HeartbeatChunk()
            heartbeat.params.append((HEARTBEAT_INFO, self._padding))
            self._send_now(heartbeat)
            loop = asyncio.get_running_loop()
            loop.call_later(PROBE_EVERY_S, self.probe, tries - 1)

    def _probed(self, answer: HeartbeatAckChunk) -> None:
        if (HEARTBEAT_INFO, self._padding) in answer.params:
            self._fragment = LONG_FRAGMENT_BYTES

    # in

    async def _handle_data(self, data: bytes) -> None:
        try:
            _, _, tag, chunks = parse_packet(data)
        except ValueError:
            return
        is_init = any(isinstance(chunk, InitChunk) for chunk in chunks)
        if tag != (0 if is_init else self._local_verification_tag):
            return
        try:
            if is_init and len(chunks) > 1:
                raise ProtocolError("a chunk beside an INIT")
            for chunk in chunks:
                if isinstance(chunk, DataChunk):
                    await self._receive_data_chunk(chunk)
                    if self._sack_misordered or self._sack_duplicates:
                        self._acknowledge()  # at once: three of these tell the peer of a loss
                elif isinstance(chunk, SackChunk):
                    self._check(chunk)
                    await self._take_or_hold(chunk)
                elif isinstance(chunk, HeartbeatAckChunk):
                    self._probed(chunk)
                elif not self._is_repeated(chunk):
                    self._check(chunk)
                    await self._take_held()
                    await self._receive_chunk(chunk)
        except ProtocolError as error:
            self._held = None
            self._on_broken(error.detail)
            await self._abort()
            self._set_state(self.State.CLOSED)

    async def _batch_read(self) -> None:
        """All datagrams that were there have been read: answer them."""
        await self._take_held()
        self._acknowledge()

    async def _take_or_hold(self, sack: SackChunk) -> None:
        """Hold an acknowledgement that the next one of the batch may make needless.

        Not while the window grows with each of them (RFC 9260, 7.2.1), nor one that tells of a
        hole, which counts by itself (7.2.4).
        """
        held = self._held
        if held is not None and uint32_gt(held.cumulative_tsn, sack.cumulative_tsn):
            return  # overtaken on its way
        if sack.gaps or self._cwnd <= self._ssthresh or self._fast_recovery_exit is not None:
            await self._take_held()
            await self._receive_chunk(sack)
        else:
            self._held = sack

    async def _take_held(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await self._receive_chunk(held)

    def _is_repeated(self, chunk: Chunk) -> bool:
        """Whether it is an INIT that came late: aiortc would begin anew and lose what came."""
        return isinstance(chunk, InitChunk) and self._association_state is self.State.ESTABLISHED

    def _check(self, chunk: Chunk) -> None:
        """Refuse what aiortc would believe. Raises ProtocolError."""
        if isinstance(chunk, ForwardTsnChunk):
            raise ProtocolError("a lossy channel")
        elif isinstance(chunk, SackChunk) and not uint32_gt(
            self._last_sacked_tsn, chunk.cumulative_tsn
        ):
            # How far an acknowledgement may reach; aiortc would count through any gap it names.
            sent = self._sent_queue[-1].tsn if self._sent_queue else self._last_sacked_tsn
            end = 0
            for first, last in chunk.gaps:
                if not end < first <= last:
                    raise ProtocolError("gaps out of order")
                end = last
            if uint32_gt(chunk.cumulative_tsn, sent) or end > (sent - chunk.cumulative_tsn) % _TSN:
                raise ProtocolError("an acknowledgement of what was not sent")

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        if not chunk.user_data or chunk.stream_id >= STREAMS_LIMIT:
            raise ProtocolError("data without bytes or on a stream that is not there")
        if chunk.flags & SCTP_DATA_UNORDERED or self._last_received_tsn is None:
            raise ProtocolError("data out of order or before the association")
        self._sack_needed = True
        is_next = chunk.tsn == (self._last_received_tsn + 1) % _TSN
        # What fills a hole is taken even without room: all behind it waits for it.
        if self._room <= 0 and not (is_next and self._sack_misordered):
            return
        is_next = is_next and not self._sack_misordered
        if is_next:
            self._last_received_tsn = chunk.tsn
        elif self._mark_received(chunk.tsn):
            return
        stream = self._get_inbound_stream(chunk.stream_id)
        stream.add_chunk(chunk)
        self._advertised_rwnd -= len(chunk.user_data)
        self._fragments += 1
        if self._fragments > FRAGMENTS_LIMIT:
            raise ProtocolError("too many fragments")
        # Without a gap only the last fragment makes a message whole; aiortc looks every time.
        if not is_next or chunk.flags & SCTP_DATA_LAST_FRAG:
            before = len(stream.reassembly)
            for message in stream.pop_messages():
                self._advertised_rwnd += len(message[2])
                await self._receive(*message)
            self._fragments -= before - len(stream.reassembly)
        elif WINDOW_BYTES - self._advertised_rwnd > MESSAGE_BYTES_LIMIT:
            raise ProtocolError("a message without an end")
        await self._reset_deferred_streams()

    @property
    def _room(self) -> int:
        """Bytes that the peer may still send; negative when it has sent too much."""
        waiting = self.channel.waiting_bytes if self.channel is not None else 0
        return self._advertised_rwnd - waiting

    def room_was_made(self) -> None:
        """The daemon has taken something: tell a peer that waits for it."""
        if self._told_window < WINDOW_BYTES // 4 and self._room >= WINDOW_BYTES // 2:
            self._sack_needed = True
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Tell what has come and how much room there is; after each batch of datagrams."""
        if not self._sack_needed or self._last_received_tsn is None:
            return
        self._sack_needed = False
        sack = SackChunk()
        sack.cumulative_tsn = self._last_received_tsn
        sack.advertised_rwnd = self._told_window = max(0, self._room)
        sack.duplicates = self._sack_duplicates[:DUPLICATES_LIMIT]
        sack.gaps = self._gaps()[:GAPS_LIMIT]
        self._sack_duplicates.clear()
        self._send_now(sack)

    def _gaps(self) -> list[tuple[int, int]]:
        """Runs of what came after the first hole, counted from the last before it."""
        gaps: list[tuple[int, int]] = []
        base = self._last_received_tsn or 0
        for at in sorted((tsn - base) % _TSN for tsn in self._sack_misordered):
            if gaps and at == gaps[-1][1] + 1:
                gaps[-1] = (gaps[-1][0], at)
            else:
                gaps.append((at, at))
        return gaps

    # out

    async def _receive_sack_chunk(self, chunk: SackChunk) -> None:
        is_full = chunk.advertised_rwnd < LONG_FRAGMENT_BYTES  # then it is not the way
        if is_full or uint32_gt(chunk.cumulative_tsn, self._last_sacked_tsn):
            self._expired = 0
        if not uint32_gt(self._last_sacked_tsn, chunk.cumulative_tsn):
            self._peer_window = chunk.advertised_rwnd
        self._has_losses = self._has_losses or bool(chunk.gaps)
        await super()._receive_sack_chunk(chunk)
        if not self._outbound_queue:
            await self._data_channel_flush()  # there is room for the next message as well

    def _update_rto(self, R: float) -> None:
        super()._update_rto(R)
        if self._srtt is not None and self._rttvar is not None:
            self._rto = max(RTO_MIN_S, min(self._srtt + 4 * self._rttvar, SCTP_RTO_MAX))

    def _t3_expired(self) -> None:
        self._has_losses = True
        self._expired += 1
        if self._expired >= EXPIRED_LIMIT and self._fragment != FRAGMENT_BYTES:
            self._on_broken("long datagrams no longer arrive")  # a new session will find it out
            return
        if not self._sent_queue:
            self._peer_window = FRAGMENT_BYTES  # its word may be lost: the answer to one tells
        super()._t3_expired()

    async def _send(
        self,
        stream_id: int,
        pp_id: int,
        user_data: bytes,
        expiry: float | None = None,
        max_retransmits: int | None = None,
        ordered: bool = True,
    ) -> None:
        """Cut a message into fragments of one Ethernet frame or, proven, of six; not aiortc's."""
        sequence = self._outbound_stream_seq.get(stream_id, 0)
        count, length = math.ceil(len(user_data) / self._fragment), self._fragment
        for index in range(count):
            chunk = DataChunk()
            chunk.flags = (SCTP_DATA_FIRST_FRAG if index == 0 else 0) | (
                SCTP_DATA_LAST_FRAG if index == count - 1 else 0
            )
            chunk.tsn, chunk.stream_id, chunk.stream_seq = self._local_tsn, stream_id, sequence
            chunk.protocol = pp_id
            chunk.user_data = user_data[index * length : (index + 1) * length]
            chunk._book_size = len(chunk.user_data)
            chunk._abandoned = chunk._acked = chunk._in_flight = chunk._retransmit = False
            chunk._expiry = chunk._max_retransmits = chunk._sent_time = None
            chunk._misses = chunk._sent_count = 0
            self._local_tsn = (self._local_tsn + 1) % _TSN
            self._outbound_queue.append(chunk)
        self._outbound_stream_seq[stream_id] = uint16_add(sequence, 1)
        await self._transmit()

    async def _transmit(self) -> None:
        """Send what the windows allow: first what was lost, then what is new."""
        burst = 2 * USERDATA_MAX_LENGTH if self._fast_recovery_exit is not None else BURST_BYTES
        limit = min(self._flight_size + burst, self._cwnd)
        if not self._has_losses or self._resend(limit):
            self._send_new(limit)
        self._dtls.flush()

    def _send_new(self, limit: int) -> None:
        """Send what was not sent yet, up to so many bytes in flight."""
        limit = min(limit, self._peer_window, FLIGHT_BYTES_LIMIT)
        while self._outbound_queue and self._flight_size < limit:
            chunk = self._outbound_queue.popleft()
            self._sent_queue.append(chunk)
            self._flight_size_increase(chunk)
            chunk._sent_count += 1
            chunk._sent_time = time.time()
            self._put(chunk)
            if self._t3_handle is None:
                self._t3_start()
        if self._outbound_queue and not self._sent_queue and self._t3_handle is None:
            self._t3_start()  # the peer has no room: ask again when it expires

    def _resend(self, limit: int) -> bool:
        """Send again what is marked as lost; whether there was room for all of it."""
        is_first = True
        for chunk in self._sent_queue:
            if chunk._retransmit:
                if self._fast_recovery_transmit:
                    self._fast_recovery_transmit = False
                elif self._flight_size >= limit:
                    return False
                self._flight_size_increase(chunk)
                chunk._misses = 0
                chunk._retransmit = False
                chunk._sent_count += 1
                self._put(chunk)
                if is_first:
                    self._t3_restart()
            is_first = False
        self._has_losses = False
        return True

    async def _send_chunk(self, chunk: Chunk) -> None:
        """What aiortc answers by itself; its own way cuts what is longer than a frame."""
        self._send_now(chunk)

    def _send_now(self, chunk: Chunk) -> None:
        self._put(chunk)
        self._dtls.flush()

    def _put(self, chunk: Chunk) -> None:
        """Send a chunk with the next flush; on a session that is over it is lost."""
        self._dtls.put(
            serialize_packet(
                self._local_port, self._remote_port or 0, self._remote_verification_tag, chunk
            )
        )
