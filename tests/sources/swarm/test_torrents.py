"""Torrents: the same everywhere when made, and as the manifest says when taken."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.core.manifest import FileEntry, Manifest
from p2pmodels.core.names import Commit, FilePath, RepoId
from p2pmodels.core.torrent import Torrent
from p2pmodels.errors import NameRefused, ProtocolError, SizeMismatch, StoreDamaged
from p2pmodels.sources.swarm.torrents import check_against, make_torrent, read_torrent
from tests.sources.swarm.places import COMMIT, MIB, random_bytes, shelve, torrent_of
from tests.sources.swarm.torrent_files import FILES, decoded


def test_two_stores_make_the_same_torrent(tmp_path: Path) -> None:
    first = torrent_of(shelve(tmp_path / "one", FILES))
    second = torrent_of(shelve(tmp_path / "two", dict(reversed(FILES.items()))))
    assert first == second


def test_the_infohash_never_changes(torrent: Torrent) -> None:
    # A change here splits the swarm of every snapshot: old and new daemons no longer meet.
    assert torrent.infohash == "a559db594b642706056225c1c45aa0e13f0082b4"
    assert torrent.infohash_v2 == "31e5bd97006dd75369fdb37ff9966c4b7f033eed3791e4ab1bbaf2bbb75289d1"


def test_libtorrent_makes_the_same_torrent(tmp_path: Path) -> None:
    # Without `a.txt` beside `a/`: there libtorrent's own order makes a torrent it cannot read.
    files = {name: data for name, data in FILES.items() if name != "a.txt"}
    for name, data in files.items():
        where = tmp_path / COMMIT.value / name
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data)
    entries = [lt.create_file_entry(f"{COMMIT}/{name}", len(files[name])) for name in sorted(files)]
    flags = lt.create_torrent.canonical_files_no_tail_padding
    theirs: Any = lt.create_torrent(entries, 262_144, flags)
    lt.set_piece_hashes(theirs, str(tmp_path))
    made: Any = theirs.generate()
    ours = decoded(torrent_of(shelve(tmp_path / "store", files)).data)
    assert ours[b"piece layers"] == made[b"piece layers"]
    # Where an empty file meets a pad file we put it in front, libtorrent behind: both are read.
    ours[b"info"][b"files"] = [file for file in ours[b"info"][b"files"] if file[b"length"]]
    made[b"info"][b"files"] = [file for file in made[b"info"][b"files"] if file[b"length"]]
    assert ours[b"info"] == made[b"info"]


def test_libtorrent_reads_ours_with_both_infohashes(torrent: Torrent) -> None:
    found: Any = lt.load_torrent_buffer(torrent.data)
    assert str(found.ti.info_hashes().v1) == torrent.infohash
    assert str(found.ti.info_hashes().v2) == torrent.infohash_v2
    layout = found.ti.layout()
    names = {
        layout.file_path(index).partition("/")[2]: layout.file_size(index)
        for index in range(layout.num_files())
        if not layout.file_flags(index) & lt.file_flags_t.flag_pad_file
    }
    assert names == {name: len(data) for name, data in FILES.items()}


def test_there_is_no_date_creator_comment_tracker_or_web_seed(torrent: Torrent) -> None:
    assert set(decoded(torrent.data)) == {b"info", b"piece layers"}


def test_what_was_made_can_be_read(torrent: Torrent) -> None:
    assert read_torrent(torrent.data) == torrent


def test_a_blob_torrent_has_one_file_named_by_its_digest(tmp_path: Path) -> None:
    data = random_bytes(5 * MIB)
    digest = Sha256(hashlib.sha256(data).hexdigest())
    made = torrent_of(shelve(tmp_path, {digest.value: data}), digest)
    assert read_torrent(made.data) == made
    assert [file.path.value for file in made.files] == [digest.value]
    assert b"length" in decoded(made.data)[b"info"]
    entry = FileEntry(FilePath("model.gguf"), len(data), digest)
    check_against(made, entry)
    for wrong in (
        FileEntry(FilePath("model.gguf"), len(data) + 1, digest),
        FileEntry(FilePath("model.gguf"), len(data), Sha256("0" * 64)),
    ):
        with pytest.raises(ProtocolError):
            check_against(made, wrong)


def test_a_file_that_is_not_as_long_as_told_is_refused(tmp_path: Path) -> None:
    shelf = shelve(tmp_path, {"x": b"twelve bytes"})
    for size in (11, 13):
        with pytest.raises(SizeMismatch):
            make_torrent(COMMIT, [(FilePath("x"), size, shelf[FilePath("x")])])
    with pytest.raises(StoreDamaged):
        make_torrent(COMMIT, [(FilePath("x"), 12, tmp_path / "gone")])


@pytest.mark.parametrize("names", [["a"], [".pad/5", "b"], ["a", "a/b"]])
def test_what_cannot_be_a_torrent_is_not_made(tmp_path: Path, names: list[str]) -> None:
    where = tmp_path / "file"
    where.write_bytes(b"" if names == ["a"] else b"hello")
    files = [(FilePath(name), where.stat().st_size, where) for name in names]
    with pytest.raises((ProtocolError, NameRefused)):
        make_torrent(COMMIT, files)


def entry_of(name: str) -> FileEntry:
    data = FILES[name]
    return FileEntry(FilePath(name), len(data), Sha256(hashlib.sha256(data).hexdigest()))


def manifest_of(entries: list[FileEntry], commit: Commit = COMMIT) -> Manifest:
    return Manifest(RepoId("org/name"), commit, tuple(entries))


def test_a_torrent_of_the_manifest_is_taken(torrent: Torrent) -> None:
    check_against(torrent, manifest_of([entry_of(name) for name in FILES]))


def test_b8_a_torrent_that_differs_from_the_manifest_is_refused(torrent: Torrent) -> None:
    entries = [entry_of(name) for name in FILES]
    longer = FileEntry(FilePath("README.md"), 1235, GitId("0" * 40))
    other_name = FileEntry(FilePath("readme.md"), 1234, GitId("0" * 40))
    for wrong in (
        manifest_of(entries[1:]),
        manifest_of([*entries, FileEntry(FilePath("more"), 1, GitId("0" * 40))]),
        manifest_of([longer, *entries[1:]]),
        manifest_of([other_name, *entries[1:]]),
        manifest_of(entries, Commit("1" * 40)),
    ):
        with pytest.raises(ProtocolError):
            check_against(torrent, wrong)
