"""From repo@revision to a manifest that this caller may see.

1. By commit a manifest is held for ever; a branch is asked again after `branch_ttl_s`.
2. When no origin can be reached the last known commit is served and marked stale; it is asked once
   then, for a client need not wait while we try again.
3. A refusal is final: it is never answered from what another caller fetched.
4. A repo that refuses anonymous callers is restricted: each caller's own token must be accepted
   by the origin, which is remembered for minutes under the token's fingerprint.
5. Equal questions at the same moment are one question to the origin. It goes on when the clients
   that waited were told to come again: a slow origin is slow once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, Self

from p2pmodels.clock import Clock
from p2pmodels.core.caller import ANONYMOUS, Caller
from p2pmodels.core.manifest import Manifest, Want
from p2pmodels.core.names import Commit, RepoId, Revision
from p2pmodels.core.secret import Secret
from p2pmodels.errors import AccessRefused, NotFound, Overloaded, P2PModelsError, SourceFailed
from p2pmodels.store.snapshots import Snapshots
from p2pmodels.supervision import Tasks

BRANCH_TTL_S = 60.0  # seconds; a class that starts together asks the hub once
REFUSAL_KEPT_S = 15.0  # seconds a "no" is remembered: long enough for a room, short for a fix
ACCESS_KEPT_S = 300.0  # seconds a token's acceptance is remembered
ANSWER_WITHIN_S = 7.0  # seconds a client waits here; it gives up after 10 without a byte
ASKING_LIMIT = 32  # questions to the origin at once: a client that guesses names is no flood there
WAITING_LIMIT = 512  # questions that run or wait; a client beyond it is told to come again
STALE_AFTER_S = 3.0  # seconds after which the last known commit is the answer
MEMORIES_LIMIT = 10_000  # remembered answers; a guessing client must not fill the memory


class Hubs(Protocol):
    """The origins, as far as names are concerned."""

    async def manifest(
        self,
        repo: RepoId,
        revision: Revision,
        token: Secret | None = None,
        *,
        use_operator_token: bool = False,
        is_patient: bool = True,
    ) -> Manifest: ...

    async def prove(
        self, want: Want, token: Secret | None = None, *, use_operator_token: bool = False
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """A manifest, and whether it may be out of date because no origin answered."""

    manifest: Manifest
    is_stale: bool = False


_Question = tuple[RepoId, Revision, str]


class Resolver:
    """Answers from memory where it may, else from the origins. Enter it to use it."""

    def __init__(
        self, snapshots: Snapshots, hubs: Hubs, clock: Clock, branch_ttl_s: float = BRANCH_TTL_S
    ) -> None:
        self._snapshots, self._hubs, self._clock = snapshots, hubs, clock
        self._branch_ttl_s = branch_ttl_s
        self._fresh: dict[tuple[RepoId, Revision], float] = {}
        self._refusals: dict[_Question, tuple[float, P2PModelsError]] = {}
        self._accepted: dict[tuple[RepoId, Commit, str], float] = {}
        self._stale: set[tuple[RepoId, Revision]] = set()
        self._asking: dict[_Question, asyncio.Future[Resolved]] = {}
        self._admitting: dict[tuple[RepoId, Commit, str], asyncio.Lock] = {}
        self._turns = asyncio.Semaphore(ASKING_LIMIT)
        self._tasks = Tasks()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.__aexit__()

    async def resolve(
        self, repo: RepoId, revision: Revision, caller: Caller = ANONYMOUS
    ) -> Resolved:
        """Raises NotFound, AccessRefused, SourceFailed; Overloaded while the origin is silent."""
        question = (repo, revision, caller.identity)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = self._from_memory(question) or await self._answer(question, caller)
                if answer.manifest.is_restricted:
                    await self._admit(answer.manifest, caller)
        except TimeoutError as error:
            raise Overloaded(f"the origin takes long over {repo}@{revision}") from error
        return answer

    async def _answer(self, question: _Question, caller: Caller) -> Resolved:
        """What the origin says, or what it said before if it takes too long."""
        repo, revision, _ = question
        asking = self._asking.get(question)
        if asking is None:
            if len(self._asking) >= WAITING_LIMIT:
                raise Overloaded(f"{len(self._asking)} questions wait already", retry_after_s=5)
            asking = self._asking[question] = asyncio.get_running_loop().create_future()
            self._tasks.start(self._ask_for_all(question, caller, asking), f"{repo}@{revision}")
        known = self._known(repo, revision)
        try:
            async with asyncio.timeout(STALE_AFTER_S if known else None):
                return await asyncio.shield(asking)
        except TimeoutError:
            if known is None:
                raise
            return self._stand_in(repo, revision, known)

    async def _ask_for_all(
        self, question: _Question, caller: Caller, asking: asyncio.Future[Resolved]
    ) -> None:
        try:
            async with self._turns:
                asking.set_result(await self._ask(question, caller))
        except P2PModelsError as error:
            asking.set_exception(error)
        finally:
            del self._asking[question]
            if not asking.done():
                asking.set_exception(Overloaded(f"{question[0]}@{question[1]} was given up"))
            asking.exception()  # seen, even if nobody waits any more

    def _from_memory(self, question: _Question) -> Resolved | None:
        repo, revision, _ = question
        now = self._clock.monotonic()
        refused = self._refusals.get(question)
        if refused is not None and now < refused[0]:
            raise refused[1].with_traceback(None)
        commit = revision.commit
        if commit is None:
            row = self._snapshots.ref(repo, revision)
            if row is None or now >= self._fresh.get((repo, revision), 0.0):
                return None
            commit = row.commit
        manifest = self._snapshots.manifest(repo, commit)
        return Resolved(manifest, (repo, revision) in self._stale) if manifest else None

    def _known(self, repo: RepoId, revision: Revision) -> Manifest | None:
        """What the revision stood for when the origin last answered."""
        row = self._snapshots.ref(repo, revision)
        return self._snapshots.manifest(repo, row.commit) if row else None

    def _stand_in(self, repo: RepoId, revision: Revision, known: Manifest) -> Resolved:
        """The last known commit, for a short rest: an outage must not cost every request's time."""
        self._fresh[repo, revision] = self._clock.monotonic() + REFUSAL_KEPT_S
        self._stale.add((repo, revision))
        return Resolved(known, is_stale=True)

    async def _ask(self, question: _Question, caller: Caller) -> Resolved:
        repo, revision, _ = question
        known = self._known(repo, revision)
        try:
            manifest = await self._fetch(repo, revision, caller, is_patient=known is None)
        except (NotFound, AccessRefused) as error:
            self._remember(question, error)
            raise
        except SourceFailed as error:
            if known is None:
                self._remember(question, error)
                raise
            return self._stand_in(repo, revision, known)
        await self._snapshots.put(manifest)
        await self._snapshots.put_ref(repo, revision, manifest.commit)
        _bound(self._fresh)
        self._fresh[repo, revision] = self._clock.monotonic() + self._branch_ttl_s
        self._stale.discard((repo, revision))
        return Resolved(manifest)

    def _remember(self, question: _Question, error: P2PModelsError) -> None:
        _bound(self._refusals)
        self._refusals[question] = (self._clock.monotonic() + REFUSAL_KEPT_S, error)

    async def _fetch(
        self, repo: RepoId, revision: Revision, caller: Caller, *, is_patient: bool
    ) -> Manifest:
        """Ask anonymously first: what the public may read needs nobody's token."""
        try:
            return await self._hubs.manifest(repo, revision, is_patient=is_patient)
        except AccessRefused:
            if caller.token is None and not caller.is_operator:
                raise
        manifest = await self._hubs.manifest(
            repo,
            revision,
            caller.token,
            use_operator_token=caller.is_operator,
            is_patient=is_patient,
        )
        return replace(manifest, is_restricted=True)

    async def _admit(self, manifest: Manifest, caller: Caller) -> None:
        """Let the origin say whether this caller may read it. Raises AccessRefused, SourceFailed.

        The names of a gated repo are public; its files are asked for here, so that nothing of the
        cache is given on the strength of somebody else's token.
        """
        key = (manifest.repo, manifest.commit, caller.identity)
        async with self._admitting.setdefault(key, asyncio.Lock()):
            if self._clock.monotonic() >= self._accepted.get(key, 0.0):
                await self._ask_admission(manifest, caller)
                _bound(self._accepted)
                self._accepted[key] = self._clock.monotonic() + ACCESS_KEPT_S
        self._admitting.pop(key, None)

    async def _ask_admission(self, manifest: Manifest, caller: Caller) -> None:
        witness = max(manifest.wants, key=lambda want: want.entry.size, default=None)
        if witness is not None:
            await self._hubs.prove(witness, caller.token, use_operator_token=caller.is_operator)
            return
        await self._hubs.manifest(  # no file to ask for, but its names may be private
            manifest.repo,
            Revision(manifest.commit.value),
            caller.token,
            use_operator_token=caller.is_operator,
        )

    def forget(self, repo: RepoId) -> None:
        """Ask the origin again next time, whatever is remembered of this repo."""
        for key in [key for key in self._fresh if key[0] == repo]:
            del self._fresh[key]

    @property
    def ages(self) -> Mapping[tuple[RepoId, Revision], float]:
        """Until when each revision is answered from memory, in monotonic seconds."""
        return self._fresh


def _bound(memory: dict[object, object] | dict) -> None:  # type: ignore[type-arg]
    """Make place for one more: the oldest entry goes."""
    if len(memory) >= MEMORIES_LIMIT:
        memory.pop(next(iter(memory)))
