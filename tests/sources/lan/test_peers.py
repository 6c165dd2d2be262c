"""The book of peers, with time as an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.peer import Hello, PeerId
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.sources.lan.peers import (
    KNOWN_LIMIT,
    LOOK_AFTER_GOODBYE_S,
    RECHECK_S,
    Contact,
    FoundBy,
    PeerBook,
    PeerState,
    PeerView,
)
from tests.fakes import FakeClock


def peer_id(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def address(number: int, port: int = 7879) -> PeerAddress:
    return PeerAddress(f"10.0.{number // 250}.{number % 250 + 1}", port)


def hello(number: int, bt_port: int = 7880) -> Hello:
    return Hello(peer_id(number), "0.1.0", 1, bt_port, 7879)


OWN = peer_id(0)


class Room:
    """A book, its clock, and what it told its listeners."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.book = PeerBook(OWN, self.clock, lambda: 1.0)
        self.told: list[tuple[str, str]] = []
        self.book.on_found = self._teller("found")
        self.book.on_ready = self._teller("ready")
        self.book.on_gone = self._teller("gone")

    def _teller(self, word: str) -> Teller:
        return Teller(self.told, word)

    def greet(self, number: int) -> None:
        """Find a peer and let it answer."""
        self.book.found(peer_id(number), [address(number)])
        self.answer(number)

    def answer(self, number: int) -> None:
        for contact in self.book.due(1000):
            if contact.id == peer_id(number):
                self.book.answered(contact, contact.addresses[0], hello(number))
            else:
                contact.is_busy = False

    def ids(self) -> list[str]:
        return [view.id for view in self.book.ready()]


class Teller:
    def __init__(self, told: list[tuple[str, str]], word: str) -> None:
        self.told, self.word = told, word

    def __call__(self, view: PeerView) -> None:
        self.told.append((self.word, view.id))


def only(contacts: list[Contact]) -> Contact:
    assert len(contacts) == 1
    return contacts[0]


def test_found_peer_is_new_until_it_says_hello() -> None:
    room = Room()
    room.book.found(peer_id(1), [address(1)])
    assert [view.state for view in room.book.all()] == [PeerState.NEW]
    assert room.ids() == []
    room.answer(1)
    assert room.ids() == [str(peer_id(1))]
    assert room.told == [("found", str(peer_id(1))), ("ready", str(peer_id(1)))]
    view = room.book.ready()[0]
    assert (view.address, view.bt_port, view.found_by) == ("10.0.0.2:7879", 7880, FoundBy.MDNS)
    assert view.bt_address == PeerAddress("10.0.0.2", 7880)


def test_own_id_and_forbidden_addresses_are_no_suggestion() -> None:
    room = Room()
    room.book.found(OWN, [address(1)])
    room.book.found(peer_id(1), [PeerAddress("169.254.169.254", 7879)])
    room.book.found(peer_id(2), [PeerAddress("127.0.0.1", 7879)])
    room.book.found(peer_id(3), [])
    assert room.book.all() == [] and room.told == []


def test_peer_without_bittorrent_or_on_a_system_port_has_no_bt_address() -> None:
    room = Room()
    room.book.found(peer_id(1), [address(1)])
    contact = only(room.book.due(9))
    room.book.answered(contact, address(1), hello(1, bt_port=22))
    assert room.book.ready()[0].bt_address is None


def test_flood_of_instances_keeps_memory_bounded_and_ready_and_configured_peers() -> None:
    room = Room()
    room.book.configure("teacher:7879")
    room.greet(1)
    for number in range(2, 10_000):
        room.clock.advance(0.001)
        room.book.found(peer_id(number), [address(number)])
    known = {view.id: view for view in room.book.all()}
    assert len(known) == KNOWN_LIMIT
    assert room.ids() == [str(peer_id(1))]
    assert "" in known and known[""].found_by is FoundBy.CONFIGURED
    assert str(peer_id(9_999)) in known and str(peer_id(2)) not in known


def test_full_book_of_ready_peers_takes_no_more() -> None:
    room = Room()
    for number in range(1, KNOWN_LIMIT + 1):
        room.greet(number)
    room.book.found(peer_id(9_999), [address(9_999)])
    assert len(room.book.all()) == len(room.ids()) == KNOWN_LIMIT


def test_one_lost_hello_is_forgiven_and_the_second_takes_the_peer_out_within_ten_seconds() -> None:
    room = Room()
    room.greet(1)
    began = room.clock.now
    failures = 0
    while room.ids():
        room.clock.advance(0.25)
        for contact in room.book.due(9):
            room.book.failed(contact)
            failures += 1
    assert failures == 2
    assert room.clock.now - began <= 10 - 2 * 2  # each hello may itself take two seconds
    assert room.told[-1] == ("gone", str(peer_id(1)))
    assert room.book.all()[0].state is PeerState.UNREACHABLE


def test_peer_that_comes_back_is_ready_again_within_its_back_off() -> None:
    room = Room()
    room.greet(1)
    for _ in range(12):
        room.clock.advance(10)
        room.book.failed(only(room.book.due(9)))
    room.clock.advance(10)
    room.answer(1)
    assert room.ids() == [str(peer_id(1))]


def test_goodbye_takes_a_peer_out_at_once_and_silence_afterwards_forgets_it() -> None:
    room = Room()
    room.greet(1)
    room.book.left(peer_id(1))
    assert room.ids() == [] and room.told[-1] == ("gone", str(peer_id(1)))
    room.clock.advance(LOOK_AFTER_GOODBYE_S)
    room.book.failed(only(room.book.due(9)))
    assert room.book.all() == []


def test_forged_goodbye_costs_a_peer_only_until_the_next_hello() -> None:
    room = Room()
    room.greet(1)
    room.book.left(peer_id(1))
    room.clock.advance(LOOK_AFTER_GOODBYE_S)
    room.answer(1)
    assert room.ids() == [str(peer_id(1))]


def test_goodbyes_of_strangers_change_nothing() -> None:
    room = Room()
    room.greet(1)
    room.book.left(peer_id(7))
    room.book.found(peer_id(8), [address(8)])
    room.book.left(peer_id(8))
    assert [view.id for view in room.book.all()] == [str(peer_id(1))]


def test_another_daemon_at_the_address_is_not_taken_for_the_peer() -> None:
    room = Room()
    room.book.found(peer_id(1), [PeerAddress("172.17.0.1", 7879)])
    contact = only(room.book.due(9))
    assert not room.book.is_credible(contact, hello(2))
    assert not room.book.is_credible(contact, Hello(OWN, "0.1.0", 1, 0, 7879))


@pytest.mark.parametrize("is_mdns_first", [True, False])
def test_peer_found_twice_is_one_configured_peer(is_mdns_first: bool) -> None:
    room = Room()
    if is_mdns_first:
        room.greet(1)
    room.book.configure("10.0.0.99:7879")
    contact = only([c for c in room.book.due(9) if c.found_by is FoundBy.CONFIGURED])
    room.book.resolved(contact, [PeerAddress("10.0.0.99", 7879)])
    room.book.answered(contact, PeerAddress("10.0.0.99", 7879), hello(1))
    if not is_mdns_first:
        room.book.found(peer_id(1), [address(1)])
    view = room.book.all()
    assert [(v.id, v.found_by) for v in view] == [(str(peer_id(1)), FoundBy.CONFIGURED)]
    assert room.ids() == [str(peer_id(1))]
    assert [word for word, _ in room.told].count("ready") == 1


def test_two_urls_of_one_daemon_are_one_peer() -> None:
    room = Room()
    for key in ("a:7879", "b:7879"):
        room.book.configure(key)
    for number, contact in enumerate(room.book.due(9)):
        room.book.answered(contact, address(number), hello(1))
    assert len(room.book.all()) == len(room.ids()) == 1


def test_url_that_leads_to_ourselves_is_no_peer() -> None:
    room = Room()
    room.book.configure("localhost:7879")
    contact = only(room.book.due(9))
    room.book.answered(contact, address(1), Hello(OWN, "0.1.0", 1, 0, 7879))
    assert room.book.all() == [] and room.ids() == []


def test_url_that_another_daemon_has_taken_over_is_another_peer() -> None:
    room = Room()
    room.book.configure("10.0.0.9:7879")
    room.book.answered(only(room.book.due(9)), address(1), hello(1))
    room.clock.advance(10)
    room.book.answered(only(room.book.due(9)), address(1), hello(2))
    assert room.told == [
        (word, str(peer_id(n))) for word, n in (("ready", 1), ("gone", 1), ("ready", 2))
    ]
    assert room.ids() == [str(peer_id(2))]


def test_silent_peer_is_not_asked_after_two_questions_until_its_next_hello() -> None:
    room = Room()
    room.greet(1)
    id = str(peer_id(1))
    room.book.unheard(id)
    assert room.ids() == [id]
    room.book.unheard(id)
    assert room.ids() == []
    assert room.book.all()[0].state is PeerState.READY
    room.clock.advance(1)
    room.answer(1)
    assert room.ids() == [id]


def test_answer_between_two_silences_keeps_the_peer() -> None:
    room = Room()
    room.greet(1)
    id = str(peer_id(1))
    room.book.unheard(id)
    room.book.heard(id, helped=True, received=7)
    room.book.unheard(id)
    assert room.ids() == [id]
    assert room.book.all()[0].bytes_received == 7


def test_peer_that_breaks_the_protocol_is_left_alone_for_minutes() -> None:
    room = Room()
    room.greet(1)
    room.book.misbehaved(str(peer_id(1)))
    assert room.ids() == []
    room.clock.advance(290)
    assert room.book.due(9) == []
    room.clock.advance(11)
    room.answer(1)
    assert room.ids() == [str(peer_id(1))]


def test_helpful_peers_come_first() -> None:
    room = Room()
    for number in (1, 2, 3):
        room.greet(number)
    room.clock.advance(1)
    room.book.heard(str(peer_id(3)), helped=True)
    room.book.heard(str(peer_id(1)), helped=False)
    assert room.ids()[0] == str(peer_id(3))


def test_many_peers_are_greeted_less_often_each() -> None:
    room = Room()
    for number in range(1, 201):
        room.greet(number)
    hellos = 0
    for _ in range(400):
        room.clock.advance(0.25)
        for contact in room.book.due(16):
            hellos += 1
            assert contact.id is not None
            room.book.answered(contact, contact.addresses[0], Hello(contact.id, "0", 1, 0, 7879))
    assert 500 <= hellos <= 1100  # ten a second for a hundred seconds, and no more


def test_peer_that_is_heard_of_elsewhere_needs_no_hello_until_it_falls_silent() -> None:
    room = Room()
    room.greet(1)
    room.book.last_word = lambda _peer: room.clock.now
    for _ in range(80):
        room.clock.advance(0.25)
        assert room.book.due(9) == []
    fell_silent = room.clock.now
    room.book.last_word = lambda peer: fell_silent if peer.id == str(peer_id(1)) else float("-inf")
    while not (due := room.book.due(9)):
        room.clock.advance(0.25)
    assert only(due).last_seen == fell_silent
    assert room.clock.now - fell_silent <= RECHECK_S


@pytest.mark.parametrize("doubt", ["unheard", "left"])
def test_doubtful_peer_gets_its_hello_whatever_is_heard_of_it(doubt: str) -> None:
    room = Room()
    room.greet(1)
    room.book.last_word = lambda _peer: room.clock.now
    if doubt == "unheard":
        room.book.unheard(str(peer_id(1)))
    else:
        room.book.left(peer_id(1))
    room.clock.advance(LOOK_AFTER_GOODBYE_S)
    assert only(room.book.due(9)).id == peer_id(1)


steps = st.lists(
    st.tuples(
        st.sampled_from(["found", "left", "answer", "fail", "wait", "silent", "bad", "url"]),
        st.integers(0, 6),
        st.integers(0, 6),
    ),
    max_size=60,
)


@given(steps)
def test_whatever_happens_each_ready_peer_is_one_and_was_told_of(
    events: list[tuple[str, int, int]],
) -> None:
    room = Room()
    book = room.book
    for what, number, other in events:
        if what == "found":
            book.found(peer_id(number), [address(other)])
        elif what == "left":
            book.left(peer_id(number))
        elif what == "url":
            book.configure(f"host{number}:7879")
        elif what == "wait":
            room.clock.advance(number * 3)
        elif what == "silent":
            book.unheard(str(peer_id(number)))
        elif what == "bad":
            book.misbehaved(str(peer_id(number)))
        else:
            for contact in book.due(number):
                said = hello(other)
                if what == "answer" and book.is_credible(contact, said):
                    book.answered(contact, address(other), said)
                else:
                    book.failed(contact)
        ids = room.ids()
        assert len(ids) == len(set(ids))
        assert str(OWN) not in ids
        last_told = {id: word for word, id in room.told if word != "found"}
        told_ready = {id for id, word in last_told.items() if word == "ready"}
        # a silent peer stays ready, though it is not asked
        assert told_ready == {v.id for v in book.all() if v.state is PeerState.READY} >= set(ids)
        assert all(view.state is not PeerState.OURSELVES for view in book.all())
        found = [view for view in book.all() if view.found_by is FoundBy.MDNS]
        assert len({view.id for view in found}) == len(found)
