"""From repo@revision to a manifest that this caller may see.

1. By commit a manifest is held for ever; a branch is asked again after `branch_ttl_s`.
2. When no origin can be reached the last known commit is served and marked stale.
3. A refusal is final: it is never answered from what another caller fetched.
4. A repo that refuses anonymous callers is restricted: each caller's own token must be accepted
   by the origin, which is remembered for minutes under the token's fingerprint.
5. Equal questions at the same moment are one question to the origin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from p2pmodels.clock import Clock
from p2pmodels.core.caller import ANONYMOUS, Caller
from p2pmodels.core.manifest import Manifest, Want
from p2pmodels.core.names import Commit, RepoId, Revision
from p2pmodels.core.secret import Secret
from p2pmodels.errors import AccessRefused, NotFound, P2PModelsError, SourceFailed
from p2pmodels.store.snapshots import Snapshots

BRANCH_TTL_S = 60.0  # seconds; a class that starts together asks the hub once
REFUSAL_KEPT_S = 15.0  # seconds a "no" is remembered: long enough for a room, short for a fix
ACCESS_KEPT_S = 300.0  # seconds a token's acceptance is remembered
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
    """Answers from memory where it may, else from the origins."""

    def __init__(
        self, snapshots: Snapshots, hubs: Hubs, clock: Clock, branch_ttl_s: float = BRANCH_TTL_S
    ) -> None:
        self._snapshots, self._hubs, self._clock = snapshots, hubs, clock
        self._branch_ttl_s = branch_ttl_s
        self._fresh: dict[tuple[RepoId, Revision], float] = {}
        self._refusals: dict[_Question, tuple[float, P2PModelsError]] = {}
        self._accepted: dict[tuple[RepoId, Commit, str], float] = {}
        self._asking: dict[_Question, asyncio.Lock] = {}

    async def resolve(
        self, repo: RepoId, revision: Revision, caller: Caller = ANONYMOUS
    ) -> Resolved:
        """Raises NotFound, AccessRefused, SourceFailed."""
        question = (repo, revision, caller.identity)
        answer = self._from_memory(question)
        if answer is None:
            lock = self._asking.setdefault(question, asyncio.Lock())
            async with lock:
                answer = self._from_memory(question) or await self._ask(question, caller)
            if not lock.locked():
                self._asking.pop(question, None)
        if answer.manifest.is_restricted:
            await self._admit(answer.manifest, caller)
        return answer

    def _from_memory(self, question: _Question) -> Resolved | None:
        repo, revision, _ = question
        now = self._clock.monotonic()
        refused = self._refusals.get(question)
        if refused is not None and now < refused[0]:
            raise refused[1]
        commit = revision.commit
        if commit is None:
            row = self._snapshots.ref(repo, revision)
            if row is None or now >= self._fresh.get((repo, revision), 0.0):
                return None
            commit = row.commit
        manifest = self._snapshots.manifest(repo, commit)
        return Resolved(manifest) if manifest else None

    async def _ask(self, question: _Question, caller: Caller) -> Resolved:
        repo, revision, _ = question
        try:
            manifest = await self._fetch(repo, revision, caller)
        except (NotFound, AccessRefused) as error:
            self._remember(question, error)
            raise
        except SourceFailed as error:
            row = self._snapshots.ref(repo, revision)
            known = self._snapshots.manifest(repo, row.commit) if row else None
            if known is None:
                self._remember(question, error)
                raise
            # A short rest, so that an outage does not cost every request its time-outs.
            self._fresh[repo, revision] = self._clock.monotonic() + REFUSAL_KEPT_S
            return Resolved(known, is_stale=True)
        await self._snapshots.put(manifest)
        await self._snapshots.put_ref(repo, revision, manifest.commit)
        _bound(self._fresh)
        self._fresh[repo, revision] = self._clock.monotonic() + self._branch_ttl_s
        return Resolved(manifest)

    def _remember(self, question: _Question, error: P2PModelsError) -> None:
        _bound(self._refusals)
        self._refusals[question] = (self._clock.monotonic() + REFUSAL_KEPT_S, error)

    async def _fetch(self, repo: RepoId, revision: Revision, caller: Caller) -> Manifest:
        """Ask anonymously first: what the public may read needs nobody's token."""
        try:
            return await self._hubs.manifest(repo, revision)
        except AccessRefused:
            if caller.token is None and not caller.is_operator:
                raise
        manifest = await self._hubs.manifest(
            repo, revision, caller.token, use_operator_token=caller.is_operator
        )
        return replace(manifest, is_restricted=True)

    async def _admit(self, manifest: Manifest, caller: Caller) -> None:
        """Let the origin say whether this caller may read it. Raises AccessRefused, SourceFailed.

        The names of a gated repo are public; its files are asked for here, so that nothing of the
        cache is given on the strength of somebody else's token.
        """
        key = (manifest.repo, manifest.commit, caller.identity)
        now = self._clock.monotonic()
        if not manifest.files or now < self._accepted.get(key, 0.0):
            return
        witness = max(manifest.wants, key=lambda want: want.entry.size)
        await self._hubs.prove(witness, caller.token, use_operator_token=caller.is_operator)
        _bound(self._accepted)
        self._accepted[key] = now + ACCESS_KEPT_S

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
