"""Single flight: one fetch for each content, from the nearest source that has it.

1. Whoever asks for content that is being fetched joins that fetch.
2. Order of sources: the swarm for peers that only BitTorrent reaches (`nearby.py`); then the room:
   LAN peers for what they have, the origins for the rest. What has landed is kept throughout.
3. Content that turns out wrong is dropped, its source blamed, and fetched once more from origins.
4. When every source has failed the model rests: until then the same question fails at once,
   unless a peer turns up.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Self

from p2pmodels.clock import Clock
from p2pmodels.core.caller import Caller
from p2pmodels.core.manifest import Manifest, Want
from p2pmodels.core.names import RepoId
from p2pmodels.errors import (
    AccessRefused,
    DigestMismatch,
    IntegrityFailed,
    OriginDown,
    Overloaded,
    P2PModelsError,
    SourceFailed,
    StoreFailed,
)
from p2pmodels.metrics import FETCHES, RECEIVED_BYTES
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.store.blobs import Blob, Blobs
from p2pmodels.store.figures import Figures
from p2pmodels.store.partials import Partial
from p2pmodels.supervision import Tasks
from p2pmodels.transfer.fetch import Fetch, State
from p2pmodels.transfer.flows import SELF, Flows
from p2pmodels.transfer.room import Room
from p2pmodels.transfer.seams import ByteOrigins, Nearby, Offer, Policy, Rooms

log = logging.getLogger(__name__)

FETCHES_LIMIT = 16  # fetches at once; more only share the same line
QUEUE_LIMIT = 256  # fetches that wait for their turn; a client beyond it is told to come again
GRACE_S = 5.0  # seconds a fetch goes on after its last holder left: a client that reconnects
FAILURE_KEPT_S = 15.0  # seconds a failure is remembered, so that followers do not start anew
REST_S = 300.0  # seconds a model rests after every source failed
POISON_KEPT_S = 600.0  # seconds: longer than any client's retries after a broken answer
OFFER_WITHIN_S = 4.0  # seconds for peers to say what they have; a silent one must not cost more
SEARCHES_LIMIT = 8  # times that a room looks for who gave wrong bytes of one file
FINISHED_KEPT = 50  # ended fetches that `transfers` still shows


@dataclass(frozen=True, slots=True)
class Rest:
    """A model rests until this moment (monotonic seconds)."""

    until: float
    error: P2PModelsError


class Fetcher:
    """Enter it to use it; leaving cancels what runs and keeps the partials."""

    def __init__(
        self,
        blobs: Blobs,
        figures: Figures,
        origins: ByteOrigins,
        nearby: Nearby,
        rooms: Rooms,
        flows: Flows,
        clock: Clock,
        policy: Policy,
    ) -> None:
        self._blobs, self._figures = blobs, figures
        self._origins, self._nearby, self._rooms = origins, nearby, rooms
        self._flows = flows
        self._clock = clock
        self._policy = policy
        self._running: dict[str, Fetch] = {}
        self._finished: list[Fetch] = []
        self._failures: dict[str, Rest] = {}
        self._resting: dict[RepoId, Rest] = {}
        self._poisoned: dict[str, float] = {}
        self._turns = asyncio.Semaphore(FETCHES_LIMIT)
        self._tasks = Tasks()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.__aexit__()

    def transfers(self) -> list[Fetch]:
        """The fetches that run, then those that ended lately."""
        return [*self._running.values(), *reversed(self._finished)]

    def is_fetching(self, manifest: Manifest) -> bool:
        """Whether files of this snapshot are on their way."""
        return any(
            fetch.want.repo == manifest.repo and fetch.want.commit == manifest.commit
            for fetch in self._running.values()
            if not fetch.is_over
        )

    def is_poisoned(self, want: Want) -> bool:
        """Whether wrong bytes of this content may have reached a client lately.

        Such a client may come back for the rest; it must get the whole file instead.
        """
        until = self._poisoned.get(want.entry.digest.key)
        return until is not None and self._clock.monotonic() < until

    async def open(self, want: Want, caller: Caller) -> Blob | Fetch:
        """The blob, or the fetch that makes it. Raises Overloaded, OriginDown, StoreFailed."""
        blob = self._blobs.find(want.entry.digest)
        if blob is not None:
            return blob
        key = want.entry.digest.key
        fetch = self._running.get(key)
        if fetch is not None and not fetch.is_over:
            return fetch
        await self._refuse_while_resting(want)
        fetch = self._running.get(key)  # somebody may have started it meanwhile
        if fetch is not None and not fetch.is_over:
            return fetch
        if len(self._running) >= FETCHES_LIMIT + QUEUE_LIMIT:
            raise Overloaded(f"{len(self._running)} fetches wait already", retry_after_s=5)
        fetch = Fetch(want, caller, self._clock)
        self._running[key] = fetch
        self._tasks.start(self._run(fetch), f"fetch {want}")
        return fetch

    async def _refuse_while_resting(self, want: Want) -> None:
        now = self._clock.monotonic()
        failure = self._failures.get(want.entry.digest.key)
        if failure is not None and now < failure.until:
            raise failure.error.with_traceback(None)
        rest = self._resting.get(want.repo)
        if rest is not None and now < rest.until and await self._offer(want) is None:
            raise OriginDown(
                f"{want.repo} rests for {rest.until - now:.0f} s more ({rest.error.message})",
                retry_after_s=round(rest.until - now),
            )

    async def _run(self, fetch: Fetch) -> None:
        """Run one fetch to its end, or until nobody has wanted it for the grace time."""
        try:
            async with Tasks() as tasks:
                work = tasks.start(self._work(fetch), f"work on {fetch.want}")
                tasks.start(self._watch_holders(fetch, work), f"holders of {fetch.want}")
                await asyncio.wait({work})
        finally:
            await asyncio.shield(self._end(fetch))

    async def _end(self, fetch: Fetch) -> None:
        """Take it off the list; who still waits for one that was cancelled is told to ask again."""
        if self._running.get(fetch.want.entry.digest.key) is fetch:
            del self._running[fetch.want.entry.digest.key]
        if not fetch.is_over:
            fetch.error = Overloaded(f"{fetch.want} was given up, ask again")
            await fetch.set_state(State.FAILED)
        FETCHES.labels(fetch.error.code if fetch.error else "done").inc()
        self._finished = [*self._finished[-FINISHED_KEPT + 1 :], fetch]

    async def _watch_holders(self, fetch: Fetch, work: asyncio.Task[None]) -> None:
        while True:
            fetch.left.clear()
            if fetch.holders == 0:
                await self._clock.sleep(GRACE_S)
                if fetch.holders == 0:
                    work.cancel()
                    return
                continue
            await fetch.left.wait()

    async def _work(self, fetch: Fetch) -> None:
        want = fetch.want
        try:
            async with self._turns:
                await fetch.take(await self._partial_of(want))
                await self._fill_and_commit(fetch)
        except P2PModelsError as error:
            self._remember_failure(want, error)
            fetch.error = error
        except Exception as error:
            log.exception("fetch of %s", want)
            fetch.error = StoreFailed(f"{want}: {type(error).__name__}")
        finally:
            await asyncio.shield(self._put_down(fetch))

    async def _partial_of(self, want: Want) -> Partial:
        """Its pieces are hashed for the snapshot's torrent as well."""
        also = self._policy.piece_length(want)
        return await self._blobs.partial(want.entry.digest, want.entry.size, also)

    async def _put_down(self, fetch: Fetch) -> None:
        """Keep what has landed, then tell everybody: the next fetch may open it at once."""
        partial = fetch.partial
        if partial is not None and partial.is_open and fetch.blob is None:
            try:
                await partial.checkpoint()
            except StoreFailed as error:
                log.warning("checkpoint of %s: %s", fetch.want, error)
            await self._blobs.close(partial)
        if fetch.error is not None:
            await fetch.set_state(State.FAILED)

    def _remember_failure(self, want: Want, error: P2PModelsError) -> None:
        log.warning("fetch of %s: [%s] %s", want, error.code, error)
        if isinstance(error, AccessRefused | StoreFailed):
            return  # true of this caller only; or our own disk's, which is cheap to ask again
        now = self._clock.monotonic()
        self._failures = {key: rest for key, rest in self._failures.items() if rest.until > now}
        self._failures[want.entry.digest.key] = Rest(now + FAILURE_KEPT_S, error)
        if isinstance(error, SourceFailed) and not isinstance(error, IntegrityFailed):
            self._resting[want.repo] = Rest(now + REST_S, error)

    async def _fill_and_commit(self, fetch: Fetch) -> None:
        offer = None if _is_full(fetch) else await self._offer(fetch.want)
        if offer is not None:
            await self._fill_from_swarm(fetch, offer)
        try:
            async with self._rooms.room(fetch, _partial(fetch)) as room:
                await self._fill_in(room, fetch, offer)
        except DigestMismatch as error:
            await self._drop_wrong_bytes(fetch, offer, error)
            await self._fill_alone(fetch)
            try:
                await self._commit(fetch, None)
            except DigestMismatch as again:
                # Not kept: the next client must not be given them before they are found out.
                await self._drop_wrong_bytes(fetch, None, again)
                raise

    async def _fill_in(self, room: Room, fetch: Fetch, offer: Offer | None) -> None:
        """Fill and commit; wrong bytes are looked for, and taken anew, for SEARCHES_LIMIT times."""
        for attempt in range(SEARCHES_LIMIT + 1):
            await room.fill(self._fill_from_origins)
            try:
                return await self._commit(fetch, offer)
            except DigestMismatch as error:
                if attempt == SEARCHES_LIMIT or fetch.sources["swarm"] or not room.digest_failed():
                    raise
                log.warning("%s: %s; looking for who gave wrong bytes", fetch.want, error)
                fetch.generation += 1
                self._note_poison(fetch.want)
                await fetch.set_state(State.FETCHING)

    async def _offer(self, want: Want) -> Offer | None:
        """What peers offer, if they say so in time."""
        try:
            async with asyncio.timeout(OFFER_WITHIN_S):
                return await self._nearby.offer(want)
        except TimeoutError:
            log.info("peers take too long over %s", want)
            return None

    async def _fill_from_swarm(self, fetch: Fetch, offer: Offer) -> None:
        partial = _partial(fetch)
        before = partial.landed.total
        fetch.source = "swarm"
        await fetch.notify()
        try:
            async with Tasks() as tasks:
                tasks.start(_hash_along(partial), "hash")
                await offer.fill(partial, fetch.positions)
        except SourceFailed as error:
            log.info("swarm for %s: %s; the origin goes on", fetch.want, error)
        finally:
            came = max(0, partial.landed.total - before)
            fetch.sources["swarm"] += came
            RECEIVED_BYTES.labels("swarm").inc(came)

    async def _fill_alone(self, fetch: Fetch) -> None:
        """From the origins only: nobody else is believed any more."""
        async with Tasks() as tasks:
            tasks.start(_hash_along(_partial(fetch)), "hash")
            await self._fill_from_origins(fetch, Claims())

    async def _fill_from_origins(self, fetch: Fetch, claims: Claims) -> None:
        """What `claims` say, until the partial is full. Raises as `Origins.fill` does."""

        def count(kind: str, amount: int) -> None:
            is_first = kind == "origin" and not fetch.sources[kind]
            if is_first and fetch.caller.identity == "anonymous":
                self._tasks.start(self._policy.witnessed(fetch.want), f"proof for {fetch.want}")
            fetch.source = fetch.source or kind
            fetch.sources[kind] += amount
            RECEIVED_BYTES.labels(kind).inc(amount)
            self._flows.count(kind, SELF, amount)

        await self._origins.fill(
            fetch.want,
            _partial(fetch),
            fetch.positions,
            fetch.caller.token,
            use_operator_token=fetch.caller.is_operator,
            on_bytes=count,
            claims=claims,
        )

    async def _drop_wrong_bytes(
        self, fetch: Fetch, offer: Offer | None, error: DigestMismatch
    ) -> None:
        """Whatever was given out of this content so far is void; start over from the origins."""
        partial = _partial(fetch)
        log.warning("%s: %s; sources %s", fetch.want, error, dict(fetch.sources))
        self._note_poison(fetch.want)
        # Together and before anything waits: no reader may take old bytes for new ones.
        fetch.generation += 1
        has_kept = partial.void()
        fetch.sources.clear()
        if offer is not None:
            await offer.blame()
        await partial.restart()
        if has_kept:
            await fetch.set_state(State.FETCHING)
            return
        await self._blobs.discard(partial)
        await fetch.take(await self._partial_of(fetch.want))

    def _note_poison(self, want: Want) -> None:
        now = self._clock.monotonic()
        self._poisoned = {key: until for key, until in self._poisoned.items() if until > now}
        self._poisoned[want.entry.digest.key] = now + POISON_KEPT_S

    async def _commit(self, fetch: Fetch, offer: Offer | None) -> None:
        partial = _partial(fetch)
        await fetch.set_state(State.VERIFYING)
        blob = await self._blobs.commit(partial)
        await self._figures.add_received(blob.sha256, fetch.sources)
        self._resting.pop(fetch.want.repo, None)
        fetch.blob = blob
        await fetch.set_state(State.DONE)
        self._tasks.start(self._tidy(partial, offer, blob), f"tidy {fetch.want}")
        was_anonymous = fetch.sources["origin"] > 0 and fetch.caller.identity == "anonymous"
        self._tasks.start(
            self._policy.on_blob(fetch.want, blob, was_anonymous), f"share {fetch.want}"
        )

    async def _tidy(self, partial: Partial, offer: Offer | None, blob: Blob) -> None:
        """Remove the partial's name; a crash before this is put right at the next start."""
        try:
            if offer is not None:
                await offer.committed(blob)
        finally:
            await self._blobs.settle(partial)


def _partial(fetch: Fetch) -> Partial:
    if fetch.partial is None:
        raise StoreFailed(f"{fetch.want} has no partial")
    return fetch.partial


def _is_full(fetch: Fetch) -> bool:
    return _partial(fetch).is_full


async def _hash_along(partial: Partial) -> None:
    """Keep the whole-file hash close behind what lands, so that the end costs no second read."""
    while not partial.is_full:
        async with partial.changed:
            await partial.changed.wait()
        await partial.hash_on()
