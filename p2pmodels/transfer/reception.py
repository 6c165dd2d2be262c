"""The offers of others: which of them the part that speaks WebRTC gets to see.

1. An offer proves the group's secret if there is one; before that nothing is made for it.
2. Neither one source nor all together may have too many sessions half open.
3. A session is half open from its offer until it has a channel, or its time is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from p2pmodels.clock import Clock
from p2pmodels.core.secret import Secret
from p2pmodels.core.signalling import SignedSdp, signed_sdp
from p2pmodels.errors import AccessRefused, Overloaded

HALF_OPEN_S = 10.0  # seconds until an admitted session has a channel (reliability F11)
HALF_OPEN_LIMIT = 12  # admitted sessions without a channel; with our own offers 16, as in F11
HALF_OPEN_PER_SOURCE_LIMIT = 4  # of them from one source: two cannot shut out the rest


class OfferRefused(AccessRefused):
    """The offer does not prove that its sender is of our group."""

    code, status = "group_refused", 403
    advice = "`lan.group_secret_file` must be the same everywhere."


class Accepts(Protocol):
    """Makes answers."""

    async def accept(self, sdp: str) -> str: ...


@dataclass(slots=True, eq=False)
class HalfOpen:
    """An admitted session without a channel; `ends` are its fingerprints, ours first."""

    source: str
    until: float
    ends: tuple[str, str] | None = None


class Reception:
    """Admits offers and has them answered."""

    def __init__(self, secret: Secret | None, sessions: Accepts, clock: Clock) -> None:
        self._secret, self._sessions, self._clock = secret, sessions, clock
        self._half_open: set[HalfOpen] = set()

    def admit(self, offer: SignedSdp, source: str) -> HalfOpen:
        """Count the session that an offer of this source asks for.

        Raises OfferRefused, Overloaded.
        """
        if not offer.is_proven(self._secret):
            raise OfferRefused
        now = self._clock.monotonic()
        self._half_open = {one for one in self._half_open if one.until > now}
        same = sum(1 for one in self._half_open if one.source == source)
        if same >= HALF_OPEN_PER_SOURCE_LIMIT or len(self._half_open) >= HALF_OPEN_LIMIT:
            wait_s = min(one.until for one in self._half_open) - now
            raise Overloaded("too many WebRTC sessions are being opened", retry_after_s=wait_s)
        half_open = HalfOpen(source, now + HALF_OPEN_S)
        self._half_open.add(half_open)
        return half_open

    async def answer(self, offer: SignedSdp, half_open: HalfOpen) -> SignedSdp:
        """Our answer to an admitted offer. Raises ProtocolError, Overloaded, SourceFailed."""
        try:
            theirs = offer.fingerprint
            answer = signed_sdp(await self._sessions.accept(offer.sdp), self._secret)
            half_open.ends = (answer.fingerprint, theirs)
        except BaseException:
            self._half_open.discard(half_open)
            raise
        return answer

    def opened(self, ends: tuple[str, str]) -> None:
        """The session between these fingerprints, ours first, has a channel."""
        self._half_open = {one for one in self._half_open if one.ends != ends}
