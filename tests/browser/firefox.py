"""A real Firefox, driven by WebDriver BiDi, which it speaks without a driver of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
START_LIMIT_S = 60.0  # seconds until it listens; a new profile takes some five
ANSWER_LIMIT_S = 60.0  # seconds for one command
_LISTENS = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")

# A browser that asks nobody anything by itself.
PREFERENCES = {
    "app.normandy.enabled": False,
    "app.update.auto": False,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.getAddons.cache.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
}


class Tab:
    """One page of it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number, self._context = socket, 0, ""

    async def begin(self) -> None:
        """Take the tab that every new browser has."""
        await self._ask("session.new", capabilities={})
        tree = await self._ask("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]

    async def goto(self, url: str) -> None:
        """Load a page."""
        await self._ask("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, function: str, argument: object) -> Any:
        """What an async function of JavaScript makes of the argument."""
        call = f"({function})({json.dumps(argument)}).then(JSON.stringify)"
        target = {"context": self._context}
        found = await self._ask(
            "script.evaluate", expression=call, target=target, awaitPromise=True
        )
        assert found["type"] == "success", found
        return json.loads(found["result"]["value"])

    async def _ask(self, method: str, **params: object) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(ANSWER_LIMIT_S):
            while (said := await self._socket.receive_json()).get("id") != self._number:
                continue
        assert said["type"] == "success", said
        result: dict[str, Any] = said["result"]
        return result


@asynccontextmanager
async def firefox(folder: Path) -> AsyncIterator[Tab]:
    """A browser with its profile in that folder; skips the test where there is none."""
    if FIREFOX is None:
        pytest.skip("no Firefox on this machine (apt-get install firefox-esr)")
    folder.mkdir()
    lines = (f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in PREFERENCES.items())
    (folder / "user.js").write_text("".join(lines))
    process = await asyncio.create_subprocess_exec(
        FIREFOX, "--headless", "--no-remote", "--profile", str(folder),
        "--remote-debugging-port", "0",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_LIMIT_S):
            while (found := _LISTENS.search(line := await process.stderr.readline())) is None:
                assert line, "Firefox ended before it listened"
        async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
            reading = group.create_task(process.stderr.read())  # so that it never waits for us
            async with session.ws_connect(found[1].decode() + "/session", max_msg_size=0) as socket:
                tab = Tab(socket)
                await tab.begin()
                yield tab
            process.terminate()
            await reading
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
