"""The manifest: what a snapshot consists of, as the origin published it.

1. By commit it is immutable.
2. A manifest with one bad name is refused whole: nothing of such a repo is created.
3. Files are sorted by path, so that everything derived from a manifest is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from p2pmodels.core.digests import Digest, GitId, Sha256, digest_from_key
from p2pmodels.core.names import Commit, FilePath, RepoId
from p2pmodels.errors import EntryNotFound, NameRefused, ProtocolError

FILES_LIMIT = 10_000  # files of one snapshot; the same bound as for torrents
FILE_SIZE_LIMIT = 4 << 40  # bytes of one file, 4 TiB


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a snapshot; `git_id` is the id in git's tree (of the pointer, for LFS files)."""

    path: FilePath
    size: int
    digest: Digest
    git_id: GitId | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.size <= FILE_SIZE_LIMIT:
            raise ProtocolError(f"size {self.size} of {self.path}")

    @property
    def is_lfs(self) -> bool:
        """Whether the origin names it by sha256."""
        return isinstance(self.digest, Sha256)


@dataclass(frozen=True, slots=True)
class Want:
    """One file at one commit: what a fetch is about."""

    repo: RepoId
    commit: Commit
    entry: FileEntry

    def __str__(self) -> str:
        return f"{self.repo}@{self.commit.value[:8]}/{self.entry.path}"


@dataclass(frozen=True)
class Manifest:
    """The files of repo@commit, sorted by path. `card` holds the hub's descriptive fields."""

    repo: RepoId
    commit: Commit
    files: tuple[FileEntry, ...]
    is_restricted: bool = False
    card: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.files) > FILES_LIMIT:
            raise ProtocolError(f"{len(self.files)} files in {self.repo}, {FILES_LIMIT} at most")
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda f: f.path.value)))
        _refuse_collisions(entry.path for entry in self.files)
        object.__setattr__(self, "_by_path", {entry.path: entry for entry in self.files})

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)

    def find(self, path: FilePath) -> FileEntry:
        """The entry of `path`. Raises EntryNotFound."""
        by_path: dict[FilePath, FileEntry] = self.__dict__["_by_path"]
        entry = by_path.get(path)
        if entry is None:
            raise EntryNotFound(f"{self.repo}@{self.commit.value[:8]}/{path}")
        return entry

    def want(self, path: FilePath) -> Want:
        """The want for one of the files. Raises EntryNotFound."""
        return Want(self.repo, self.commit, self.find(path))

    def as_json(self) -> dict[str, object]:
        """The form that the index keeps; `from_json` reads it back."""
        return {
            "repo": str(self.repo),
            "commit": self.commit.value,
            "is_restricted": self.is_restricted,
            "card": dict(self.card),
            "files": [
                [
                    entry.path.value,
                    entry.size,
                    entry.digest.key,
                    entry.git_id.value if entry.git_id else None,
                ]
                for entry in self.files
            ],
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Manifest:
        """Read what `as_json` wrote. Raises NameRefused, ProtocolError, KeyError."""
        return cls(
            RepoId.parse(saved["repo"]),
            Commit(saved["commit"]),
            tuple(
                FileEntry(FilePath(path), size, digest_from_key(key), GitId(git) if git else None)
                for path, size, key, git in saved["files"]
            ),
            saved["is_restricted"],
            saved["card"],
        )

    @property
    def wants(self) -> tuple[Want, ...]:
        """A want for every file."""
        return tuple(Want(self.repo, self.commit, entry) for entry in self.files)


def _refuse_collisions(paths: Iterable[FilePath]) -> None:
    """Refuse names that one file system could take for the same, and a file that is a folder."""
    files: dict[str, FilePath] = {}
    folders: dict[str, FilePath] = {}
    for path in paths:
        key = path.collision_key
        if key in files:
            raise NameRefused(f"{path} and {files[key]} are one name on some file systems")
        files[key] = path
        parts = key.split("/")
        for depth in range(1, len(parts)):
            folders.setdefault("/".join(parts[:depth]), path)
    for key, path in files.items():
        if key in folders:
            raise NameRefused(f"{path} is a file and, in {folders[key]}, a folder")
