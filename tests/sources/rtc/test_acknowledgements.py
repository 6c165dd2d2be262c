"""Acknowledgements that come together are taken as one, and what may go out then goes at once."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcsctptransport import SackChunk, ShutdownCompleteChunk, serialize_packet

from p2pmodels.sources.rtc.association import FRAGMENT_BYTES, Association
from p2pmodels.sources.rtc.child_peer import SCTP_PORT
from p2pmodels.sources.rtc.datagrams import DataDtls

SENT = 40  # fragments in flight at the beginning
WAITING = 40  # fragments that wait for room
ROOM = 1 << 20  # bytes that the peer has room for

pytestmark = pytest.mark.asyncio


class Line:
    """Stands for DTLS: `runs` are the numbers of datagrams between two flushes."""

    state = "connected"

    def __init__(self) -> None:
        self.on_batch: Callable[[], Awaitable[None]]
        self.runs = [0]

    def put(self, _data: bytes) -> None:
        self.runs[-1] += 1

    def flush(self) -> None:
        if self.runs[-1]:
            self.runs.append(0)


class Sending(Association):
    """Counts how often an acknowledgement is worked through."""

    def __init__(self, line: Line) -> None:
        self.broken: list[str] = []
        super().__init__(cast(DataDtls, line), SCTP_PORT, self.broken.append)
        self.taken: list[int] = []
        self._remote_port = SCTP_PORT
        self.first = self._local_tsn

    async def begin(self, window: int) -> None:
        """Have so many fragments in flight, and others that wait."""
        self._set_state(self.State.ESTABLISHED)
        self._peer_window = ROOM
        self._cwnd, self._ssthresh = SENT * FRAGMENT_BYTES, window
        for _ in range(SENT + WAITING):
            await self._send(1, 53, bytes(FRAGMENT_BYTES))
        while len(self._sent_queue) < SENT:
            await self._transmit()
        assert self._flight_size == SENT * FRAGMENT_BYTES

    async def _receive_sack_chunk(self, chunk: SackChunk) -> None:
        self.taken.append(chunk.cumulative_tsn)
        await super()._receive_sack_chunk(chunk)

    async def hear(self, count: int, gaps: tuple[tuple[int, int], ...] = ()) -> None:
        """A datagram comes that acknowledges the first `count` fragments."""
        sack = SackChunk()
        sack.cumulative_tsn = (self.first + count - 1) % (1 << 32)
        sack.advertised_rwnd, sack.gaps = ROOM, list(gaps)
        await self._handle_data(
            serialize_packet(SCTP_PORT, SCTP_PORT, self._local_verification_tag, sack)
        )

    @property
    def acknowledged(self) -> list[int]:
        """How far each that was worked through went."""
        return [(tsn - self.first + 1) % (1 << 32) for tsn in self.taken]

    def end(self) -> None:
        self._t3_cancel()


async def test_those_of_a_batch_are_taken_as_one_and_answered_in_one_run() -> None:
    line = Line()
    sending = Sending(line)
    await sending.begin(window=0)
    line.runs = [0]
    for count in range(2, 22, 2):
        await sending.hear(count)
    assert sending.acknowledged == []
    await line.on_batch()
    assert sending.acknowledged == [20]
    assert line.runs == [20, 0]  # as much as was acknowledged
    assert sending._flight_size == SENT * FRAGMENT_BYTES
    await line.on_batch()
    assert sending.acknowledged == [20]
    sending.end()


async def test_each_counts_while_the_window_is_opened_by_them() -> None:
    line = Line()
    sending = Sending(line)
    await sending.begin(window=ROOM)
    for count in (2, 4, 6):
        await sending.hear(count)
    assert sending.acknowledged == [2, 4, 6]
    assert sending._cwnd > SENT * FRAGMENT_BYTES
    sending.end()


async def test_each_that_tells_of_a_hole_counts() -> None:
    """Three of these are a loss (RFC 9260, 7.2.4)."""
    line = Line()
    sending = Sending(line)
    await sending.begin(window=0)
    await sending.hear(2)
    for last in (3, 4, 5):
        await sending.hear(2, gaps=((2, last),))
    assert sending.acknowledged == [2, 2, 2, 2]
    assert sending._cwnd < SENT * FRAGMENT_BYTES
    sending.end()


async def test_one_that_was_overtaken_takes_nothing_back() -> None:
    line = Line()
    sending = Sending(line)
    await sending.begin(window=0)
    await sending.hear(8)
    await sending.hear(6)
    await line.on_batch()
    assert sending.acknowledged == [8]
    sending.end()


async def test_one_that_waits_is_gone_with_a_session_that_broke_the_rules() -> None:
    line = Line()
    sending = Sending(line)
    await sending.begin(window=0)
    await sending.hear(8)
    await sending.hear(SENT + WAITING + 1)
    assert sending.broken == ["an acknowledgement of what was not sent"]
    await line.on_batch()
    assert sending.acknowledged == []
    sending.end()


async def test_whatever_else_comes_finds_it_taken() -> None:
    line = Line()
    sending = Sending(line)
    await sending.begin(window=0)
    await sending.hear(8)
    await sending._handle_data(
        serialize_packet(
            SCTP_PORT, SCTP_PORT, sending._local_verification_tag, ShutdownCompleteChunk()
        )
    )
    assert sending.acknowledged == [8]
    sending.end()


async def test_the_end_of_a_message_leaves_no_room_unused() -> None:
    line = Line()
    sending = Sending(line)
    await sending.begin(window=0)
    channel = RTCDataChannel(
        sending, RTCDataChannelParameters(label="x", negotiated=True, id=1), send_open=False
    )
    for _ in range(4):
        sending._data_channel_queue.append((channel, 53, bytes(2 * FRAGMENT_BYTES)))
    sending._outbound_queue = deque(list(sending._outbound_queue)[:3])
    await sending.hear(10)
    await line.on_batch()
    assert len(sending._sent_queue) == SENT
    assert not sending._data_channel_queue
    sending.end()


@pytest.mark.parametrize("seed", range(20))
async def test_a_batch_leaves_what_one_after_the_other_would(seed: int) -> None:
    """Whatever is acknowledged in which steps: the same is in flight, and the same waits."""
    random_ = random.Random(seed)
    steps = sorted(random_.choices(range(1, SENT + 1), k=random_.randint(1, 16)))
    together, apart = Sending(line := Line()), Sending(other := Line())
    await together.begin(window=0)
    await apart.begin(window=0)
    for count in steps:
        await together.hear(count)
        await apart.hear(count)
        await other.on_batch()
    await line.on_batch()
    await together._transmit()  # one burst may be less than a batch makes room for
    sent = [len(one._sent_queue) for one in (together, apart)]
    assert abs(sent[0] - sent[1]) <= 1  # the window of one may have grown by a fragment more
    assert together._last_sacked_tsn - together.first == apart._last_sacked_tsn - apart.first
    for one in (together, apart):
        one.end()
