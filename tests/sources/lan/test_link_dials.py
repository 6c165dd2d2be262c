"""Daemons of a room dial by themselves: each pair comes to one link, and comes to it again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pmodels.core.exchange import HANDSHAKE_LIMIT_S
from p2pmodels.sources.lan.links import DIALS_LIMIT, LARGER_WAITS_S, RETRY_CEILING_S
from p2pmodels.sources.lan.peers import PeerState
from tests.link_fakes import Room
from tests.sources.lan.members import A, B, C, is_link, numbered


@pytest.mark.asyncio
async def test_smaller_id_dials_at_once_and_the_larger_not_at_all(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    room.run(b)
    room.run(a)
    await room.settle()
    assert is_link(a, b)
    await room.pass_time(30, step=1)
    assert (room.carriers[A].dials, room.carriers[B].dials) == ([b.address.host], [])


@pytest.mark.asyncio
async def test_larger_id_dials_when_the_smaller_cannot_reach_it(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    room.walls.add((a.address.host, b.address.host))
    room.run(a)
    room.run(b)
    await room.pass_time(LARGER_WAITS_S - 0.25)
    assert a.links.links() == []
    await room.pass_time(0.5)
    assert is_link(a, b)
    await room.pass_time(30, step=1)
    assert len(b.ready) == 1


@pytest.mark.asyncio
async def test_room_comes_to_one_link_for_each_pair(room: Room) -> None:
    members = [room.add(numbered(number)) for number in range(12)]
    for member in members:
        room.run(member)
    await room.pass_time(3)
    everybody = {member.id for member in members}
    for member in members:
        assert set(member.linked_ids) == everybody - {member.id}
        assert len(member.ready) == 11
    total = sum(len(carrier.dials) for carrier in room.carriers.values())
    assert total == 12 * 11 // 2


@pytest.mark.asyncio
async def test_lost_link_comes_back(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    room.run(a)
    room.run(b)
    await room.pass_time(1)
    [link] = a.links._open
    await link._channel.close()
    await room.settle()
    assert a.links.links() == b.links.links() == []
    await room.pass_time(3)
    assert is_link(a, b)
    assert (len(a.gone), len(b.gone)) == (1, 1)


@pytest.mark.asyncio
async def test_peer_that_cannot_be_reached_is_dialled_ever_less_often(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    room.walls.add((a.address.host, b.address.host))
    room.run(a)
    await room.pass_time(300, step=1)
    assert 300 / RETRY_CEILING_S <= len(room.carriers[A].dials) < 30


@pytest.mark.asyncio
async def test_dials_go_out_in_waves(room: Room) -> None:
    a = room.add(numbered(0))
    hung = [room.add(numbered(number)) for number in range(1, DIALS_LIMIT + 10)]
    room.mute = {member.address for member in hung}
    room.run(a)
    await room.pass_time(1)
    assert len(room.carriers[a.id].dials) == DIALS_LIMIT
    await room.pass_time(HANDSHAKE_LIMIT_S)
    assert len(set(room.carriers[a.id].dials)) == len(hung)


@pytest.mark.asyncio
async def test_dialled_peer_that_turns_out_to_be_another_is_left(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    c = room.add(C)
    room.members[b.address] = c  # C has taken over B's address
    room.dial(a, b)
    await room.settle()
    assert a.links.links() == []
    assert a.ready == []


@pytest.mark.asyncio
async def test_only_ready_peers_are_dialled_and_never_ourselves(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    views = [a.view(), b.view()]
    views[1] = replace(views[1], state=PeerState.UNREACHABLE)
    room.tasks.start(a.links.run(lambda: views, room.clock.sleep), "run")
    await room.pass_time(5)
    assert room.carriers[A].dials == []
