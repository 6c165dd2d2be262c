"""Readers at the very moment when wrong bytes are found out (promise P1, reliability B9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from p2pmodels.core.caller import ANONYMOUS
from p2pmodels.errors import DigestMismatch
from p2pmodels.store.partials import Partial
from p2pmodels.store.store import Store
from p2pmodels.transfer.fetch import Fetch, State
from p2pmodels.transfer.fetcher import Fetcher
from p2pmodels.transfer.reader import Reader
from p2pmodels.workers import Lane
from tests.contents import content
from tests.sources_fakes import FakeNearby, FakeOffer, FakeOrigins

SIZE = 1_000_000
BOUND_S = 10


class HeldOffer(FakeOffer):
    """A poisoned swarm whose last byte, and whose blame, wait for the test."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.may_end, self.may_forget = asyncio.Event(), asyncio.Event()
        self.blamed = asyncio.Event()

    async def fill(self, partial: Partial, positions: Callable[[], Sequence[int]]) -> None:
        await partial.write(0, self.data[: SIZE - 1], vouched=False)
        await self.may_end.wait()
        await partial.write(SIZE - 1, self.data[SIZE - 1 :], vouched=False)

    async def blame(self) -> None:
        self.blamed.set()
        await self.may_forget.wait()


async def poisoned(fetcher: Fetcher, origins: FakeOrigins, nearby: FakeNearby) -> HeldOffer:
    """A fetch of SIZE bytes that a peer fills with zeros."""
    want = origins.add(SIZE)
    offer = HeldOffer(bytes(SIZE))
    _, sha256 = content(SIZE)
    nearby.offers[sha256] = offer
    assert isinstance(await fetcher.open(want, ANONYMOUS), Fetch)
    return offer


@pytest.mark.asyncio
async def test_a_resumed_range_that_gave_nothing_yet_does_not_go_on_with_true_bytes(
    fetcher: Fetcher, origins: FakeOrigins, nearby: FakeNearby, lane: Lane
) -> None:
    offer = await poisoned(fetcher, origins, nearby)
    fetch = fetcher.transfers()[0]
    async with asyncio.timeout(BOUND_S), Reader(fetch, SIZE - 1000, SIZE, lane) as reader:
        stream = aiter(reader)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(_next_or_error(stream))
            offer.may_end.set()
            offer.may_forget.set()
        assert isinstance(first.result(), DigestMismatch)
        assert reader.is_void
        with fetch.hold():
            assert (await fetch.finish()).path.read_bytes() == content(SIZE)[0]


async def _next_or_error(stream: AsyncIterator[bytes]) -> bytes | DigestMismatch:
    try:
        return await anext(stream)
    except DigestMismatch as error:
        return error


@pytest.mark.asyncio
async def test_a_reader_that_comes_while_the_swarm_is_blamed_sees_no_wrong_byte(
    fetcher: Fetcher, origins: FakeOrigins, nearby: FakeNearby, lane: Lane
) -> None:
    offer = await poisoned(fetcher, origins, nearby)
    fetch = fetcher.transfers()[0]
    with fetch.hold():
        offer.may_end.set()
        async with asyncio.timeout(BOUND_S):
            await offer.blamed.wait()
            assert fetch.readable_stop(0, SIZE) == 0
            async with Reader(fetch, 0, SIZE, lane) as reader:
                offer.may_forget.set()
                got = b"".join([data async for data in reader])
    assert got == content(SIZE)[0]
    assert fetch.state is State.DONE


@pytest.mark.asyncio
async def test_content_evicted_at_once_is_fetched_again_although_its_partial_is_still_there(
    fetcher: Fetcher, origins: FakeOrigins, nearby: FakeNearby, store: Store
) -> None:
    data, sha256 = content(SIZE)
    want = origins.add(SIZE)
    offer = SlowToMove(data)
    nearby.offers[sha256] = offer
    fetch = await fetcher.open(want, ANONYMOUS)
    assert isinstance(fetch, Fetch)
    with fetch.hold():
        blob = await fetch.finish()
    async with asyncio.timeout(BOUND_S):
        await offer.moving.wait()
        await store.blobs.evict(blob.sha256)
        del nearby.offers[sha256]
        again = await fetcher.open(want, ANONYMOUS)
        assert isinstance(again, Fetch)
        with again.hold():
            offer.may_move.set()
            assert (await again.finish()).path.read_bytes() == data


class SlowToMove(FakeOffer):
    """A swarm that holds on to the partial after its commit."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.moving, self.may_move = asyncio.Event(), asyncio.Event()

    async def committed(self, blob: object) -> None:
        self.moving.set()
        await self.may_move.wait()
