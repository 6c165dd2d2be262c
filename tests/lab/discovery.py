"""How soon a machine is known, and how soon it is known to be gone.

The moment of coming is the ready line of its daemon; the moment of leaving is the signal, or the
pulled cable. What counts is the list of peers that the daemon of another machine shows.
"""

from __future__ import annotations

import signal
import time

from tests.lab.hub_side import Requests
from tests.lab.room import open_room
from tests.lab.scenarios import Scenario, Stage
from tests.lab.table import Row

FOUND_AIM_S = 1.0  # seconds from the ready line
GOODBYE_AIM_S = 2.0  # seconds from SIGTERM
LOST_AIM_S = 10.0  # seconds from SIGKILL or from the pulled cable
LIMIT_S = 30.0  # seconds after which an event is taken as missed


def discovery(name: str) -> Scenario:
    """Two machines: the first watches how the second comes and goes."""

    async def run(stage: Stage) -> list[Row]:
        folder = stage.folder(name)
        async with open_room(stage.settings, 2, size=1000, folder=folder) as room:
            watcher, other = room.machines
            rows = []

            async def measure(title: str, aim_s: float, peers: int, since: float) -> None:
                seen = await watcher.do("watch", url=watcher.url, exactly=peers, limit_s=LIMIT_S)
                took_s = None if seen["at"] is None else seen["at"] - since
                rows.append(_row(f"{name}-{title}", aim_s, took_s))

            def send(number: signal.Signals) -> float:
                if other.daemon is not None:
                    other.daemon.signal(number)
                return time.monotonic()

            async def come_back(title: str) -> None:
                if other.daemon is not None:
                    await other.daemon.wait()
                await other.start_daemon(room.hub.url)
                await measure(title, FOUND_AIM_S, 1, time.monotonic())

            await measure("goodbye", GOODBYE_AIM_S, 0, send(signal.SIGTERM))
            await come_back("found")
            await measure("killed", LOST_AIM_S, 0, send(signal.SIGKILL))
            await come_back("back")
            other.host.unplug()
            await measure("unplugged", LOST_AIM_S, 0, time.monotonic())
            return rows

    return run


def _row(title: str, aim_s: float, took_s: float | None) -> Row:
    """A row whose optimum is the aim: a factor of at most 1 is good."""
    failure = ""
    if took_s is None:
        failure = f"not seen in {LIMIT_S:.0f} s"
    elif took_s > aim_s:
        failure = f"{took_s:.2f} s, aim {aim_s:.0f} s"
    return Row(
        scenario=title,
        machines=2,
        size=1000,
        origin_bytes=0,
        requests=Requests(),
        optimum_s=aim_s,
        counted=1,
        times_s=() if took_s is None else (took_s,),
        wall_s=took_s or 0.0,
        cpu_s=0.0,
        client_cpu_s=0.0,
        busy_s=0.0,
        remarks="" if took_s is None else f"{took_s:.3f} s, aim {aim_s:.0f} s",
        failure=failure,
    )
