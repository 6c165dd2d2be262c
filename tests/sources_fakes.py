"""Fake sources: they give bytes when the test lets them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from p2pmodels.core.digests import Digest, Sha256
from p2pmodels.core.manifest import FileEntry, Manifest, Want
from p2pmodels.core.names import Commit, FilePath, RepoId, Revision
from p2pmodels.core.secret import Secret
from p2pmodels.errors import P2PModelsError
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.store.blobs import Blob
from p2pmodels.store.partials import Partial
from tests.contents import content

STEP = 100_000

REPO = RepoId("org/name")
COMMIT = Commit("a" * 40)


def want_of(size: int, seed: int = 1, path: str = "model.bin") -> Want:
    _, sha256 = content(size, seed)
    return Want(REPO, COMMIT, FileEntry(FilePath(path), size, sha256))


class FakeOrigins:
    """Serves the content of `want_of`; `gate` lets one step through each time it is released."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.manifests: dict[str, Manifest] = {}
        self.fills: list[Want] = []
        self.asked: list[tuple[str, bool]] = []
        self.error: P2PModelsError | None = None
        self.errors_after = 0
        self.tokens: set[str] = set()
        self.gate: asyncio.Semaphore | None = None
        self.given = 0
        self.is_patient = True
        self.began = asyncio.Event()

    def add(self, size: int, seed: int = 1) -> Want:
        data, sha256 = content(size, seed)
        self.contents[sha256.value] = data
        return want_of(size, seed)

    async def fill(
        self,
        want: Want,
        partial: Partial,
        positions: Callable[[], Sequence[int]],
        token: Secret | None = None,
        *,
        use_operator_token: bool = False,
        on_bytes: Callable[[str, int], None],
        claims: Claims | None = None,
    ) -> None:
        """All that is missing, as soon as all is claimed: its machine is alone."""
        self.fills.append(want)
        while claims is not None and claims.ranges is not None:
            claims.changed.clear()
            await claims.changed.wait()
        self.began.set()
        data = self.contents[want.entry.digest.value]
        for start, stop in list(partial.landed.gaps(0, want.entry.size)):
            for at in range(start, stop, STEP):
                if self.error is not None and self.given >= self.errors_after:
                    raise self.error
                if self.gate is not None:
                    await self.gate.acquire()
                part = data[at : min(at + STEP, stop)]
                await partial.write(at, part, vouched=True)
                on_bytes("origin", len(part))
                self.given += len(part)
        if self.error is not None and self.given >= self.errors_after:
            raise self.error

    async def manifest(
        self,
        repo: RepoId,
        revision: Revision,
        token: Secret | None = None,
        *,
        use_operator_token: bool = False,
        is_patient: bool = True,
    ) -> Manifest:
        self.asked.append((f"{repo}@{revision}", token is not None or use_operator_token))
        self.is_patient = is_patient
        if self.error is not None:
            raise self.error
        return self.manifests[revision.value]

    async def prove(
        self, want: Want, token: Secret | None = None, *, use_operator_token: bool = False
    ) -> None:
        self.asked.append((str(want.entry.path), token is not None or use_operator_token))
        if self.error is not None:
            raise self.error


class FakeOffer:
    """A swarm that gives `data`, right or wrong, then fails if told to."""

    def __init__(self, data: bytes, stop: int | None = None, error: P2PModelsError | None = None):
        self.data, self.stop, self.error = data, stop, error
        self.is_blamed = False
        self.committed_blob: asyncio.Future[Blob] = asyncio.get_running_loop().create_future()

    async def fill(self, partial: Partial, positions: Callable[[], Sequence[int]]) -> None:
        stop = len(self.data) if self.stop is None else self.stop
        for at in range(0, stop, STEP):
            await partial.write(at, self.data[at : min(at + STEP, stop)], vouched=False)
        if self.error is not None:
            raise self.error

    async def blame(self) -> None:
        self.is_blamed = True

    async def committed(self, blob: Blob) -> None:
        self.committed_blob.set_result(blob)


class FakeNearby:
    """Offers what the test put in."""

    def __init__(self) -> None:
        self.offers: dict[Sha256, FakeOffer] = {}
        self.asked = 0

    async def offer(self, want: Want) -> FakeOffer | None:
        self.asked += 1
        digest = want.entry.digest
        return self.offers.get(digest) if isinstance(digest, Sha256) else None


class FakePolicy:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.blobs: list[tuple[Want, Blob, bool]] = []
        self.public: list[Want] = []
        self.arrived = asyncio.Event()

    async def on_blob(self, want: Want, blob: Blob, was_anonymous: bool) -> None:
        self.blobs.append((want, blob, was_anonymous))
        self.arrived.set()

    async def witnessed(self, want: Want) -> None:
        self.public.append(want)

    def piece_length(self, want: Want) -> int | None:
        return None


class FakeShares:
    """Everything that the test does not name is public, and its peers may be asked about it."""

    def __init__(self) -> None:
        self.secret: set[Digest] = set()
        self.unproven: set[Digest] = set()

    def may_give(self, digest: Digest) -> bool:
        return digest not in self.secret | self.unproven

    def may_ask(self, want: Want) -> bool:
        return want.entry.digest not in self.secret

    async def prove(self, want: Want) -> None: ...
