"""Machines of one room and their hub: it fetches once, and gives what it may (design 6, P3, P8)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2pmodels.core.caller import Caller
from p2pmodels.core.pieces import MIB
from p2pmodels.core.secret import Secret
from p2pmodels.core.wire import Have
from p2pmodels.core.wire import Want as WantFrame
from p2pmodels.demo.hub import Faults
from p2pmodels.errors import AccessRefused, NotFound, Overloaded, P2PModelsError, SourceFailed
from p2pmodels.sources.origin import retry
from p2pmodels.transfer import fetcher as fetcher_module
from p2pmodels.workers import Lane
from tests.contents import content
from tests.transfer.machines import (
    FILE,
    LIMIT_S,
    Machine,
    Room,
    giver,
    room_of,
    roots_of,
    until,
)

TOKEN = Secret("hf_" + "c" * 34)  # made up

SMALL, LARGE = 8 * MIB + 5, 33 * MIB + 5  # bytes: one lease; and five of them
SLOW = 16_000_000  # bytes/s of the hub: an uplink, much slower than the LAN


@pytest_asyncio.fixture
async def room(tmp_path: Path, lane: Lane) -> AsyncIterator[Room]:
    async with room_of(tmp_path, lane) as running:
        yield running


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_cold_blob_wanted_by_four_machines_crosses_the_origin_once(
    room: Room, size: int
) -> None:
    data, _ = content(size)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    machines = await room.add(4)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        readers = [group.create_task(m.read()) for m in machines for _ in range(2)]
    assert all(reader.result() == data for reader in readers)
    for machine in machines:
        assert len(machine.fetcher.transfers()) == 1  # single flight inside each of them
        assert size <= sum(machine.sources().values()) <= size * 1.05
        assert set(machine.sources()) <= {"lan", "origin"}
    assert room.hub.file_bytes() <= size * 1.10
    given = sum(machine.sources()["lan"] for machine in machines if "lan" in machine.sources())
    assert given >= 3 * size * 0.9


@pytest.mark.asyncio
async def test_a_machine_that_comes_midway_takes_part(room: Room) -> None:
    data, _ = content(LARGE)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    first, second = await room.add(2)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        readers = [group.create_task(m.read()) for m in (first, second)]
        await room.hub.until(lambda: room.hub.file_bytes() > LARGE // 3, LIMIT_S)
        (third,) = await room.add()
        readers.append(group.create_task(third.read()))
    assert all(reader.result() == data for reader in readers)
    assert room.hub.file_bytes() <= LARGE * 1.10
    assert third.sources()["lan"] >= LARGE / 3


@pytest.mark.asyncio
async def test_small_files_go_round_as_well(room: Room) -> None:
    files = {f"part{n}.json": content(50_000 + n, n)[0] for n in range(10)}
    room.publish(files)
    machines = await room.add(3)

    async def read_all(machine: Machine) -> None:
        for name, data in files.items():
            assert await machine.read(name) == data

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for machine in machines:
            group.create_task(read_all(machine))
    assert room.hub.file_bytes() <= sum(map(len, files.values())) * 1.3


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["down", "manifests only", "asks to wait"])
async def test_without_an_origin_a_holder_gives_every_byte(room: Room, fault: str) -> None:
    data, digest = content(SMALL)
    room.publish({FILE: data})
    holder, taker = await room.add(2)
    assert await holder.read() == data
    await until(lambda: holder.sharing.may_give(digest))
    await taker.want()
    before = room.hub.file_bytes()
    room.hub.faults = Faults(
        down=fault == "down",
        manifests_only=fault == "manifests only",
        status_for_files=429 if fault == "asks to wait" else None,
        retry_after_s=60,
    )
    async with asyncio.timeout(LIMIT_S):
        assert await taker.read() == data
    assert taker.sources() == {"lan": SMALL}
    assert room.hub.file_bytes() == before


# gated, private and unproven content (E1, E6, P3)


@pytest.mark.asyncio
@pytest.mark.parametrize("access", [{"gated": "auto"}, {"private": True}])
async def test_restricted_content_is_neither_asked_about_nor_given(
    room: Room, access: dict[str, object]
) -> None:
    data, digest = content(SMALL)
    room.publish({FILE: data}, tokens=[TOKEN.reveal()], **access)
    room.hub.faults.rate_bytes_per_s = SLOW
    first, second = await room.add(2)
    spy = await room.stranger()
    asks = WantFrame(digest, SMALL)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        readers = [group.create_task(m.read(caller=Caller(TOKEN))) for m in (first, second)]
        await room.hub.until(lambda: room.hub.file_bytes() > MIB, LIMIT_S)
        for machine in (first, second):
            spy.links.send(machine.id, asks)  # while it is being fetched
    for machine in (first, second):
        spy.links.send(machine.id, asks)  # and when it is here
    await until(lambda: len(spy.said()) >= 4)
    assert all(reader.result() == data for reader in readers)
    assert [m.sources() for m in (first, second)] == [{"origin": SMALL}] * 2
    for frame in spy.said():  # what is not shared looks like what is not here
        assert isinstance(frame, Have) and not frame.runs
    for machine in (first, second):
        assert machine.exchange.held(digest, 0, 1) is None


@pytest.mark.asyncio
async def test_what_is_not_proven_public_is_not_given(room: Room) -> None:
    """One machine shares nothing, though it has everything; it only takes."""
    data, _ = content(SMALL)
    room.publish({FILE: data})
    (miser,) = await room.add(is_sharing=False)
    assert await miser.read() == data
    (other,) = await room.add()
    assert await other.read() == data
    assert other.sources() == {"origin": SMALL}
    assert miser.uploads.total == 0
    (taker,) = await room.add(is_sharing=False)
    assert await taker.read() == data
    assert taker.sources() == {"lan": SMALL}


@pytest.mark.asyncio
async def test_a_fetch_without_a_proof_announces_nothing(room: Room) -> None:
    """Its bytes came from a peer, so they prove nothing; the hub is asked before it gives any."""
    data, digest = content(SMALL)
    room.publish({FILE: data})
    holder = await room.stranger()
    (machine,) = await room.add()
    holder.claims(await machine.want(), roots_of(data))
    holder.gives = giver(data)
    room.hub.faults = Faults(status_for_files=403)  # so there will be no proof
    with contextlib.suppress(AccessRefused):
        await machine.read()
    assert not any(isinstance(frame, Have) and frame.runs for frame in holder.said())
    assert machine.exchange.held(digest, 0, 1) is None


@pytest.mark.asyncio
@pytest.mark.parametrize(("status", "error"), [
    (401, AccessRefused), (403, AccessRefused), (404, NotFound),
])  # fmt: skip
async def test_a_refusal_of_the_origin_is_final_though_a_peer_has_a_part(
    room: Room, status: int, error: type[P2PModelsError]
) -> None:
    data, _ = content(SMALL)
    room.publish({FILE: data})
    first, second = await room.add(2)
    holder = await room.stranger()
    holder.claims(await first.want(), roots_of(data), pieces=10)
    holder.gives = giver(data)
    room.hub.faults = Faults(status_for_files=status)
    async with asyncio.timeout(5):
        for machine in (first, second):
            with pytest.raises(error):
                await machine.read()


# the origin in trouble


@pytest.mark.asyncio
async def test_without_origin_and_holder_everybody_is_told_so(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "DELAY_FIRST_S", 0.05)
    data, _ = content(SMALL)
    room.publish({FILE: data})
    machines = await room.add(3)
    for machine in machines:
        await machine.want()
    room.hub.faults.down = True
    async with asyncio.timeout(LIMIT_S):
        found = await asyncio.gather(*(m.read() for m in machines), return_exceptions=True)
    assert all(isinstance(error, SourceFailed) for error in found)


@pytest.mark.asyncio
async def test_when_the_origin_asks_everybody_to_wait_each_machine_asks_once(room: Room) -> None:
    data, _ = content(SMALL)
    room.publish({FILE: data})
    machines = await room.add(3)
    for machine in machines:
        await machine.want()
    room.hub.faults = Faults(status_for_files=429, retry_after_s=30)
    async with asyncio.timeout(LIMIT_S):
        found = await asyncio.gather(*(m.read() for m in machines), return_exceptions=True)
    assert all(isinstance(error, Overloaded) for error in found)
    assert 1 <= len(room.hub.requests(status=429)) <= len(machines)
    await room.hub.quiet()


@pytest.mark.asyncio
async def test_when_the_origin_asks_one_machine_to_wait_another_takes_its_lease(
    room: Room,
) -> None:
    data, _ = content(SMALL)
    room.publish({FILE: data})
    machines = await room.add(3)
    for machine in machines:
        await machine.want()
    room.hub.faults = Faults(status_for_files=429, status_times=1, retry_after_s=60)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        readers = [group.create_task(m.read()) for m in machines]
    assert all(reader.result() == data for reader in readers)
    assert len(room.hub.requests(status=429)) == 1
    assert room.hub.file_bytes() <= SMALL * 1.10


# readers and machines that come and go (reliability G2, G5, G7)


@pytest.mark.asyncio
async def test_when_a_machine_gives_up_what_it_fetches_for_the_room_the_others_go_on(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its only client leaves; the machine stays in the room."""
    monkeypatch.setattr(fetcher_module, "GRACE_S", 0.1)
    data, _ = content(LARGE)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    machines = await room.add(3)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        readers = [group.create_task(m.read()) for m in machines]
        await room.hub.until(lambda: room.hub.file_bytes() > LARGE // 3, LIMIT_S)
        readers[0].cancel()
    assert [reader.result() == data for reader in readers[1:]] == [True, True]
    assert machines[0].store.blobs.find(content(LARGE)[1]) is None
    assert room.hub.file_bytes() <= LARGE * 1.3


@pytest.mark.asyncio
async def test_ranges_and_backward_seeks_get_the_right_bytes_while_the_room_fetches(
    room: Room,
) -> None:
    data, _ = content(LARGE)
    room.publish({FILE: data})
    room.hub.faults.rate_bytes_per_s = SLOW
    machines = await room.add(2)
    ends = (LARGE - 1, 25 * MIB + 3, 20 * MIB, 5 * MIB + 1, 100)  # from the end to the beginning
    spans = [(stop - min(stop, 300_000), stop) for stop in ends]

    async def seek(machine: Machine) -> None:
        fetch = await machine.fetch()
        for start, stop in spans:
            assert await machine.read_on(fetch, start, stop) == data[start:stop]
        assert await machine.read_on(fetch, 0, LARGE) == data

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for machine in machines:
            group.create_task(seek(machine))
    assert room.hub.file_bytes() <= LARGE * 1.10


@pytest.mark.asyncio
@pytest.mark.parametrize("moment", [0.0, 0.02, 0.1, 0.3, 0.8])
async def test_a_machine_that_leaves_at_any_moment_leaves_nothing_behind(
    tmp_path: Path, lane: Lane, moment: float
) -> None:
    """No task, no open file; and what is under a digest's name is true."""
    data, digest = content(SMALL)
    files_before = open_files()
    async with room_of(tmp_path, lane) as room:
        room.publish({FILE: data})
        room.hub.faults.rate_bytes_per_s = SLOW
        first, second = await room.add(2)
        for machine in (first, second):
            await machine.fetch()
        async with asyncio.TaskGroup() as group:
            staying, leaving = group.create_task(second.read()), group.create_task(first.read())
            await room.hub.until(lambda: room.hub.file_bytes() >= SMALL * moment, LIMIT_S)
            leaving.cancel()
            await first.die()
        assert staying.result() == data
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await until(lambda: open_files() <= files_before)
    found = [path for path in tmp_path.rglob(digest.value) if "blobs" in path.parts]
    assert found
    assert all(path.read_bytes() == data for path in found)


def open_files() -> set[str]:
    """What is open: the file's path, or the kernel's number of a socket or pipe."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder that was just listed
            found.add(str(entry.readlink()))
    return found
