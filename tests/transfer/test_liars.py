"""Peers that lie, stall or die: everybody ends right, and soon (reliability D1 to D4, D11, B9)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from p2pmodels.core.manifest import Want
from p2pmodels.core.pieces import MIB, piece_length
from p2pmodels.errors import DigestMismatch
from p2pmodels.transfer.fetch import Fetch
from p2pmodels.transfer.reader import Reader
from p2pmodels.workers import Lane
from tests.contents import content
from tests.transfer.machines import (
    FILE,
    LIMIT_S,
    Machine,
    Room,
    Stranger,
    giver,
    room_of,
    roots_of,
    span_of,
    until,
)

SIZE = 8 * MIB + 5
PIECE = piece_length(SIZE)
SLOW = 16_000_000  # bytes/s of the hub: an uplink, much slower than the LAN


@pytest_asyncio.fixture
async def room(tmp_path: Path, lane: Lane) -> AsyncIterator[Room]:
    async with room_of(tmp_path, lane) as running:
        yield running


def wrong(data: bytes, *pieces: int) -> bytes:
    """The same with a wrong byte in each of these pieces."""
    changed = bytearray(data)
    for piece in pieces:
        changed[piece * PIECE + 7] ^= 1
    return bytes(changed)


async def whole(machine: Machine) -> bytes:
    """What a client ends with that comes again after a broken answer: only what looks whole."""
    while True:
        try:
            return await machine.read()
        except DigestMismatch:
            continue


async def all_right(room: Room, machines: list[Machine], data: bytes, readers: int = 2) -> None:
    """Every reader of every machine ends with the true file."""
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        tasks = [group.create_task(whole(m)) for m in machines for _ in range(readers)]
    assert all(task.result() == data for task in tasks)


async def lying(room: Room, want: Want, lie: bytes, said: bytes | None, **how: bool) -> Stranger:
    """A stranger that gives `lie`, and announces the roots of `said` (None: no roots)."""
    liar = await room.stranger()
    liar.claims(want, roots_of(said) if said is not None else [], **how)
    liar.gives = giver(lie)
    return liar


@pytest.mark.asyncio
async def test_who_gives_other_bytes_than_it_announced_is_banned_at_once(room: Room) -> None:
    data, _ = content(SIZE)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    machines = await room.add(3)
    lie = wrong(data, *range(32))
    liar = await lying(room, await machines[0].want(), lie, said=data)
    await all_right(room, machines, data)
    assert liar.pulls
    await until(lambda: any(liar.id not in machine.linked for machine in machines))
    assert room.hub.file_bytes() <= SIZE * 1.3


@pytest.mark.asyncio
@pytest.mark.parametrize("pieces", [(0,), (5, 6, 7), tuple(range(32))])
async def test_who_lies_consistently_is_found_out_and_banned(
    room: Room, pieces: tuple[int, ...]
) -> None:
    """It says to have the bytes from the origin, and gives just what it says."""
    data, _ = content(SIZE)
    lie = wrong(data, *pieces)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    machines = await room.add(3)
    liar = await lying(room, await machines[0].want(), lie, said=lie, is_vouched=True)
    await all_right(room, machines, data)
    await until(lambda: not any(liar.id in machine.linked for machine in machines))
    assert set(machines[0].linked) == {machine.id for machine in machines[1:]}


@pytest.mark.asyncio
async def test_a_holder_without_hashes_that_gives_wrong_bytes_deceives_nobody(room: Room) -> None:
    data, _ = content(SIZE)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    machines = await room.add(2)
    liar = await lying(room, await machines[0].want(), wrong(data, 11), said=None)
    await all_right(room, machines, data)
    assert liar.pulls


@pytest.mark.asyncio
async def test_two_liars_that_agree_are_both_found_out(room: Room) -> None:
    data, _ = content(SIZE)
    lie = wrong(data, 2, 30)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    machines = await room.add(2)
    want = await machines[0].want()
    for _ in range(2):
        await lying(room, want, lie, said=lie, is_vouched=True)
    await all_right(room, machines, data)


@pytest.mark.asyncio
async def test_a_lie_is_found_out_although_the_origin_gives_no_more_than_a_piece(
    room: Room,
) -> None:
    """A wrong piece costs that piece and one of each witness, not the file."""
    data, digest = content(SIZE)
    room.publish({FILE: data})
    (holder,) = await room.add()
    assert await holder.read() == data
    await until(lambda: holder.sharing.may_give(digest))
    (machine,) = await room.add()
    lie = wrong(data, 9)
    await lying(room, await machine.want(), lie, said=lie, is_vouched=True)
    before = room.hub.file_bytes()
    await all_right(room, [machine], data)
    assert room.hub.file_bytes() - before <= 4 * PIECE


# those that stall or die


@pytest.mark.asyncio
@pytest.mark.parametrize("has_hashes", [True, False])
async def test_who_claims_all_and_sends_nothing_costs_a_reader_less_than_two_seconds(
    room: Room, has_hashes: bool
) -> None:
    data, _ = content(SIZE)
    room.publish({FILE: data})
    (machine,) = await room.add()

    async def silent(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    stranger = await room.stranger()
    stranger.claims(await machine.want(), roots_of(data) if has_hashes else [])
    stranger.gives = silent
    began = time.monotonic()
    fetch = await machine.fetch()
    async with asyncio.timeout(15), Reader(fetch, 0, SIZE, machine.lane) as reader:
        await reader.ready()
        first_s = time.monotonic() - began
        assert b"".join([part async for part in reader]) == data
    assert stranger.pulls
    assert first_s < 3  # 2 s is the aim; the machine that tests this may be busy
    assert room.hub.file_bytes() <= SIZE * 1.3


@pytest.mark.asyncio
async def test_who_sends_a_byte_now_and_then_is_left_for_another_source(room: Room) -> None:
    data, _ = content(SIZE)
    room.publish({FILE: data})
    (machine,) = await room.add()

    async def trickle(request: web.Request) -> web.StreamResponse:
        start, stop = span_of(request)
        answer = web.StreamResponse(
            status=206, headers={"Content-Range": f"bytes {start}-{stop - 1}/{SIZE}"}
        )
        answer.content_length = stop - start
        await answer.prepare(request)
        for at in range(start, stop):
            await answer.write(data[at : at + 1])
            await asyncio.sleep(0.3)
        return answer

    stranger = await room.stranger()
    stranger.claims(await machine.want(), roots_of(data))
    stranger.gives = trickle
    async with asyncio.timeout(15):
        assert await machine.read() == data
    assert stranger.pulls


@pytest.mark.asyncio
async def test_a_peer_that_breaks_off_every_pull_costs_no_progress_and_leaves_nothing(
    room: Room,
) -> None:
    data, _ = content(SIZE)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    machines = await room.add(2)

    async def breaks_off(request: web.Request) -> web.StreamResponse:
        start, stop = span_of(request)
        answer = web.StreamResponse(
            status=206, headers={"Content-Range": f"bytes {start}-{stop - 1}/{SIZE}"}
        )
        answer.content_length = stop - start
        await answer.prepare(request)
        await answer.write(data[start : start + PIECE + 1000])
        assert request.transport is not None
        request.transport.abort()
        return answer

    stranger = await room.stranger()
    stranger.claims(await machines[0].want(), roots_of(data))
    stranger.gives = breaks_off
    await all_right(room, machines, data)
    assert stranger.pulls
    assert room.hub.file_bytes() <= SIZE * 1.10
    folders = [machine.store.folder / "partials" for machine in machines]
    await until(lambda: not any(list(folder.iterdir()) for folder in folders))


@pytest.mark.asyncio
async def test_a_machine_that_dies_while_it_fetches_for_the_room_is_replaced(
    room: Room,
) -> None:
    size = 2 * SIZE
    data, _ = content(size)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW / 2  # what it had not passed on yet is lost with it
    machines = await room.add(3)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        tasks = [group.create_task(machine.read()) for machine in machines]
        await room.hub.until(lambda: room.hub.file_bytes() > size // 2, LIMIT_S)
        fetching = max(machines, key=lambda m: fetch_of(m).sources["origin"])
        at = machines.index(fetching)
        tasks[at].cancel()
        await fetching.die()
    for machine, task in zip(machines, tasks, strict=True):
        assert machine is fetching or task.result() == data
    assert room.hub.file_bytes() <= size * 1.3


def fetch_of(machine: Machine) -> Fetch:
    return machine.fetcher.transfers()[0]


# readers meanwhile


@pytest.mark.asyncio
async def test_a_reader_that_streams_while_a_liar_gives_never_sees_a_wrong_whole_body(
    room: Room,
) -> None:
    """Bodies that ended without an error are right, and ranges of wrong bytes break off."""
    data, _ = content(SIZE)
    lie = wrong(data, 1, 20, 31)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    machines = await room.add(2)
    await lying(room, await machines[0].want(), lie, said=lie, is_vouched=True)
    spans = [(0, SIZE), (PIECE, 2 * PIECE), (SIZE - 1000, SIZE), (20 * PIECE, 21 * PIECE)]

    async def stream(machine: Machine, start: int, stop: int) -> bytes | None:
        try:
            return await machine.read_on(await machine.fetch(), start, stop)
        except DigestMismatch:
            return None

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        tasks = {
            (machine.port, *span): group.create_task(stream(machine, *span))
            for machine in machines
            for span in spans
        }
    for (_, start, stop), task in tasks.items():
        assert task.result() in (data[start:stop], None)
    await all_right(room, machines, data)
