"""One session in the child: ICE, DTLS and SCTP to one peer, and the data channel on top.

1. aiortc's transports are used one by one, without its peer connection: what reaches them are the
   values of a checked SDP, and nothing of media is ever set up.
2. It gathers candidates at the given addresses only, looks no name up, and asks no STUN server
   but a configured one.
3. There is one data channel with our label; any other, or anything against the rules of
   `association.py`, ends the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceCandidate, RTCIceParameters, RTCIceTransport
from aiortc.rtcsctptransport import RTCSctpCapabilities

from p2pmodels.core.sdp import Candidate, Description
from p2pmodels.core.shard import CHANNEL_LABEL, MESSAGE_BYTES_LIMIT
from p2pmodels.sources.rtc.association import Association
from p2pmodels.sources.rtc.certificate import SessionCertificate
from p2pmodels.sources.rtc.datagrams import DataDtls, Gatherer

SCTP_PORT = 5000  # as every WebRTC implementation says; the port of a tunnel with one user


class ChildPeer:
    """Made, then described, then connected, then open; `on_ended(why)` is called once."""

    def __init__(
        self,
        addresses: tuple[str, ...],
        stun: str,
        on_open: Callable[[RTCDataChannel, str], None],
        on_ended: Callable[[str], None],
    ) -> None:
        """`on_open` gets the channel and the peer's IP address."""
        self._on_open, self._on_ended = on_open, on_ended
        self._gatherer = Gatherer(addresses, stun)
        self._ice = RTCIceTransport(self._gatherer)
        self._certificate = SessionCertificate.generateCertificate()
        self._dtls = DataDtls(self._ice, [self._certificate])
        self.association = Association(self._dtls, SCTP_PORT, self._end)
        self._is_over = False
        self._dtls.on("statechange", self._dtls_changed)
        self._ice.on("statechange", self._ice_changed)

    async def offer(self) -> Description:
        """Our offer; the channel is opened by us."""
        parameters = RTCDataChannelParameters(label=CHANNEL_LABEL, ordered=True)
        self._watch(RTCDataChannel(self.association, parameters))
        self._gatherer.connection.ice_controlling = True
        return await self._describe("actpass")

    async def answer(self, offer: Description) -> Description:
        """Our answer; the channel is opened by the peer."""
        self.association.on("datachannel", self._channel_came)
        own = await self._describe("passive" if offer.setup == "active" else "active", offer.mid)
        return own

    async def connect(self, theirs: Description, *, is_active: bool) -> None:
        """Find a way to the peer and shake hands; `is_active`: we say the first word of DTLS."""
        for candidate in theirs.candidates:
            await self._ice.addRemoteCandidate(_aiortc_candidate(candidate))
        # The end of candidates is never told: a browser that hides its addresses gives none, and
        # is found when its own packets come.
        await self._ice.start(
            RTCIceParameters(usernameFragment=theirs.ufrag, password=theirs.password)
        )
        if self._ice.state != "completed":
            return
        self._dtls.set_role(is_active=is_active)
        pinned = RTCDtlsFingerprint("sha-256", theirs.fingerprint.removeprefix("sha-256 "))
        await self._dtls.start(RTCDtlsParameters([pinned]))
        if self._dtls.state == "connected":
            await self.association.start(
                RTCSctpCapabilities(maxMessageSize=theirs.message_size), theirs.sctp_port
            )

    async def close(self) -> None:
        """End everything; a second time is nothing."""
        self._end("closed")
        await self.association.stop()
        await self._dtls.stop()
        await self._ice.stop()

    # inside

    async def _describe(self, setup: str, mid: str = "0") -> Description:
        await self._gatherer.gather()
        candidates = tuple(
            Candidate(one.foundation, one.priority, one.ip, one.port, one.type)
            for one in self._gatherer.getLocalCandidates()
        )
        ice = self._gatherer.getLocalParameters()
        digest = next(
            one.value for one in self._certificate.getFingerprints() if one.algorithm == "sha-256"
        )
        return Description(
            ufrag=ice.usernameFragment or "",
            password=ice.password or "",
            fingerprint=f"sha-256 {digest.lower()}",
            setup=setup,
            candidates=candidates,
            mid=mid,
            sctp_port=SCTP_PORT,
            message_size=MESSAGE_BYTES_LIMIT,
        )

    def _channel_came(self, channel: RTCDataChannel) -> None:
        if channel.label != CHANNEL_LABEL or not channel.ordered or _is_lossy(channel):
            self._end("a channel that is not ours")
        else:
            self._watch(channel)
            self._opened(channel)

    def _watch(self, channel: RTCDataChannel) -> None:
        channel.on("open", lambda: self._opened(channel))
        channel.on("close", lambda: self._end("the channel was closed"))

    def _opened(self, channel: RTCDataChannel) -> None:
        if not self._is_over:
            self._on_open(channel, self._gatherer.connection.remote_host)

    def _dtls_changed(self) -> None:
        if self._dtls.state in ("closed", "failed"):
            self._end(f"DTLS {self._dtls.state}")

    def _ice_changed(self) -> None:
        if self._ice.state in ("closed", "failed"):
            self._end(f"ICE {self._ice.state}")

    def _end(self, why: str) -> None:
        if not self._is_over:
            self._is_over = True
            asyncio.get_running_loop().call_soon(self._on_ended, why)


def _aiortc_candidate(candidate: Candidate) -> RTCIceCandidate:
    return RTCIceCandidate(
        component=1,
        foundation=candidate.foundation,
        ip=candidate.host,
        port=candidate.port,
        priority=candidate.priority,
        protocol="udp",
        type=candidate.kind,
    )


def _is_lossy(channel: RTCDataChannel) -> bool:
    return channel.maxPacketLifeTime is not None or channel.maxRetransmits is not None
