"""A user's program on one machine: huggingface_hub with HF_ENDPOINT at the daemon, or at the hub.

It also looks at the daemon from inside its namespace, where alone the local endpoint can be
reached. Started by the lab: `python -m tests.lab.client`.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

from tests.lab.copies import wrong_files
from tests.lab.orders import Json, obey

LOOK_EVERY_S = 0.02  # seconds between two looks at a list of peers that is being timed
WAIT_EVERY_S = 0.25  # seconds between two looks that are not: sixteen clients share two cores
ANSWER_S = 10.0  # seconds for one answer of the daemon


def download(order: Json) -> Json:
    """Get a repo, or one file of it: when it was here and where it lies."""
    repo, file = order["repo"], order["file"]
    where = hf_hub_download(repo, file) if file else snapshot_download(repo)
    ended = time.monotonic()
    folder = Path(where).parent if file else Path(where)
    return {"ended": ended, "folder": str(folder)}


def know(order: Json) -> Json:
    """Ask for the list of files, as any client does first."""
    found = HfApi().model_info(order["repo"], files_metadata=True)
    return {"files": len(found.siblings or [])}


def verify(order: Json) -> Json:
    """Compare what was got with its digests, then delete it."""
    wrong = wrong_files(Path(order["folder"]), order["digests"])
    shutil.rmtree(constants.HF_HOME)
    return {"wrong": wrong}


def view(order: Json) -> Json:
    """One of the daemon's views."""
    return _ask(order["url"], order["name"])


def watch(order: Json) -> Json:
    """Wait until so many peers are ready (`exactly` or `at_least`); when, or None."""
    deadline = time.monotonic() + order["limit_s"]
    pause = LOOK_EVERY_S if "exactly" in order else WAIT_EVERY_S
    while True:
        peers = _ask(order["url"], "peers")["peers"]
        now = time.monotonic()
        count = sum(peer["state"] == "ready" for peer in peers)
        if count == order["exactly"] if "exactly" in order else count >= order["at_least"]:
            return {"at": now}
        if now > deadline:
            return {"at": None, "count": count}
        time.sleep(pause)


def _ask(url: str, name: str) -> Json:
    with urllib.request.urlopen(f"{url}/api/p2p/v1/{name}", timeout=ANSWER_S) as answer:  # noqa: S310
        found: Json = json.load(answer)
        return found


if __name__ == "__main__":
    obey({"download": download, "know": know, "verify": verify, "view": view, "watch": watch})
