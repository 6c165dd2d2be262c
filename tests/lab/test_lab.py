"""The lab itself, with three machines and a small file: it measures, and it leaves nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.machines import ROOT
from tests.system.netns import unavailable

BOUND_S = 60.0  # seconds for three machines to start and be measured, on a busy computer

pytestmark = pytest.mark.system


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Path]:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    made = tmp_path / "disks"
    made.mkdir()
    yield made


def start(disks: Path, *words: str) -> subprocess.Popen[str]:
    """The lab with three machines and 3 MB."""
    command = [sys.executable, "-m", "tests.lab", "--machines", "3", "--size-mb", "3"]
    command += ["--folder", str(disks), "--scenario", "cold-file", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def processes_of(disks: Path) -> dict[int, str]:
    """Processes with that folder on their command line, but for the lab, and their namespaces."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if any(str(disks) in word for word in words) and "tests.lab" not in words:
                name = subprocess.run(
                    ["ip", "netns", "identify", entry.name], capture_output=True, text=True
                )
                found[int(entry.name)] = name.stdout.strip()
    return found


def test_lab_measures_a_small_room(disks: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    lab = start(disks, "--json", str(rows))
    out, _ = lab.communicate(timeout=BOUND_S)
    assert lab.returncode == 0, out
    (row,) = json.loads(rows.read_text())
    assert len(row["times_s"]) == 3
    # At least one copy has crossed the uplink, in no less than its time but for the queue.
    assert row["origin_bytes"] >= row["size"]
    assert row["factors"][2] > 0.9
    assert row["requests"]["api"] >= 1
    assert list(disks.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_interrupted_lab_leaves_no_process_namespace_or_file(
    disks: Path, number: signal.Signals
) -> None:
    lab = start(disks, "--uplink-mbit", "1")
    deadline = time.monotonic() + BOUND_S
    running: dict[int, str] = {}
    while len(running) < 4 and time.monotonic() < deadline:  # the hub and three daemons
        running = processes_of(disks)
    assert len(running) >= 4
    lab.send_signal(number)
    lab.communicate(timeout=BOUND_S)
    assert lab.returncode == 130
    assert list(disks.iterdir()) == []
    assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert not [name for name in running.values() if name and name in listed]
