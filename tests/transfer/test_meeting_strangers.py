"""Whose offers and answers we take by WebRTC, and how little a room of forgeries costs."""

from __future__ import annotations

import pytest

from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.signalling import Answer, MemberKind, Offer, Refused, SignedSdp
from p2pmodels.errors import LanFailed, Overloaded
from p2pmodels.transfer.meeting import ANSWER_LIMIT_S, OFFERS_OUT_LIMIT, UNLINKED_S
from tests.signal_fakes import FakeSessions, description
from tests.transfer.meeting_world import OTHER, SECRET, A, B, C, world


@pytest.mark.asyncio
async def test_answer_of_another_member_or_without_proof_is_not_handed_on() -> None:
    async with world() as at:
        a, guest = at.daemon(secret=SECRET), at.guest(B)
        forger = at.guest(C)
        await at.pass_time(UNLINKED_S + 2)
        [offer] = guest.offers
        session = offer.said.session
        assert isinstance(offer.said, Offer) and offer.said.signed.is_proven(SECRET)
        genuine = FakeSessions(at.net)
        sdp = await genuine.accept("")
        forger.send(offer.sender, Answer(session, description(6000, SECRET)))
        guest.send(offer.sender, Answer(session, SignedSdp(sdp, "")))
        await at.settle()
        assert not a.book.adopted
        assert a.sessions.abandoned, "who answers without the secret is not waited for"


@pytest.mark.asyncio
@pytest.mark.parametrize(("ours", "theirs", "code"), [
    (SECRET, OTHER, "group"), (SECRET, None, "group"), (None, SECRET, ""), (SECRET, SECRET, ""),
])  # fmt: skip
async def test_offer_is_admitted_before_anything_is_made_for_it(
    ours: Secret | None, theirs: Secret | None, code: str
) -> None:
    async with world() as at:
        a = at.daemon(secret=ours)
        await at.settle()
        page = at.guest(B, MemberKind.PAGE)
        page.send(page.member(A), Offer("s1", description(4001, theirs)))
        await at.settle()
        [heard] = page.heard
        if code:
            assert isinstance(heard.said, Refused) and heard.said.code == code
            assert not a.sessions.accepted
        else:
            assert isinstance(heard.said, Answer) and heard.said.signed.is_proven(ours)


@pytest.mark.asyncio
@pytest.mark.parametrize(("failure", "code"), [
    (Overloaded("half-open", retry_after_s=7.0), "busy"), (LanFailed("child"), "failed"),
])  # fmt: skip
async def test_failure_of_the_webrtc_part_is_told_to_the_offerer(
    failure: Overloaded | LanFailed, code: str
) -> None:
    async with world() as at:
        a = at.daemon()
        await at.settle()
        a.sessions.failure = failure
        page = at.guest(B, MemberKind.PAGE)
        page.send(page.member(A), Offer("s1", description(4001)))
        await at.settle()
        [heard] = page.heard
        assert isinstance(heard.said, Refused) and heard.said.code == code
        assert heard.said.retry_s == (7.0 if code == "busy" else 0.0)


@pytest.mark.asyncio
async def test_room_of_silent_forgeries_holds_up_an_honest_daemon_for_a_bounded_time() -> None:
    async with world() as at:
        a = at.daemon()
        forged = [at.guest(PeerId(f"{number:032x}")) for number in range(60)]
        b = at.other(B)
        for _ in range(600):
            await at.pass_time(0.5)
            out = sum(len(guest.offers) for guest in forged) + len(b.sessions.accepted)
            assert out - len(a.sessions.abandoned) <= OFFERS_OUT_LIMIT + len(a.book.adopted)
            if B in a.book.linked:
                break
        # Each of the forgeries has a turn at most, four at a time.
        assert at.clock.now < UNLINKED_S + 61 / OFFERS_OUT_LIMIT * (ANSWER_LIMIT_S + 2)


@pytest.mark.asyncio
async def test_claimed_id_does_not_hide_the_daemon_that_has_it() -> None:
    async with world() as at:
        a, b = at.daemon(), at.other(B)
        for _ in range(2):
            at.guest(B, address="10.0.0.66")
        await at.pass_time(90)
        assert B in [expected for _, expected in a.book.adopted]
        assert len(b.sessions.accepted) == 1, "among the three claims its turn came"
