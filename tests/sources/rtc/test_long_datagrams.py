"""Datagrams of several frames: only to daemons, and only where they arrive."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2pmodels.core.digests import Sha256
from p2pmodels.core.shard import DATA_HEAD_BYTES, Get, is_data, pack
from p2pmodels.sources.rtc.association import FRAGMENT_BYTES, LONG_FRAGMENT_BYTES, PROBES
from p2pmodels.sources.rtc.association import Association as OwnAssociation
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.rtc.child_peer import SCTP_PORT
from p2pmodels.sources.rtc.datagrams import DataDtls
from p2pmodels.supervision import Tasks
from tests.sources.rtc.foreign import Foreign, dialled
from tests.sources.rtc.pairs import BOUND_S, Giver, Part, running

BLOB = Sha256("b1" * 32)
SIZE = 1_000_000
HEADS_BYTES = 64  # bytes of a packet around a fragment, at the most

pytestmark = pytest.mark.asyncio


class Daemon(Foreign):
    """Speaks as our child does; `packets` are the lengths of what came out of DTLS."""

    def __init__(self, *, takes_long: bool) -> None:
        super().__init__()
        self.dtls = DataDtls(self._ice, [self._certificate])
        self.association = OwnAssociation(self.dtls, SCTP_PORT, lambda _why: None)
        self.packets: list[int] = []
        self.takes_long = takes_long
        hear = self.association._handle_data

        async def count(data: bytes) -> None:
            self.packets.append(len(data))
            if self.takes_long or len(data) <= FRAGMENT_BYTES + HEADS_BYTES:
                await hear(data)

        self.association._handle_data = count  # type: ignore[method-assign]

    @property
    def long_packets(self) -> int:
        return sum(length > LONG_FRAGMENT_BYTES for length in self.packets)

    async def got(self, size: int) -> bytes:
        """The next `size` bytes of a blob."""
        data = b""
        async with asyncio.timeout(BOUND_S):
            while len(data) < size:
                message = await self.messages.get()
                data += message[DATA_HEAD_BYTES:] if is_data(message) else b""
        return data


@asynccontextmanager
async def giving(
    path: Path, daemon: Daemon, *, is_guest: bool
) -> AsyncIterator[tuple[Callable[[int], None], ShardChannel]]:
    """A part that gives a file to the daemon: call what comes to ask for all; and its channel."""
    part = Part()
    async with running(part), Tasks() as tasks, dialled(part, daemon) as (_daemon, channel, theirs):
        Giver(theirs, path, tasks)
        theirs.allow(is_guest=is_guest)
        yield lambda number: channel.send(pack(Get(number, BLOB, 0, SIZE))), theirs


async def test_a_daemon_gets_long_ones_as_soon_as_one_has_arrived(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(SIZE)
    (tmp_path / "blob").write_bytes(content)
    daemon = Daemon(takes_long=True)
    async with giving(tmp_path / "blob", daemon, is_guest=False) as (ask, _):
        number = 0
        while daemon.long_packets <= 1:  # the first is the heartbeat
            number += 1
            ask(number)
            assert await daemon.got(SIZE) == content
        assert max(daemon.packets) <= LONG_FRAGMENT_BYTES + HEADS_BYTES


async def test_a_way_that_takes_them_no_longer_ends_the_session(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(bytes(SIZE))
    daemon = Daemon(takes_long=True)
    async with giving(tmp_path / "blob", daemon, is_guest=False) as (ask, channel):
        number = 0
        while daemon.long_packets <= 1:
            number += 1
            ask(number)
            await daemon.got(SIZE)
        daemon.takes_long = False
        ask(number + 1)
        async with asyncio.timeout(BOUND_S):
            while await channel.receive() is not None:
                continue


@pytest.mark.parametrize("is_guest", [True, False])
async def test_who_takes_none_gets_the_bytes_in_single_frames(
    tmp_path: Path, *, is_guest: bool
) -> None:
    content = random.Random(3).randbytes(SIZE)
    (tmp_path / "blob").write_bytes(content)
    daemon = Daemon(takes_long=False)
    async with giving(tmp_path / "blob", daemon, is_guest=is_guest) as (ask, _):
        for number in (1, 2, 3):
            ask(number)
            assert await daemon.got(SIZE) == content
        assert daemon.long_packets <= (0 if is_guest else PROBES)
