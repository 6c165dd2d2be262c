"""Which pieces are asked of whom, and what traffic is."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.board import Board
from p2pmodels.core.leases import Leases
from p2pmodels.core.members import Members
from p2pmodels.core.pieces import MIB, piece_length
from p2pmodels.core.pull_picker import (
    COLLECT_READ_S,
    COLLECT_S,
    CRAWL_AFTER_S,
    CROWD,
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
from p2pmodels.core.situation import Ask, Member, Pull
from p2pmodels.core.traffic import WINDOW_S, Traffic
from tests.core.situations import BLOB, PIECES, SIZE, member, peer, situation


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


def asked_in_a_crowd(reader: int, after_s: float) -> list[int]:
    """Pieces asked for after so long of one who has a single piece."""
    single = min(reader, 40)
    members = [member(1, range(single, single + 1))]
    members += [member(number, is_wanting=True) for number in range(2, 2 + CROWD)]
    shown = {single: 100.0}
    now = situation(members, readers=[reader], shown_since=shown, now=100.0 + after_s)
    return [ask.start for ask in pick_pulls(now, Random(1))]


def test_in_a_crowd_a_piece_whose_neighbours_are_here_waits_for_nothing() -> None:
    members = [member(1, range(40, 41))]
    members += [member(number, is_wanting=True) for number in range(2, 2 + CROWD)]
    for neighbours, asked in (([39, 41], [40]), ([39], []), ([41], [])):
        ours = bytearray(PIECES)
        for piece in neighbours:
            ours[piece] = 1
        now = situation(members, ours=ours, readers=[200], shown_since={40: 100.0})
        assert [ask.start for ask in pick_pulls(now, Random(1))] == asked


def test_in_a_crowd_single_pieces_wait_for_their_neighbours_but_the_head_of_a_file() -> None:
    assert asked_in_a_crowd(40, COLLECT_READ_S - 0.1) == []
    assert asked_in_a_crowd(40, COLLECT_READ_S) == [40]
    assert asked_in_a_crowd(200, COLLECT_READ_S) == []
    assert asked_in_a_crowd(200, COLLECT_S) == [40]
    assert asked_in_a_crowd(0, COLLECT_READ_S) == asked_in_a_crowd(0, COLLECT_S) == [0]
