"""From repo@revision to a manifest that this caller may see (promise P3, reliability E4 to E6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from p2pmodels.core.caller import ANONYMOUS, OPERATOR, Caller
from p2pmodels.core.manifest import FileEntry, Manifest
from p2pmodels.core.names import Commit, FilePath, RepoId, Revision
from p2pmodels.core.secret import Secret
from p2pmodels.errors import AccessRefused, Gated, NetworkFailed, P2PModelsError, RepoNotFound
from p2pmodels.store.store import Store
from p2pmodels.transfer.resolve import ACCESS_KEPT_S, BRANCH_TTL_S, REFUSAL_KEPT_S, Resolver
from tests.contents import content
from tests.fakes import FakeClock
from tests.sources_fakes import FakeOrigins

REPO = RepoId("org/name")
MAIN = Revision("main")
OLD, NEW = Commit("a" * 40), Commit("b" * 40)


def manifest(commit: Commit, *, is_restricted: bool = False) -> Manifest:
    entry = FileEntry(FilePath("x.bin"), 5, content(5)[1])
    return Manifest(REPO, commit, (entry,), is_restricted)


class RefusingOrigins(FakeOrigins):
    """Refuses everybody but the bearers of `tokens`."""

    def __init__(self, error: P2PModelsError) -> None:
        super().__init__()
        self._refusal = error

    def _check(self, token: Secret | None, use_operator_token: bool) -> None:
        if use_operator_token or (token is not None and token.reveal() in self.tokens):
            return
        raise self._refusal

    async def manifest(
        self, repo: RepoId, revision: Revision, token: Secret | None = None, *,
        use_operator_token: bool = False, is_patient: bool = True,
    ) -> Manifest:  # fmt: skip
        found = await super().manifest(
            repo, revision, token, use_operator_token=use_operator_token, is_patient=is_patient
        )
        self._check(token, use_operator_token)
        return found

    async def prove(
        self, want: object, token: Secret | None = None, *, use_operator_token: bool = False
    ) -> None:
        self.asked.append(("prove", token is not None or use_operator_token))
        self._check(token, use_operator_token)


MakeResolver = Callable[..., Awaitable[Resolver]]


@pytest_asyncio.fixture
async def resolver_of(store: Store, clock: FakeClock) -> AsyncIterator[MakeResolver]:
    """Resolvers over the same store, as one daemon after the other would have."""
    async with AsyncExitStack() as exits:

        async def make(origins: FakeOrigins, branch_ttl_s: float = BRANCH_TTL_S) -> Resolver:
            resolver = Resolver(store.snapshots, origins, clock, branch_ttl_s)
            return await exits.enter_async_context(resolver)

        yield make


@pytest.mark.asyncio
async def test_a_branch_is_asked_once_for_a_room_and_again_after_its_time(
    store: Store, origins: FakeOrigins, clock: FakeClock, resolver_of: MakeResolver
) -> None:
    origins.manifests["main"] = manifest(OLD)
    resolver = await resolver_of(origins, branch_ttl_s=60)
    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(resolver.resolve(REPO, MAIN))
    assert len(origins.asked) == 1
    origins.manifests["main"] = manifest(NEW)
    clock.advance(59)
    assert (await resolver.resolve(REPO, MAIN)).manifest.commit == OLD
    clock.advance(2)
    assert (await resolver.resolve(REPO, MAIN)).manifest.commit == NEW
    assert len(origins.asked) == 2


@pytest.mark.asyncio
async def test_a_commit_is_asked_once_for_ever(
    store: Store, origins: FakeOrigins, clock: FakeClock, resolver_of: MakeResolver
) -> None:
    origins.manifests[OLD.value] = manifest(OLD)
    resolver = await resolver_of(origins)
    for _ in range(3):
        assert (await resolver.resolve(REPO, Revision(OLD.value))).manifest.commit == OLD
        clock.advance(1_000_000)
    assert len(origins.asked) == 1


@pytest.mark.asyncio
async def test_without_origin_the_last_known_commit_is_served_and_marked_stale(
    store: Store, origins: FakeOrigins, clock: FakeClock, resolver_of: MakeResolver
) -> None:
    origins.manifests["main"] = manifest(OLD)
    await (await resolver_of(origins)).resolve(REPO, MAIN)
    patience = [origins.is_patient]
    origins.error = NetworkFailed("cable out")
    resolver = await resolver_of(origins)  # as after a restart
    resolved = await resolver.resolve(REPO, MAIN)
    assert resolved.is_stale
    patience.append(origins.is_patient)
    assert patience == [True, False]  # with an answer at hand nobody waits for further tries
    assert resolved.manifest.commit == OLD
    asked = len(origins.asked)
    await resolver.resolve(REPO, MAIN)
    assert len(origins.asked) == asked  # an outage does not cost every request its time-outs


@pytest.mark.asyncio
async def test_an_unknown_repo_without_origin_is_an_error(
    store: Store, origins: FakeOrigins, clock: FakeClock, resolver_of: MakeResolver
) -> None:
    origins.error = NetworkFailed("cable out")
    with pytest.raises(NetworkFailed):
        await (await resolver_of(origins)).resolve(REPO, MAIN)


@pytest.mark.asyncio
async def test_a_refusal_is_remembered_for_seconds_only(
    store: Store, origins: FakeOrigins, clock: FakeClock, resolver_of: MakeResolver
) -> None:
    origins.error = RepoNotFound("org/name")
    resolver = await resolver_of(origins)
    for _ in range(5):
        with pytest.raises(RepoNotFound):
            await resolver.resolve(REPO, MAIN)
    assert len(origins.asked) == 1
    origins.error = None
    origins.manifests["main"] = manifest(OLD)
    clock.advance(REFUSAL_KEPT_S + 1)
    assert (await resolver.resolve(REPO, MAIN)).manifest.commit == OLD


@pytest.mark.asyncio
async def test_a_private_repo_is_seen_only_with_a_token_that_the_origin_accepts(
    store: Store, clock: FakeClock, resolver_of: MakeResolver
) -> None:
    origins = RefusingOrigins(RepoNotFound("org/name"))
    origins._refusal = AccessRefused("org/name")
    origins.tokens = {"hf_a"}
    origins.manifests["main"] = manifest(OLD)
    resolver = await resolver_of(origins)
    resolved = await resolver.resolve(REPO, MAIN, Caller(Secret("hf_a")))
    assert resolved.manifest.is_restricted  # so it is never shared
    for caller in (ANONYMOUS, Caller(Secret("hf_b"))):
        with pytest.raises(AccessRefused):
            await resolver.resolve(REPO, MAIN, caller)
        with pytest.raises(AccessRefused):  # by commit as well: held, but not for everybody
            await resolver.resolve(REPO, Revision(OLD.value), caller)


@pytest.mark.asyncio
async def test_a_gated_repo_is_admitted_per_token_for_minutes(
    store: Store, clock: FakeClock, resolver_of: MakeResolver
) -> None:
    origins = RefusingOrigins(Gated("org/name"))
    origins.tokens = {"hf_a"}
    gated = manifest(OLD, is_restricted=True)
    await store.snapshots.put(gated)
    resolver = await resolver_of(origins)
    by_commit = Revision(OLD.value)
    for _ in range(3):
        await resolver.resolve(REPO, by_commit, Caller(Secret("hf_a")))
    assert origins.asked == [("prove", True)]
    with pytest.raises(Gated):
        await resolver.resolve(REPO, by_commit, ANONYMOUS)
    await resolver.resolve(REPO, by_commit, OPERATOR)
    clock.advance(ACCESS_KEPT_S + 1)
    origins.tokens = set()  # access was taken away
    with pytest.raises(Gated):
        await resolver.resolve(REPO, by_commit, Caller(Secret("hf_a")))


@pytest.mark.asyncio
async def test_public_names_are_asked_without_anybodys_token(
    store: Store, origins: FakeOrigins, clock: FakeClock, resolver_of: MakeResolver
) -> None:
    origins.manifests["main"] = manifest(OLD)
    await (await resolver_of(origins)).resolve(REPO, MAIN, Caller(Secret("hf_a")))
    assert origins.asked == [("org/name@main", False)]
