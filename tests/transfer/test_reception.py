"""How many sessions others may have half open, and who of them is heard at all."""

from __future__ import annotations

import pytest

from p2pmodels.core.secret import Secret
from p2pmodels.core.signalling import SignedSdp
from p2pmodels.errors import LanFailed, Overloaded, ProtocolError
from p2pmodels.transfer.reception import (
    HALF_OPEN_LIMIT,
    HALF_OPEN_PER_SOURCE_LIMIT,
    HALF_OPEN_S,
    OfferRefused,
    Reception,
)
from tests.fakes import FakeClock
from tests.signal_fakes import FakeNet, FakeSessions, description, sdp

SECRET = Secret("correct-horse-battery")


class Door:
    """A reception, and how an offer ends there."""

    def __init__(self, secret: Secret | None = None) -> None:
        self.clock, self.sessions = FakeClock(), FakeSessions(FakeNet())
        self.reception = Reception(secret, self.sessions, self.clock)

    async def offer(self, source: str, number: int = 1) -> SignedSdp:
        offer = description(number)
        return await self.reception.answer(offer, self.reception.admit(offer, source))


@pytest.mark.asyncio
async def test_thousand_half_open_offers_of_one_source_leave_room_for_others() -> None:
    door = Door()
    refused = 0
    for number in range(1000):
        try:
            await door.offer("10.0.0.66", number)
        except Overloaded as error:
            assert 0 < error.retry_after_s <= HALF_OPEN_S
            refused += 1
    assert refused == 1000 - HALF_OPEN_PER_SOURCE_LIMIT
    assert len(door.sessions.accepted) == HALF_OPEN_PER_SOURCE_LIMIT
    await door.offer("10.0.0.1")


@pytest.mark.asyncio
async def test_thousand_half_open_offers_of_as_many_sources_are_few_and_pass() -> None:
    door = Door()
    for number in range(HALF_OPEN_LIMIT):
        await door.offer(f"10.0.0.{number}")
    with pytest.raises(Overloaded):
        await door.offer("10.0.1.1")
    door.clock.advance(HALF_OPEN_S)
    await door.offer("10.0.1.1")


@pytest.mark.asyncio
async def test_session_that_gets_its_channel_makes_room_at_once() -> None:
    door = Door()
    for number in range(100):
        answer = await door.offer("10.0.0.1", number)
        door.reception.opened((answer.fingerprint, description(number).fingerprint))


@pytest.mark.asyncio
async def test_session_that_cannot_be_made_makes_room_at_once() -> None:
    door = Door()
    door.sessions.failure = LanFailed("child")
    for _ in range(2 * HALF_OPEN_LIMIT):
        with pytest.raises(LanFailed):
            await door.offer("10.0.0.1")
    door.sessions.failure = None
    await door.offer("10.0.0.1")


@pytest.mark.asyncio
async def test_offer_without_proof_costs_nothing() -> None:
    door = Door(SECRET)
    for number in range(1000):
        with pytest.raises(OfferRefused):
            await door.offer("10.0.0.66", number)
    assert not door.sessions.accepted


@pytest.mark.asyncio
@pytest.mark.parametrize("text", [
    "v=0\r\n", sdp(1) + sdp(2)[len("v=0\r\n") :], sdp(1).replace("sha-256", "sha-1"),
])  # fmt: skip
async def test_offer_without_exactly_one_fingerprint_is_refused(text: str) -> None:
    door = Door()
    offer = SignedSdp(text, "")
    for _ in range(2 * HALF_OPEN_LIMIT):
        with pytest.raises(ProtocolError):
            await door.reception.answer(offer, door.reception.admit(offer, "10.0.0.1"))
    assert not door.sessions.accepted
