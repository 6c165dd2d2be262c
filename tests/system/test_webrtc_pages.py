"""A page in a real Chromium gets a model from whole daemons, with no daemon on its own machine."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.browser.test_page_permission import certificate, grant
from tests.system.rtc_room import (
    Daemon,
    chromium,
    daemon_at,
    digest_of,
    fetched,
    file_bytes,
    free_port,
    givers,
    hub_with,
    own_address,
    page_of,
    until_read,
)

SIZE = 32_000_000


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
        told = [await daemon.ask("status") for daemon in daemons]
        assert (seen["bytes"], seen["sha256"]) == (SIZE, digest_of(model))
        assert set(givers(seen)) <= {str(status["id"]) for status in told}
        assert sum(int(str(status["shared_bytes"])) for status in told) >= SIZE
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
        before, child = file_bytes(hub), await daemon.child()
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


@asynccontextmanager
async def https_site(address: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """A site of somebody else with an empty page; its URL."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>a site</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        sock = socket.create_server((address, 0))
        await web.SockSite(runner, sock, ssl_context=context).start()
        yield f"https://public.test:{sock.getsockname()[1]}"
    finally:
        await runner.cleanup()


@pytest.mark.asyncio
async def test_an_https_page_uses_the_daemon_of_its_machine_else_a_wss_rendezvous(
    tmp_path: Path, model: Path
) -> None:
    address = own_address()
    secure = f"{address}:{free_port(address)}"
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        hub = await enter(hub_with(model))
        site = await enter(https_site(address, certificate(tmp_path)))
        pem = str(tmp_path / "both.pem")
        allowed = {"P2PMODELS_WEB__ALLOWED_ORIGINS": site}
        tls = {
            "P2PMODELS_RTC__TLS_LISTEN": secure,
            "P2PMODELS_RTC__TLS_CERTIFICATE_FILE": pem,
            "P2PMODELS_RTC__TLS_KEY_FILE": pem,
        }
        met_at = await enter(daemon_at(tmp_path / "a", hub.url, address, allowed | tls))
        meets = {"P2PMODELS_RTC__RENDEZVOUS": met_at.rendezvous}
        holder = await enter(daemon_at(tmp_path / "b", hub.url, address, meets))
        local = await enter(daemon_at(tmp_path / "c", hub.url, "127.0.0.1", allowed))
        port = site.rpartition(":")[2]
        browser = await enter(
            chromium(
                "--ignore-certificate-errors",
                f"--host-resolver-rules=MAP public.test {address}",
                f"--ip-address-space-overrides={address}:{port}=public,{secure}=local",
            )
        )
        await holder.hold()
        await local.hold()
        before = file_bytes(hub)
        page = await (await browser.new_context(ignore_https_errors=True)).new_page()
        await page.goto(site + "/")
        known: dict[str, Any] = {
            "sha256": digest_of(model),
            "size": SIZE,
            "module": f"https://{secure}",
        }
        await grant(browser, page, "local-network")
        far = await fetched(page, hub.url, **known, daemon=None)
        await grant(browser, page)
        near = await fetched(page, hub.url, **known, daemon=local.url)
        assert far["sha256"] == near["sha256"] == known["sha256"]
        assert givers(far) == {(await holder.ask("status"))["id"]: SIZE}
        assert givers(near) == {"daemon": SIZE}
        assert file_bytes(hub) == before
