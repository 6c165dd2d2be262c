"""The book of links: one link for two daemons of a group, which both sides know."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from p2pmodels.core.exchange import Conversation
from p2pmodels.core.secret import Secret
from p2pmodels.core.wire import Busy, Bye, Frame, Welcome, pack
from p2pmodels.sources.lan.carrier import plain_host
from p2pmodels.sources.lan.link import ByteCarrier
from p2pmodels.sources.lan.links import RETRY_CEILING_S
from tests.link_fakes import MemoryChannel, Room, hello
from tests.sources.lan.members import WANT, A, B, C, is_link, messages

SECRET, OTHER = Secret("correct-horse-battery"), Secret("wrong-horse-battery!")


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
    assert b.links.last_word(a.view()) == b.links.links()[0].last_heard == room.clock.now
    assert b.links.last_word(b.view()) == float("-inf")
    assert not a.links.send(C, WANT)


class Carried(MemoryChannel):
    """A channel that carries bytes too, as those of WebRTC do."""

    is_dialler, remote_address = True, "10.0.0.9"

    def allow(self, *, is_guest: bool) -> None: ...


@pytest.mark.asyncio
async def test_a_word_over_webrtc_says_nothing_of_the_peer_port(room: Room) -> None:
    a, b = room.add(A), room.add(B)
    ours, theirs = Carried("b", "a"), Carried("a", "b")
    ours.other, theirs.other, theirs.is_dialler = theirs, ours, False
    for member, end, expected in ((a, ours, B), (b, theirs, None)):
        carrier = cast(ByteCarrier, end)
        room.tasks.start(member.links.adopt(carrier, expected), "adopt")
    await room.settle()
    assert (a.linked_ids, b.linked_ids) == ([B], [A])
    assert b.links.last_word(a.view()) == a.links.last_word(b.view()) == float("-inf")


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
    assert b.links.last_word(a.view()) == float("-inf")
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


@pytest.mark.parametrize(
    ("host", "plain"),
    [("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"),
     ("fd00:0::1", "fd00::1"), ("somewhere", "somewhere"), ("", "")],
)  # fmt: skip
def test_same_address_is_the_same_text_on_both_ends(host: str, plain: str) -> None:
    assert plain_host(host) == plain


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
