"""Two daemons' WebRTC parts with a real child each, joined over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from p2pmodels.clock import Clock, RealClock
from p2pmodels.core.sdp import Description
from p2pmodels.core.shard import Get
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.rtc.rtc import Rtc, RtcOptions
from p2pmodels.supervision import Tasks

BOUND_S = 20.0  # seconds for anything that waits here
LOOPBACK = "127.0.0.1"


class Part:
    """One part with the channels that opened."""

    def __init__(self, options: RtcOptions | None = None, clock: Clock | None = None) -> None:
        self.channels: asyncio.Queue[ShardChannel] = asyncio.Queue()
        self.rtc = Rtc(
            options or RtcOptions(addresses=lambda: [LOOPBACK]),
            clock or RealClock(),
            self.channels.put_nowait,
        )

    async def channel(self) -> ShardChannel:
        """The next channel that opens."""
        async with asyncio.timeout(BOUND_S):
            return await self.channels.get()


@asynccontextmanager
async def running(*parts: Part) -> AsyncIterator[None]:
    """The parts with their children."""
    async with Tasks() as tasks:
        for part in parts:
            await part.rtc.__aenter__()
            tasks.start(part.rtc.run(), "rtc")
        try:
            for part in parts:
                async with asyncio.timeout(BOUND_S):
                    await part.rtc.until_running()
            yield
        finally:
            for part in parts:
                await part.rtc.__aexit__()


async def joined(dialler: Part, acceptor: Part) -> tuple[ShardChannel, ShardChannel]:
    """A channel between two parts, as each side has it; gets are allowed."""
    offered = await dialler.rtc.offer()
    answer = await acceptor.rtc.accept(offered.sdp)
    await dialler.rtc.complete(offered.session, answer)
    ours, theirs = await dialler.channel(), await acceptor.channel()
    ours.allow(is_guest=False)
    theirs.allow(is_guest=False)
    return ours, theirs


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[ShardChannel, ShardChannel]]:
    """The dialler's channel and the acceptor's."""
    dialler, acceptor = Part(), Part()
    async with running(dialler, acceptor):
        yield await joined(dialler, acceptor)


class Giver:
    """Answers the gets of a channel from one file."""

    def __init__(self, channel: ShardChannel, path: Path, tasks: Tasks) -> None:
        self.gets: list[Get] = []
        self.paced: list[int] = []
        self.counted = 0
        self.failures: asyncio.Queue[Exception] = asyncio.Queue()
        self._channel, self._path, self._tasks = channel, path, tasks
        channel.on_get = self._on_get

    def _on_get(self, get: Get) -> None:
        self.gets.append(get)
        self._tasks.start(self._give(get), "give")

    async def _give(self, get: Get) -> None:
        try:
            await self._channel.give(
                get.number, self._path, get.start, get.stop, pace=self._pace, count=self._count
            )
        except Exception as error:
            self.failures.put_nowait(error)

    async def _pace(self, amount: int) -> None:
        self.paced.append(amount)

    def _count(self, amount: int) -> None:
        self.counted += amount

    async def failure(self) -> Exception:
        async with asyncio.timeout(BOUND_S):
            return await self.failures.get()


class Landing:
    """A sink that keeps what lands; `on_part` is called in the thread with each part."""

    def __init__(self, size: int, on_part: Callable[[int], None] = lambda _offset: None) -> None:
        self.data = bytearray(size)
        self.parts: list[tuple[int, int]] = []
        self.received = 0
        self._on_part = on_part

    def __call__(self, offset: int, view: memoryview) -> None:
        self._on_part(offset)
        self.data[offset : offset + len(view)] = view
        self.parts.append((offset, offset + len(view)))

    def on_bytes(self, count: int) -> None:
        self.received += count


def hosts_of(sdp: str) -> list[str]:
    """The addresses of an SDP's candidates."""
    return [candidate.host for candidate in Description.parse(sdp).candidates]
