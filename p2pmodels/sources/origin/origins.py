"""All origins in order, the healthy ones first.

1. Names and access are asked of hubs only; mirrors come in for bytes.
2. A hub's refusal (401, 403, 404) ends the question: nobody else is asked (reliability E6).
3. A failure moves an origin down for a while that doubles each time; then it is tried again in its
   old place, and `run` looks whether it answers, so that no client has to find out.
4. The operator's token is used only when the caller says so; a caller's token reaches no mirror.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self, TypeVar

from p2pmodels.clock import Clock
from p2pmodels.core.manifest import Manifest, Want
from p2pmodels.core.names import RepoId, Revision
from p2pmodels.core.secret import Secret
from p2pmodels.errors import (
    AccessRefused,
    ManifestFailed,
    NoSource,
    NotFound,
    Overloaded,
    P2PModelsError,
    RateLimited,
    SourceFailed,
)
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.sources.origin.origin import NotMirrored, Origin, OriginOptions
from p2pmodels.store.partials import Partial

log = logging.getLogger(__name__)

T = TypeVar("T")

DOWN_FIRST_S = 15.0  # seconds a failed origin is asked last
DOWN_CEILING_S = 300.0
PROBE_EVERY_S = 15.0  # seconds between two looks at the origins that are down

CountBytes = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class OriginState:
    """An origin as `status` and the dashboard show it: "ok", "limited" or "down"."""

    url: str
    state: str
    is_hub: bool
    error: P2PModelsError | None = None


class _Ranked:
    """One origin and its health."""

    def __init__(self, origin: Origin, clock: Clock) -> None:
        self.origin = origin
        self.error: P2PModelsError | None = None
        self._clock = clock
        self._failures = 0
        self._down_until = clock.monotonic()

    @property
    def is_down(self) -> bool:
        return self._failures > 0 and self._clock.monotonic() < self._down_until

    @property
    def state(self) -> str:
        if self._failures:
            return "down"
        return "limited" if self.origin.wait_s > 0 else "ok"

    def succeeded(self) -> None:
        if self._failures:
            log.info("origin %s answers again", self.origin.name)
        self._failures, self.error = 0, None

    def failed(self, error: SourceFailed) -> None:
        self.error = error
        if isinstance(error, RateLimited | NotMirrored):
            return  # it works, it only wants fewer questions or has other files
        self._failures += 1
        pause = min(DOWN_CEILING_S, DOWN_FIRST_S * 2 ** min(self._failures - 1, 8))
        self._down_until = self._clock.monotonic() + pause
        log.warning("origin %s: [%s] %s", self.origin.name, error.code, error)


class Origins:
    """Enter it to use it; `run` beside it brings failed origins back early."""

    def __init__(self, options: Sequence[OriginOptions], clock: Clock) -> None:
        self._options = sorted(options, key=lambda option: option.priority)
        self._ranked: list[_Ranked] = []
        self._clock = clock
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for options in self._options:
                origin = await exits.enter_async_context(Origin(options, self._clock))
                self._ranked.append(_Ranked(origin, self._clock))
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def run(self) -> None:
        """Look every few seconds whether origins that failed answer again."""
        while True:
            await self._clock.sleep(PROBE_EVERY_S)
            await self.probe_down()

    async def probe_down(self) -> None:
        """Ask every origin that failed whether it is there; those that answer are healthy again."""
        for ranked in self._ranked:
            if ranked.state == "down":
                try:
                    await ranked.origin.probe()
                except SourceFailed as error:
                    ranked.failed(error)
                else:
                    ranked.succeeded()

    def states(self) -> list[OriginState]:
        """Every origin in its configured order."""
        return [OriginState(r.origin.url, r.state, r.origin.is_hub, r.error) for r in self._ranked]

    @property
    def wait_s(self) -> float:
        """Seconds until the first usable origin may be asked for claims again; 0 when one may."""
        return self._wait_s(is_in_company=True)

    @property
    def told_wait_s(self) -> float:
        """The same without what `defer` was told: no hearsay, so it is safe to tell peers."""
        return self._wait_s(is_in_company=False)

    def _wait_s(self, *, is_in_company: bool) -> float:
        usable = [r.origin for r in self._ranked if not r.is_down]
        usable = usable or [r.origin for r in self._ranked]
        waits = (origin.files_wait_s(is_in_company=is_in_company) for origin in usable)
        return min(waits, default=0.0)

    def defer(self, seconds: float) -> None:
        """Ask the hubs for no claims: one told a peer, which may have our address, to wait so long.

        Peers may lie: this is bounded (see `limits`), and fills without claims do not heed it.
        """
        for ranked in self._ranked:
            if ranked.origin.is_hub:
                ranked.origin.defer(seconds)

    async def manifest(
        self,
        repo: RepoId,
        revision: Revision,
        token: Secret | None = None,
        *,
        use_operator_token: bool = False,
        is_patient: bool = True,
    ) -> Manifest:
        """The files of repo@revision; without patience each hub is asked once.

        Raises AccessRefused, NotFound, SourceFailed.
        """

        async def ask(origin: Origin, is_last: bool) -> Manifest:
            chosen = _token(origin, token, use_operator_token)
            return await origin.manifest(repo, revision, chosen, is_patient=is_last and is_patient)

        try:
            return await self._first(ask, f"{repo}@{revision}", hubs_only=True)
        except (ManifestFailed, RateLimited):
            raise
        except NoSource as error:
            raise ManifestFailed(error.detail) from None

    async def prove(
        self, want: Want, token: Secret | None = None, *, use_operator_token: bool = False
    ) -> None:
        """Return if a hub would give it. Raises AccessRefused, NotFound, SourceFailed."""

        async def ask(origin: Origin, is_patient: bool) -> None:
            chosen = _token(origin, token, use_operator_token)
            await origin.prove(want, chosen, is_patient=is_patient)

        await self._first(ask, str(want), hubs_only=True)

    async def fill(
        self,
        want: Want,
        partial: Partial,
        positions: Callable[[], Sequence[int]],
        token: Secret | None = None,
        *,
        use_operator_token: bool = False,
        on_bytes: CountBytes = lambda _kind, _count: None,
        claims: Claims | None = None,
    ) -> None:
        """Fill the partial from the first origins that can; what has landed is kept throughout.

        With `claims` only their bytes are asked for, and it waits for more of them until the
        partial is full, whoever filled it.
        `on_bytes` gets "origin" or "mirror" and a number. Raises AccessRefused, NotFound,
        SourceFailed, StoreFailed; Overloaded when origins only ask us to wait.
        """

        async def ask(origin: Origin, is_patient: bool) -> None:
            chosen = _token(origin, token, use_operator_token)
            kind = "origin" if origin.is_hub else "mirror"

            def count(amount: int) -> None:
                on_bytes(kind, amount)

            await origin.fill(
                want, partial, positions, chosen, count, is_patient=is_patient, claims=claims
            )

        try:
            await self._first(ask, str(want), hubs_only=False)
        except RateLimited as error:
            # "Not yet" must not make the whole model rest as a failed source does.
            raise Overloaded(error.detail, retry_after_s=error.retry_after_s) from None

    async def get(
        self, path_qs: str, token: Secret | None = None, *, use_operator_token: bool = False
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Pass an API question on to a hub: status, headers, body. Raises SourceFailed."""

        async def ask(origin: Origin, is_patient: bool) -> tuple[int, Mapping[str, str], bytes]:
            chosen = _token(origin, token, use_operator_token)
            return await origin.get(path_qs, chosen, is_patient=is_patient)

        return await self._first(ask, "the API", hubs_only=True)

    async def _first(
        self, ask: Callable[[Origin, bool], Awaitable[T]], what: str, *, hubs_only: bool
    ) -> T:
        """The answer of the first origin that has one. Raises what the first one failed with.

        Only the last one is asked patiently, and a question not even that if it is known down:
        what is cached must not wait for it.
        """
        usable = [r for r in self._ranked if r.origin.is_hub or not hubs_only]
        in_order = sorted(usable, key=lambda ranked: ranked.is_down)  # stable: the order stays
        errors: list[SourceFailed] = []
        for place, ranked in enumerate(in_order, 1):
            try:
                is_last = place == len(in_order)
                answer = await ask(ranked.origin, is_last and not (hubs_only and ranked.is_down))
            except SourceFailed as error:
                ranked.failed(error)
                errors.append(error)
            except (AccessRefused, NotFound):
                ranked.succeeded()
                raise
            else:
                ranked.succeeded()
                return answer
        if not errors:
            raise NoSource(f"{what}: no origin is configured")
        raise next((error for error in errors if isinstance(error, RateLimited)), errors[0])


def _token(origin: Origin, caller: Secret | None, use_operator_token: bool) -> Secret | None:
    """The token for this origin: the operator's own for it, or the caller's for a hub."""
    if use_operator_token:
        return origin.options.token
    return caller if origin.is_hub and origin.options.takes_caller_tokens else None
