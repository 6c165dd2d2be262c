"""The rows of the lab, as a table for people and as JSON for the record.

Times are multiples of the optimum: the size divided by the rate of the line that the bytes have to
cross once, which is the origin's uplink, or a machine's own cable when the origin need give
nothing.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.hub_side import Requests

CORES = os.cpu_count() or 1
TICKS = os.sysconf("SC_CLK_TCK")  # units a second of the times in /proc
TITLES = (
    f"{'scenario':18} {'n':>3} {'MB':>5} {'origin':>7} {'api/head/get/cdn':>18}"
    f" {'opt s':>6} {'first':>6} {'median':>6} {'last':>6} {'cpu s':>6}"
    f" {'cpu%':>4} {'all%':>4}  remarks"
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one scenario came to."""

    scenario: str
    machines: int
    size: int
    """Bytes of the model."""
    origin_bytes: int
    """TCP payload that left the origin's interface: bodies, headers, TLS if there were any."""
    requests: Requests
    optimum_s: float
    counted: int
    """Machines whose time counts."""
    times_s: tuple[float, ...]
    """Of those that were done, ascending."""
    wall_s: float
    cpu_s: float
    """Of the daemons, from the go to the last one done."""
    client_cpu_s: float
    busy_s: float
    """Of everything on this computer, the kernel and strangers too: near `wall_s` times the cores
    the lab itself is the limit, and the times are its own."""
    remarks: str = ""
    failure: str = ""

    @property
    def origin_ratio(self) -> float:
        """The origin's bytes in sizes of the model."""
        return self.origin_bytes / self.size

    @property
    def factors(self) -> tuple[float, float, float] | None:
        """First, median and last machine in optima; None when nobody was done."""
        if not self.times_s:
            return None
        first, last = self.times_s[0], self.times_s[-1]
        median = statistics.median(self.times_s)
        return first / self.optimum_s, median / self.optimum_s, last / self.optimum_s

    @property
    def cpu_percent(self) -> float:
        """Processor time of the daemons against that of all cores."""
        return self._percent(self.cpu_s)

    @property
    def busy_percent(self) -> float:
        """Processor time of everything against that of all cores."""
        return self._percent(self.busy_s)

    def _percent(self, seconds: float) -> float:
        return 100 * seconds / (self.wall_s * CORES) if self.wall_s else 0.0

    def text(self) -> str:
        """One line of the table."""
        factors = self.factors
        times = "".join(f" {f:6.2f}" for f in factors) if factors else f" {'-':>6}" * 3
        notes = [self.remarks] if self.remarks else []
        if self.failure:
            notes.insert(0, f"FAILED, {len(self.times_s)} of {self.counted} done: {self.failure}")
        return (
            f"{self.scenario:18} {self.machines:3} {self.size / 1e6:5.0f} {self.origin_ratio:7.3f}"
            f" {self.requests!s:>18} {self.optimum_s:6.1f}{times} {self.cpu_s:6.1f}"
            f" {self.cpu_percent:4.0f} {self.busy_percent:4.0f}  {'; '.join(notes)}"
        ).rstrip()

    def as_json(self) -> dict[str, object]:
        """Every figure, the derived ones too."""
        return asdict(self) | {
            "origin_ratio": round(self.origin_ratio, 4),
            "factors": self.factors and [round(factor, 3) for factor in self.factors],
            "cpu_percent": round(self.cpu_percent, 1),
            "busy_percent": round(self.busy_percent, 1),
        }


def cost(row: Row, calm: Row) -> str:
    """What a harmed room paid in time and in origin bytes beside the same room in peace."""
    if not row.times_s or not calm.times_s:
        return "no comparison: nobody was done"
    later = row.times_s[-1] / row.optimum_s - calm.times_s[-1] / calm.optimum_s
    more = row.origin_ratio - calm.origin_ratio
    return f"{later:+.2f} optima and {more:+.3f} sizes against {calm.scenario}"


def busy_seconds() -> float:
    """Processor seconds of everything since this computer began."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle = int(fields[3]) + int(fields[4])  # idle and iowait
    return (sum(map(int, fields[:8])) - idle) / TICKS


def write_json(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows so far."""
    path.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")
