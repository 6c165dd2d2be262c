"""A page and the package's own WebRTC part: real children, real files."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.browser.conftest import Open
from tests.browser.real_shards import shard_daemons
from tests.browser.test_page_downloads import MIB, PATH, fetched, from_whom, some_file


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [1, 3])
async def test_real_daemons_give_a_file(open_page: Open, tmp_path: Path, count: int) -> None:
    file = some_file(24 * MIB + 77)
    path = tmp_path / "blob"
    path.write_bytes(file.data)
    async with shard_daemons(count, {file.digest: path}) as daemons:
        page, made = await open_page(*daemons)
        made.origin[PATH] = file.data
        seen = await fetched(page, made, file)
        assert (seen["sha256"], made.origin_bytes) == (file.digest, 0)
        given = from_whom(seen)
        assert set(given) <= {daemon.id for daemon in daemons}
        assert len(given) >= min(count, 2)  # on a busy machine the third may come too late


@pytest.mark.asyncio
async def test_killing_the_child_midway_costs_nothing_but_time(
    open_page: Open, tmp_path: Path
) -> None:
    file = some_file(48 * MIB)
    path = tmp_path / "blob"
    path.write_bytes(file.data)
    async with shard_daemons(1, {file.digest: path}) as (daemon,):
        page, made = await open_page(daemon)
        made.origin[PATH] = file.data
        fetching = asyncio.ensure_future(fetched(page, made, file))
        async with asyncio.timeout(60):
            while daemon.given < 8 * MIB:
                await asyncio.sleep(0.01)
        os.kill(daemon.rtc.child_pid, signal.SIGKILL)
        seen = await fetching
        assert seen["sha256"] == file.digest
        given = from_whom(seen)
        assert given[daemon.id] >= 4 * MIB  # of the child that was killed, or of its successor too
        assert daemon.rtc.restarts >= 1
        assert sum(given.values()) == len(file.data)
