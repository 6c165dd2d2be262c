"""The pickers: who takes which lease, and which pieces are asked of whom."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.board import Board
from p2pmodels.core.digests import Sha256
from p2pmodels.core.lease_picker import (
    BEGIN_AFTER_S,
    ORIGIN_STREAMS,
    SPLIT_AFTER_S,
    TAKE_STEP_S,
    TAKEN_PATIENCE,
    pick_leases,
    weight,
)
from p2pmodels.core.leases import Leases
from p2pmodels.core.members import Members
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import MIB, piece_length
from p2pmodels.core.pull_picker import (
    CRAWL_AFTER_S,
    PULLS_LIMIT,
    PULLS_MIN,
    PULLS_PER_PEER,
    STALL_MAX_S,
    STALL_S,
    pick_crawling,
    pick_pulls,
    pick_sick,
)
from p2pmodels.core.pulls import Pulls
from p2pmodels.core.situation import Ask, Lease, Member, Pull, Situation, Take, lease_pieces
from p2pmodels.core.traffic import WINDOW_S, Traffic

BLOB = Sha256("ab" * 32)
SIZE = 64 * MIB
PIECES = SIZE // piece_length(SIZE)


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def member(number: int, has: range = range(0), **how: object) -> Member:
    pieces = bytearray(PIECES)
    pieces[has.start : has.stop] = b"\1" * len(has)
    return Member(peer(number), pieces, **how)  # type: ignore[arg-type]


def situation(members: list[Member], **how: object) -> Situation:
    values: dict[str, object] = {
        "now": 100.0,
        "own": peer(0),
        "blob": BLOB,
        "size": SIZE,
        "ours": bytearray(PIECES),
        "members": {one.id: one for one in members},
        "holders": [sum(column) for column in zip(*(one.has for one in members), strict=True)],
        "leases": [],
        "pulls": [],
        "readers": [0],
        "began": 100.0,
    }
    return Situation(**{**values, **how})  # type: ignore[arg-type]


def owner(lease: int, count: int) -> PeerId:
    return max((peer(number) for number in range(count)), key=lambda id: weight(BLOB, lease, id))


def test_every_lease_has_one_owner_and_everybody_computes_the_same() -> None:
    count = 5
    begun: dict[int, list[int]] = {}
    for own in range(count):
        others = [member(n, is_wanting=True) for n in range(count) if n != own]
        for take in pick_leases(situation(others, own=peer(own))):
            begun.setdefault(take.start // lease_pieces(SIZE), []).append(own)
    assert begun
    assert all(owners == [int(owner(lease, count).value, 16)] for lease, owners in begun.items())


def test_the_first_leases_in_the_order_of_reading_are_under_way_at_once() -> None:
    count, step = 16, lease_pieces(SIZE)
    reader = 2 * step + 1
    begun = [
        take.start // step
        for own in range(count)
        for take in pick_leases(
            situation(
                [member(n, is_wanting=True) for n in range(count) if n != own],
                own=peer(own),
                readers=[reader],
            )
        )
    ]
    assert sorted(begun) == list(range(2, 2 + ORIGIN_STREAMS))


def test_a_lease_waits_for_its_owner_from_when_it_is_the_next() -> None:
    count, step = 16, lease_pieces(SIZE)
    own = next(n for n in range(count) if all(owner(m, count) != peer(n) for m in range(8)))
    others = [member(n, is_wanting=True) for n in range(count) if n != own]
    leases = [Lease(peer(n), n * step, (n + 1) * step, 100.0, 100.0) for n in range(4)]
    open_since: dict[int, float] = {}

    def picked(seconds: float, under_way: int) -> list[Take]:
        running = [replace(lease, progressed=100.0 + seconds) for lease in leases[:under_way]]
        for number in range(4 - under_way):
            at = (3 - number) * step
            ours[at : at + step] = b"\1" * step
        now = 100.0 + seconds
        at_now = situation(others, own=peer(own), ours=ours, leases=running, now=now)
        return pick_leases(at_now, open_since)

    ours = bytearray(PIECES)
    assert picked(50.0, under_way=4) == [] and not open_since
    assert picked(60.0, under_way=3) == []  # the fifth is the next now, and its owner's
    assert picked(60.0 + BEGIN_AFTER_S / 2, under_way=2) == []
    (taken,) = picked(60.0 + BEGIN_AFTER_S + count, under_way=2)
    assert taken.start // step in (4, 5)


def test_a_lease_that_its_owner_does_not_begin_is_taken_by_one_who_has_none() -> None:
    others = [member(n, is_wanting=True) for n in (1, 2)]
    mine = [n for n in range(8) if owner(n, 3) == peer(0)]
    ours = bytearray(PIECES)
    step = lease_pieces(SIZE)
    for lease in mine:
        ours[lease * step : (lease + 1) * step] = b"\1" * step
    early = situation(others, ours=ours)
    late = situation(others, ours=ours, now=100.0 + BEGIN_AFTER_S + 1.0)
    assert pick_leases(early) == []
    (taken,) = pick_leases(late)
    assert taken.start // step not in mine


def test_nothing_is_taken_from_an_origin_that_asked_us_to_wait() -> None:
    others = [member(1, is_wanting=True)]
    assert pick_leases(situation(others))
    assert pick_leases(situation(others, can_ask_origin=False)) == []


def test_what_a_member_has_is_never_leased() -> None:
    assert pick_leases(situation([member(1, range(PIECES), is_wanting=True)])) == []


def test_a_lease_without_progress_passes_on_and_a_live_one_does_not() -> None:
    other = member(1, is_wanting=True)
    step = lease_pieces(SIZE)
    lease = Lease(peer(1), 0, step, since=100.0, progressed=100.0)
    ours = bytearray(step) + b"\1" * (PIECES - step)  # nothing else is lacking
    live = situation([other], leases=[lease], ours=ours, now=101.0)
    dead = situation([other], leases=[lease], ours=ours, now=130.0)
    assert pick_leases(live) == []
    assert pick_leases(dead) == [Take(0, step, is_takeover=True)]


def test_a_lease_that_was_passed_on_is_left_alone_for_longer() -> None:
    other = member(1, is_wanting=True)
    step = lease_pieces(SIZE)
    ours = bytearray(step) + b"\1" * (PIECES - step)

    def taken_after(seconds: float, *, is_takeover: bool) -> bool:
        lease = Lease(peer(1), 0, step, 100.0, 100.0, is_takeover=is_takeover)
        at = situation([other], leases=[lease], ours=ours, now=100.0 + seconds)
        return bool(pick_leases(at))

    waits = [
        next(half / 2 for half in range(200) if taken_after(half / 2, is_takeover=is_takeover))
        for is_takeover in (False, True)
    ]
    assert waits[1] == pytest.approx(TAKEN_PATIENCE * waits[0], rel=0.2)


def test_what_only_a_slow_machine_has_is_taken_by_one_at_a_time() -> None:
    count, slow = 8, 9
    traffic = Traffic()
    traffic.uplink.rate, traffic.intake.rate = 100e6, 100e6
    ours = bytearray(b"\1" * PIECES)
    ours[:64] = bytes(64)  # only the slow one has these, and gives them at a crawl
    giver = member(slow, range(PIECES), is_wanting=True, rate=1000.0)
    takers = []
    for moment in range(count * 10):
        now = 100.0 + moment * TAKE_STEP_S / 5
        took = [
            own
            for own in range(count)
            if pick_leases(
                situation(
                    [giver, *(member(n, is_wanting=True) for n in range(count) if n != own)],
                    **{"own": peer(own), "ours": ours, "now": now, "traffic": traffic},
                )
            )
        ]
        assert len(took) <= 1
        takers += took
    assert len(set(takers)) > 1


def half_taken(
    seconds: float, *, intake: float = 3e6, others: int = 0, holder: int = 1
) -> list[Take]:
    """What is taken of a long lease that has run for so long."""
    size = 24 * MIB
    pieces = size // piece_length(size)
    traffic = Traffic()
    traffic.uplink.rate, traffic.intake.rate = 1.25e6, intake
    lease = Lease(peer(holder), 0, pieces, since=100.0, progressed=100.0 + seconds, landed=8)
    traffic.leasing.append([lease, *range(others)])
    has = bytearray(b"\1" * 8 + bytes(pieces - 8))
    rival = Member(peer(1), has, is_wanting=True)
    now, ours = 100.0 + seconds, bytearray(has)
    at = situation([rival], size=size, ours=ours, leases=[lease], now=now, traffic=traffic)
    return pick_leases(at)


def test_half_of_a_long_lease_is_taken_by_an_idle_machine() -> None:
    (half,) = half_taken(SPLIT_AFTER_S)
    assert half == Take(8 + 88 // 2, 96, is_takeover=True)
    assert half_taken(SPLIT_AFTER_S - 0.1) == []


def test_a_long_lease_stays_whole_in_a_busy_room_or_before_a_narrow_line() -> None:
    assert half_taken(SPLIT_AFTER_S, others=ORIGIN_STREAMS - 1) == []
    assert half_taken(SPLIT_AFTER_S, intake=0.5e6) == []
    assert half_taken(SPLIT_AFTER_S, holder=0) == []


@pytest.mark.parametrize("others", [0, ORIGIN_STREAMS - 1])
def test_a_slow_lease_passes_on_only_when_the_line_has_room(others: int) -> None:
    traffic, ours = Traffic(), bytearray(16) + b"\1" * (PIECES - 16)
    traffic.uplink.rate = 3e6
    lease = Lease(peer(1), 0, 16, since=60.0, progressed=99.0, landed=1)
    traffic.leasing.append([lease, *range(others)])
    at = situation([member(1, is_wanting=True)], leases=[lease], ours=ours, traffic=traffic)
    assert pick_leases(at) == ([] if others else [Take(1, 16, is_takeover=True)])


def narrow(pulls: int) -> Traffic:
    """A line of 1 MB/s that so many pulls share."""
    traffic = Traffic()
    traffic.intake.rate = 1e6
    book = Pulls(Members(PIECES), traffic.intake)
    for number in range(pulls):
        book.start(Ask(peer(1), number, number + 1), 100.0)
    traffic.pulling.append(book)
    return traffic


def test_a_pull_that_waits_its_turn_on_a_narrow_line_is_not_asked_elsewhere() -> None:
    pull = Pull(1, peer(1), 0, 4, since=100.0, progressed=100.0, at=0)
    members = [member(1, range(PIECES), rate=9e6), member(2, range(PIECES), rate=9e6)]

    def is_sick(after_s: float, traffic: Traffic, *, is_busy: bool = True) -> bool:
        now = 100.0 + after_s
        other = Pull(2, peer(2), 4, 8, since=100.0, progressed=now if is_busy else 100.0, at=4)
        at = situation(members, pulls=[pull, other], now=now, traffic=traffic)
        return pull in pick_sick(at)

    assert is_sick(STALL_S, narrow(1)) and not is_sick(STALL_S, narrow(4))
    assert is_sick(STALL_S, narrow(4), is_busy=False)  # nothing comes: it is not the line
    assert is_sick(STALL_MAX_S, narrow(100))


def test_a_pull_with_its_even_share_of_a_narrow_line_is_neither_slow_nor_crawling() -> None:
    members = [member(1, range(PIECES)), member(2, range(PIECES), rate=9e6)]
    pulls, age = 100, CRAWL_AFTER_S
    pull = Pull(1, peer(1), 0, 4, since=100.0, progressed=100.0 + age, at=0)
    pull.received = int(1e6 / pulls * age)
    at = situation(members, pulls=[pull], now=100.0 + age, traffic=narrow(pulls))
    assert pick_sick(at) == [] and pick_crawling(at) == []
    pull.received //= 10
    assert pick_crawling(at) == [pull]


def test_a_narrow_line_is_shared_by_few_pulls() -> None:
    members = [member(n, range(PIECES)) for n in range(1, 9)]
    assert len(pick_pulls(situation(members), Random(1))) == PULLS_LIMIT
    assert len(pick_pulls(situation(members, traffic=narrow(0)), Random(1))) == PULLS_MIN
    own = [Pull(n, peer(n), n, n + 1, 100.0, 100.0, at=n) for n in range(1, PULLS_MIN + 1)]
    at = situation(members, pulls=own, traffic=narrow(PULLS_MIN))
    assert pick_pulls(at, Random(1)) == []


def test_a_blob_has_a_pull_even_when_those_of_others_fill_a_narrow_line() -> None:
    members = [member(n, range(PIECES)) for n in range(1, 9)]
    full = narrow(PULLS_LIMIT)
    assert len(pick_pulls(situation(members, traffic=full), Random(1))) == 1
    own = Pull(1, peer(1), 0, 4, since=100.0, progressed=100.0, at=0)
    assert pick_pulls(situation(members, pulls=[own], traffic=full), Random(1)) == []


def test_pieces_of_a_lease_that_all_stand_still_are_taken() -> None:
    step = lease_pieces(SIZE)
    ours = bytearray(step) + b"\1" * (PIECES - step)
    frozen = member(1, is_wanting=True, is_usable=False)
    parts = ORIGIN_STREAMS + 1
    leases = [Lease(peer(1), n, n + 1, since=100.0, progressed=100.0) for n in range(parts)]
    assert pick_leases(situation([frozen], leases=leases, ours=ours, now=130.0))


def test_traffic_is_of_bytes_and_not_of_whole_pieces() -> None:
    traffic = Traffic()
    leases = Leases(BLOB, 1000, traffic)
    leases.add(peer(1), 0, 1, 100.0)
    leases.progress(peer(1), 0, 1, 100.0)
    assert traffic.uplink.rate == pytest.approx(1000 / WINDOW_S)


def test_what_was_here_from_the_start_is_no_traffic() -> None:
    traffic = Traffic()
    board = Board(peer(0), BLOB, SIZE, 100.0, Random(1), traffic)
    board.landed(0, b"0" * 32, 100.0, giver=None, is_vouched=True)
    assert not traffic.intake.rate


def test_who_fetches_alone_asks_in_order_and_the_last_pulls_are_shorter() -> None:
    holder = member(1, range(PIECES), rate=1e9)
    ours, starts, lengths = bytearray(PIECES), [], []
    while 0 in ours:
        for ask in pick_pulls(situation([holder], ours=ours), Random(1)):
            starts.append(ask.start)
            lengths.append(ask.stop - ask.start)
            ours[ask.start : ask.stop] = b"\1" * lengths[-1]
    assert starts == sorted(starts)
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] < lengths[0]


def test_a_small_blob_is_asked_for_in_one_pull() -> None:
    size = 1 * MIB
    pieces = size // piece_length(size)
    holder = Member(peer(1), bytearray(b"\1" * pieces))
    at = situation([holder], size=size, ours=bytearray(pieces))
    assert [(ask.start, ask.stop) for ask in pick_pulls(at, Random(1))] == [(0, pieces)]


@given(
    st.lists(st.tuples(st.integers(0, PIECES), st.integers(0, PIECES)), min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.sets(st.integers(0, PIECES - 1)),
)
def test_pulls_ask_for_what_is_lacking_of_who_has_it_and_keep_the_limits(
    spans: list[tuple[int, int]], seed: int, ours: set[int]
) -> None:
    members = [member(n + 1, range(*sorted(span))) for n, span in enumerate(spans)]
    landed = bytearray(PIECES)
    for piece in ours:
        landed[piece] = 1
    now = situation(members, ours=landed)
    asks = pick_pulls(now, Random(seed))
    asked: set[int] = set()
    for ask in asks:
        pieces = set(range(ask.start, ask.stop))
        assert pieces and not pieces & asked and not pieces & ours
        assert all(now.members[ask.peer].has[piece] for piece in pieces)
        asked |= pieces
    assert len(asks) <= PULLS_LIMIT
    assert all(sum(ask.peer == one.id for ask in asks) <= PULLS_PER_PEER for one in members)


def test_a_reader_is_served_first() -> None:
    asks = pick_pulls(situation([member(1, range(PIECES))], readers=[77]), Random(1))
    assert asks[0].start == 77


def test_the_rarest_piece_comes_before_the_common_ones() -> None:
    members = [member(n, range(PIECES - 1)) for n in (1, 2)] + [member(3, range(200, PIECES))]
    now = situation(members, readers=[])
    assert pick_pulls(now, Random(3))[0].start == PIECES - 1


def test_a_pull_without_a_byte_is_asked_elsewhere_as_well() -> None:
    pull = Pull(1, peer(1), 0, 4, since=100.0, progressed=100.0, at=0)
    members = [member(1, range(PIECES)), member(2, range(PIECES))]
    assert pick_sick(situation(members, pulls=[pull], now=100.0 + STALL_S / 2)) == []
    assert pick_sick(situation(members, pulls=[pull], now=100.0 + STALL_S)) == [pull]


def test_a_peer_that_says_a_lease_a_thousand_times_holds_it_once() -> None:
    leases = Leases(BLOB, SIZE, Traffic())
    for moment in range(1000):
        leases.contest(peer(0), peer(1), (0, 32), float(moment), is_taken=bool(moment % 2))
    assert len(leases.of(peer(1))) == 1


def test_of_two_that_begin_together_one_goes_on_and_both_agree() -> None:
    one, other = (Leases(BLOB, SIZE, Traffic()) for _ in range(2))
    one.add(peer(1), 0, 32, 0.0)
    other.add(peer(2), 0, 32, 0.0)
    kept_by_one = one.contest(peer(1), peer(2), (0, 32), 0.1, is_taken=False)
    kept_by_other = other.contest(peer(2), peer(1), (0, 32), 0.1, is_taken=False)
    assert (kept_by_one is None) != (kept_by_other is None)
