"""Names as types: a bad one cannot exist.

Every name from a URL, a manifest, a torrent or a peer becomes one of these at the edge, or raises
`NameRefused`. None of them can climb out of a folder, hide a control character or collide with
another name on a file system.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from p2pmodels.errors import NameRefused

REPO_NAME_LIMIT = 96  # characters; the hub's own rule
PATH_BYTES_LIMIT = 1024  # bytes of UTF-8 for a whole path; PATH_MAX leaves room for our folders
SEGMENT_BYTES_LIMIT = 255  # bytes; NAME_MAX of common file systems
PATH_DEPTH_LIMIT = 32  # folders; no published repo comes near
REVISION_LIMIT = 255  # characters; git's own ref files end there

# ASCII on purpose: `\w` would admit the digits and letters of every script.
_REPO_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+@=-]*")
# Device names of Windows: such a file could not be stored there, and some tools misread it here.
_RESERVED = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
_FORBIDDEN_IN_SEGMENT = frozenset('\\:*?"<>|')


class RepoKind(StrEnum):
    """The hub's kinds of repo; the value is the word in `/api/{kind}/…`."""

    MODEL = "models"
    DATASET = "datasets"
    SPACE = "spaces"


@dataclass(frozen=True, slots=True, order=True)
class RepoId:
    """`org/name`, or one of the hub's old one-word names such as `gpt2`."""

    name: str
    kind: RepoKind = RepoKind.MODEL

    def __post_init__(self) -> None:
        parts = self.name.split("/")
        if (
            len(self.name) > REPO_NAME_LIMIT
            or not 1 <= len(parts) <= 2
            or any(not _REPO_PART.fullmatch(part) for part in parts)
            or "--" in self.name
            or ".." in self.name
            or self.name.endswith(".git")
        ):
            raise NameRefused(f"repo {self.name[:120]!r}")

    @property
    def url_path(self) -> str:
        """The repo as it stands in front of `/resolve/`: datasets and spaces carry their kind."""
        return self.name if self.kind is RepoKind.MODEL else f"{self.kind.value}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> RepoId:
        """Read `org/name`, `datasets/org/name` or `spaces/org/name`."""
        head, _, rest = text.partition("/")
        if head in (RepoKind.DATASET.value, RepoKind.SPACE.value) and rest:
            return cls(rest, RepoKind(head))
        return cls(text)

    def __str__(self) -> str:
        return self.url_path


@dataclass(frozen=True, slots=True, order=True)
class Commit:
    """An immutable revision: 40 lower-case hexadecimal digits."""

    value: str

    def __post_init__(self) -> None:
        if not _COMMIT.fullmatch(self.value):
            raise NameRefused(f"commit {self.value[:60]!r}")

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class Revision:
    """Any ref of a repo: a branch, a tag, `refs/pr/1` or a commit; it may move."""

    value: str

    def __post_init__(self) -> None:
        text = self.value
        if (
            len(text) > REVISION_LIMIT
            or not _REVISION.fullmatch(text)
            or ".." in text
            or "//" in text
            or "@{" in text
            or text.endswith(("/", ".", ".lock"))
            or any(part.startswith(".") for part in text.split("/"))
        ):
            raise NameRefused(f"revision {text[:80]!r}")

    @property
    def commit(self) -> Commit | None:
        """The commit, if this revision is one and so cannot move."""
        return Commit(self.value) if _COMMIT.fullmatch(self.value) else None

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class FilePath:
    """A file of a repo: relative, `/` between segments, safe on every file system.

    Stops: parent and absolute paths, drive letters and UNC names, back-slashes, NUL and control
    characters, over-long segments and paths, deep nesting, reserved device names, trailing dots
    and spaces, empty segments, bidirectional overrides, lone surrogates.
    """

    value: str

    def __post_init__(self) -> None:
        reason = _refusal(self.value)
        if reason:
            raise NameRefused(f"file path {self.value[:120]!r} ({reason})")

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.value.split("/"))

    @property
    def collision_key(self) -> str:
        """Equal for two paths that one file system could take for the same."""
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", self.value).casefold())

    def __str__(self) -> str:
        return self.value


def _refusal(text: str) -> str | None:
    """Why `text` cannot be a file path, or None."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "not valid Unicode"
    if not text:
        return "empty"
    if len(encoded) > PATH_BYTES_LIMIT:
        return "too long"
    segments = text.split("/")
    if len(segments) > PATH_DEPTH_LIMIT:
        return "too deep"
    for segment in segments:
        if segment in ("", ".", ".."):
            return "empty, '.' or '..' segment"
        if len(segment.encode()) > SEGMENT_BYTES_LIMIT:
            return "segment too long"
        if segment[-1] in ". ":
            return "trailing dot or space"
        if segment[0] == " ":
            return "leading space"
        if _RESERVED.fullmatch(segment):
            return "reserved name"
        if any(
            character in _FORBIDDEN_IN_SEGMENT or unicodedata.category(character) in ("Cc", "Cf")
            for character in segment
        ):
            return "forbidden character"
    return None
