"""Several origins: who is asked, in which order, with which token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from p2pmodels.core.manifest import Want
from p2pmodels.core.names import FilePath, RepoId
from p2pmodels.core.secret import Secret
from p2pmodels.demo.hub import Hub
from p2pmodels.errors import (
    AccessRefused,
    Gated,
    ManifestFailed,
    NetworkFailed,
    NoSource,
    NotFound,
    Overloaded,
    RateLimited,
    SourceFailed,
)
from p2pmodels.sources.origin.options import OriginOptions
from p2pmodels.sources.origin.origins import PROBE_EVERY_S, Origins
from p2pmodels.supervision import Tasks
from tests.fakes import FakeClock
from tests.sources.origin.world import DATA, FILES, MAIN, REPO, Shelf, SkippingClock, options_for

GOOD = Secret("hf_good")
OPERATOR = Secret("hf_operator")


@dataclass
class World:
    """Two hubs with the same repo and a mirror."""

    first: Hub = field(default_factory=Hub)
    second: Hub = field(default_factory=Hub)
    mirror: Hub = field(default_factory=Hub)

    @property
    def hubs(self) -> tuple[Hub, Hub, Hub]:
        return self.first, self.second, self.mirror

    def options(self, **first: object) -> list[OriginOptions]:
        return [
            options_for(self.mirror.url, kind="mirror", priority=5),
            options_for(self.first.url, **first),
            options_for(self.second.url, priority=1, takes_caller_tokens=False),
        ]

    async def asked(self) -> tuple[int, int, int]:
        """How many requests each has had."""
        for hub in self.hubs:
            await hub.quiet()
        return len(self.first.log), len(self.second.log), len(self.mirror.log)

    def clear(self) -> None:
        for hub in self.hubs:
            hub.clear_log()


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    tokens = [GOOD.reveal(), OPERATOR.reveal()]
    async with AsyncExitStack() as exits:
        for hub in made.hubs:
            await exits.enter_async_context(hub)
            hub.add_repo("acme/tiny", FILES, tokens=tokens)
            hub.add_repo("acme/gated", FILES, gated="auto", tokens=tokens)
        yield made


@pytest_asyncio.fixture
async def origins(world: World, clock: SkippingClock) -> AsyncIterator[Origins]:
    async with Origins(world.options(token=OPERATOR), clock) as running:
        yield running


async def model(origins: Origins, world: World, repo: RepoId = REPO) -> Want:
    want = (await origins.manifest(repo, MAIN)).want(FilePath("model.safetensors"))
    await world.asked()
    world.clear()
    return want


@pytest.mark.asyncio
async def test_first_by_priority_is_asked_alone(world: World, origins: Origins) -> None:
    await origins.manifest(REPO, MAIN)
    assert await world.asked() == (1, 0, 0)
    assert [state.state for state in origins.states()] == ["ok"] * 3
    assert [state.url for state in origins.states()] == [hub.url for hub in world.hubs]


@pytest.mark.asyncio
async def test_next_hub_answers_when_the_first_is_down_and_is_asked_first_from_then_on(
    world: World, origins: Origins
) -> None:
    world.first.faults.down = True
    await origins.manifest(REPO, MAIN)
    state = origins.states()[0]
    assert state.state == "down"
    assert isinstance(state.error, NetworkFailed)
    await world.asked()
    world.clear()
    await origins.manifest(REPO, MAIN)
    assert await world.asked() == (0, 1, 0)


@pytest.mark.asyncio
async def test_origin_known_to_be_down_is_asked_just_once(
    world: World, clock: SkippingClock
) -> None:
    """What is cached is served at once while the uplink is away."""
    async with Origins([options_for(world.first.url)], clock) as origins:
        world.first.faults.down = True
        for waits in (2, 0):
            clock.sleeps.clear()
            with pytest.raises(NetworkFailed):
                await origins.manifest(REPO, MAIN)
            assert len(clock.sleeps) == waits


@pytest.mark.asyncio
async def test_failed_origin_is_tried_again_after_a_while(
    world: World, origins: Origins, clock: SkippingClock
) -> None:
    world.first.faults.down = True
    await origins.manifest(REPO, MAIN)
    world.first.faults.down = False
    clock.skipped += 1000
    await world.asked()
    world.clear()
    await origins.manifest(REPO, MAIN)
    assert await world.asked() == (1, 0, 0)
    assert origins.states()[0].state == "ok"
    assert origins.states()[0].error is None


@pytest.mark.asyncio
async def test_probe_brings_an_origin_back_before_a_client_asks(world: World) -> None:
    clock = FakeClock()
    async with Origins([options_for(world.first.url)], clock) as origins, Tasks() as tasks:
        world.first.faults.down = True
        waiting = tasks.start(_swallow(origins), "manifest")
        for _ in range(3):
            if waiting.done():
                break
            await asyncio.wait({waiting, tasks.start(clock.until_sleeping(), "clock")},
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            clock.advance(10)
        await asyncio.wait_for(waiting, 5)
        assert origins.states()[0].state == "down"
        world.first.faults.down = False
        tasks.start(origins.run(), "origins")
        await clock.until_sleeping()
        clock.advance(PROBE_EVERY_S)
        await clock.until_sleeping()
        assert origins.states()[0].state == "ok"


async def _swallow(origins: Origins) -> None:
    with pytest.raises(SourceFailed):
        await origins.manifest(REPO, MAIN)


@pytest.mark.asyncio
async def test_captive_portal_on_the_first_hub_moves_on_to_the_second(
    world: World, origins: Origins
) -> None:
    world.first.faults.api_body = b"<html>"
    assert (await origins.manifest(REPO, MAIN)).files


@pytest.mark.asyncio
async def test_refusal_of_a_hub_is_final_even_if_others_would_give_it(
    world: World, origins: Origins, shelf: Shelf
) -> None:
    """E6: 401, 403 and 404 never fall through."""
    want = await model(origins, world, RepoId("acme/gated"))
    with pytest.raises(Gated):
        await origins.prove(want)
    with pytest.raises(Gated):
        await origins.fill(want, await shelf.partial(want), lambda: [0])
    with pytest.raises(NotFound):
        await origins.manifest(RepoId("acme/none"), MAIN, GOOD)
    with pytest.raises(AccessRefused):
        await origins.manifest(RepoId("acme/none"), MAIN)
    assert (await world.asked())[1:] == (0, 0)
    assert origins.states()[0].state == "ok"


@pytest.mark.asyncio
async def test_bytes_come_from_the_mirror_when_the_hubs_have_none(
    world: World, origins: Origins, shelf: Shelf
) -> None:
    want = await model(origins, world)
    world.first.faults.manifests_only = world.second.faults.manifests_only = True
    partial = await shelf.partial(want)
    counted = {"origin": 0, "mirror": 0}

    def count(kind: str, amount: int) -> None:
        counted[kind] += amount

    await origins.fill(want, partial, lambda: [0], GOOD, on_bytes=count)
    await partial.seal()
    assert counted == {"origin": 0, "mirror": len(DATA)}
    assert partial.vouched.total == 0


@pytest.mark.asyncio
async def test_what_the_first_gave_is_kept_when_the_next_goes_on(
    world: World, origins: Origins, shelf: Shelf
) -> None:
    want = await model(origins, world)
    world.first.faults.stall_after = 500_000
    partial = await shelf.partial(want)
    await origins.fill(want, partial, lambda: [0])
    await partial.seal()
    assert world.first.file_bytes() >= 500_000
    assert world.second.file_bytes() <= len(DATA) - 500_000


@pytest.mark.asyncio
async def test_mirror_is_never_asked_for_names_or_access(world: World, origins: Origins) -> None:
    want = await model(origins, world)
    world.first.faults.down = world.second.faults.down = True
    with pytest.raises(SourceFailed):
        await origins.manifest(REPO, MAIN)
    with pytest.raises(SourceFailed):
        await origins.prove(want)
    with pytest.raises(SourceFailed):
        await origins.get("/api/whoami-v2")
    assert (await world.asked())[2] == 0


@pytest.mark.asyncio
async def test_caller_s_token_reaches_only_the_hubs_that_take_it(
    world: World, origins: Origins, shelf: Shelf
) -> None:
    want = await model(origins, world)
    world.first.faults.status_for_files = 500
    world.second.faults.manifests_only = True
    await origins.fill(want, await shelf.partial(want), lambda: [0], GOOD)
    await world.asked()
    assert all(hit.has_authorization for hit in world.first.log)
    for hub in (world.second, world.mirror):
        assert hub.log
        assert not any(hit.has_authorization for hit in hub.log)


@pytest.mark.asyncio
async def test_operator_s_token_is_used_only_when_asked_for(world: World, origins: Origins) -> None:
    want = await model(origins, world, RepoId("acme/gated"))
    with pytest.raises(Gated):
        await origins.prove(want)
    with pytest.raises(AccessRefused):
        await origins.prove(want, Secret("hf_stranger"))
    await origins.prove(want, use_operator_token=True)
    await world.asked()
    assert [hit.has_authorization for hit in world.first.log] == [False, True, True]


@pytest.mark.asyncio
async def test_limited_hub_is_passed_over_for_names_and_told_for_bytes(
    world: World, clock: SkippingClock, shelf: Shelf
) -> None:
    async with Origins([options_for(world.first.url)], clock) as origins:
        want = await model(origins, world)
        world.first.faults.request_limit = 1
        with pytest.raises(RateLimited) as limited:
            await origins.prove(want)
        assert limited.value.status == 429
        with pytest.raises(Overloaded) as told:
            await origins.fill(want, await shelf.partial(want), lambda: [0])
        assert not isinstance(told.value, SourceFailed)
        assert told.value.retry_after_s > 10
        assert origins.states()[0].state == "limited"
    async with Origins(world.options(), clock) as origins:
        await origins.manifest(REPO, MAIN)


@pytest.mark.asyncio
async def test_no_origin_at_all_says_so(clock: SkippingClock, shelf: Shelf, world: World) -> None:
    async with Origins([options_for(world.mirror.url, kind="mirror")], clock) as origins:
        with pytest.raises(ManifestFailed, match="no origin"):
            await origins.manifest(REPO, MAIN)
    async with Origins([], clock) as origins:
        with pytest.raises(NoSource):
            await origins.get("/api/whoami-v2")
