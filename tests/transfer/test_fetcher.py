"""Single flight and the choice of source (reliability G1 to G5, B9, D2)."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodels.core.caller import ANONYMOUS, Caller
from p2pmodels.core.secret import Secret
from p2pmodels.errors import (
    AccessRefused,
    DigestMismatch,
    NetworkFailed,
    OriginDown,
    Overloaded,
    SwarmFailed,
)
from p2pmodels.store.blobs import Blob
from p2pmodels.store.store import Store
from p2pmodels.transfer import fetcher as fetcher_module
from p2pmodels.transfer.fetch import Fetch, State
from p2pmodels.transfer.fetcher import FAILURE_KEPT_S, GRACE_S, REST_S, Fetcher
from p2pmodels.transfer.reader import Reader
from p2pmodels.workers import Lane
from tests.contents import content
from tests.fakes import FakeClock
from tests.sources_fakes import STEP, FakeNearby, FakeOffer, FakeOrigins, FakePolicy, want_of

SIZE = 1_000_000
BOUND_S = 10


async def running(fetcher: Fetcher, size: int = SIZE, caller: Caller = ANONYMOUS) -> Fetch:
    found = await fetcher.open(want_of(size), caller)
    assert isinstance(found, Fetch)
    return found


async def read_all(fetch: Fetch, lane: Lane, start: int = 0, stop: int = SIZE) -> bytes:
    async with Reader(fetch, start, stop, lane) as reader:
        return b"".join([data async for data in reader])


@pytest.mark.asyncio
async def test_two_hundred_readers_cost_one_download(
    fetcher: Fetcher, origins: FakeOrigins, lane: Lane
) -> None:
    origins.add(SIZE)
    data, _ = content(SIZE)

    async def client() -> bytes:
        return await read_all(await running(fetcher), lane)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        clients = [group.create_task(client()) for _ in range(200)]
    assert all(task.result() == data for task in clients)
    assert len(origins.fills) == 1
    assert origins.given == SIZE


@pytest.mark.asyncio
async def test_the_body_follows_what_lands_but_for_the_last_piece(
    fetcher: Fetcher, origins: FakeOrigins, lane: Lane
) -> None:
    origins.add(SIZE)
    origins.gate = asyncio.Semaphore(0)
    fetch = await running(fetcher)
    data, _ = content(SIZE)
    async with asyncio.timeout(BOUND_S), Reader(fetch, 0, SIZE, lane) as reader:
        stream = aiter(reader)
        origins.gate.release()
        got = await anext(stream)
        assert got == data[:STEP]
        for _ in range(9):
            origins.gate.release()
        async for part in stream:
            got += part
            if fetch.state is not State.DONE:
                assert len(got) <= SIZE - 256 * 1024
        assert got == data
    assert isinstance(await fetcher.open(want_of(SIZE), ANONYMOUS), Blob)


@pytest.mark.asyncio
async def test_a_range_from_the_origin_is_given_before_the_file_is_whole(
    fetcher: Fetcher, origins: FakeOrigins, lane: Lane
) -> None:
    origins.add(SIZE)
    origins.gate = asyncio.Semaphore(1)
    fetch = await running(fetcher)
    data, _ = content(SIZE)
    async with asyncio.timeout(BOUND_S):
        assert await read_all(fetch, lane, 100, 50_000) == data[100:50_000]
    assert fetch.state is State.FETCHING


@pytest.mark.asyncio
async def test_a_range_from_peers_waits_for_the_digest(
    fetcher: Fetcher, nearby: FakeNearby, origins: FakeOrigins, lane: Lane
) -> None:
    want = origins.add(SIZE)
    origins.gate = asyncio.Semaphore(0)
    data, sha256 = content(SIZE)
    nearby.offers[sha256] = FakeOffer(data, stop=600_000, error=SwarmFailed("stalled"))
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    with fetch.hold():
        async with asyncio.timeout(BOUND_S):
            await origins.began.wait()
        assert fetch.readable_stop(0, 1000) == 0
        for _ in range(5):
            origins.gate.release()
        async with asyncio.timeout(BOUND_S):
            assert await read_all(fetch, lane, 0, 1000) == data[:1000]
    assert fetch.state is State.DONE


@pytest.mark.asyncio
async def test_a_stalled_swarm_is_finished_by_the_origin_keeping_its_bytes(
    fetcher: Fetcher, nearby: FakeNearby, origins: FakeOrigins
) -> None:
    want = origins.add(SIZE)
    data, sha256 = content(SIZE)
    offer = nearby.offers[sha256] = FakeOffer(data, stop=700_000, error=SwarmFailed("stalled"))
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    with fetch.hold():
        blob = await fetch.finish()
    assert blob.path.read_bytes() == data
    assert fetch.sources == {"swarm": 700_000, "origin": 300_000}
    async with asyncio.timeout(BOUND_S):
        assert await offer.committed_blob == blob
    assert not offer.is_blamed


@pytest.mark.asyncio
async def test_a_poisoned_swarm_is_blamed_and_the_origin_gives_all_of_it(
    fetcher: Fetcher, nearby: FakeNearby, origins: FakeOrigins, lane: Lane, store: Store
) -> None:
    want = origins.add(SIZE)
    data, sha256 = content(SIZE)
    wrong = bytearray(data)
    wrong[10] ^= 1
    offer = nearby.offers[sha256] = FakeOffer(bytes(wrong))
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    got = b""
    with fetch.hold():
        with pytest.raises(DigestMismatch):
            async with Reader(fetch, 0, SIZE, lane) as reader:
                async for part in reader:
                    got += part
        blob = await fetch.finish()
    assert len(got) < SIZE  # the client was cut off before the last piece
    assert offer.is_blamed
    assert blob.path.read_bytes() == data
    assert fetcher.is_poisoned(want)  # its next Range request gets the whole file
    assert any((store.folder / "quarantine").iterdir())


@pytest.mark.asyncio
async def test_an_origin_that_lies_twice_is_an_error_and_no_blob(
    fetcher: Fetcher, origins: FakeOrigins, store: Store
) -> None:
    want = origins.add(SIZE)
    origins.contents[want.entry.digest.value] = bytes(SIZE)
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    with fetch.hold(), pytest.raises(DigestMismatch):
        await fetch.finish()
    assert len(origins.fills) == 2
    assert store.blobs.find(want.entry.digest) is None


@pytest.mark.asyncio
async def test_followers_get_the_same_error_once_and_it_is_remembered(
    fetcher: Fetcher, origins: FakeOrigins, clock: FakeClock
) -> None:
    want = origins.add(SIZE)
    origins.error = NetworkFailed("no route")
    fetches = [await fetcher.open(want, ANONYMOUS) for _ in range(20)]
    for fetch in fetches:
        assert isinstance(fetch, Fetch)
        with fetch.hold(), pytest.raises(NetworkFailed):
            await fetch.finish()
    assert len(origins.fills) == 1
    with pytest.raises(NetworkFailed):
        await fetcher.open(want, ANONYMOUS)
    clock.advance(FAILURE_KEPT_S + 1)
    with pytest.raises(OriginDown) as caught:  # the model rests, and says until when
        await fetcher.open(want, ANONYMOUS)
    assert caught.value.code == "origin_down"
    assert "rests for" in str(caught.value)
    clock.advance(REST_S)
    origins.error = None
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    with fetch.hold():
        assert (await fetch.finish()).size == SIZE


@pytest.mark.asyncio
async def test_a_resting_model_is_fetched_at_once_when_a_peer_turns_up(
    fetcher: Fetcher, origins: FakeOrigins, nearby: FakeNearby, clock: FakeClock
) -> None:
    want = origins.add(SIZE)
    origins.error = NetworkFailed("no route")
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    with fetch.hold(), pytest.raises(NetworkFailed):
        await fetch.finish()
    clock.advance(FAILURE_KEPT_S + 1)
    data, sha256 = content(SIZE)
    nearby.offers[sha256] = FakeOffer(data)
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    with fetch.hold():
        assert (await fetch.finish()).path.read_bytes() == data


@pytest.mark.asyncio
async def test_a_refusal_is_not_remembered_for_others(
    fetcher: Fetcher, origins: FakeOrigins, policy: FakePolicy
) -> None:
    want = origins.add(SIZE)
    origins.error = AccessRefused("gated")
    fetch = await fetcher.open(want, Caller(Secret("hf_wrong")))
    assert isinstance(fetch, Fetch)
    with fetch.hold(), pytest.raises(AccessRefused):
        await fetch.finish()
    origins.error = None
    fetch = await fetcher.open(want, Caller(Secret("hf_right")))
    assert isinstance(fetch, Fetch)
    with fetch.hold():
        assert (await fetch.finish()).size == SIZE
    async with asyncio.timeout(BOUND_S):
        await policy.arrived.wait()
    assert not policy.blobs[-1][2]  # fetched with a token: proves nothing public
    assert not policy.public


@pytest.mark.asyncio
async def test_bytes_that_an_anonymous_caller_got_prove_it_public_once(
    fetcher: Fetcher, origins: FakeOrigins, policy: FakePolicy
) -> None:
    want = origins.add(SIZE)
    fetch = await running(fetcher)
    with fetch.hold():
        await fetch.finish()
    async with asyncio.timeout(BOUND_S):
        await policy.arrived.wait()
    assert policy.public == [want]
    assert policy.blobs[-1][2]


@pytest.mark.asyncio
async def test_when_the_leader_leaves_the_others_go_on(
    fetcher: Fetcher, origins: FakeOrigins, lane: Lane
) -> None:
    origins.add(SIZE)
    origins.gate = asyncio.Semaphore(2)
    fetch = await running(fetcher)
    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
        follower = group.create_task(read_all(fetch, lane))
        async with Reader(fetch, 0, SIZE, lane) as leader:
            await anext(aiter(leader))
        for _ in range(20):
            origins.gate.release()
    assert follower.result() == content(SIZE)[0]
    assert len(origins.fills) == 1


@pytest.mark.asyncio
async def test_when_all_leave_it_ends_after_the_grace_and_keeps_the_partial(
    fetcher: Fetcher, origins: FakeOrigins, clock: FakeClock, store: Store
) -> None:
    want = origins.add(SIZE)
    origins.gate = asyncio.Semaphore(3)
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    with fetch.hold():
        async with asyncio.timeout(BOUND_S), fetch.changed:
            await fetch.changed.wait_for(lambda: fetch.partial is not None)
        partial = fetch.partial
        assert partial is not None
        async with asyncio.timeout(BOUND_S), partial.changed:
            await partial.changed.wait_for(lambda: partial.landed.total == 3 * STEP)
    async with asyncio.timeout(BOUND_S):
        await clock.until_sleeping()
        clock.advance(GRACE_S + 1)
        with pytest.raises(Overloaded):
            await fetch.finish()
    origins.gate = None
    before = origins.given
    again = await fetcher.open(want, ANONYMOUS)
    assert isinstance(again, Fetch)
    with again.hold():
        await again.finish()
    assert origins.given - before == SIZE - 3 * STEP


@pytest.mark.asyncio
async def test_too_many_cold_files_are_told_to_come_again(
    fetcher: Fetcher, origins: FakeOrigins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher_module, "FETCHES_LIMIT", 2)
    monkeypatch.setattr(fetcher_module, "QUEUE_LIMIT", 3)
    origins.gate = asyncio.Semaphore(0)
    for seed in range(5):
        await fetcher.open(origins.add(10, seed), ANONYMOUS)
    with pytest.raises(Overloaded) as caught:
        await fetcher.open(origins.add(10, 99), ANONYMOUS)
    assert caught.value.status == 429


@pytest.mark.asyncio
async def test_an_empty_file_is_a_file(fetcher: Fetcher, origins: FakeOrigins, lane: Lane) -> None:
    want = origins.add(0)
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    assert await read_all(fetch, lane, 0, 0) == b""
    with fetch.hold():
        assert (await fetch.finish()).size == 0
