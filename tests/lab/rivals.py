"""What the room would do without the daemon, in the same network: the figures to beat.

1. A machine alone, with and without the daemon: is the way through it slower?
2. Every machine by itself: huggingface_hub straight to the hub.
3. Plain libtorrent that knows the torrent in advance, with the hub as web seed (BEP 19).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import libtorrent as lt

from tests.lab.machines import Agent, Json, Machine
from tests.lab.models import Model
from tests.lab.room import Room, Stampede, open_room
from tests.lab.scenarios import Scenario, Stage
from tests.lab.table import Row

ALONE_PART = 2  # the model of a lone machine is this much smaller: four rooms use it
DIRECT_PART = 4  # that of the room in which everybody drains the uplink: each pays for all
TORRENT_PIECE = 256 << 10  # bytes; pieces as small as ours, so that they flow on early


def alone(name: str, kind: str) -> Scenario:
    """One machine, first straight from the hub, then through its daemon."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings
        size = settings.size // ALONE_PART
        rows = []
        for with_daemons in (False, True):
            folder = stage.folder(name)
            async with open_room(
                settings, 1, kind, size=size, with_daemons=with_daemons, folder=folder
            ) as room:
                title = f"{name}-{'daemon' if with_daemons else 'hub'}"
                optimum_s = settings.over_uplink_s(size)
                rows.append(await Stampede(room).run(title, room.machines, optimum_s))
        direct, ours = rows
        if direct.times_s and ours.times_s:
            ratio = ours.times_s[0] / direct.times_s[0]
            rows[1] = replace(ours, remarks=f"{ratio:.3f} of the time without it")
        return rows

    return run


def direct(name: str, count: int) -> Scenario:
    """Everybody by himself."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings.for_room(count)
        size = settings.size // DIRECT_PART
        async with open_room(
            settings, count, size=size, with_daemons=False, folder=stage.folder(name)
        ) as room:
            optimum_s = settings.over_uplink_s(size)
            stampede = Stampede(room, remarks=["huggingface_hub straight to the hub"])
            deadline_s = settings.deadline_s(count * optimum_s)
            return [await stampede.run(name, room.machines, optimum_s, deadline_s=deadline_s)]

    return run


def torrent(name: str, count: int) -> Scenario:
    """Everybody with libtorrent."""

    async def run(stage: Stage) -> list[Row]:
        settings = stage.settings.for_room(count)
        folder = stage.folder(name)
        async with open_room(settings, count, with_daemons=False, folder=folder) as room:
            made = await asyncio.to_thread(_make_torrent, room.model, folder)
            for machine in room.machines:
                await _give_libtorrent(machine)
            orders = [_order(room, machine, made) for machine in room.machines]
            by_name = dict(zip((m.host.name for m in room.machines), orders, strict=True))

            async def get(machine: Machine, _model: Model) -> Json:
                return await machine.do("download", **by_name[machine.host.name])

            optimum_s = settings.over_uplink_s(room.model.size)
            remarks = ["libtorrent, torrent known, hub as web seed; cpu is libtorrent's"]
            stampede = Stampede(room, get=get, remarks=remarks)
            deadline_s = settings.deadline_s(count * optimum_s)
            row = await stampede.run(name, room.machines, optimum_s, deadline_s=deadline_s)
            return [replace(row, cpu_s=row.client_cpu_s)]

    return run


async def _give_libtorrent(machine: Machine) -> None:
    """Put libtorrent in the place of huggingface_hub."""
    await machine.end()
    machine.client = Agent(machine.folder, machine.host, "tests.lab.torrent_client", {})
    await machine.client.__aenter__()
    await machine.do("listen", address=machine.host.address)


def _order(room: Room, machine: Machine, made: Path) -> Json:
    """What a machine is told: the torrent, the hub's address of the file, and the others."""
    return {
        "torrent": str(made),
        "web_seed": f"{room.hub.url}/{room.model.repo}/resolve/main/{room.model.only_file}",
        "peers": [other.host.address for other in room.machines if other is not machine],
        "into": str(machine.folder / "torrent"),
    }


def _make_torrent(model: Model, folder: Path) -> Path:
    """The torrent of the model's one file. Blocks."""
    (file,) = model.files.values()
    storage = lt.file_storage()
    lt.add_files(storage, str(file))
    creator = lt.create_torrent(storage, TORRENT_PIECE)
    lt.set_piece_hashes(creator, str(file.parent))
    made = folder / "model.torrent"
    made.write_bytes(lt.bencode(creator.generate()))
    return made
