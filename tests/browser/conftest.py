"""A page in a real Chromium; skipped, with the reason, where there is none."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.browser.fake_daemon import FakeDaemon, Meeting, meeting

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

Open = Callable[..., Awaitable[tuple[Page, Meeting]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a browser."""
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker(pytest.mark.system)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="no Chromium or Chrome is installed"))


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Browser]:
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            await browser.close()


@pytest_asyncio.fixture
async def open_page() -> AsyncIterator[Open]:
    """Opens a page served by a rendezvous with the given daemons in its room.

    A complaint that the page's script does not catch fails the test.
    """
    # aiortc does everything in small callbacks: asyncio's debug mode makes it ten times as slow.
    asyncio.get_running_loop().set_debug(False)
    complaints: list[str] = []
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(
            chromium("--host-resolver-rules=MAP classroom.test 127.0.0.1")
        )

        async def opened(*daemons: FakeDaemon) -> tuple[Page, Meeting]:
            made = await stack.enter_async_context(meeting(*daemons))
            page = await browser.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            await page.goto(made.url + "/")
            return page, made

        yield opened
    assert complaints == []
