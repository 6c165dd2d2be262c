"""One computer of the room: its daemon, its user's program, and ways to harm it.

Ending is by SIGKILL: its disk is thrown away at once, and how a daemon ends in order is tested
elsewhere (`tests/system/test_lifecycle.py`).
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2pmodels.demo.processes import DaemonProcess, Process
from p2pmodels.errors import DaemonUnreachable
from tests.bench.rig import cpu_seconds
from tests.lab.models import Model
from tests.system.netns import Host

ROOT = Path(__file__).parents[2]
PEER_PORT = 7879
LOG_LINES = 6  # of a daemon's log, when its download failed

Json = dict[str, Any]


class OrderFailed(Exception):
    """A program in a namespace could not do what it was told, or is gone."""


class Agent(Process):
    """A program that takes orders (`orders.py`)."""

    def __init__(self, folder: Path, host: Host, module: str, env: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        env = {**env, "PYTHONPATH": str(ROOT)}
        super().__init__([module], folder / "client.log", under=host.command(), env=env)

    async def do(self, name: str, /, **order: object) -> Json:
        """Give an order and wait for its answer. Raises OrderFailed."""
        try:
            await self.tell(json.dumps({"do": name, **order}))
        except ConnectionError as error:
            raise OrderFailed(f"{name}: the program has gone") from error
        stdout = self.process.stdout
        line = await stdout.readline() if stdout else b""
        if not line:
            raise OrderFailed(f"{name}: the program has gone")
        answer: Json = json.loads(line)
        if "error" in answer:
            raise OrderFailed(f"{name}: {answer['error']}")
        return answer


class Machine:
    """A host with a daemon, unless `origin` is to be asked directly, and a client."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.daemon: DaemonProcess | None = None
        self.client: Agent | None = None
        self.is_harmed = False
        self._cpu_s = 0.0

    async def start(self, origin: str, *, with_daemon: bool = True) -> None:
        """Start the daemon, then the client that uses it. Raises DaemonUnreachable."""
        endpoint = origin
        if with_daemon:
            await self.start_daemon(origin)
            endpoint = self.url
        env = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        self.client = Agent(self.folder, self.host, "tests.lab.client", env)
        await self.client.__aenter__()

    async def start_daemon(self, origin: str) -> None:
        """Start the daemon alone; it may have run before."""
        listen = f"{self.host.address}:{PEER_PORT}"
        self.daemon = DaemonProcess(
            self.folder, "--origin", origin, under=self.host.command(), lan_listen=listen
        )
        await self.daemon.__aenter__()

    @property
    def url(self) -> str:
        """The daemon's local endpoint, for programs of this machine."""
        return self.daemon.url if self.daemon else ""

    async def do(self, name: str, /, **order: object) -> Json:
        """Let the client do something. Raises OrderFailed."""
        if self.client is None:
            raise OrderFailed(f"{name}: {self.host.name} has no client")
        return await self.client.do(name, **order)

    async def view(self, name: str) -> Json:
        """What the daemon says of itself; never used for a figure."""
        return await self.do("view", url=self.url, name=name)

    async def download(self, model: Model) -> Json:
        """Get the model: `ended` and `folder`. Raises OrderFailed."""
        return await self.do("download", repo=model.repo, file=model.only_file)

    def received_bytes(self) -> int:
        """What has come in over its cable."""
        return self.host.counters().received_bytes

    def cpu_s(self) -> float:
        """Processor seconds of the daemon so far; of a dead one, those until it was killed."""
        if self.daemon is not None:
            with contextlib.suppress(OSError, DaemonUnreachable):
                self._cpu_s = cpu_seconds(self.daemon.pid)
        return self._cpu_s

    def client_cpu_s(self) -> float:
        """Processor seconds of the client so far."""
        with contextlib.suppress(OSError, DaemonUnreachable):
            return cpu_seconds(self.client.pid) if self.client else 0.0
        return 0.0

    def harm(self, number: signal.Signals) -> None:
        """Send a signal to everything on this machine; its client counts no more."""
        self.cpu_s()
        self.is_harmed = True
        for process in (self.daemon, self.client):
            if process is not None:
                process.signal(number)

    async def end(self) -> None:
        """Kill what runs, frozen or not; bytes on its disk are the caller's."""
        for process in (self.client, self.daemon):
            if process is not None:
                with contextlib.suppress(DaemonUnreachable):
                    process.signal(signal.SIGKILL)
                    await process.wait()

    def last_words(self) -> str:
        """The ends of the logs of daemon and client."""
        found = []
        for process in (self.daemon, self.client):
            if process is not None and process.log.exists():
                lines = process.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                found += [f"{process.log.name}: {line}" for line in lines]
        return "\n".join(found)
