"""Who takes which lease from the origin."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import MIB, piece_length
from p2pmodels.core.situation import Lease, Member, Take, lease_pieces
from p2pmodels.core.traffic import Traffic
from tests.core.situations import BLOB, PIECES, SIZE, member, peer, situation


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


def test_pieces_of_a_lease_that_all_stand_still_are_taken() -> None:
    step = lease_pieces(SIZE)
    ours = bytearray(step) + b"\1" * (PIECES - step)
    frozen = member(1, is_wanting=True, is_usable=False)
    parts = ORIGIN_STREAMS + 1
    leases = [Lease(peer(1), n, n + 1, since=100.0, progressed=100.0) for n in range(parts)]
    assert pick_leases(situation([frozen], leases=leases, ours=ours, now=130.0))


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
