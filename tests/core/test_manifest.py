"""Manifests: refused whole, or usable without a second look."""

from __future__ import annotations

import json

import pytest

from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.core.manifest import FILE_SIZE_LIMIT, FILES_LIMIT, FileEntry, Manifest
from p2pmodels.core.names import Commit, FilePath, RepoId
from p2pmodels.errors import EntryNotFound, NameRefused, ProtocolError

REPO, COMMIT = RepoId("org/name"), Commit("a" * 40)


def manifest(*paths: str) -> Manifest:
    return Manifest(
        REPO, COMMIT, tuple(FileEntry(FilePath(path), 1, Sha256("b" * 64)) for path in paths)
    )


@pytest.mark.parametrize(
    "paths",
    [
        ("a", "A"),
        ("dir/a", "Dir/a"),
        ("café", "cafe\u0301"),
        ("straße", "STRASSE"),
        ("a", "a/b"),
        ("A", "a/b"),
        ("x", "x"),
    ],
)
def test_names_that_could_collide_are_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(NameRefused):
        manifest(*paths)


def test_files_are_sorted_by_path() -> None:
    assert [str(e.path) for e in manifest("b", "a/z", "a.txt", "B2").files] == [
        "B2", "a.txt", "a/z", "b",
    ]  # fmt: skip


def test_an_unknown_path_is_an_entry_not_found() -> None:
    with pytest.raises(EntryNotFound):
        manifest("a").find(FilePath("b"))


def test_too_many_files_and_impossible_sizes_are_refused() -> None:
    entry = FileEntry(FilePath("a"), 1, Sha256("b" * 64))
    with pytest.raises(ProtocolError):
        Manifest(REPO, COMMIT, (entry,) * (FILES_LIMIT + 1))
    for size in (-1, FILE_SIZE_LIMIT + 1):
        with pytest.raises(ProtocolError):
            FileEntry(FilePath("a"), size, Sha256("b" * 64))


def test_json_round_trip_keeps_everything() -> None:
    before = Manifest(
        RepoId.parse("datasets/org/name"),
        COMMIT,
        (
            FileEntry(FilePath("big.bin"), 5, Sha256("c" * 64), GitId("d" * 40)),
            FileEntry(FilePath("small.json"), 0, GitId("e" * 40)),
        ),
        is_restricted=True,
        card={"tags": ["x"]},
    )
    assert Manifest.from_json(json.loads(json.dumps(before.as_json()))) == before
