"""Daemons whose WebRTC is the real one: `sources/rtc` with a child each, files from disk."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import ifaddr
import msgpack

from p2pmodels.clock import RealClock
from p2pmodels.core.shard import Get, Status
from p2pmodels.errors import P2PModelsError
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.rtc.rtc import Rtc, RtcOptions
from p2pmodels.supervision import Tasks
from tests.browser.fake_daemon import FakeDaemon


def own_addresses() -> list[str]:
    """This machine's IPv4 addresses; loopback only when there is no other."""
    found = [ip.ip for one in ifaddr.get_adapters() for ip in one.ips if isinstance(ip.ip, str)]
    return [ip for ip in found if not ip.startswith("127.")] or found


class ShardDaemon(FakeDaemon):
    """Speaks the handshake as a fake does; the bytes go by the package's own channel."""

    def __init__(self, paths: dict[str, Path], tasks: Tasks) -> None:
        """`paths` by digest in hexadecimal digits."""
        super().__init__({digest: b"" for digest in paths})
        self.paths, self._started = paths, tasks
        options = RtcOptions(addresses=own_addresses)
        self.rtc = Rtc(options, RealClock(), self._on_channel)

    async def answer(self, sdp: str) -> str:
        return await self.rtc.accept(sdp)

    def _on_channel(self, channel: ShardChannel) -> None:
        self._started.start(self._converse(channel), "a page")

    async def _converse(self, channel: ShardChannel) -> None:
        nonce = os.urandom(16)
        await channel.send(
            msgpack.packb(
                {
                    "t": "hello",
                    "protocol": 1,
                    "id": bytes.fromhex(self.id),
                    "version": "0.1.0",
                    "port": 7879,
                    "nonce": nonce,
                }
            )
        )

        def on_get(get: Get) -> None:
            self._started.start(self._give_file(channel, get), "give")

        channel.on_get = on_get
        while (data := await channel.receive()) is not None:
            frame = msgpack.unpackb(data)
            if frame["t"] == "hello":
                welcome = {"t": "welcome", "proof": b"", "ticket": bytes(16)}
                await channel.send(msgpack.packb(welcome))
            elif frame["t"] == "welcome":
                channel.allow(is_guest=True)
            elif frame["t"] == "want":
                said: list[bytes] = []
                self._have(
                    lambda _said=said, **fields: _said.append(msgpack.packb(fields)),
                    frame["blob"],
                    frame["size"],
                )
                await channel.send(said[0])

    async def _give_file(self, channel: ShardChannel, get: Get) -> None:
        path = self.paths.get(get.blob.value)
        if path is None:
            channel.refuse(get.number, Status.NOT_HELD)
            return
        try:
            await channel.give(
                get.number, path, get.start, get.stop, pace=self._pace, count=self._counted
            )
        except (P2PModelsError, OSError):
            return  # the page is gone, or wants it no more

    async def _pace(self, _amount: int) -> None:
        return None

    def _counted(self, amount: int) -> None:
        self.given += amount


@asynccontextmanager
async def shard_daemons(count: int, paths: dict[str, Path]) -> AsyncIterator[list[ShardDaemon]]:
    """So many of them, with their children running."""
    async with Tasks() as tasks:
        made = [ShardDaemon(paths, tasks) for _ in range(count)]
        for daemon in made:
            await daemon.rtc.__aenter__()
            tasks.start(daemon.rtc.run(), "rtc")
        try:
            for daemon in made:
                await daemon.rtc.until_running()
            yield made
        finally:
            for daemon in made:
                await daemon.rtc.__aexit__()
