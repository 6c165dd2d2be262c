"""A room: network, origin, machines; and the measurement of one download in it.

1. A room is made for one scenario and thrown away with all its disks.
2. The clock runs from the word to go until each client says that it has its model. The origin's
   bytes are counted until every copy has been checked, so nothing that is fetched late is missed.
3. What a harmed machine gets does not count, but the bytes it cost do.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodels.demo.processes import HubProcess
from tests.bench.rig import warm_memory
from tests.lab.hub_side import Requests, count_requests, hub_on
from tests.lab.machines import Machine, OrderFailed
from tests.lab.models import Model, make_model
from tests.lab.network import Network
from tests.lab.settings import SET_UP_S, Settings
from tests.lab.table import Row, busy_seconds

STARTS_AT_ONCE = 4  # daemons; on two cores more only wait for each other
PEERS_S = 60.0  # seconds until all machines know each other
SHARED_S = 60.0  # seconds until a warm machine offers what it has
VERIFY_S = 120.0  # seconds to read and compare all copies
POLL_S = 0.1  # seconds between looks at a counter that a scenario waits for
LOGS_SHOWN = 3  # daemons whose last words are printed when they were not done in time


class ScenarioFailed(Exception):
    """The room could not be brought to the point where the measurement begins."""


@dataclass
class Room:
    """What a scenario plays with."""

    settings: Settings
    network: Network
    hub: HubProcess
    model: Model
    machines: list[Machine]

    async def meet(self) -> None:
        """Wait until every machine knows all others. Raises ScenarioFailed."""
        order = {"at_least": len(self.machines) - 1, "limit_s": PEERS_S}
        for machine in self.machines:
            met = await machine.do("watch", url=machine.url, **order)
            if met["at"] is None:
                raise ScenarioFailed(f"{machine.host.name} has found {met['count']} peers only")

    async def warm(self, machine: Machine) -> None:
        """Let one machine have the model and offer it, in no time. Raises ScenarioFailed."""
        self.network.open_uplink(True)
        await machine.download(self.model)
        deadline = time.monotonic() + SHARED_S
        while True:
            rows = (await machine.view("models"))["models"]
            if rows and rows[0]["is_complete"] and rows[0]["share"] == "shared":
                break
            if time.monotonic() > deadline:
                raise ScenarioFailed(f"the warm machine does not share: {rows}")
            await asyncio.sleep(POLL_S)
        self.network.open_uplink(False)

    async def received(self, machine: Machine, size: int) -> None:
        """Wait until so many bytes have come to a machine."""
        while machine.received_bytes() < size:
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def open_room(
    settings: Settings,
    count: int,
    kind: str = "file",
    *,
    size: int | None = None,
    hub_options: Sequence[str] = (),
    with_daemons: bool = True,
    folder: Path,
) -> AsyncIterator[Room]:
    """A room with its machines running. Raises ScenarioFailed, DaemonUnreachable."""
    size = size or settings.size
    async with AsyncExitStack() as parts:
        parts.callback(shutil.rmtree, folder, ignore_errors=True)
        async with asyncio.timeout(SET_UP_S):
            model = await asyncio.to_thread(make_model, folder / "model", kind, size)
            await asyncio.to_thread(warm_memory, 2 * count * size)
            network = parts.enter_context(Network(settings, count))
            hub = hub_on(network.origin, folder / "hub", model, *hub_options)
            await parts.enter_async_context(hub)
            machines = [
                Machine(host, folder / f"machine{number}")
                for number, host in enumerate(network.hosts)
            ]
            gate = asyncio.Semaphore(STARTS_AT_ONCE)

            async def start(machine: Machine) -> None:
                async with gate:
                    await machine.start(hub.url, with_daemon=with_daemons)

            for machine in machines:
                parts.push_async_callback(machine.end)
            async with asyncio.TaskGroup() as group:
                for machine in machines:
                    group.create_task(start(machine))
            room = Room(settings, network, hub, model, machines)
            if with_daemons and count > 1:
                await room.meet()
        yield room


Disturbance = Callable[["Stampede"], Coroutine[None, None, None]]
Get = Callable[[Machine, Model], Awaitable[dict[str, object]]]


async def client_get(machine: Machine, model: Model) -> dict[str, object]:
    """A download as users do it."""
    return await machine.download(model)


@dataclass
class Stampede:
    """One measured download of the room's model by several machines."""

    room: Room
    get: Get = client_get
    times: dict[str, float] = field(default_factory=dict)
    """Seconds by machine, each from its own beginning."""
    failures: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    uncounted: set[str] = field(default_factory=set)
    """Machines whose time is not that of the room: harmed ones, and slow ones."""
    began: float = 0.0
    _folders: dict[str, object] = field(default_factory=dict)
    _starters: list[Machine] = field(default_factory=list)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the word to go."""
        return time.monotonic() - self.began

    def now(self) -> str:
        """The same for a remark."""
        return f"{self.elapsed_s:.1f} s"

    async def fetch(self, machine: Machine) -> None:
        """Let one machine download, and keep how it went."""
        self._starters.append(machine)
        began, name = time.monotonic(), machine.host.name
        try:
            answer = await self.get(machine, self.room.model)
        except OrderFailed as failure:
            self.failures[name] = str(failure)
        else:
            self.times[name] = float(str(answer["ended"])) - began
            self._folders[name] = answer["folder"]

    def harm(self, machine: Machine, number: signal.Signals) -> None:
        """Kill or freeze everything on a machine; nobody waits for it any more."""
        self.uncounted.add(machine.host.name)
        machine.harm(number)
        self._tasks[machine.host.name].cancel()
        self.remarks.append(f"{number.name} at {self.now()}")

    async def run(
        self,
        scenario: str,
        machines: Sequence[Machine],
        optimum_s: float,
        *,
        disturb: Disturbance | None = None,
        deadline_s: float | None = None,
    ) -> Row:
        """Let `machines` download at once while `disturb` does its harm; what came of it."""
        room = self.room
        deadline_s = deadline_s or room.settings.deadline_s(optimum_s)
        before, cpu_before = room.network.origin_counters(), self._cpu()
        busy_before = busy_seconds()
        asked_before = len(room.hub.answers())
        self.began = time.monotonic()
        failure = ""
        try:
            async with asyncio.timeout(deadline_s), asyncio.TaskGroup() as group:
                for machine in machines:
                    task = group.create_task(self.fetch(machine))
                    self._tasks[machine.host.name] = task
                if disturb is not None:
                    group.create_task(disturb(self))
        except TimeoutError:
            failure = f"not done in {deadline_s:.0f} s"
        wall_s, cpu_after, busy_after = self.elapsed_s, self._cpu(), busy_seconds()
        failure = failure or self._failed()
        if failure:
            self._show_logs()
        else:
            failure = await self._wrong_copies()
        after = room.network.origin_counters()
        names = {machine.host.name for machine in self._starters} - self.uncounted
        return Row(
            scenario=scenario,
            machines=len(self._starters),
            size=room.model.size,
            origin_bytes=after.sent_payload - before.sent_payload,
            requests=self._requests(asked_before),
            optimum_s=optimum_s,
            counted=len(names),
            times_s=tuple(sorted(t for name, t in self.times.items() if name in names)),
            wall_s=wall_s,
            cpu_s=cpu_after[0] - cpu_before[0],
            client_cpu_s=cpu_after[1] - cpu_before[1],
            busy_s=busy_after - busy_before,
            remarks="; ".join(self.remarks),
            failure=failure,
        )

    def _cpu(self) -> tuple[float, float]:
        """Processor seconds of all daemons, and of all clients."""
        machines = self.room.machines
        return sum(m.cpu_s() for m in machines), sum(m.client_cpu_s() for m in machines)

    def _requests(self, skip: int) -> Requests:
        return count_requests(self.room.hub.answers()[skip:])

    def _failed(self) -> str:
        """What went wrong with clients that count."""
        wrong = [
            self.failures[machine.host.name]
            for machine in self._starters
            if machine.host.name in self.failures
        ]
        return f"{len(wrong)} clients failed, the first by {wrong[0]}" if wrong else ""

    async def _wrong_copies(self) -> str:
        """Compare every copy with its digests; what is wrong."""
        wrong = []
        try:
            async with asyncio.timeout(VERIFY_S):
                for machine in self._starters:
                    folder = self._folders.get(machine.host.name)
                    if folder is None or machine.is_harmed:
                        continue
                    digests = dict(self.room.model.digests)
                    found = await machine.do("verify", folder=folder, digests=digests)
                    wrong += found["wrong"]
        except TimeoutError:
            return f"the copies could not be checked in {VERIFY_S:.0f} s"
        return f"WRONG BYTES in {', '.join(wrong[:5])}" if wrong else ""

    def _show_logs(self) -> None:
        """Print what the daemons said last whose clients have no model."""
        late = [m for m in self._starters if m.host.name not in self.times and not m.is_harmed]
        for machine in late[:LOGS_SHOWN]:
            print(f"--- {machine.host.name}:\n{machine.last_words()}", flush=True)
