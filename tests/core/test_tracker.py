"""The tracker: whose offer reaches whom, who is forgotten, and that nothing grows without end."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pmodels.core import tracker as module
from p2pmodels.core.announce import Announced, Answered, Event, Offer, Scraped
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.core.tracker import (
    ADDRESS_LISTENERS_LIMIT,
    CALL_EVERY_S,
    LISTENER_INTERVAL_S,
    OFFER_LASTS_S,
    OPEN_OFFERS_LIMIT,
    PAGE_INTERVAL_S,
    PAGE_SWARMS_LIMIT,
    PATIENCE,
    Delivery,
    Line,
    NotTracked,
    Tracker,
)
from p2pmodels.errors import Overloaded

HASH, OTHER_HASH = b"h" * 20, b"o" * 20
KEY = ":".join(["AB"] * 32)
SDP = (
    "v=0\r\no=- 1 1 IN IP4 10.9.9.9\r\ns=-\r\nt=0 0\r\n"
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 10.9.9.9\r\na=mid:0\r\n"
    f"a=ice-ufrag:abcd\r\na=ice-pwd:{'p' * 22}\r\na=fingerprint:sha-256 {KEY}\r\n"
    "a=setup:actpass\r\na=sctp-port:5000\r\na=x-unknown:1\r\n"
    "a=candidate:1 1 UDP 2113937151 10.0.0.7 50000 typ host\r\n"
    "a=candidate:2 1 UDP 2113937150 8.8.8.8 50001 typ srflx raddr 10.9.9.9 rport 5\r\n"
    "a=candidate:3 1 UDP 2113937149 f7a0c1de-1111-2222-3333-444455556666.local 50002 typ host\r\n"
)


def name(number: int) -> bytes:
    return b"%020d" % number


def announced(
    peer: int, offers: int = 0, *, infohash: bytes = HASH, event: Event = Event.UPDATE,
    is_complete: bool = False, sdp: str = SDP,
) -> Announced:  # fmt: skip
    made = tuple(Offer(name(1000 * peer + at), sdp) for at in range(offers))
    return Announced(infohash, name(peer), event, is_complete, 50, 0, made)


def answered(peer: int, to: int, offer: bytes, sdp: str = SDP) -> Answered:
    answer = sdp.replace("actpass", "active")
    return Answered(HASH, name(peer), name(to), Offer(offer, answer))


def listening(port: int, *, infohash: bytes = HASH, event: Event = Event.UPDATE) -> Announced:
    return Announced(infohash, name(port), event, False, 50, port)


def page() -> Line:
    return Line(is_page=True)


def program() -> Line:
    """A program that says and hears of 10.x only."""

    def is_home(address: str) -> bool:
        return address.startswith("10.")

    return Line(is_page=False, may_say=is_home, may_hear=is_home)


def tracker(**more: Any) -> Tracker:
    return Tracker(lambda _infohash: True, random.Random(7), **more)


def read(delivery: Delivery) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(delivery.text)
    return found


def offers_to(deliveries: list[Delivery]) -> dict[Line, dict[str, Any]]:
    return {at.line: found for at in deliveries if "offer" in (found := read(at))}


def test_an_offer_reaches_another_page_and_its_answer_comes_back_once() -> None:
    swarms, first, second = tracker(), page(), page()
    (told,) = swarms.hear(first, announced(1, 5), 0)
    assert told.line is first and read(told)["incomplete"] == 1
    told, passed = swarms.hear(second, announced(2, 5), 1)
    assert read(told) == {
        "action": "announce", "info_hash": HASH.decode(), "interval": PAGE_INTERVAL_S,
        "complete": 0, "incomplete": 2,
    }  # fmt: skip
    offer = read(passed)
    assert passed.line is first and offer["peer_id"] == name(2).decode()
    assert offer["offer"] == {"type": "offer", "sdp": SDP}  # between pages as it is
    answer = answered(1, 2, offer["offer_id"].encode())
    (back,) = swarms.hear(first, answer, 2)
    assert back.line is second and read(back)["answer"]["type"] == "answer"
    assert read(back)["peer_id"] == name(1).decode()
    assert swarms.hear(first, answer, 3) == []


def test_an_answer_is_passed_on_only_by_the_line_that_was_given_the_offer() -> None:
    swarms, first, second, third = tracker(), page(), page(), page()
    swarms.hear(third, announced(3), 0)
    swarms.hear(first, announced(1, is_complete=True), 0)
    given = offers_to(swarms.hear(second, announced(2, 1), 0))
    assert list(given) == [first]  # the complete one
    id = given[first]["offer_id"].encode()
    assert swarms.hear(third, answered(3, 2, id), 1) == []  # it was not given to this one
    assert swarms.hear(first, answered(1, 3, id), 1) == []  # nor made by that one
    assert swarms.hear(first, answered(1, 2, id), 1 + OFFER_LASTS_S) == []  # too late


def test_the_answer_to_one_who_has_left_goes_nowhere() -> None:
    swarms, first, second = tracker(), page(), page()
    swarms.hear(first, announced(1), 0)
    (id,) = [o["offer_id"] for o in offers_to(swarms.hear(second, announced(2, 1), 0)).values()]
    swarms.leave(second)
    assert swarms.hear(first, answered(1, 2, id.encode()), 1) == []


def test_nobody_takes_over_an_offer_by_its_name() -> None:
    swarms, first, second, thief = tracker(), page(), page(), page()
    swarms.hear(first, announced(1, is_complete=True), 0)
    (id,) = [o["offer_id"] for o in offers_to(swarms.hear(second, announced(2, 1), 0)).values()]
    assert offers_to(swarms.hear(thief, announced(2, 1), 0)) == {}
    (back,) = swarms.hear(first, answered(1, 2, id.encode()), 1)
    assert back.line is second


def test_a_page_is_given_to_somebody_complete_first() -> None:
    swarms, seed = tracker(), program()
    for peer in range(2, 40):
        swarms.hear(page(), announced(peer), 0)
    swarms.hear(seed, announced(1, is_complete=True), 0)
    for peer in range(40, 60):
        given = offers_to(swarms.hear(page(), announced(peer, 2), 0))
        assert seed in given and len(given) == 2


def test_descriptions_for_programs_are_written_anew_without_strange_addresses() -> None:
    swarms, seed, reader = tracker(), program(), page()
    swarms.hear(seed, announced(1), 0)
    given = offers_to(swarms.hear(reader, announced(2, 1), 0))[seed]
    sdp = given["offer"]["sdp"]
    assert sdp.count("a=candidate") == 1 and "10.0.0.7 50000" in sdp
    for stranger in ("8.8.8.8", ".local", "10.9.9.9", "x-unknown"):
        assert stranger not in sdp
    (back,) = swarms.hear(seed, answered(1, 2, given["offer_id"].encode()), 1)
    sdp = read(back)["answer"]["sdp"]
    assert KEY in sdp and sdp.count("a=candidate") == 1


def test_a_description_that_makes_no_sense_reaches_no_program() -> None:
    swarms, seed, reader = tracker(), program(), page()
    swarms.hear(seed, announced(1), 0)
    heard = swarms.hear(reader, announced(2, 1, sdp="v=0\r\nm=video 9 RTP/AVP 96\r\n"), 0)
    assert [at.line for at in heard] == [reader]
    given = offers_to(swarms.hear(reader, announced(2, 1), 0))[seed]
    nonsense = answered(1, 2, given["offer_id"].encode(), "v=0\r\n")
    assert swarms.hear(seed, nonsense, 1) == []


def test_what_is_not_public_is_not_tracked_and_forgotten() -> None:
    public = {HASH.hex()}
    swarms = Tracker(lambda infohash: infohash in public, random.Random(7))
    line = page()
    swarms.hear(line, announced(1), 0)
    swarms.announce("10.0.0.1", listening(7000), 0)
    assert swarms.sizes == (1, 1, 1)
    refused = [read(at) for at in swarms.hear(line, announced(1, infohash=OTHER_HASH), 0)]
    assert [set(one) for one in refused] == [{"action", "info_hash", "failure reason"}]
    with pytest.raises(NotTracked):
        swarms.announce("10.0.0.1", listening(7000, infohash=OTHER_HASH), 0)
    public.clear()
    (told,) = swarms.hear(line, Scraped((HASH,)), 1)
    assert "failure reason" in read(told)
    assert swarms.sizes == (0, 0, 0) and not line.swarms
    assert "answer" not in str(swarms.hear(line, answered(1, 2, name(3)), 1))


def test_no_longer_public_is_forgotten_without_a_word() -> None:
    public = {HASH.hex()}
    swarms = Tracker(lambda infohash: infohash in public, random.Random(7))
    swarms.hear(page(), announced(1), 0)
    public.clear()
    swarms.sweep(1)
    assert swarms.sizes == (0, 0, 0)


def test_who_does_not_renew_is_forgotten_and_a_program_has_longer() -> None:
    swarms, reader, seed = tracker(), page(), program()
    swarms.hear(reader, announced(1), 0)
    swarms.hear(seed, announced(2), 0)
    swarms.announce("10.0.0.1", listening(7000), 0)
    swarms.sweep(PATIENCE * PAGE_INTERVAL_S - 1)
    assert swarms.sizes == (1, 2, 1)
    swarms.sweep(PATIENCE * PAGE_INTERVAL_S)
    assert swarms.sizes == (1, 1, 1) and not reader.swarms
    swarms.sweep(PATIENCE * LISTENER_INTERVAL_S)
    assert swarms.sizes == (1, 1, 0)
    swarms.sweep(1e9)
    assert swarms.sizes == (0, 0, 0)


def test_who_stops_or_goes_is_out_at_once() -> None:
    swarms, first, second = tracker(), page(), page()
    swarms.hear(first, announced(1), 0)
    swarms.hear(second, announced(2), 0)
    (told,) = swarms.hear(first, announced(1, 3, event=Event.STOPPED), 0)
    assert read(told)["incomplete"] == 1  # and its offers go nowhere
    swarms.leave(second)
    assert swarms.sizes == (0, 0, 0)
    swarms.announce("10.0.0.1", listening(7000), 0)
    told_last = swarms.announce("10.0.0.1", listening(7000, event=Event.STOPPED), 0)
    assert told_last.incomplete == 0 and swarms.sizes == (0, 0, 0)


def test_our_own_bittorrent_is_called_when_a_page_wants_it_and_not_too_often() -> None:
    called: list[str] = []
    swarms, reader, seed = tracker(call=called.append), page(), program()
    swarms.announce("10.0.0.1", listening(7000), 0)
    assert called == []
    swarms.hear(reader, announced(1, 5), 0)
    swarms.hear(page(), announced(2, 5), 1)
    assert called == [HASH.hex()]
    swarms.hear(reader, announced(1, 5), CALL_EVERY_S)
    assert len(called) == 2
    swarms.hear(seed, announced(3), CALL_EVERY_S)
    swarms.hear(reader, announced(1, 5), 5 * CALL_EVERY_S)
    assert len(called) == 2


def test_listening_peers_are_told_of_each_other_by_the_address_they_came_from() -> None:
    swarms = tracker()
    for host in ("10.0.0.1", "fd00::1", "127.0.0.1"):
        swarms.announce(host, listening(7000), 0)
    far = swarms.announce("10.0.0.9", listening(7000), 0)
    assert set(far.peers) == {PeerAddress("10.0.0.1", 7000), PeerAddress("fd00::1", 7000)}
    near = swarms.announce("127.0.0.1", listening(7001), 0)
    assert PeerAddress("127.0.0.1", 7000) in near.peers and len(near.peers) == 4
    assert (near.complete, near.incomplete) == (0, 5)


def test_completed_is_counted_once_for_each_peer() -> None:
    swarms, line = tracker(), page()
    for _ in range(3):
        swarms.hear(line, announced(1, event=Event.COMPLETED, is_complete=True), 0)
    (told,) = swarms.hear(line, Scraped((HASH,)), 0)
    figures = {"complete": 1, "incomplete": 0, "downloaded": 1}
    assert read(told) == {"action": "scrape", "files": {HASH.decode(): figures}}


def test_every_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWARM_PEERS_LIMIT", 40)
    swarms, crowd = tracker(), [page() for _ in range(60)]
    heard = [swarms.hear(line, announced(at), 0) for at, line in enumerate(crowd)]
    assert swarms.sizes == (1, 40, 0)
    assert "full" in read(heard[-1][0])["failure reason"]
    greedy = page()
    for at in range(PAGE_SWARMS_LIMIT + 5):
        swarms.hear(greedy, announced(1, infohash=name(at)), 0)
    assert len(greedy.swarms) == PAGE_SWARMS_LIMIT
    for line in (*crowd, greedy):
        swarms.leave(line)
    assert swarms.sizes == (0, 0, 0)


def test_no_address_fills_the_tracker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWARM_PEERS_LIMIT", 10_000)
    swarms = tracker()
    for at in range(ADDRESS_LISTENERS_LIMIT):
        swarms.announce("10.0.0.1", listening(2000 + at, infohash=name(at % 9)), 0)
    with pytest.raises(Overloaded):
        swarms.announce("10.0.0.1", listening(1999), 0)
    swarms.announce("10.0.0.1", listening(2000, infohash=name(0)), 0)  # a renewal is none more
    swarms.announce("10.0.0.2", listening(2000), 0)
    monkeypatch.setattr(module, "LISTENERS_LIMIT", ADDRESS_LISTENERS_LIMIT + 1)
    with pytest.raises(Overloaded):
        swarms.announce("10.0.0.3", listening(2000), 0)


def test_swarms_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWARMS_LIMIT", 3)
    swarms = tracker()
    for at in range(3):
        swarms.announce("10.0.0.1", listening(2000, infohash=name(at)), 0)
    with pytest.raises(Overloaded):
        swarms.announce("10.0.0.1", listening(2000, infohash=name(9)), 0)


def test_open_offers_of_a_line_are_bounded_and_the_oldest_go() -> None:
    swarms, deaf = tracker(), page()
    swarms.hear(deaf, announced(1), 0)
    for peer in range(2, 2 * OPEN_OFFERS_LIMIT):
        line = page()
        swarms.hear(line, announced(peer, 1), 0)
        swarms.leave(line)
    assert len(deaf.given) == OPEN_OFFERS_LIMIT


class Crowd(RuleBasedStateMachine):
    """Whatever they do, the books agree with each other and with what the peers were told."""

    def __init__(self) -> None:
        super().__init__()
        self.public = {HASH.hex(), OTHER_HASH.hex()}
        self.swarms = Tracker(lambda infohash: infohash in self.public, random.Random(7))
        self.lines = [page(), page(), page(), program(), program()]
        self.gone: set[int] = set()
        self.now = 0.0
        self.open: list[tuple[int, Delivery]] = []

    hashes = st.sampled_from([HASH, OTHER_HASH])
    who = st.integers(0, 4)

    @rule(at=who, infohash=hashes, offers=st.integers(0, 3), event=st.sampled_from(Event))
    def announce(self, at: int, infohash: bytes, offers: int, event: Event) -> None:
        if at in self.gone:
            return
        said = announced(at, offers, infohash=infohash, event=event)
        for delivery in self.swarms.hear(self.lines[at], said, self.now):
            is_offer = "offer" in read(delivery)
            assert is_offer == (delivery.line is not self.lines[at])
            assert delivery.line.is_open
            if is_offer:
                self.open.append((at, delivery))

    @rule()
    def answer(self) -> None:
        if not self.open:
            return
        to, delivery = self.open.pop(0)
        offer, at = read(delivery), self.lines.index(delivery.line)
        said = Answered(
            offer["info_hash"].encode(), name(at), name(to), Offer(offer["offer_id"].encode(), SDP)
        )
        if at not in self.gone:
            for back in self.swarms.hear(delivery.line, said, self.now):
                assert back.line is self.lines[to] or "failure reason" in read(back)

    @rule(port=st.integers(2000, 2003), infohash=hashes, event=st.sampled_from(Event))
    def listen(self, port: int, infohash: bytes, event: Event) -> None:
        if infohash.hex() in self.public:
            said = listening(port, infohash=infohash, event=event)
            told = self.swarms.announce("10.0.0.1", said, self.now)
            assert PeerAddress("10.0.0.1", port) not in told.peers

    @rule(at=who)
    def leave(self, at: int) -> None:
        self.swarms.leave(self.lines[at])
        self.gone.add(at)

    @rule(infohash=hashes)
    def hide(self, infohash: bytes) -> None:
        self.public.discard(infohash.hex())

    @rule(seconds=st.sampled_from([1.0, 100.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.swarms.sweep(self.now)

    @invariant()
    def books_agree(self) -> None:
        _, members, listeners = self.swarms.sizes
        assert members == sum(len(line.swarms) for line in self.lines)
        assert listeners == self.swarms._of_address.total()
        for swarm in self.swarms._swarms.values():
            assert swarm.lines or swarm.listeners
        for at in self.gone:
            assert not self.lines[at].swarms


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
