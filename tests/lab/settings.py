"""What a run of the lab is to measure: sizes, rates, how many machines, which scenarios.

Rates are of payload: the shapers get the room that frames take on top, so that the optimum of a
download is simply its size divided by its rate.

What the cores can carry decides the rate: in a real room every machine has its own, here all share
them, and times would be those of the cores. A megabyte costs a machine 42 ms of one core in its
daemon and its client, 61 ms in slow hours of a shared machine (sixteen machines, 115 files), so a
large room gets a slower line. The column `all%` of the table tells how busy the cores were.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.system.netns import FRAME_BYTES, SEGMENT_BYTES, Cable

UPLINK_BURST_BYTES = 64 << 10  # bytes; one of TCP's largest packets, little beside a second's worth
UPLINK_QUEUE_MS = 100  # what the box of a DSL or cable line holds
LAN_BURST_BYTES = 256 << 10  # bytes; below the rate of a gigabit at 250 ticks a second tbf stutters
LAN_QUEUE_MS = 20  # a switch holds a few milliseconds; less makes tbf drop whole large packets
SLOW_LINK_MBIT = 10  # the machine on bad Wi-Fi
ETHERNET = (SEGMENT_BYTES + FRAME_BYTES) / SEGMENT_BYTES  # bytes on the cable for a byte of payload
SET_UP_S = 180.0  # seconds to start a room; sixteen daemons on two cores take half a minute
CORE_S_PER_MB = 0.055  # seconds of a core that a megabyte costs a machine, see above
CORES_USED = 0.75  # part of the cores that the downloads of a room may take
SLACK_S = 30.0  # seconds that a deadline adds to the multiple of the optimum


@dataclass(frozen=True, slots=True)
class Settings:
    """One run."""

    size: int
    """Bytes of a model."""
    uplink_mbit: float
    """Payload of the origin's line, in millions of bits a second."""
    is_uplink_fixed: bool
    """Whether large rooms get that line, too, whatever the cores can carry."""
    lan_mbit: float
    """Payload of each machine's cable."""
    rooms: tuple[int, ...]
    """How many machines download at once, where a scenario leaves that open; ascending."""
    patience: float
    """Deadline of a download as a multiple of its optimum, to which SLACK_S is added."""
    folder: Path | None
    """Where the machines' disks are; None lets the lab choose."""
    scenarios: tuple[str, ...]
    """Names or their beginnings; none means all."""
    json: Path | None
    """Where the rows go as JSON."""

    def for_room(self, count: int) -> Settings:
        """The same with a line that the cores can carry into so many machines at once."""
        if self.is_uplink_fixed:
            return self
        cores = len(os.sched_getaffinity(0))
        carried = CORES_USED * cores / (count * CORE_S_PER_MB) * 8
        return replace(self, uplink_mbit=min(self.uplink_mbit, float(round(carried))))

    @property
    def uplink(self) -> Cable:
        """The origin's line."""
        return _cable(self.uplink_mbit, UPLINK_BURST_BYTES, UPLINK_QUEUE_MS)

    @property
    def lan(self) -> Cable:
        """The cable of a machine, and the origin's while a room is warmed up."""
        return _cable(self.lan_mbit, LAN_BURST_BYTES, LAN_QUEUE_MS)

    @property
    def slow_link(self) -> Cable:
        """The cable of the one slow machine."""
        return _cable(SLOW_LINK_MBIT, UPLINK_BURST_BYTES, UPLINK_QUEUE_MS)

    def over_uplink_s(self, size: int) -> float:
        """Seconds that `size` bytes take from the origin at best."""
        return size * 8 / (self.uplink_mbit * 1e6)

    def over_lan_s(self, size: int) -> float:
        """Seconds that `size` bytes take between two machines at best."""
        return size * 8 / (self.lan_mbit * 1e6)

    def deadline_s(self, optimum_s: float) -> float:
        """When to give up a download whose optimum is known."""
        return self.patience * optimum_s + SLACK_S


def _cable(mbit: float, burst_bytes: int, queue_ms: int) -> Cable:
    return Cable(round(mbit * 1e6 * ETHERNET), burst_bytes, queue_ms)


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; ends the program for a wrong one."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="4 machines and 24 MB")
    parser.add_argument("--size-mb", type=_positive, help="of a model (256)")
    parser.add_argument(
        "--uplink-mbit", type=_positive, help="payload (24; with --quick 48; less for large rooms)"
    )
    parser.add_argument("--lan-mbit", type=_positive, default=950.0, help="payload (950)")
    parser.add_argument("--machines", type=int, nargs="+", help="that download at once (8 16)")
    parser.add_argument("--scenario", action="append", default=[], help="name or its beginning")
    parser.add_argument("--patience", type=_positive, default=4.0, help="deadline in optima (4)")
    parser.add_argument("--folder", type=Path, help="for the machines' disks (memory, or /tmp)")
    parser.add_argument("--json", type=Path, help="file for the rows")
    found = parser.parse_args(arguments)
    rooms = tuple(sorted(set(found.machines or ([4] if found.quick else [8, 16]))))
    if rooms[0] < 3 or rooms[-1] > 200:
        parser.error("--machines: 3 to 200")
    return Settings(
        size=round((found.size_mb or (24 if found.quick else 256)) * 1e6),
        uplink_mbit=found.uplink_mbit or (48.0 if found.quick else 24.0),
        is_uplink_fixed=found.uplink_mbit is not None,
        lan_mbit=found.lan_mbit,
        rooms=rooms,
        patience=found.patience,
        folder=found.folder,
        scenarios=tuple(found.scenario),
        json=found.json,
    )


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number
