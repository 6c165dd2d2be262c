"""How the paths of the hub are read: which repo, revision and file a request names.

1. The raw path is split first and decoded afterwards, so `refs%2Fpr%2F1` is one revision.
2. Old one-word repos (`gpt2`) stand beside `org/name`; the route's word is looked for behind both.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from p2pmodels.core.names import RepoId, RepoKind
from p2pmodels.demo.hub_repos import kind_of
from p2pmodels.errors import NameRefused

FILE_WORDS = ("resolve", "raw")
API_WORDS = ("revision", "tree", "paths-info", "refs", "xet-read-token", "commits")


@dataclass(frozen=True, slots=True)
class Route:
    """A path, read: `word` is `resolve`, `raw`, `resolve-cache`, `info` or one of API_WORDS."""

    word: str
    repo: RepoId | None
    revision: str = "main"
    path: str = ""


def read_file_route(raw_path: str) -> Route | None:
    """`/[{kind}/]{repo}/resolve|raw/{rev}/{path}`, or None when it is something else."""
    segments = raw_path.split("/")[1:]
    kind = kind_of(segments[0])
    if kind is not None and kind is not RepoKind.MODEL:
        segments = segments[1:]
    for position in (1, 2):
        if len(segments) > position + 2 and segments[position] in FILE_WORDS:
            repo = _repo(segments[:position], kind or RepoKind.MODEL)
            revision, rest = _revision(segments[position + 1 :])
            return Route(segments[position], repo, revision, _join(rest))
    return None


def read_api_route(raw_path: str) -> Route | None:
    """`/api/{kind}/{repo}[/{word}/…]` or `/api/resolve-cache/…`, or None for something else."""
    segments = raw_path.rstrip("/").split("/")[2:]
    is_cache = segments[:1] == ["resolve-cache"]
    if is_cache:
        segments = segments[1:]
    kind = kind_of(segments[0]) if segments else None
    if kind is None or len(segments) < 2:
        return None
    segments = segments[1:]
    if is_cache:
        # `{repo}/{commit}/{path}`: the commit is the first segment of 40 digits.
        position = 1 if len(segments) > 1 and len(segments[1]) == 40 else 2
        repo = _repo(segments[:position], kind)
        return Route("resolve-cache", repo, *_commit_and_path(segments[position:]))
    for position in (1, 2):
        if len(segments) > position and segments[position] in API_WORDS:
            repo = _repo(segments[:position], kind)
            revision, rest = _revision(segments[position + 1 :])
            return Route(segments[position], repo, revision, _join(rest))
    return Route("info", _repo(segments, kind)) if len(segments) <= 2 else None


def _repo(segments: list[str], kind: RepoKind) -> RepoId | None:
    """The repo, or None for a name that no repo can have."""
    try:
        return RepoId(_join(segments), kind)
    except NameRefused:
        return None


def _revision(segments: list[str]) -> tuple[str, list[str]]:
    """The revision in front, and what follows; the hub also takes `refs/pr/1` unencoded."""
    if len(segments) > 2 and segments[0] == "refs" and segments[1] in ("pr", "convert"):
        return "/".join(segments[:3]), segments[3:]
    return (unquote(segments[0]) if segments else "main"), segments[1:]


def _commit_and_path(segments: list[str]) -> tuple[str, str]:
    return (segments[0] if segments else ""), _join(segments[1:])


def _join(segments: list[str]) -> str:
    """Decode what was split."""
    return "/".join(unquote(segment) for segment in segments)
