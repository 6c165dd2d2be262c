"""`python -m tests.lab`: run the scenarios one after the other, a row of the table each.

Ends with status 1 when a scenario failed, 130 after Ctrl-C; the rows so far are kept in both cases.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.lab.catalogue import catalogue
from tests.lab.room import ScenarioFailed
from tests.lab.scenarios import Stage
from tests.lab.settings import Settings, parse_settings
from tests.lab.table import TITLES, write_json
from tests.system.netns import unavailable

MEMORY_DISK = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
COPIES = 2  # of the model on each machine: the daemon's and the client's
SPARE = 2  # times that much is to be free before memory serves as the machines' disks


async def main(settings: Settings) -> int:
    chosen = {
        name: scenario
        for name, scenario in catalogue(settings).items()
        if not settings.scenarios or name.startswith(settings.scenarios)
    }
    if not chosen:
        print(f"no such scenario; there are {', '.join(catalogue(settings))}", file=sys.stderr)
        return 2
    stop = asyncio.current_task()
    if stop is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.cancel)
    failed = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="p2pmodels-lab-", dir=disks(settings)) as disk:
        stage = Stage(settings, Path(disk))
        for count in settings.rooms:
            mbit = settings.for_room(count).uplink_mbit
            print(f"{count} machines at once: the origin's line has {mbit:g} Mbit/s")
        print(TITLES, flush=True)
        for name, scenario in chosen.items():
            try:
                rows = list(await scenario(stage))
            except (ScenarioFailed, TimeoutError) as failure:
                print(f"{name:18} FAILED before it began: {failure!r}", flush=True)
                failed += 1
                continue
            except Exception:
                # A fault of the lab, or a daemon that does not start: the others are still wanted.
                print(f"{name:18} FAILED: {traceback.format_exc()}", flush=True)
                failed += 1
                continue
            for row in rows:
                stage.rows.append(row)
                failed += bool(row.failure)
                print(row.text(), flush=True)
            if settings.json is not None:
                write_json(settings.json, stage.rows)
    print(f"{len(chosen)} scenarios in {(time.monotonic() - began) / 60:.1f} min, {failed} failed")
    return 1 if failed else 0


def disks(settings: Settings) -> Path:
    """Where the machines' disks are: in memory when it has room.

    Sixteen machines have sixteen disks, which one disk in their place would not be.
    """
    if settings.folder is not None:
        return settings.folder
    need = SPARE * COPIES * (settings.rooms[-1] + 1) * settings.size
    if MEMORY_DISK.is_dir() and shutil.disk_usage(MEMORY_DISK).free > need:
        return MEMORY_DISK
    return Path(tempfile.gettempdir())


if __name__ == "__main__":
    wanted = parse_settings()
    reason = unavailable()
    if reason is not None:
        sys.exit(f"the lab cannot work here: {reason}")
    try:
        sys.exit(asyncio.run(main(wanted)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
