"""What the tests of the origin client stand on: a hub, spies, a skipping clock, partials."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from p2pmodels.clock import RealClock
from p2pmodels.core.digests import GitId, Sha256, git_id
from p2pmodels.core.manifest import FileEntry, Manifest, Want
from p2pmodels.core.names import Commit, FilePath, RepoId, Revision
from p2pmodels.demo.hub import Hub
from p2pmodels.sources.origin.addresses import IpAddress, is_public
from p2pmodels.sources.origin.options import OriginOptions
from p2pmodels.sources.origin.origin import Origin
from p2pmodels.store.partials import Partial
from p2pmodels.workers import Lane
from tests.contents import content
from tests.fakes import FailingDisk

MIB = 1 << 20
REPO = RepoId("acme/tiny")
MAIN = Revision("main")
COMMIT = Commit("c0ffee00" * 5)
DATA, DIGEST = content(6 * MIB, seed=3)
SMALL = b'{"model_type": "bert"}\n'
FILES = {
    "config.json": SMALL,
    "model.safetensors": DATA,
    "sub dir/notes #1.txt": b"notes\n",
    "empty.txt": b"",
}
# 127.9.0.0/16 plays the public internet: addresses that can be listened on, but are not ours.
INTERNET = IPv4Network("127.9.0.0/16")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def is_public_here(address: IpAddress) -> bool:
    """The real rule, with one more public network."""
    if isinstance(address, IPv4Address) and address in INTERNET:
        return True
    return is_public(address)


class SkippingClock(RealClock):
    """Time passes at once when somebody sleeps; `sleeps` tells for how long they would have."""

    def __init__(self) -> None:
        self.skipped = 0.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.skipped += seconds
        await asyncio.sleep(0)


class Names(AbstractResolver):
    """A DNS of the test's own; a list of lists is answered one after the other."""

    def __init__(self, names: Mapping[str, list[str]] | None = None) -> None:
        self.names = dict(names or {})
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self.names:
            raise OSError(None, "no such name")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in self.names[host]
        ]

    async def close(self) -> None: ...


@dataclass
class Spy:
    """A server that writes down what it was asked and answers as the test says."""

    host: str
    answer: Handler
    port: int = 0
    requests: list[web.BaseRequest] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def tokens(self) -> list[str]:
        """The Authorization of every request, "" where there was none."""
        return [request.headers.get("Authorization", "") for request in self.requests]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Spy]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            self.requests.append(request)
            return await self.answer(request)

        runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, self.host, self.port)
        await site.start()
        self.port = int(runner.addresses[0][1])
        try:
            yield self
        finally:
            await runner.cleanup()


@asynccontextmanager
async def spy(answer: Handler, host: str = "127.0.0.1") -> AsyncIterator[Spy]:
    """A running spy."""
    async with Spy(host, answer).running() as running:
        yield running


def options_for(url: str, **changes: object) -> OriginOptions:
    """Quick time-outs, small segments."""
    chosen: dict[str, object] = {
        "segment_bytes": MIB,
        "connect_timeout_s": 2.0,
        "first_byte_timeout_s": 2.0,
        "stall_timeout_s": 0.3,
        **changes,
    }
    return OriginOptions(url, **chosen)  # type: ignore[arg-type]


def origin_at(url: str, clock: SkippingClock | None = None, **changes: object) -> Origin:
    """An origin over the real resolver, where 127.9.0.0/16 is the internet."""
    clock = clock or SkippingClock()
    return Origin(options_for(url, **changes), clock, is_public=is_public_here)


def entry_of(data: bytes, path: str = "model.safetensors", *, is_lfs: bool = True) -> FileEntry:
    digest: Sha256 | GitId = git_id(data)
    if is_lfs:
        digest = content_digest(data)
    return FileEntry(FilePath(path), len(data), digest)


def content_digest(data: bytes) -> Sha256:
    return Sha256(hashlib.sha256(data).hexdigest())


def want_of(data: bytes, path: str = "model.safetensors", *, is_lfs: bool = True) -> Want:
    """A want for bytes that a spy serves."""
    return Want(REPO, COMMIT, entry_of(data, path, is_lfs=is_lfs))


async def hub_manifest(hub: Hub) -> Manifest:
    """The manifest of the tiny repo, asked for with a client of its own."""
    async with origin_at(hub.url) as origin:
        return await origin.manifest(REPO, MAIN)


@dataclass
class Shelf:
    """Makes partials, and closes them."""

    folder: Path
    lane: Lane
    made: list[Partial] = field(default_factory=list)
    disk: FailingDisk = field(default_factory=FailingDisk)

    async def partial(self, want: Want) -> Partial:
        entry = want.entry
        path = self.folder / f"partial-{len(self.made)}"
        partial = Partial(entry.digest, entry.size, path, self.disk, self.lane, RealClock())
        await partial.open()
        self.made.append(partial)
        return partial

    async def close(self) -> None:
        for partial in self.made:
            await partial.close()
