"""The child: killed, too large, silent; the daemon goes on (reliability F11, issue 4, 6)."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from p2pmodels.core.digests import Sha256
from p2pmodels.errors import LanFailed
from p2pmodels.sources.rtc.child import NICENESS
from p2pmodels.sources.rtc.process import SILENT_LIMIT_S, RtcFailed
from p2pmodels.sources.rtc.rtc import PAUSE_FIRST_S, RtcOptions
from p2pmodels.supervision import Tasks
from tests.fakes import FakeClock
from tests.sources.rtc.pairs import BOUND_S, LOOPBACK, Giver, Landing, Part, joined, running

BLOB = Sha256("b1" * 32)

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("who", ["dialler", "acceptor"])
async def test_a_killed_child_ends_its_channels_and_another_takes_over(
    tmp_path: Path, who: str
) -> None:
    (tmp_path / "blob").write_bytes(bytes(48 << 20))
    dialler, acceptor = Part(), Part()
    async with running(dialler, acceptor), Tasks() as tasks:
        ours, theirs = await joined(dialler, acceptor)
        giver = Giver(theirs, tmp_path / "blob", tasks)
        victim = dialler if who == "dialler" else acceptor
        pid = victim.rtc.child_pid
        killed = False

        def on_part(_offset: int) -> None:
            nonlocal killed
            if not killed:
                killed = True
                os.kill(pid, signal.SIGKILL)

        landing = Landing(48 << 20, on_part)
        with pytest.raises(LanFailed):
            await ours.pull(BLOB, 0, 48 << 20, landing, landing.on_bytes)
        end = ours if who == "dialler" else theirs
        async with asyncio.timeout(BOUND_S):
            assert await end.receive() is None
            with pytest.raises(ConnectionError):
                await end.send(b"\x81x")
            if who == "acceptor":
                assert isinstance(await giver.failure(), ConnectionError)
            while victim.rtc.child_pid in (0, pid):
                await asyncio.sleep(0.01)
        assert victim.rtc.restarts == 1
        ours, theirs = await joined(dialler, acceptor)
        Giver(theirs, tmp_path / "blob", tasks)
        whole = Landing(1 << 20)
        await ours.pull(BLOB, 0, 1 << 20, whole, whole.on_bytes)
        assert whole.received == 1 << 20


async def test_there_is_no_child_before_a_session_is_wanted() -> None:
    part = Part()
    async with part.rtc, Tasks() as tasks:
        tasks.start(part.rtc.run(), "rtc")
        await asyncio.sleep(0)
        assert part.rtc.child_pid == 0
        async with asyncio.timeout(BOUND_S):
            await part.rtc.offer()
        assert part.rtc.child_pid > 0


async def test_a_child_steps_back_behind_the_daemon_and_behind_other_programs() -> None:
    part = Part()
    async with running(part):
        pid = part.rtc.child_pid
        assert os.getsid(pid) == pid  # what it uses is not taken from the daemon's share
        assert os.getpriority(os.PRIO_PROCESS, pid) >= NICENESS
        group = Path(f"/proc/{pid}/autogroup")
        if group.exists():
            assert f" nice {NICENESS}" in group.read_text()


async def test_a_child_that_outgrows_its_memory_is_replaced() -> None:
    clock = FakeClock()
    part = Part(RtcOptions(addresses=lambda: [LOOPBACK], memory_limit_bytes=48 << 20), clock)
    async with running(part):
        pid = part.rtc.child_pid
        async with asyncio.timeout(BOUND_S):
            while part.rtc.restarts == 0:
                await asyncio.sleep(0.01)
            assert part.rtc.child_pid == 0
            with pytest.raises(RtcFailed):
                await part.rtc.offer()
            await clock.until_sleeping()
            clock.advance(PAUSE_FIRST_S)
            while part.rtc.child_pid in (0, pid):
                await asyncio.sleep(0.01)


async def test_a_child_that_hangs_is_replaced() -> None:
    clock = FakeClock()
    part = Part(clock=clock)
    async with running(part):
        pid = part.rtc.child_pid
        await part.rtc.offer()
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(BOUND_S):
            while part.rtc.restarts == 0:
                clock.advance(SILENT_LIMIT_S)
                await asyncio.sleep(0.01)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_leaving_the_part_leaves_no_process_and_no_session() -> None:
    dialler, acceptor = Part(), Part()
    async with running(acceptor):
        async with running(dialler):
            ours, theirs = await joined(dialler, acceptor)
            pid = dialler.rtc.child_pid
        async with asyncio.timeout(BOUND_S):
            assert await ours.receive() is None
            # The child took leave of its peers.
            assert await theirs.receive() is None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_an_offer_without_a_child_fails_at_once() -> None:
    part = Part()
    async with part.rtc:
        with pytest.raises(RtcFailed):
            await part.rtc.offer()
