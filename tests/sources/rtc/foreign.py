"""A peer of aiortc's own parts, without our bounds: it can be made to break any rule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiortc import RTCCertificate, RTCDtlsTransport, RTCIceTransport, RTCSctpTransport
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceCandidate, RTCIceParameters
from aiortc.rtcsctptransport import DataChunk, RTCSctpCapabilities

from p2pmodels.core.sdp import Candidate, Description
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.rtc.datagrams import Gatherer
from tests.sources.rtc.pairs import BOUND_S, LOOPBACK, Part


class Foreign:
    """Dials a part; `association` is aiortc's."""

    def __init__(self) -> None:
        self._gatherer = Gatherer((LOOPBACK,), "")
        self._ice = RTCIceTransport(self._gatherer)
        self._certificate = RTCCertificate.generateCertificate()
        self.dtls = RTCDtlsTransport(self._ice, [self._certificate])
        self.association = RTCSctpTransport(self.dtls)
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.is_closed = asyncio.Event()

    def open(
        self, label: str = "p2pmodels-1", *, is_ordered: bool = True, retries: int | None = None
    ) -> RTCDataChannel:
        """A data channel; the first is to be opened before `dial`."""
        channel = RTCDataChannel(
            self.association,
            RTCDataChannelParameters(label=label, ordered=is_ordered, maxRetransmits=retries),
        )
        channel.on("message", self.messages.put_nowait)
        channel.on("close", self.is_closed.set)
        return channel

    async def offer(self) -> str:
        # From here on: the other side's checks may come before its answer does.
        self._gatherer.connection.ice_controlling = True
        await self._gatherer.gather()
        candidates = tuple(
            Candidate(one.foundation, one.priority, one.ip, one.port)
            for one in self._gatherer.getLocalCandidates()
        )
        ice = self._gatherer.getLocalParameters()
        prints = self._certificate.getFingerprints()
        value = next(one.value for one in prints if one.algorithm == "sha-256")
        description = Description(
            ice.usernameFragment or "",
            ice.password or "",
            f"sha-256 {value.lower()}",
            "actpass",
            candidates,
            message_size=1 << 20,
        )
        return str(description)

    async def take(self, answer: str) -> None:
        """Connect as the answer says."""
        theirs = Description.parse(answer)
        for one in theirs.candidates:
            candidate = RTCIceCandidate(
                1, one.foundation, one.host, one.port, one.priority, "udp", "host"
            )
            await self._ice.addRemoteCandidate(candidate)
        await self._ice.start(RTCIceParameters(theirs.ufrag, theirs.password))
        self.dtls._set_role("server" if theirs.setup == "active" else "client")
        value = theirs.fingerprint.removeprefix("sha-256 ")
        await self.dtls.start(RTCDtlsParameters([RTCDtlsFingerprint("sha-256", value)]))
        if self.dtls.state == "connected":
            await self.association.start(RTCSctpCapabilities(1 << 20), theirs.sctp_port)

    async def fragment(self, tsn: int, data: bytes, *, flags: int = 0, stream: int = 0) -> None:
        """Send one DATA chunk as it is, `tsn` counted from the next that is due."""
        chunk = DataChunk(flags=flags)
        chunk.tsn = (self.association._local_tsn + tsn) % (1 << 32)
        chunk.stream_id, chunk.protocol, chunk.user_data = stream, 53, data
        await self.association._send_chunk(chunk)

    async def closed(self) -> None:
        """Wait until the other side has ended the channel."""
        async with asyncio.timeout(BOUND_S):
            await self.is_closed.wait()

    async def close(self) -> None:
        await self.association.stop()
        await self.dtls.stop()
        await self._ice.stop()


@asynccontextmanager
async def dialled(
    part: Part, foreign: Foreign | None = None
) -> AsyncIterator[tuple[Foreign, RTCDataChannel, ShardChannel]]:
    """A foreign peer with an open channel, and the channel as the part has it."""
    foreign = foreign or Foreign()
    try:
        channel = foreign.open()
        is_open = asyncio.Event()
        channel.on("open", is_open.set)
        await foreign.take(await part.rtc.accept(await foreign.offer()))
        async with asyncio.timeout(BOUND_S):
            await is_open.wait()
        yield foreign, channel, await part.channel()
    finally:
        await foreign.close()
