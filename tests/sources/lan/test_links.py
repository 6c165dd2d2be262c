"""The book of links: rooms in memory with a clock that tests move, and strangers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from p2pmodels.core.digests import Sha256
from p2pmodels.core.exchange import (
    FRAMES_BURST_LIMIT,
    HANDSHAKE_LIMIT_S,
    Conversation,
)
from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.wire import Busy, Bye, Frame, Have, Run, Want, Welcome, pack
from p2pmodels.errors import PeerMisbehaved, ProtocolError
from p2pmodels.sources.lan.carrier import plain_host
from p2pmodels.sources.lan.link import QUEUE_BYTES_LIMIT, QUEUE_FRAMES_LIMIT, Linked
from p2pmodels.sources.lan.links import (
    BANS_LIMIT,
    DIALS_LIMIT,
    LARGER_WAITS_S,
    LINKS_LIMIT,
    LINKS_ON_LOOPBACK_LIMIT,
    LINKS_PER_ADDRESS_LIMIT,
    RETRY_CEILING_S,
)
from p2pmodels.sources.lan.peers import PeerState
from tests.link_fakes import Member, MemoryChannel, Room, channel_pair, hello, memory_room

A, B, C = PeerId("a" * 32), PeerId("b" * 32), PeerId("c" * 32)
SECRET, OTHER = Secret("correct-horse-battery"), Secret("wrong-horse-battery!")
BLOB = Sha256("0" * 64)
WANT = Want(BLOB, 5)


def numbered(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


@pytest_asyncio.fixture
async def room() -> AsyncIterator[Room]:
    async with memory_room() as made:
        yield made


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What we logged; asyncio's own remarks on slow machines do not count."""
    ours = [record for record in caplog.records if record.name.startswith("p2pmodels")]
    return [record.message for record in ours if record.levelno >= level]


def is_link(a: Member, b: Member) -> bool:
    """Whether both sides agree that there is exactly one link, and by whom it was dialled."""
    [of_a], [of_b] = a.links.links(), b.links.links()
    assert (of_a.id, of_b.id) == (b.id, a.id)
    assert of_a.is_dialler != of_b.is_dialler
    assert of_a.is_dialler or of_b.is_dialler
    return a.links.is_linked(b.id) and b.links.is_linked(a.id)


@pytest.mark.asyncio
@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("is_smaller_dialler", [True, False])
async def test_either_side_may_dial_and_both_know_each_other(
    room: Room, secret: Secret | None, is_smaller_dialler: bool
) -> None:
    a, b = room.add(A, secret=secret), room.add(B, secret=secret)
    room.dial(*((a, b) if is_smaller_dialler else (b, a)))
    await room.settle()
    assert is_link(a, b)
    [linked] = a.links.links()
    assert a.ready == [linked]
    assert (linked.host, linked.port) == (b.address.host, b.address.port)
    assert linked.is_dialler is is_smaller_dialler
    assert b.links.admits(linked.their_ticket.hex()) == A
    assert a.links.admits(linked.their_ticket.hex()) is None
    assert b.links.admits("") is None


@pytest.mark.asyncio
async def test_frames_reach_the_other_side_in_order(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    room.dial(a, b)
    await room.settle()
    said: list[Frame] = [Busy(number, 8, 0) for number in range(300)]
    for frame in said:
        assert a.links.send(B, frame)
    room.clock.advance(3.0)
    await room.settle()
    assert b.frames == [(A, frame) for frame in said]
    assert b.links.links()[0].last_heard == room.clock.now
    assert not a.links.send(C, WANT)


@pytest.mark.asyncio
async def test_end_of_one_side_is_told_to_both(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    room.dial(a, b)
    await room.settle()
    ticket = a.links.links()[0].their_ticket.hex()
    await a.links.__aexit__()
    await room.settle()
    assert [linked.id for linked in a.gone] == [B]
    assert [linked.id for linked in b.gone] == [A]
    assert a.links.links() == b.links.links() == []
    assert b.links.admits(ticket) is None
    assert not b.links.send(A, WANT)


@pytest.mark.asyncio
@pytest.mark.parametrize("is_sending", [True, False])
async def test_broken_connection_ends_the_link(room: Room, is_sending: bool) -> None:
    a, b = room.add(A), room.add(B)
    room.dial(a, b)
    await room.settle()
    [link] = a.links._open
    channel = link._channel
    assert isinstance(channel, MemoryChannel)
    channel.is_broken = True
    (a if is_sending else b).links.send(B if is_sending else A, WANT)
    await room.settle()
    assert [linked.id for linked in a.gone] == [B]
    assert [linked.id for linked in b.gone] == [A]


@pytest.mark.asyncio
@pytest.mark.parametrize(("ours", "theirs"), [(SECRET, OTHER), (SECRET, None), (None, SECRET)])
async def test_daemons_of_different_groups_do_not_link(
    room: Room,
    ours: Secret | None,
    theirs: Secret | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    a, b = room.add(A, secret=ours), room.add(B, secret=theirs)
    room.run(a)
    room.run(b)
    await room.pass_time(100, step=1)
    assert a.ready == b.ready == []
    assert a.links.links() == b.links.links() == []
    # at most one dial a pause on either side, and one line for the operator on each
    assert len(room.carriers[A].dials) <= 6 + 100 / (RETRY_CEILING_S / 2)
    lines = [line for line in messages(caplog, logging.INFO) if "group" in line]
    assert len(lines) == 2
    assert SECRET.reveal() not in caplog.text


@pytest.mark.asyncio
async def test_stranger_without_the_secret_gets_nothing(room: Room) -> None:
    a = room.add(A, secret=SECRET)
    stranger = room.stranger(a)
    ticket = await stranger.shake_hands(C)
    assert await stranger.farewell() == "group"
    await room.settle()
    assert a.ready == []
    assert a.links.admits(ticket.hex()) is None


@pytest.mark.asyncio
async def test_ticket_counts_only_once_the_link_is_ready(room: Room) -> None:
    a = room.add(A)
    stranger = room.stranger(a)
    await stranger.say(hello(C))
    await stranger.hear()
    welcome = await stranger.hear()
    assert isinstance(welcome, Welcome)
    assert a.links.admits(welcome.ticket.hex()) is None
    await stranger.say(Welcome(b"", bytes(16)))
    await room.settle()
    assert a.links.admits(welcome.ticket.hex()) == C
    await stranger.say(Bye("leaving"))
    await room.settle()
    assert a.links.admits(welcome.ticket.hex()) is None


@pytest.mark.asyncio
async def test_replayed_handshake_links_nobody(room: Room) -> None:
    """A listener has recorded what C once said to A and says it again."""
    a = room.add(A, secret=SECRET)
    recorded: list[bytes] = []
    stranger = room.stranger(a)
    honest = Conversation(
        hello(C), is_dialler=True, binding=("10.0.9.9", a.address.host), ticket=bytes(16),
        secret=SECRET, now=0.0,
    )  # fmt: skip
    while a.links.links() == []:
        recorded += (said := honest.outgoing())
        await stranger.say(*said)
        await room.settle()
        if not a.links.links() and (frame := await stranger.hear()) is not None:
            honest.receive(pack(frame), 0.0)
    assert [linked.id for linked in a.ready] == [C]

    again = room.stranger(a)
    await again.say(*recorded)
    assert await again.farewell() == "group"
    assert len(a.ready) == 1


# doubles


@pytest.mark.asyncio
@pytest.mark.parametrize("is_smaller_first", [True, False])
async def test_of_a_double_the_one_dialled_by_the_smaller_id_stays(
    room: Room, is_smaller_first: bool
) -> None:
    a, b = room.add(A), room.add(B)
    order = [(a, b), (b, a)]
    for dialler, other in order if is_smaller_first else reversed(order):
        room.dial(dialler, other)
        await room.settle()
    assert is_link(a, b)
    assert a.links.links()[0].is_dialler
    for member in (a, b):
        changes = [linked.is_dialler for linked in member.ready]
        assert len(changes) == (1 if is_smaller_first else 2)
        assert len(member.gone) == len(member.ready) - 1
    assert a.links.send(B, WANT)
    await room.settle()
    assert b.frames == [(A, WANT)]


@pytest.mark.asyncio
async def test_double_begun_at_the_same_moment_ends_in_one_link(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    room.dial(a, b)
    room.dial(b, a)
    await room.settle()
    assert is_link(a, b)
    assert a.links.links()[0].is_dialler
    assert len(a.links._open) == len(b.links._open) == 1


@pytest.mark.asyncio
async def test_peer_that_started_anew_replaces_its_old_link(room: Room) -> None:
    a = room.add(A)
    old, new = room.stranger(a), room.stranger(a)
    await old.shake_hands(C)
    await room.settle()
    await new.shake_hands(C, b"t" * 16)
    assert await old.farewell() == "double"
    await room.settle()
    assert [linked.their_ticket for linked in a.links.links()] == [b"t" * 16]
    assert len(a.ready) == 2
    assert len(a.gone) == 1


@pytest.mark.asyncio
async def test_another_machine_cannot_take_over_a_linked_id(room: Room) -> None:
    a = room.add(A)
    honest = room.stranger(a, "10.0.9.9")
    await honest.shake_hands(C)
    await room.settle()
    thief = room.stranger(a, "10.0.9.66")
    await thief.shake_hands(C)
    assert await thief.farewell() == "double"
    assert [linked.host for linked in a.links.links()] == ["10.0.9.9"]
    assert a.gone == []


# misbehaviour


MISDEEDS: dict[str, list[Frame | bytes]] = {
    "garbage": [b"\x90" * 1000],
    "hello again": [hello(C)],
    "unknown kind": [b"\x81\xa1t\xa4what"],
    "run beyond the blob": [pack(Have(BLOB, 5, True, (Run(0, 1, True),))).replace(b"\x93\x00\x01",
                                                                               b"\x93\x00\x02")],
    "flood": [WANT] * (FRAMES_BURST_LIMIT + 1),
}  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize("name", MISDEEDS)
async def test_peer_that_breaks_the_rules_is_closed_and_banned(
    room: Room, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = room.add(A), room.add(B)
    room.dial(a, b)
    stranger = room.stranger(a)
    await stranger.shake_hands(C)
    await room.settle()
    await stranger.say(*MISDEEDS[name])
    assert await stranger.farewell() == "rules"
    assert [linked.id for linked in a.gone] == [C]
    again = room.stranger(a)
    await again.shake_hands(C)
    assert await again.farewell() == "rules"
    await room.settle()
    assert a.linked_ids == [B]
    [warning] = messages(caplog, logging.WARNING)
    assert str(C) in warning


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [PeerMisbehaved("lies"), ProtocolError("lies")])
async def test_what_the_receiver_of_frames_finds_wrong_is_the_peers_fault(
    room: Room, error: Exception
) -> None:
    a, b = room.add(A), room.add(B)

    def refuse(_linked: Linked, _frame: Frame) -> None:
        raise error

    b.reaction = refuse
    room.dial(a, b)
    await room.settle()
    a.links.send(B, WANT)
    await room.settle()
    assert not b.links.is_linked(A)
    room.dial(a, b)
    await room.settle()
    assert not b.links.is_linked(A)


@pytest.mark.asyncio
async def test_id_is_banned_only_where_it_misbehaved(room: Room) -> None:
    a = room.add(A)
    thief = room.stranger(a, "10.0.9.66")
    await thief.shake_hands(C)
    await thief.say(b"garbage")
    await thief.farewell()
    honest = room.stranger(a, "10.0.9.9")
    await honest.shake_hands(C)
    await room.settle()
    assert a.linked_ids == [C]


@pytest.mark.asyncio
async def test_inventing_ids_does_not_fill_the_log(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    a = room.add(A)
    for number in range(50):
        stranger = room.stranger(a)
        await stranger.say(hello(numbered(number)), b"garbage")
        assert await stranger.farewell() == "rules"
    assert len(messages(caplog, logging.WARNING)) == 1


@pytest.mark.asyncio
async def test_banned_peer_loses_its_link_and_gets_no_other(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    for member in (a, b):
        room.run(member)
    await room.pass_time(1)
    assert is_link(a, b)
    b.links.ban(A)
    assert not b.links.is_linked(A)
    assert b.links.links() == []
    assert b.gone == []  # never from inside `ban`
    await room.settle()
    assert [linked.id for linked in b.gone] == [A]
    await room.pass_time(60, step=1)
    assert not b.links.is_linked(A)
    assert not a.links.is_linked(B)
    assert len(b.ready) == 1


@pytest.mark.asyncio
async def test_banned_before_it_was_ever_linked(room: Room) -> None:
    a = room.add(A)
    a.links.ban(C)
    stranger = room.stranger(a)
    await stranger.shake_hands(C)
    assert await stranger.farewell() == "rules"


# limits


@pytest.mark.asyncio
async def test_peer_that_says_nothing_is_closed_at_the_deadline(room: Room) -> None:
    a = room.add(A)
    silent = room.stranger(a)
    half = room.stranger(a)
    await half.say(hello(C))
    await room.settle()
    await room.pass_time(HANDSHAKE_LIMIT_S - 0.5)
    assert len(a.links._open) == 2
    await room.pass_time(0.5)
    assert await silent.farewell() == "late"
    assert await half.farewell() == "late"
    await room.settle()
    assert not a.links._open


@pytest.mark.asyncio
async def test_quiet_link_stays(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    room.dial(a, b)
    await room.pass_time(600, step=20)
    assert is_link(a, b)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("host", "limit"),
    [("10.0.9.9", LINKS_PER_ADDRESS_LIMIT), ("127.0.0.1", LINKS_ON_LOOPBACK_LIMIT),
     ("::ffff:10.0.9.9", LINKS_PER_ADDRESS_LIMIT), ("no address", LINKS_PER_ADDRESS_LIMIT)],
)  # fmt: skip
async def test_one_address_gets_its_share_of_links_only(room: Room, host: str, limit: int) -> None:
    a = room.add(A)
    strangers = [room.stranger(a, host) for _ in range(limit)]
    for number, stranger in enumerate(strangers):
        await stranger.shake_hands(numbered(number))
    assert await room.stranger(a, host).farewell() == "full"
    await room.settle()
    assert len(a.linked_ids) == limit
    elsewhere = room.stranger(a, "10.0.9.10")
    await elsewhere.shake_hands(C)
    await strangers[0].say(Bye("leaving"))
    await room.settle()
    again = room.stranger(a, host)
    await again.shake_hands(numbered(limit))
    await room.settle()
    assert len(a.linked_ids) == limit + 1


@pytest.mark.asyncio
async def test_bans_are_limited_and_the_oldest_is_forgotten(room: Room) -> None:
    a = room.add(A)
    for number in range(BANS_LIMIT):
        a.links.ban(numbered(number))
    assert a.links._is_banned(numbered(0), "10.0.0.1")
    a.links.ban(C)
    assert not a.links._is_banned(numbered(0), "10.0.0.1")
    assert a.links._is_banned(numbered(1), "10.0.0.1")
    assert len(a.links._bans) == BANS_LIMIT


@pytest.mark.asyncio
async def test_nobody_is_let_in_while_leaving(room: Room) -> None:
    a = room.add(A)
    await a.links.__aexit__()
    assert await room.stranger(a).farewell() == "leaving"


@pytest.mark.asyncio
async def test_links_are_limited_in_all(room: Room) -> None:
    a = room.add(A)
    strangers = [room.stranger(a, f"10.1.{n // 8}.1") for n in range(LINKS_LIMIT)]
    await room.settle()
    assert await room.stranger(a, "10.2.0.1").farewell() == "full"
    for stranger in strangers:
        await stranger.channel.close()
    await room.settle()
    assert not a.links._open


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("frame", "limit"),
    [
        (WANT, QUEUE_FRAMES_LIMIT),
        (Have(BLOB, 1 << 32, True, (Run(0, 1000, True),), (bytes(32),) * 1000),
         QUEUE_BYTES_LIMIT // 32_000),
    ],
)  # fmt: skip
async def test_peer_that_does_not_read_loses_its_link(room: Room, frame: Frame, limit: int) -> None:
    a = room.add(A)
    ours, theirs = channel_pair("10.0.9.9", a.address.host)
    room.accept(a, theirs)
    stranger_side = ours
    await stranger_side.send(pack(hello(C)))
    await stranger_side.send(pack(Welcome(b"", bytes(16))))
    await room.settle()
    assert a.linked_ids == [C]
    theirs.is_deaf = True
    sent = 0
    while a.links.send(C, frame):
        sent += 1
        assert sent <= limit + 10
    assert sent >= limit - 10
    assert not a.links.is_linked(C)
    assert a.gone == []  # never from inside `send`
    async with asyncio.timeout(5):
        while not theirs.is_closed or a.gone == []:
            await asyncio.sleep(0.01)
    assert [linked.id for linked in a.gone] == [C]


# dialling by itself


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


@pytest.mark.parametrize(
    ("host", "plain"),
    [("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"),
     ("fd00:0::1", "fd00::1"), ("somewhere", "somewhere"), ("", "")],
)  # fmt: skip
def test_same_address_is_the_same_text_on_both_ends(host: str, plain: str) -> None:
    assert plain_host(host) == plain
