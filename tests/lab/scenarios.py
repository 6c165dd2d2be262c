"""What happens to the room: stampedes in peace, and with somebody dying, freezing or coming late.

Each scenario takes a `Stage` and gives its rows. The catalogue at the end is what `--scenario`
chooses from.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from p2pmodels.demo.hub_faults import QUOTA_REQUESTS
from tests.lab.models import FILES
from tests.lab.room import Stampede, open_room
from tests.lab.settings import SLOW_LINK_MBIT, Settings
from tests.lab.table import Row, cost

HARM_AT = 0.3  # part of the model that the victim has got when it is harmed
JOIN_AT = 0.5  # part of the model that the others have got when the late one comes
SLOW_PART = 4  # the model of the room with a slow link is this much smaller: its link takes 5 times
QUOTA_ROOM = 16  # machines for which the hub's quota of one address is meant here
DIRECT_PER_FILE = 2  # requests of huggingface_hub for a file: HEAD and GET


@dataclass
class Stage:
    """What every scenario gets: the settings, a place for disks, and the rows before it."""

    settings: Settings
    disks: Path
    rows: list[Row] = field(default_factory=list)

    def folder(self, name: str) -> Path:
        """A folder for one room's disks."""
        return self.disks / name

    def calm(self, kind: str, count: int) -> Row | None:
        """The row of the same room in peace, if it has run."""
        wanted = f"cold-{kind}-{count}"
        return next((row for row in self.rows if row.scenario == wanted), None)


Scenario = Callable[[Stage], Awaitable[Sequence[Row]]]


def cold(name: str, kind: str, count: int) -> Scenario:
    """Everybody wants what nobody has."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings.for_room(count)
        async with open_room(settings, count, kind, folder=stage.folder(name)) as room:
            optimum_s = settings.over_uplink_s(room.model.size)
            return [await Stampede(room).run(name, room.machines, optimum_s)]

    return run


def late(name: str, count: int) -> Scenario:
    """One comes when the others have half of it."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings.for_room(count)
        async with open_room(settings, count, folder=stage.folder(name)) as room:
            *early, joiner = room.machines

            async def join(stampede: Stampede) -> None:
                await room.received(early[0], int(JOIN_AT * room.model.size))
                stampede.remarks.append(f"the late one came at {stampede.now()}")
                await stampede.fetch(joiner)
                if joiner.host.name in stampede.times:
                    took_s = stampede.times[joiner.host.name]
                    stampede.remarks.append(f"and took {took_s:.1f} s")

            optimum_s = settings.over_uplink_s(room.model.size)
            return [await Stampede(room).run(name, early, optimum_s, disturb=join)]

    return run


def warm(name: str, count: int) -> Scenario:
    """One has it, so many others want it; the origin has nothing to give but lists."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings.for_room(count + 1)
        async with open_room(settings, count + 1, folder=stage.folder(name)) as room:
            await room.warm(room.machines[0])
            # An origin that gave the bytes all the same would need its own time for them.
            optimum_s = settings.over_lan_s(room.model.size)
            deadline_s = settings.deadline_s(settings.over_uplink_s(room.model.size))
            stampede = Stampede(room, remarks=["optimum by the LAN"])
            others = room.machines[1:]
            return [await stampede.run(name, others, optimum_s, deadline_s=deadline_s)]

    return run


def harmed(name: str, count: int, number: signal.Signals) -> Scenario:
    """One is killed or frozen on the way; the others must not wait for it."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings.for_room(count)
        async with open_room(settings, count, folder=stage.folder(name)) as room:
            victim = room.machines[count // 2]

            async def harm(stampede: Stampede) -> None:
                await room.received(victim, int(HARM_AT * room.model.size))
                stampede.harm(victim, number)

            optimum_s = settings.over_uplink_s(room.model.size)
            row = await Stampede(room).run(name, room.machines, optimum_s, disturb=harm)
            calm = stage.calm("file", count)
            if calm is not None:
                row = replace(row, remarks=f"{row.remarks}; {cost(row, calm)}")
            return [row]

    return run


def slow_link(name: str, count: int) -> Scenario:
    """One hangs on a cable slower than the uplink; it must not hold up the others."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings.for_room(count)
        size = settings.size // SLOW_PART
        folder = stage.folder(name)
        async with open_room(settings, count, size=size, folder=folder) as room:
            *others, slow = room.machines
            room.network.narrow(slow.host, settings.slow_link)
            own_s = size * 8 / (SLOW_LINK_MBIT * 1e6)

            async def drag(stampede: Stampede) -> None:
                before = slow.received_bytes()
                await stampede.fetch(slow)
                took_s = stampede.times.get(slow.host.name)
                if took_s is not None:
                    times_over = (slow.received_bytes() - before) / size
                    stampede.remarks.append(
                        f"the slow one took {took_s:.1f} s, its own cable needs {own_s:.1f} s"
                        f" and carried {times_over:.2f} times the file"
                    )

            deadline_s = settings.deadline_s(own_s)
            optimum_s = settings.over_uplink_s(size)
            stampede = Stampede(room, uncounted={slow.host.name})
            return [
                await stampede.run(name, others, optimum_s, disturb=drag, deadline_s=deadline_s)
            ]

    return run


def quota(name: str, count: int) -> Scenario:
    """All share one address, to which the hub grants so many requests."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings.for_room(count)
        limit = QUOTA_REQUESTS * min(count, QUOTA_ROOM) // QUOTA_ROOM
        options = ("--request-limit", str(limit))
        folder = stage.folder(name)
        async with open_room(settings, count, "model", hub_options=options, folder=folder) as room:
            optimum_s = settings.over_uplink_s(room.model.size)
            row = await Stampede(room).run(name, room.machines, optimum_s)
            asked = row.requests.api + row.requests.head + row.requests.get
            alone = count * (1 + DIRECT_PER_FILE * FILES)
            text = (
                f"{asked} of {limit} requests used, {row.requests.refused} refused;"
                f" {count} x {FILES} files on their own: {count * FILES} GETs, {alone} requests"
            )
            return [replace(row, remarks=text)]

    return run


def origin_dead(name: str, count: int) -> Scenario:
    """One has it, all know the list of files, and the origin is gone."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings.for_room(count)
        async with open_room(settings, count, folder=stage.folder(name)) as room:
            await room.warm(room.machines[0])
            others = room.machines[1:]
            for machine in others:
                await machine.do("know", repo=room.model.repo)
            room.hub.signal(signal.SIGKILL)
            await room.hub.wait()
            optimum_s = settings.over_lan_s(room.model.size)
            deadline_s = settings.deadline_s(settings.over_uplink_s(room.model.size))
            stampede = Stampede(room, remarks=["optimum by the LAN"])
            return [await stampede.run(name, others, optimum_s, deadline_s=deadline_s)]

    return run
