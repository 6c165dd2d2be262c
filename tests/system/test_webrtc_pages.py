"""A page in a real Chromium gets a model from whole daemons, with no daemon on its own machine."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.system.rtc_room import (
    Daemon,
    chromium,
    daemon_at,
    digest_of,
    fetched,
    file_bytes,
    givers,
    hub_with,
    own_address,
    page_of,
    until_read,
)

SIZE = 48_000_000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that is nowhere else."""
    path = tmp_path / "model"
    path.write_bytes(random.Random(3).randbytes(SIZE))
    return path


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [1, 3])
async def test_a_page_without_a_daemon_gets_a_file_from_daemons(
    tmp_path: Path, model: Path, count: int
) -> None:
    address = own_address()
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(hub_with(model))
        daemons: list[Daemon] = []
        for name in "abc"[:count]:
            env = {"P2PMODELS_RTC__RENDEZVOUS": daemons[0].rendezvous} if daemons else {}
            made = daemon_at(tmp_path / name, hub.url, address, env)
            daemons.append(await stack.enter_async_context(made))
        browser = await stack.enter_async_context(chromium())
        async with asyncio.TaskGroup() as group:
            for daemon in daemons:
                group.create_task(daemon.hold())
        before = file_bytes(hub)
        page = await page_of(browser, daemons[0])
        seen = await fetched(page, hub.url)
        ids = {str((await daemon.ask("status"))["id"]) for daemon in daemons}
        assert (seen["bytes"], seen["sha256"]) == (SIZE, digest_of(model))
        assert set(givers(seen)) <= ids
        assert len(givers(seen)) >= min(count, 2)  # on a busy machine the third may come too late
        assert file_bytes(hub) == before


@pytest.mark.asyncio
async def test_a_page_gets_all_of_it_though_the_child_is_killed_midway(
    tmp_path: Path, model: Path
) -> None:
    address = own_address()
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(hub_with(model))
        daemon = await stack.enter_async_context(daemon_at(tmp_path / "a", hub.url, address))
        browser = await stack.enter_async_context(chromium())
        await daemon.hold()
        before, (child,) = file_bytes(hub), daemon.children
        page = await page_of(browser, daemon)
        async with asyncio.TaskGroup() as group:
            fetching = group.create_task(fetched(page, hub.url))
            await until_read(page, SIZE // 4)
            os.kill(child, signal.SIGKILL)
        seen = fetching.result()
        assert (seen["bytes"], seen["sha256"]) == (SIZE, digest_of(model))
        # A page may not ask a hub on loopback, so the rest came from the child's successor.
        assert givers(seen) == {(await daemon.ask("status"))["id"]: SIZE}
        assert file_bytes(hub) == before
        (successor,) = daemon.children
        assert successor != child
