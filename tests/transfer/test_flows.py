"""Flows: rates that follow what happens, and fall to nought by themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.transfer.flows import (
    FETCHING_LIMIT,
    FLOWS_LIMIT,
    RATE_OVER_S,
    SLOT_S,
    Flow,
    Flows,
)
from tests.fakes import FakeClock

MB = 1_000_000
PEER = "a" * 32


def flow(flows: Flows) -> Flow:
    (found,) = flows.now()
    return found


def run(flows: Flows, clock: FakeClock, bytes_per_s: float, seconds: float) -> None:
    """Let bytes come evenly, ten times a second."""
    for _ in range(round(seconds * 10)):
        clock.advance(0.1)
        flows.count(PEER, "self", int(bytes_per_s / 10))


def test_nothing_flows_at_first() -> None:
    assert Flows(FakeClock()).now() == []


@pytest.mark.parametrize("start", [0.0, 0.13, 7.24])
def test_steady_flow_shows_its_rate(start: float) -> None:
    clock = FakeClock()
    clock.advance(start)
    flows = Flows(clock)
    run(flows, clock, 8 * MB, 20)
    assert flow(flows).bytes_per_s == pytest.approx(8 * MB, rel=0.1)
    assert flow(flows).bytes == 160 * MB


def test_rate_is_about_right_after_two_seconds() -> None:
    clock = FakeClock()
    flows = Flows(clock)
    run(flows, clock, 8 * MB, 2)
    assert flow(flows).bytes_per_s == pytest.approx(8 * MB, rel=0.2)


def test_first_bytes_are_no_gigabytes_a_second() -> None:
    clock = FakeClock()
    flows = Flows(clock)
    flows.count(PEER, "self", MB)
    assert flow(flows).bytes_per_s == MB


def test_rate_falls_to_nought_by_itself_and_the_bytes_stay() -> None:
    clock = FakeClock()
    flows = Flows(clock)
    run(flows, clock, 8 * MB, 10)
    clock.advance(1)
    assert 0 < flow(flows).bytes_per_s < 7 * MB
    clock.advance(RATE_OVER_S - 1)
    assert flow(flows).bytes_per_s == 0
    assert flow(flows).bytes == 80 * MB


def test_flow_that_begins_again_is_not_slowed_by_its_pause() -> None:
    clock = FakeClock()
    flows = Flows(clock)
    run(flows, clock, 8 * MB, 5)
    clock.advance(60)
    run(flows, clock, 2 * MB, 2)
    assert flow(flows).bytes_per_s == pytest.approx(2 * MB, rel=0.2)


def test_both_directions_are_two_flows() -> None:
    flows = Flows(FakeClock())
    flows.count("self", PEER, 1)
    flows.count(PEER, "self", 2)
    assert [(f.source, f.target, f.bytes) for f in flows.now()] == [
        ("self", PEER, 1),
        (PEER, "self", 2),
    ]


def test_peer_that_fetches_for_the_room_is_a_flow_without_figures() -> None:
    flows = Flows(FakeClock())
    flows.note_peer_origin(PEER, is_fetching=True)
    flows.note_peer_origin(PEER, is_fetching=True)
    assert flows.now() == [Flow("origin", PEER, 0.0, 0)]
    flows.note_peer_origin(PEER, is_fetching=False)
    flows.note_peer_origin(PEER, is_fetching=False)
    assert flows.now() == []


def test_flood_of_ends_forgets_the_flow_that_is_idle_for_longest() -> None:
    clock = FakeClock()
    flows = Flows(clock)
    flows.count("origin", "self", 1)
    for number in range(FLOWS_LIMIT):
        clock.advance(0.01)
        flows.count(f"{number:032x}", "self", 1)
        flows.count("origin", "self", 1)
    seen = [f.source for f in flows.now()]
    assert len(seen) == FLOWS_LIMIT
    assert "origin" in seen
    assert f"{0:032x}" not in seen
    assert f"{FLOWS_LIMIT - 1:032x}" in seen


def test_flood_of_peers_that_fetch_is_bounded() -> None:
    flows = Flows(FakeClock())
    for number in range(FETCHING_LIMIT + 50):
        flows.note_peer_origin(f"{number:032x}", is_fetching=True)
    assert len(flows.now()) == FETCHING_LIMIT


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 10 * MB)), max_size=40))
def test_rate_is_never_more_than_what_came_lately(counts: list[tuple[float, int]]) -> None:
    clock = FakeClock()
    flows = Flows(clock)
    seen: list[tuple[float, int]] = []
    for pause, amount in counts:
        clock.advance(pause)
        flows.count(PEER, "self", amount)
        seen.append((clock.now, amount))
        lately = sum(n for at, n in seen if at > clock.now - RATE_OVER_S - SLOT_S)
        assert 0 <= flow(flows).bytes_per_s <= lately
        assert flow(flows).bytes == sum(n for _, n in seen)
