"""What the hub says of a snapshot, in its own JSON; pure.

No `xetHash`, ever. Note the hub's own oddity: an LFS digest is called `sha256` among the siblings
and `oid` in a tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from p2pmodels.core.digests import GitId, Sha256, git_id, lfs_pointer
from p2pmodels.core.manifest import FileEntry, Manifest
from p2pmodels.core.names import Commit, FilePath
from p2pmodels.errors import EntryNotFound

POINTER_SIZE = 134  # bytes the hub states for an LFS pointer, whatever its real length


def info(manifest: Manifest, *, with_blobs: bool) -> dict[str, object]:
    """`/api/{kind}/{repo}`: the card, and the files under the name `siblings`."""
    name = manifest.repo.name
    body: dict[str, object] = {
        "_id": manifest.commit.value[:24],
        "id": name,
        "modelId": name,
        "author": name.partition("/")[0],
        "lastModified": "1970-01-01T00:00:00.000Z",
        "createdAt": "1970-01-01T00:00:00.000Z",
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
    }
    body |= manifest.card
    body["sha"] = manifest.commit.value
    body["siblings"] = [_sibling(entry, with_blobs=with_blobs) for entry in manifest.files]
    return body


def _sibling(entry: FileEntry, *, with_blobs: bool) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": entry.path.value}
    if with_blobs:
        sibling |= {"size": entry.size, "blobId": _git_id(entry).value}
        if isinstance(entry.digest, Sha256):
            sibling["lfs"] = {
                "sha256": entry.digest.value,
                "size": entry.size,
                "pointerSize": POINTER_SIZE,
            }
    return sibling


def _git_id(entry: FileEntry) -> GitId:
    if entry.git_id is not None:
        return entry.git_id
    if isinstance(entry.digest, GitId):
        return entry.digest
    return git_id(lfs_pointer(entry.digest, entry.size))


def _tree_item(entry: FileEntry) -> dict[str, object]:
    item: dict[str, object] = {
        "type": "file",
        "oid": _git_id(entry).value,
        "size": entry.size,
        "path": entry.path.value,
    }
    if isinstance(entry.digest, Sha256):
        item["lfs"] = {
            "oid": entry.digest.value,
            "size": entry.size,
            "pointerSize": POINTER_SIZE,
        }
    return item


def tree(
    manifest: Manifest, below: FilePath | None, *, is_recursive: bool
) -> list[dict[str, object]]:
    """`/tree/{rev}[/{path}]`, always one page. Raises EntryNotFound for an unknown folder."""
    prefix = f"{below}/" if below else ""
    items: list[dict[str, object]] = []
    folders: set[str] = set()
    for entry in manifest.files:
        path = entry.path.value
        if not path.startswith(prefix):
            continue
        parents = path[len(prefix) :].split("/")[:-1]
        for depth in range(1, len(parents) + 1 if is_recursive else min(2, len(parents) + 1)):
            folders.add(prefix + "/".join(parents[:depth]))
        if is_recursive or not parents:
            items.append(_tree_item(entry))
    if below and not items and not folders:
        raise EntryNotFound(f"{manifest.repo}/{below}")
    return [*(_folder(manifest.commit, name) for name in sorted(folders)), *items]


def _folder(commit: Commit, name: str) -> dict[str, object]:
    """A folder; its id is made up (we hold no git trees), but the same every time."""
    made_up = git_id(f"{commit}:{name}".encode()).value
    return {"type": "directory", "oid": made_up, "size": 0, "path": name}


def paths_info(manifest: Manifest, asked: Iterable[FilePath]) -> list[dict[str, object]]:
    """`/paths-info/{rev}`: the same items for the paths asked for, unknown ones left out."""
    by_path: Mapping[FilePath, FileEntry] = {entry.path: entry for entry in manifest.files}
    items = []
    for path in asked:
        if path in by_path:
            items.append(_tree_item(by_path[path]))
        elif any(entry.path.value.startswith(f"{path}/") for entry in manifest.files):
            items.append(_folder(manifest.commit, path.value))
    return items


def refs(manifest: Manifest) -> dict[str, object]:
    """`/refs`: the one branch we know of."""
    branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": manifest.commit.value}
    return {"branches": [branch], "tags": [], "converts": []}
