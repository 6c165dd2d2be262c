"""The systemd units: sandboxed as promised, explained line by line, and the daemon runs so."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from p2pmodels.demo.processes import DaemonProcess

UNITS = Path(__file__).parent.parent / "systemd"
SYSTEM, USER = UNITS / "p2pmodels.service", UNITS / "p2pmodels-user.service"
ANALYZE = shutil.which("systemd-analyze")
EXPOSURE_LIMIT = 15  # tenths
PR_SET_MDWE, PR_GET_MDWE = 65, 66  # prctl(2), since Linux 6.3
NO_WRITABLE_CODE = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def settings(unit: Path) -> dict[str, str]:
    lines = [line for line in unit.read_text().splitlines() if re.match(r"[A-Za-z]+=", line)]
    return dict(line.split("=", 1) for line in lines)


@needs_systemd
def test_system_unit_is_hardly_exposed() -> None:
    command = [str(ANALYZE), "security", "--offline=true", f"--threshold={EXPOSURE_LIMIT}"]
    done = subprocess.run([*command, SYSTEM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


@needs_systemd
def test_system_unit_has_no_unknown_setting(tmp_path: Path) -> None:
    # The command of the unit need not be installed here; all else is verified.
    unit = tmp_path / SYSTEM.name
    unit.write_text(re.sub(r"(?m)^ExecStart=.*", "ExecStart=/bin/true", SYSTEM.read_text()))
    command = [str(ANALYZE), "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert SYSTEM.name not in done.stderr


@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=lambda unit: unit.name)
def test_every_setting_of_a_unit_is_explained(unit: Path) -> None:
    previous = ""
    for line in unit.read_text().splitlines():
        if re.match(r"[A-Za-z]+=", line) and not line.startswith("Description="):
            assert previous.startswith("# "), line
        previous = line


@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=lambda unit: unit.name)
def test_unit_lets_systemd_watch_and_restart(unit: Path) -> None:
    found = settings(unit)
    assert found["Type"] == "notify"
    assert found["WatchdogSec"] == "30"
    assert found["Restart"] == "on-failure"
    assert found["TimeoutStopSec"] == "30"
    assert found["RestartPreventExitStatus"] == "2"
    assert "p2pmodels serve" in found["ExecStart"]


def test_system_unit_keeps_its_data_to_itself() -> None:
    found = settings(SYSTEM)
    assert found["DynamicUser"] == "yes"
    assert found["StateDirectory"] == "p2pmodels"
    assert found["UMask"] == "0077"
    assert "169.254.169.254" in found["IPAddressDeny"]


@pytest.mark.asyncio
async def test_daemon_needs_no_memory_that_is_writable_and_executable(tmp_path: Path) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_GET_MDWE, 0, 0, 0, 0) < 0:
        pytest.skip("this kernel cannot refuse such memory (Linux 6.3 can)")
    under = [sys.executable, "-c", NO_WRITABLE_CODE]
    environ = {"STATE_DIRECTORY": "", "HOME": os.environ.get("HOME", "/")}
    async with DaemonProcess(
        tmp_path, "--origin", "http://127.0.0.1:1", "--no-mdns", under=under, env=environ
    ) as daemon:
        status = await daemon.ask("status")
        assert status["parts"]
        assert await daemon.stop() == 0


def test_webrtc_needs_no_memory_that_is_writable_and_executable() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_GET_MDWE, 0, 0, 0, 0) < 0:
        pytest.skip("this kernel cannot refuse such memory (Linux 6.3 can)")
    file = "tests/sources/rtc/test_channel.py"
    test = f"{file}::test_both_sides_see_the_same_keys_and_frames_go_both_ways"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(
        [sys.executable, "-c", NO_WRITABLE_CODE, *command],
        cwd=UNITS.parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
