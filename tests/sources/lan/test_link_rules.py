"""Links with strangers: who breaks the rules is closed and banned, and everything has a limit."""

from __future__ import annotations

import asyncio
import logging

import pytest

from p2pmodels.core.exchange import FRAMES_BURST_LIMIT, HANDSHAKE_LIMIT_S
from p2pmodels.core.wire import Bye, Frame, Have, Run, Welcome, pack
from p2pmodels.errors import PeerMisbehaved, ProtocolError
from p2pmodels.sources.lan.link import QUEUE_BYTES_LIMIT, QUEUE_FRAMES_LIMIT, Linked
from p2pmodels.sources.lan.links import (
    BANS_LIMIT,
    LINKS_LIMIT,
    LINKS_ON_LOOPBACK_LIMIT,
    LINKS_PER_ADDRESS_LIMIT,
)
from tests.link_fakes import Room, channel_pair, hello
from tests.sources.lan.members import BLOB, WANT, A, B, C, is_link, messages, numbered

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
