"""Reading the hub's URLs: which repo, revision and file a raw path names.

Pure. Split first, decode afterwards: `refs%2Fpr%2F1` is one segment. A segment is decoded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from p2pmodels.core.names import FilePath, RepoId, RepoKind, Revision
from p2pmodels.errors import NameRefused, NotFound

URL_LIMIT = 4096  # characters of a path; the longest honest one is far below


class Verb(StrEnum):
    """What the hub door is asked for."""

    RESOLVE = "resolve"
    RAW = "raw"
    INFO = "info"
    TREE = "tree"
    PATHS_INFO = "paths-info"
    REFS = "refs"
    COMMITS = "commits"


@dataclass(frozen=True, slots=True)
class HubRoute:
    """A parsed hub URL; `path` is None where the route needs none."""

    verb: Verb
    repo: RepoId
    revision: Revision
    path: FilePath | None = None


MAIN = Revision("main")


def decode(segment: str) -> str:
    """Percent-decode one segment. Raises NameRefused for anything that is not UTF-8."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise NameRefused(f"{segment[:80]!r} is not UTF-8") from error


def parse_hub_path(raw: str) -> HubRoute:
    """The route that a raw path (no query) names. Raises NotFound, NameRefused."""
    if len(raw) > URL_LIMIT:
        raise NameRefused(f"a path of {len(raw)} characters")
    segments = raw.lstrip("/").split("/")
    if segments[0] == "api":
        return _parse_api(segments[1:])
    kind = RepoKind.MODEL
    if segments[0] in (RepoKind.DATASET.value, RepoKind.SPACE.value):
        kind, segments = RepoKind(segments[0]), segments[1:]
    for at in (2, 1):  # `org/name` first: a one-word repo with a revision called `raw` is rarer
        if len(segments) > at + 2 and segments[at] in (Verb.RESOLVE, Verb.RAW):
            return HubRoute(
                Verb(segments[at]),
                RepoId(decode("/".join(segments[:at])), kind),
                Revision(decode(segments[at + 1])),
                _file_path(segments[at + 2 :]),
            )
    raise NotFound("no such page")


def _parse_api(segments: list[str]) -> HubRoute:
    """`{kind}/{repo}[/{verb}[/{revision}[/{path}]]]`."""
    try:
        kind = RepoKind(segments[0])
    except (ValueError, IndexError) as error:
        raise NotFound("no such page") from error
    verbs = ("revision", Verb.TREE, Verb.PATHS_INFO, Verb.REFS, Verb.COMMITS)
    rest = [part for part in segments[1:] if part] if segments[-1:] == [""] else segments[1:]
    if not rest:
        raise NotFound("searching is not offered here")
    at = next((i for i in (1, 2) if len(rest) > i and rest[i] in verbs), len(rest))
    repo = RepoId(decode("/".join(rest[:at])), kind)
    if at == len(rest):
        return HubRoute(Verb.INFO, repo, MAIN)
    revision = Revision(decode(rest[at + 1])) if len(rest) > at + 1 else MAIN
    verb = Verb.INFO if rest[at] == "revision" else Verb(rest[at])
    below = rest[at + 2 :]
    if below and verb is not Verb.TREE:
        raise NotFound("no such page")
    return HubRoute(verb, repo, revision, _file_path(below) if below else None)


def _file_path(segments: list[str]) -> FilePath:
    """`%2F` inside a tree path stands for a separator, as huggingface_hub sends it."""
    return FilePath("/".join(decode(segment) for segment in segments))
