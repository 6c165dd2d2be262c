"""Whom we meet by WebRTC and whose offers we take: fake WebRTC parts, the real lobby, fake time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.signal_texts import format_request
from p2pmodels.core.signalling import (
    Answer,
    Came,
    Heard,
    Join,
    Joined,
    Left,
    Member,
    MemberKind,
    Notice,
    Offer,
    Refused,
    Said,
    Sent,
    SignedSdp,
)
from p2pmodels.errors import LanFailed, Overloaded
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.lobby import Lobby, Visit
from p2pmodels.transfer.meeting import (
    ANSWER_LIMIT_S,
    LARGER_WAITS_S,
    LOOK_S,
    OFFERS_OUT_LIMIT,
    RETRY_CEILING_S,
    RETRY_FIRST_S,
    UNLINKED_S,
    Meeting,
    Place,
)
from p2pmodels.transfer.reception import HALF_OPEN_S
from tests.fakes import FakeClock
from tests.signal_fakes import (
    FakeBook,
    FakeChannel,
    FakeNet,
    FakeSessions,
    description,
    nothing_known,
)

A, B, C = PeerId("a" * 32), PeerId("b" * 32), PeerId("c" * 32)
SECRET, OTHER = Secret("correct-horse-battery"), Secret("wrong-horse-battery!")
TURNS = 30  # turns of the loop in which everything that can happen in memory has happened


class Guest:
    """A member of the lobby that does what the test wants."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.present: dict[str, Member] = {}
        self.on_heard: Callable[[Heard], None] = lambda _heard: None
        self.visit: Visit | None = None

    def tell(self, notice: Notice) -> None:
        self.notices.append(notice)
        match notice:
            case Joined():
                self.present = {member.member: member for member in notice.members}
            case Came():
                self.present[notice.member.member] = notice.member
            case Left():
                del self.present[notice.member]
            case Heard():
                self.on_heard(notice)

    @property
    def name(self) -> str:
        assert self.visit is not None
        return self.visit.name

    @property
    def heard(self) -> list[Heard]:
        return [notice for notice in self.notices if isinstance(notice, Heard)]

    @property
    def offers(self) -> list[Heard]:
        return [heard for heard in self.heard if isinstance(heard.said, Offer)]

    def member(self, id: PeerId) -> str:
        [name] = [name for name, member in self.present.items() if member.id == id]
        return name

    def send(self, to: str, said: Said) -> None:
        assert self.visit is not None
        self.visit.hear(format_request(Sent(to, said)))


@dataclass(eq=False)
class GuestSeat:
    """A guest's place at the lobby, for another daemon."""

    guest: Guest

    async def run(self, hear: Callable[[Heard], None]) -> None:
        self.guest.on_heard = hear
        await asyncio.Event().wait()

    def members(self) -> list[Member]:
        return list(self.guest.present.values())

    def say(self, sent: Sent) -> None:
        self.guest.send(sent.to, sent.said)

    def source_of(self, member: str) -> str:
        return member


@dataclass(eq=False)
class Daemon:
    """A meeting with its fakes."""

    meeting: Meeting[FakeChannel]
    sessions: FakeSessions
    book: FakeBook


@dataclass
class World:
    """The lobby of daemon A, its meeting, and others as the test wants."""

    tasks: Tasks
    exits: ExitStack
    clock: FakeClock = field(default_factory=FakeClock)
    net: FakeNet = field(default_factory=FakeNet)

    def __post_init__(self) -> None:
        self.lobby = Lobby(A, nothing_known, self.clock)

    def daemon(
        self, place: Place | None = None, id: PeerId = A, secret: Secret | None = None
    ) -> Daemon:
        """A running daemon; by default the one whose lobby this is."""
        sessions, book = FakeSessions(self.net), FakeBook()
        meeting = Meeting(id, secret, sessions, book, [place or self.lobby], self.clock)
        sessions.on_channel = meeting.opened

        async def live() -> None:
            async with meeting:
                await meeting.run()

        self.tasks.start(live(), "meeting")
        return Daemon(meeting, sessions, book)

    def guest(
        self, id: PeerId, kind: MemberKind = MemberKind.DAEMON, address: str = "10.0.0.9"
    ) -> Guest:
        guest = Guest()
        visit = self.lobby.visit(address, guest.tell, is_page=kind is MemberKind.PAGE)
        guest.visit = self.exits.enter_context(visit)
        guest.visit.hear(format_request(Join("lan", kind, id)))
        return guest

    def other(self, id: PeerId, secret: Secret | None = None) -> Daemon:
        """A running daemon that has a seat at the lobby."""
        return self.daemon(GuestSeat(self.guest(id)), id, secret)

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            await self.settle()
            self.clock.advance(0.5)
        await self.settle()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with asyncio.timeout(30), Tasks() as tasks:
        with ExitStack() as exits:
            yield World(tasks, exits)


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


@pytest.mark.asyncio
async def test_channel_that_opens_while_we_leave_is_left_to_the_webrtc_part() -> None:
    async with world() as at:
        sessions, book = FakeSessions(at.net), FakeBook()
        meeting = Meeting(A, None, sessions, book, [], at.clock)
        async with meeting:
            pass
        meeting.opened(FakeChannel(False, "sha-256 aa", "sha-256 bb"))
        assert not book.adopted
