"""What the demo hub holds: repos, their snapshots and files, and the JSON that describes them.

1. A commit, once made, never changes and stays resolvable; a branch moves with each `add_repo`.
2. Ids are the real ones: git's for small files, pointers and folders, sha256 for LFS files.
3. Paths are kept as given, even hostile ones: refusing them is the daemon's work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodels.core.digests import Sha256, git_id, lfs_pointer
from p2pmodels.core.names import RepoId, RepoKind

Content = bytes | Path
Json = dict[str, object]

LFS_FROM = 10 << 20  # bytes; the hub refuses larger files that are not LFS
LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".onnx", ".pt")  # the hub's .gitattributes
SHORT_COMMIT = 7  # digits; shorter prefixes are not taken for a commit
DATE = "2026-01-01T00:00:00.000Z"  # one date for all, so that answers are deterministic

_hashed: dict[tuple[Path, int, int], tuple[str, str]] = {}


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file; `sha256` is set for LFS files, whose `git_id` is that of the pointer."""

    path: str
    content: Content
    size: int
    git_id: str
    sha256: str | None

    @property
    def etag(self) -> str:
        """The value of X-Linked-ETag (LFS) or ETag (small files), without quotes."""
        return self.sha256 or self.git_id

    @property
    def xet_hash(self) -> str:
        """The other 64 digits that the hub gives for an LFS file; never its sha256."""
        return hashlib.sha256(b"xet" + self.etag.encode()).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git holds for an LFS file, else nothing."""
        return lfs_pointer(Sha256(self.sha256), self.size) if self.sha256 else b""

    def sibling(self, blobs: bool) -> Json:
        """The entry of `siblings` in a repo's information."""
        entry: Json = {"rfilename": self.path}
        if blobs:
            entry |= {"size": self.size, "blobId": self.git_id}
            if self.sha256:
                entry["lfs"] = {"sha256": self.sha256} | self._lfs_sizes
        return entry

    def tree_item(self, xet: bool) -> Json:
        """The item of a tree; the key of the LFS digest is `oid` here."""
        item: Json = {"type": "file", "oid": self.git_id, "size": self.size, "path": self.path}
        if self.sha256:
            item["lfs"] = {"oid": self.sha256} | self._lfs_sizes
            if xet:
                item["xetHash"] = self.xet_hash
        return item

    @property
    def _lfs_sizes(self) -> dict[str, object]:
        return {"size": self.size, "pointerSize": len(self.pointer)}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of one commit; `folders` maps each folder to the id of its git tree."""

    commit: str
    files: Mapping[str, HubFile]
    folders: Mapping[str, str]

    def tree(self, folder: str, recursive: bool, xet: bool) -> list[Json] | None:
        """The items below `folder` ("" for the root), or None when there is no such folder."""
        if folder not in self.folders:
            return None
        start = f"{folder}/" if folder else ""
        items = [
            {"type": "directory", "oid": oid, "size": 0, "path": path}
            for path, oid in self.folders.items()
            if path and path.startswith(start)
        ]
        items += [
            file.tree_item(xet) for path, file in self.files.items() if path.startswith(start)
        ]
        if not recursive:
            items = [item for item in items if "/" not in str(item["path"])[len(start) :]]
        return sorted(items, key=lambda item: str(item["path"]))


@dataclass(slots=True)
class HubRepo:
    """One repo, its branches and every commit it ever had."""

    repo: RepoId
    gated: bool | str = False
    private: bool = False
    tokens: frozenset[str] = frozenset()
    branches: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)

    @property
    def api_path(self) -> str:
        """The repo as it stands behind `/api/`."""
        return f"{self.repo.kind.value}/{self.repo.name}"

    def find(self, revision: str) -> Snapshot | None:
        """The snapshot of a branch, a full ref, a commit, the start of one, or HEAD."""
        name = revision.removeprefix("refs/heads/")
        if name == "HEAD":
            name = "main"
        commit = self.branches.get(name, name)
        if commit in self.snapshots or len(commit) < SHORT_COMMIT:
            return self.snapshots.get(commit)
        matches = [found for found in self.snapshots if found.startswith(commit)]
        return self.snapshots[matches[0]] if len(matches) == 1 else None

    def information(self, snapshot: Snapshot, blobs: bool) -> Json:
        """The answer of `/api/{kind}/{repo}[/revision/{rev}]`."""
        name = self.repo.name
        files = snapshot.files.values()
        return {
            "_id": hashlib.sha256(self.api_path.encode()).hexdigest()[:24],
            "id": name,
            "modelId": name,
            "author": name.partition("/")[0],
            "sha": snapshot.commit,
            "lastModified": DATE,
            "createdAt": DATE,
            "private": self.private,
            "gated": self.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "pipeline_tag": None,
            "library_name": None,
            "usedStorage": sum(file.size for file in files),
            "siblings": [file.sibling(blobs) for file in files],
        }

    def refs(self, with_pulls: bool) -> Json:
        """The answer of `/api/{kind}/{repo}/refs`."""
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in self.branches.items()
        ]
        found: Json = {"branches": branches, "tags": [], "converts": []}
        return found | ({"pullRequests": []} if with_pulls else {})


def make_file(path: str, content: Content, lfs_from: int = LFS_FROM) -> HubFile:
    """Read and hash one file; blocks for as long as that takes."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    sha256, blob_id = _digests(content, size)
    if size < lfs_from and not path.endswith(LFS_SUFFIXES):
        return HubFile(path, content, size, blob_id, None)
    pointer = lfs_pointer(Sha256(sha256), size)
    return HubFile(path, content, size, git_id(pointer).value, sha256)


def make_snapshot(repo: RepoId, files: Mapping[str, HubFile], commit: str | None) -> Snapshot:
    """Put the files into a git tree and name it; the same files give the same commit."""
    ordered = {path: files[path] for path in sorted(files)}
    folders = _git_trees(ordered)
    if commit is None:
        text = f"tree {folders['']}\nrepo {repo}\n".encode()
        commit = hashlib.sha1(b"commit %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    return Snapshot(commit, ordered, folders)


def _digests(content: Content, size: int) -> tuple[str, str]:
    """sha256 and git id, remembered for files on disk by size and time of change."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), git_id(content).value
    key = (content.resolve(), size, content.stat().st_mtime_ns)
    if key not in _hashed:
        sha256 = hashlib.sha256()
        sha1 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        for block in _blocks(content):
            sha256.update(block)
            sha1.update(block)
        _hashed[key] = (sha256.hexdigest(), sha1.hexdigest())
    return _hashed[key]


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _git_trees(files: Mapping[str, HubFile]) -> dict[str, str]:
    """The id of every folder's git tree, "" being the root (gitformat-pack: tree objects)."""
    entries: dict[str, dict[str, tuple[bytes, str]]] = {"": {}}
    for path, file in files.items():
        folder, _, name = path.rpartition("/")
        entries.setdefault(folder, {})[name] = (b"100644", file.git_id)
        while folder:
            folder = folder.rpartition("/")[0]
            entries.setdefault(folder, {})
    ids: dict[str, str] = {}
    for folder in sorted(entries, key=lambda path: path.count("/") + bool(path), reverse=True):
        # git sorts a folder as if its name ended in a slash.
        ordered = sorted(
            entries[folder].items(), key=lambda item: item[0] + "/" * (item[1][0] == b"40000")
        )
        body = b"".join(
            b"%s %s\0%s" % (mode, name.encode("utf-8", "surrogatepass"), bytes.fromhex(oid))
            for name, (mode, oid) in ordered
        )
        ids[folder] = hashlib.sha1(
            b"tree %d\0" % len(body) + body, usedforsecurity=False
        ).hexdigest()
        if folder:
            parent, _, name = folder.rpartition("/")
            entries[parent][name] = (b"40000", ids[folder])
    return ids


def kind_of(word: str) -> RepoKind | None:
    """The kind whose word stands in a URL, or None."""
    return next((kind for kind in RepoKind if kind.value == word), None)
