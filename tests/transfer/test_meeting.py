"""Whom we meet by WebRTC, who makes the offer, and how often a silent member gets another."""

from __future__ import annotations

import pytest

from p2pmodels.core.secret import Secret
from p2pmodels.core.signalling import Answer, Heard, MemberKind, Offer, Refused
from p2pmodels.errors import LanFailed
from p2pmodels.transfer.meeting import (
    ANSWER_LIMIT_S,
    LARGER_WAITS_S,
    LOOK_S,
    RETRY_CEILING_S,
    RETRY_FIRST_S,
    UNLINKED_S,
    Meeting,
)
from p2pmodels.transfer.reception import HALF_OPEN_S
from tests.signal_fakes import FakeBook, FakeChannel, FakeSessions, description
from tests.transfer.meeting_world import SECRET, A, B, C, world


@pytest.mark.asyncio
@pytest.mark.parametrize("secret", [None, SECRET])
async def test_daemons_without_a_link_meet_and_the_smaller_id_makes_the_offer(
    secret: Secret | None,
) -> None:
    async with world() as at:
        a, b = at.daemon(secret=secret), at.other(B, secret)
        await at.pass_time(UNLINKED_S - 1)
        assert not a.sessions.offers and not b.sessions.offers
        await at.pass_time(3)
        [(dialled, expected)] = a.book.adopted
        [(accepted, nobody)] = b.book.adopted
        assert dialled.is_dialler and expected == B
        assert not accepted.is_dialler and nobody is None
        assert (dialled.local_host, dialled.remote_host) == (
            accepted.remote_host,
            accepted.local_host,
        )
        b.book.linked.add(A)
        await at.pass_time(60)
        assert len(a.sessions.offers) == 1 and not b.sessions.offers


@pytest.mark.asyncio
async def test_larger_id_makes_the_offer_when_the_smaller_does_not() -> None:
    async with world() as at:
        c = at.daemon(id=C)
        guest = at.guest(B)
        await at.pass_time(UNLINKED_S + LARGER_WAITS_S - 2)
        assert not guest.offers
        await at.pass_time(4)
        assert len(guest.offers) == 1 and len(c.sessions.offers) == 1


@pytest.mark.asyncio
async def test_daemon_that_is_linked_already_gets_no_offer_until_the_link_is_lost() -> None:
    async with world() as at:
        a, guest = at.daemon(), at.guest(B)
        a.book.linked.add(B)
        await at.pass_time(60)
        assert not guest.offers
        a.book.linked.discard(B)
        await at.pass_time(UNLINKED_S + 2)
        assert len(guest.offers) == 1


@pytest.mark.asyncio
async def test_lost_link_over_webrtc_is_offered_anew_soon() -> None:
    async with world() as at:
        a, b = at.daemon(), at.other(B)
        await at.pass_time(UNLINKED_S + 2)
        b.book.linked.add(A)
        await at.pass_time(30)
        a.book.let_go()
        b.book.let_go()
        await at.pass_time(RETRY_FIRST_S + 3)
        assert len(a.book.adopted) == 2


@pytest.mark.asyncio
async def test_pages_are_met_by_their_own_offers_only() -> None:
    async with world() as at:
        a = at.daemon()
        page = at.guest(B, MemberKind.PAGE)
        await at.pass_time(60)
        assert not page.offers and not a.sessions.offers
        page.send(page.member(A), Offer("s1", description(4001)))
        await at.settle()
        [heard] = page.heard
        assert isinstance(heard.said, Answer) and heard.said.session == "s1"
        assert a.sessions.accepted == [description(4001).sdp]


@pytest.mark.asyncio
async def test_silent_member_is_asked_ever_less_often_and_its_sessions_are_abandoned() -> None:
    async with world() as at:
        a, guest = at.daemon(), at.guest(B)
        await at.pass_time(UNLINKED_S + LOOK_S + ANSWER_LIMIT_S + 1)  # before the first repetition
        assert len(guest.offers) == 1
        assert len(a.sessions.abandoned) == 1
        await at.pass_time(600)
        assert 5 <= len(guest.offers) <= 4 + 600 / (RETRY_CEILING_S / 2)
        assert not a.book.adopted


@pytest.mark.asyncio
async def test_member_that_refuses_is_left_alone_as_long_as_it_asked_for() -> None:
    async with world() as at:
        at.daemon()
        guest = at.guest(B)

        def refuse(heard: Heard) -> None:
            guest.send(heard.sender, Refused(heard.said.session, "busy", 100.0))

        guest.on_heard = refuse
        await at.pass_time(95)
        assert len(guest.offers) == 1
        await at.pass_time(20)
        assert len(guest.offers) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("is_walled", [True, False])
async def test_session_that_never_gets_a_channel_is_abandoned(is_walled: bool) -> None:
    async with world() as at:
        a, guest = at.daemon(), at.guest(B)
        a.sessions.walled = is_walled

        def answer(heard: Heard) -> None:
            guest.send(heard.sender, Answer(heard.said.session, description(5000)))

        guest.on_heard = answer  # not walled: an SDP of nobody, which the WebRTC part refuses
        at.net.answerers = {description(5000).sdp: FakeSessions(at.net)} if is_walled else {}
        await at.pass_time(UNLINKED_S + HALF_OPEN_S + 3)
        assert a.sessions.abandoned[:1] == list(a.sessions.offers)[:1]
        assert not a.book.adopted


@pytest.mark.asyncio
async def test_channel_that_opens_after_it_was_given_up_is_closed() -> None:
    async with world() as at:
        a = at.daemon()
        await at.settle()
        late = FakeChannel(True, "sha-256 aa", "sha-256 bb")
        a.meeting.opened(late)
        await at.settle()
        assert late.is_closed and not a.book.adopted


@pytest.mark.asyncio
async def test_failing_webrtc_part_makes_no_offers_and_is_asked_again_later() -> None:
    async with world() as at:
        a, guest = at.daemon(), at.guest(B)
        a.sessions.failure = LanFailed("the child starts anew")
        await at.pass_time(UNLINKED_S + 2)
        a.sessions.failure = None
        assert not guest.offers
        await at.pass_time(RETRY_FIRST_S + 2)
        assert len(guest.offers) == 1


@pytest.mark.asyncio
async def test_channel_that_opens_while_we_leave_is_left_to_the_webrtc_part() -> None:
    async with world() as at:
        sessions, book = FakeSessions(at.net), FakeBook()
        meeting = Meeting(A, None, sessions, book, [], at.clock)
        async with meeting:
            pass
        meeting.opened(FakeChannel(False, "sha-256 aa", "sha-256 bb"))
        assert not book.adopted
