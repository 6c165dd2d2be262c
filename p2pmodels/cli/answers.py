"""The daemon's answers as types, for showing them; `--json` prints what came, unchanged.

Unknown fields are ignored and most have a default, so that a command line and a daemon of
neighbouring releases understand each other.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from p2pmodels.cli.client import JsonObject
from p2pmodels.errors import DaemonUnreachable


class Answer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ErrorReport(Answer):
    code: str = "failed"
    message: str = ""


class StoreFigures(Answer):
    blobs: int = 0
    bytes: int = 0
    limit_bytes: int = 0
    free_bytes: int = 0
    pinned_bytes: int = 0


class OriginState(Answer):
    url: str
    state: str = "untried"
    error: ErrorReport | None = None


class Status(Answer):
    """`GET /status`."""

    version: str
    id: str = ""
    uptime_s: float = 0
    url: str = ""
    peer_url: str = ""
    bt_port: int = 0
    profile: str = ""
    data_dir: str = ""
    store: StoreFigures = StoreFigures()
    bytes_by_source: dict[str, int] = {}
    served_bytes: int = 0
    shared_bytes: int = 0
    origins: list[OriginState] = []
    parts: dict[str, str] = {}
    seeding: int = 0
    peers: int = 0
    transfers: int = 0


class Model(Answer):
    repo: str
    commit: str
    revisions: list[str] = []
    files: int = 0
    files_cached: int = 0
    bytes: int = 0
    bytes_cached: int = 0
    is_pinned: bool = False
    share: str = ""
    last_used: str | None = None
    sources: dict[str, int] = {}


class Models(Answer):
    """`GET /models`."""

    models: list[Model]


class Peer(Answer):
    id: str
    address: str = ""
    bt_port: int = 0
    found_by: str = ""
    version: str | None = None
    state: str = ""
    last_seen_s: float | None = None
    bytes_from: int = 0
    bytes_to: int = 0


class Peers(Answer):
    """`GET /peers`."""

    peers: list[Peer]


class Transfer(Answer):
    repo: str
    path: str = ""
    size: int = 0
    landed: int = 0
    rate_bytes_per_s: float = 0
    source: str | None = None
    sources: dict[str, int] = {}
    state: str = ""
    readers: int = 0
    error: ErrorReport | None = None


class Upload(Answer):
    name: str
    infohash: str = ""
    bytes: int = 0
    rate_bytes_per_s: float = 0
    peers: int = 0


class Transfers(Answer):
    """`GET /transfers`."""

    transfers: list[Transfer]
    uploads: list[Upload] = []


class Kept(Answer):
    """`POST /pin`, `/unpin`, `/evict`."""

    repo: str
    commit: str
    files: int = 0
    bytes: int = 0


class TorrentAnswer(Answer):
    """`POST /torrent`."""

    name: str
    infohash: str
    magnet: str
    torrent: str


class Check(Answer):
    name: str
    result: str
    detail: str = ""
    advice: str = ""


class Checks(Answer):
    """`GET /doctor`."""

    checks: list[Check]


class Value(Answer):
    key: str
    value: object = None
    source: str = "default"


class Values(Answer):
    """`GET /config`."""

    values: list[Value]


class PlannedFile(Answer):
    path: str
    size: int = 0
    is_cached: bool = False


class Plan(Answer):
    """The first event of a fetch."""

    repo: str
    commit: str
    files: list[PlannedFile]


class RunningFile(Answer):
    path: str
    landed: int = 0
    size: int = 0
    rate_bytes_per_s: float = 0
    sources: dict[str, int] = {}


class Progress(Answer):
    """A fetch on its way: the files that run now."""

    files: list[RunningFile]


class FinishedFile(Answer):
    """A file that is here and verified."""

    path: str
    size: int
    sha256: str
    local_path: str | None = None
    sources: dict[str, int] = {}


class FetchDone(Answer):
    """The last event of a fetch."""

    files: int = 0
    bytes: int = 0
    sources: dict[str, int] = {}


class CheckProgress(Answer):
    checked: int = 0
    total: int = 0
    bytes: int = 0


class Damaged(Answer):
    name: str
    reason: str = ""


class CheckDone(Answer):
    checked: int = 0
    damaged: int = 0
    repaired: int = 0
    bytes: int = 0


AnswerType = TypeVar("AnswerType", bound=Answer)


def read(kind: type[AnswerType], answer: JsonObject) -> AnswerType:
    """The answer as its type. Raises DaemonUnreachable when it is something else."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DaemonUnreachable(
            f"its answer is not understood ({kind.__name__} {where}: {first['msg']})",
            advice="The daemon and this command are of different releases; update both.",
        ) from None
