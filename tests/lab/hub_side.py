"""The origin of a room: the demo hub in its own namespace, and what its access log tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from p2pmodels.demo.processes import HubProcess
from tests.lab.models import Model
from tests.system.netns import Host


@dataclass(frozen=True, slots=True)
class Requests:
    """What the origin was asked. The hub's quota counts the first three; a CDN has none."""

    api: int = 0
    head: int = 0
    """HEAD of files."""
    get: int = 0
    """GET of files at the hub: small ones, and the redirects of LFS files."""
    cdn: int = 0
    """GET of bytes behind those redirects."""
    refused: int = 0
    """Those among the first three that got 429."""

    def __str__(self) -> str:
        return f"{self.api}/{self.head}/{self.get}/{self.cdn}"


def count_requests(answers: Iterable[Mapping[str, object]]) -> Requests:
    """Sort the lines of an access log."""
    api = head = get = cdn = refused = 0
    for answer in answers:
        if answer["listener"] == "cdn":
            cdn += 1
            continue
        refused += answer["status"] == 429
        if str(answer["path"]).startswith("/api/"):
            api += 1
        elif answer["method"] == "HEAD":
            head += 1
        else:
            get += 1
    return Requests(api, head, get, cdn, refused)


def hub_on(host: Host, folder: Path, model: Model, *options: str) -> HubProcess:
    """A hub on that host that serves the model."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"--file={model.repo}:{path}={local}" for path, local in model.files.items()]
    return HubProcess(folder, "--host", host.address, *files, *options, under=host.command())
