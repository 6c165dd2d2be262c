"""Real processes of the demo and of the system tests: hubs and daemons on free ports.

1. A process is ready when it has printed its ready line; nothing waits for a guess of seconds.
2. Leaving the block ends the process: SIGTERM, then SIGKILL after `END_S`.
3. What a process prints goes to a log file, so that a full pipe never stops it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import aiohttp

from p2pmodels.errors import DaemonUnreachable

READY_S = 30.0  # seconds until the ready line; a cold start on a busy machine takes three
END_S = 12.0  # seconds for an orderly end; the daemon's own budget is ten
ASK_S = 30.0  # seconds for one answer of the control API

Json = Mapping[str, object]


class Process:
    """One child with its ready line; `log` is everything it printed."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        under: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [*under, sys.executable, "-m", *arguments]
        self.log = log
        self._env = dict(env or {})
        self._process: asyncio.subprocess.Process | None = None
        self.ready_line = ""

    async def __aenter__(self) -> Self:
        """Start it and wait for the ready line. Raises DaemonUnreachable."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._env},
            )
        try:
            async with asyncio.timeout(READY_S):
                self.ready_line = await self._first_line()
        except TimeoutError:
            self.ready_line = ""
        if not self.ready_line:
            await self.__aexit__()
            raise DaemonUnreachable(f"no ready line:\n{self.log.read_text()[-2000:]}")
        return self

    async def _first_line(self) -> str:
        stdout = self.process.stdout
        return (await stdout.readline()).decode().strip() if stdout else ""

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise DaemonUnreachable("not started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        stdin = self.process.stdin
        if stdin is not None:
            stdin.write(line.encode() + b"\n")
            await stdin.drain()

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def stop(self) -> int:
        """End it; returns its exit status."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_S):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    async def wait(self) -> int:
        """Wait for its end and close the pipes; returns the exit status."""
        status = await self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        return status


class HubProcess(Process):
    """The demo hub; `served` reads its own log of what it sent."""

    def __init__(self, folder: Path, *arguments: str, under: Sequence[str] = ()) -> None:
        self.access_log = folder / "hub-access.jsonl"
        command = ["p2pmodels.demo.hub", "--log", str(self.access_log), *arguments]
        super().__init__(command, folder / "hub.log", under=under)

    @property
    def url(self) -> str:
        return self.ready_line.split()[1]

    def answers(self) -> list[Json]:
        """Every answer so far, as the hub logged it."""
        if not self.access_log.exists():
            return []
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]

    def file_bytes(self) -> int:
        """Bytes of file bodies that left the hub."""
        return sum(int(str(hit["body_bytes"])) for hit in self.answers() if hit["file"])


class DaemonProcess(Process):
    """A daemon on free ports of the loopback address."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        under: Sequence[str] = (),
        lan_listen: str = "127.0.0.1:0",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            "p2pmodels", "serve", "--data-dir", str(self.data_dir), "--listen", "127.0.0.1:0",
            "--lan-listen", lan_listen, "--bt-port", "0", *arguments,
        ]  # fmt: skip
        super().__init__(command, folder / "daemon.log", under=under, env=env)

    @property
    def url(self) -> str:
        match = re.search(r"ready: (http://\S+)", self.ready_line)
        return match[1] if match else ""

    @property
    def control_token(self) -> str:
        return (self.data_dir / "control-token").read_text().strip()

    async def ask(self, name: str) -> Json:
        """GET one of the control API's views."""
        timeout = aiohttp.ClientTimeout(total=ASK_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{self.url}/api/p2p/v1/{name}") as answer,
        ):
            found: Json = await answer.json()
            return found

    async def order(self, name: str, **body: object) -> list[Json]:
        """POST to the control API; the lines of its answer."""
        headers = {"Authorization": f"Bearer {self.control_token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{self.url}/api/p2p/v1/{name}", json=body) as answer,
        ):
            return [json.loads(line) async for line in answer.content]
