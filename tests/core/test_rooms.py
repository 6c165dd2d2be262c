"""Who meets whom at a rendezvous: who is told what, and every bound."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2pmodels.core.peer import PeerId
from p2pmodels.core.rooms import (
    ADDRESSES_LIMIT,
    DAEMONS_PER_ROOM_LIMIT,
    ENTRIES_PER_S,
    MEMBERS_LIMIT,
    MEMBERS_PER_ADDRESS_LIMIT,
    MESSAGES_BURST_LIMIT,
    MESSAGES_PER_S,
    OFFER_LIMIT_S,
    OFFERS_FROM_ADDRESS_LIMIT,
    OFFERS_LIMIT,
    OFFERS_TO_ONE_LIMIT,
    PAGES_PER_ROOM_LIMIT,
    ROOMS_LIMIT,
    ROOMS_PER_ADDRESS_LIMIT,
    Delivery,
    Expulsion,
    Rooms,
)
from p2pmodels.core.signalling import (
    Answer,
    Came,
    Heard,
    Join,
    Joined,
    Left,
    MemberKind,
    Offer,
    Refused,
    Sent,
)
from p2pmodels.errors import Overloaded
from tests.signal_fakes import description

OWN = PeerId("0" * 32)
OFFER = Offer("s1", description(1))
ANSWER = Answer("s1", description(2))


class House:
    """Rooms with a clock of their own, whose visitors come from as many addresses as needed."""

    def __init__(self) -> None:
        names, self._addresses = count(1), count(1)
        self.rooms = Rooms(OWN, lambda: f"m{next(names)}")
        self.now = 0.0

    @property
    def own(self) -> str:
        return self.rooms.own.member

    def enter(self, address: str = "") -> str:
        return self.rooms.enter(address or f"10.0.{next(self._addresses)}", self.now)

    def join(
        self, room: str = "lan", kind: MemberKind = MemberKind.DAEMON, address: str = ""
    ) -> str:
        name = self.enter(address)
        self.rooms.join(name, Join(room, kind, PeerId("a" * 32)))
        return name

    def page(self, room: str = "lan", address: str = "") -> str:
        return self.join(room, MemberKind.PAGE, address)

    def send(self, name: str, to: str, said: Offer | Answer | Refused) -> list[Delivery]:
        return self.rooms.send(name, Sent(to, said), self.now)


def refusal(deliveries: list[Delivery]) -> str:
    """The code of the refusal that is the only delivery."""
    [delivery] = deliveries
    assert isinstance(delivery.notice, Heard)
    assert isinstance(delivery.notice.said, Refused)
    return delivery.notice.said.code


def test_who_joins_is_told_of_daemons_and_daemons_are_told_of() -> None:
    house = House()
    page, daemon = house.page(), house.enter()
    deliveries = house.rooms.join(daemon, Join("lan", MemberKind.DAEMON, PeerId("b" * 32)))
    [joined, came] = deliveries
    assert joined == Delivery(daemon, Joined(daemon, (house.rooms.own,)))
    assert came.to == page and isinstance(came.notice, Came)
    assert [member.member for member in house.rooms.daemons()] == [daemon]
    assert house.rooms.leave(daemon) == [Delivery(page, Left(daemon))]
    assert house.rooms.daemons() == ()


def test_nobody_is_told_of_pages() -> None:
    house = House()
    house.join()
    page = house.enter()
    [joined] = house.rooms.join(page, Join("lan", MemberKind.PAGE, PeerId("b" * 32)))
    assert joined.to == page
    assert house.rooms.leave(page) == []


def test_rooms_do_not_learn_of_each_other() -> None:
    house = House()
    a, b = house.join("one"), house.enter()
    [joined] = house.rooms.join(b, Join("two", MemberKind.DAEMON, PeerId("b" * 32)))
    assert isinstance(joined.notice, Joined)
    assert joined.notice.members == (house.rooms.own,)
    assert refusal(house.send(a, b, OFFER)) == "gone"


def test_offer_and_answer_are_passed_on_once() -> None:
    house = House()
    page, daemon = house.page(), house.join()
    assert house.send(page, daemon, OFFER) == [
        Delivery(daemon, Heard(page, MemberKind.PAGE, OFFER))
    ]
    answered = [Delivery(page, Heard(daemon, MemberKind.DAEMON, ANSWER))]
    assert house.send(daemon, page, ANSWER) == answered
    assert house.send(daemon, page, ANSWER) == []
    assert house.send(daemon, page, Refused("s1", "busy", 1.0)) == []


def test_we_are_a_member_of_every_room() -> None:
    house = House()
    for room in ("one", "two"):
        page, daemon = house.page(room), house.join(room)
        assert house.send(page, house.own, OFFER)[0].to == house.own
        assert house.send(house.own, page, ANSWER)[0].to == page
        assert house.send(house.own, daemon, Offer(room, description()))[0].to == daemon
        assert house.send(daemon, house.own, Answer(room, description()))[0].to == house.own


def test_answer_of_somebody_else_reaches_nobody() -> None:
    house = House()
    page, daemon, forger = house.page(), house.join(), house.join()
    house.send(page, daemon, OFFER)
    assert house.send(forger, page, ANSWER) == []
    assert house.send(forger, page, Refused("s1", "busy", 1.0)) == []
    assert house.send(house.own, page, ANSWER) == []
    assert house.send(daemon, page, ANSWER)


def test_answer_that_comes_too_late_reaches_nobody() -> None:
    house = House()
    page, daemon = house.page(), house.join()
    house.send(page, daemon, OFFER)
    house.now += OFFER_LIMIT_S
    assert house.send(daemon, page, ANSWER) == []
    assert house.send(page, daemon, OFFER), "the session's name is free again"


def test_answer_to_who_has_left_reaches_nobody() -> None:
    house = House()
    page, daemon = house.page(), house.join()
    house.send(page, daemon, OFFER)
    house.rooms.leave(page)
    assert house.send(daemon, page, ANSWER) == []


def test_offer_to_a_page_to_oneself_or_to_nobody_is_refused() -> None:
    house = House()
    page, daemon = house.page(), house.join()
    for number, to in enumerate((page, "nobody", daemon)):
        assert refusal(house.send(daemon, to, Offer(f"s{number}", description()))) == "gone"


def test_session_named_twice_is_a_broken_rule() -> None:
    house = House()
    page, daemon = house.page(), house.join()
    house.send(page, daemon, OFFER)
    with pytest.raises(Expulsion):
        house.send(page, daemon, OFFER)


def test_who_has_not_joined_says_nothing() -> None:
    house = House()
    stranger, daemon = house.enter(), house.join()
    with pytest.raises(Expulsion):
        house.send(stranger, daemon, OFFER)
    assert refusal(house.send(daemon, stranger, OFFER)) == "gone"
    with pytest.raises(Expulsion):
        house.rooms.require_joined(stranger)
    assert house.rooms.leave(stranger) == []


def test_second_join_is_a_broken_rule() -> None:
    house = House()
    with pytest.raises(Expulsion):
        house.rooms.join(house.join(), Join("lan", MemberKind.DAEMON, OWN))


def test_members_are_bounded_in_all_and_for_each_address() -> None:
    house = House()
    flooders = [house.enter("10.9.9.9") for _ in range(MEMBERS_PER_ADDRESS_LIMIT)]
    with pytest.raises(Overloaded):
        house.enter("10.9.9.9")
    for _ in range(MEMBERS_LIMIT - MEMBERS_PER_ADDRESS_LIMIT):
        house.enter()
    with pytest.raises(Overloaded):
        house.enter()
    house.rooms.leave(flooders[0])
    house.enter()


def test_one_address_does_not_come_and_go_all_the_time() -> None:
    house = House()
    for _ in range(MEMBERS_PER_ADDRESS_LIMIT):
        house.rooms.leave(house.enter("10.9.9.9"))
    with pytest.raises(Overloaded):
        house.enter("10.9.9.9")
    house.enter("10.0.0.1")
    house.now += 1 / ENTRIES_PER_S
    house.enter("10.9.9.9")
    for _ in range(2 * ADDRESSES_LIMIT):
        house.rooms.leave(house.enter())
    assert len(house.rooms._entries) == ADDRESSES_LIMIT


def test_room_full_of_pages_has_room_for_daemons() -> None:
    house = House()
    for _ in range(PAGES_PER_ROOM_LIMIT):
        house.page()
    with pytest.raises(Expulsion):
        house.page()
    for _ in range(DAEMONS_PER_ROOM_LIMIT):
        house.join()
    with pytest.raises(Expulsion):
        house.join()


def test_rooms_are_bounded_in_all_and_for_each_address() -> None:
    house = House()
    for number in range(ROOMS_PER_ADDRESS_LIMIT):
        house.join(f"flood{number}", address="10.9.9.9")
    with pytest.raises(Expulsion):
        house.join("flood", address="10.9.9.9")
    first = [house.join(f"room{n}") for n in range(ROOMS_LIMIT - ROOMS_PER_ADDRESS_LIMIT)]
    with pytest.raises(Expulsion):
        house.join("more")
    house.join("room1")
    house.rooms.leave(first[0])
    house.join("more")


def test_messages_are_bounded_for_each_member() -> None:
    house = House()
    flooder, honest = house.join(), house.join()
    for _ in range(MESSAGES_BURST_LIMIT):
        house.rooms.count(flooder, house.now)
    with pytest.raises(Expulsion):
        house.rooms.count(flooder, house.now)
    house.rooms.count(honest, house.now)
    house.now += 1 / MESSAGES_PER_S
    house.rooms.count(flooder, house.now)


def test_offers_of_one_member_are_bounded_and_time_makes_room() -> None:
    house = House()
    flooder = house.page()
    targets = [house.join() for _ in range(OFFERS_LIMIT + 1)]
    for target in targets[:-1]:
        assert house.send(flooder, target, Offer(target, description()))[0].to == target
    assert refusal(house.send(flooder, targets[-1], OFFER)) == "busy"
    house.now += OFFER_LIMIT_S
    assert house.send(flooder, targets[-1], OFFER)[0].to == targets[-1]


def test_offers_of_one_address_leave_room_for_others_even_if_it_comes_anew() -> None:
    house = House()
    target = house.join()
    for _ in range(OFFERS_FROM_ADDRESS_LIMIT):
        flooder = house.page(address="10.9.9.9")
        assert house.send(flooder, target, OFFER)[0].to == target
        house.rooms.leave(flooder)
    assert refusal(house.send(house.page(address="10.9.9.9"), target, OFFER)) == "busy"
    assert house.send(house.page(), target, OFFER)[0].to == target


def test_offers_that_one_member_leaves_unanswered_are_bounded() -> None:
    house = House()
    target = house.join()
    pages = [house.page() for _ in range(OFFERS_TO_ONE_LIMIT + 1)]
    for page in pages[:-1]:
        house.send(page, target, OFFER)
    assert refusal(house.send(pages[-1], target, OFFER)) == "busy"
    house.send(target, pages[0], ANSWER)
    assert house.send(pages[-1], target, OFFER)[0].to == target


class AnyRooms(RuleBasedStateMachine):
    """Whatever members do, the books agree and nothing is passed on that must not be."""

    @initialize()
    def open(self) -> None:
        self.house = House()
        self.present: dict[str, Join | None] = {}
        self.offers: dict[tuple[str, str], str] = {}

    @rule(address=st.sampled_from(["10.0.0.1", "10.0.0.2"]))
    def enter(self, address: str) -> None:
        self.present[self.house.enter(address)] = None

    @rule(data=st.data(), room=st.sampled_from(["lan", "x"]), kind=st.sampled_from(MemberKind))
    def join(self, data: st.DataObject, room: str, kind: MemberKind) -> None:
        if not self.present:
            return
        name = data.draw(st.sampled_from(sorted(self.present)))
        join = Join(room, kind, PeerId("a" * 32))
        try:
            deliveries = self.house.rooms.join(name, join)
        except Expulsion:
            assert self.present[name] is not None
            return
        self.present[name] = join
        for delivery in deliveries:
            told = self.present[delivery.to]
            assert told is not None and told.room == room
            assert delivery.to == name or kind is MemberKind.DAEMON

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.present:
            name = data.draw(st.sampled_from(sorted(self.present)))
            del self.present[name]
            assert all(delivery.to in self.present for delivery in self.house.rooms.leave(name))

    @rule(data=st.data(), session=st.sampled_from("ab"), is_offer=st.booleans())
    def send(self, data: st.DataObject, session: str, is_offer: bool) -> None:
        everybody = sorted([*self.present, self.house.own])
        sender, to = (data.draw(st.sampled_from(everybody)) for _ in range(2))
        said = (Offer if is_offer else Answer)(session, description())
        try:
            deliveries = self.house.send(sender, to, said)
        except Expulsion:
            return
        for delivery in deliveries:
            assert isinstance(delivery.notice, Heard)
            if delivery.notice.said is not said:
                assert delivery.to == sender
            elif is_offer:
                self.offers[sender, session] = to
            else:
                assert self.offers.pop((to, session)) == sender

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.house.now += seconds

    @invariant()
    def books_agree(self) -> None:
        rooms = self.house.rooms
        joined = {name: join.room for name, join in self.present.items() if join is not None}
        listed = {name: room for room, there in rooms._rooms.items() for name in there}
        assert joined == listed
        assert set(rooms._openers) == set(rooms._rooms)
        assert rooms._answered <= set(rooms._pending)
        assert all(number > 0 for number in rooms._offers.values())
        if not rooms._pending:
            assert not rooms._offers


AnyRooms.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyRooms = AnyRooms.TestCase
