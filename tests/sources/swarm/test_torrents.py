"""Torrents: the same everywhere when made, nothing but our own form when read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.core.manifest import FileEntry, Manifest
from p2pmodels.core.names import Commit, FilePath, RepoId
from p2pmodels.core.torrent import TORRENT_BYTES_LIMIT, Torrent
from p2pmodels.errors import NameRefused, P2PModelsError, ProtocolError, SizeMismatch, StoreDamaged
from p2pmodels.sources.swarm.torrents import check_against, make_torrent, read_torrent
from tests.sources.swarm.places import COMMIT, MIB, random_bytes, shelve, torrent_of

FILES = {
    "README.md": random_bytes(1234, 1),
    "a/weights.bin": random_bytes(700_000, 2),
    "a.txt": random_bytes(20, 3),
    "config.json": b"",
    "model.safetensors": random_bytes(3 * MIB + 5, 4),
    "onnx/exact.bin": random_bytes(262_144, 5),
    "two.bin": random_bytes(524_288, 6),
    "zero-at-end": b"",
}


def decoded(data: bytes) -> Any:
    """libtorrent's reading of a text; its type is all that bencoding can hold."""
    return lt.bdecode(data)


@pytest.fixture
def torrent(tmp_path: Path) -> Torrent:
    return torrent_of(shelve(tmp_path, FILES))


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


def test_b10_trackers_and_web_seeds_are_stripped(torrent: Torrent) -> None:
    hostile = decoded(torrent.data)
    hostile[b"announce"] = b"http://evil.example/announce"
    hostile[b"announce-list"] = [[b"http://evil.example/announce"]]
    hostile[b"url-list"] = [b"http://evil.example/"]
    hostile[b"httpseeds"] = [b"http://evil.example/"]
    hostile[b"nodes"] = [[b"10.0.0.1", 80]]
    hostile[b"creation date"] = 1
    hostile[b"comment"] = b"x"
    read = read_torrent(lt.bencode(hostile))
    assert read == torrent
    assert b"evil" not in read.data


Crime = Callable[[Any], None]
CRIMES: dict[str, Crime] = {}


def crime(what: Crime) -> Crime:
    CRIMES[what.__name__] = what
    return what


def rename(info: Any, old: bytes, new: list[bytes]) -> None:
    """Give a file another path, in the v1 list and in the v2 tree."""
    leaf = info[b"file tree"].pop(old)
    folder = info[b"file tree"]
    for segment in new[:-1]:
        folder = folder.setdefault(segment, {})
    folder[new[-1]] = leaf
    for file in info[b"files"]:
        if file[b"path"] == [old]:
            file[b"path"] = new


BAD_PATHS: dict[str, list[bytes]] = {
    "parent": [b"..", b"..", b"etc", b"passwd"],
    "parent_in_one": [b"../../etc/passwd"],
    "absolute": [b"/etc/passwd"],
    "slash": [b"a/b"],
    "backslash": [b"..\\x"],
    "drive": [b"C:x"],
    "nul": [b"a\0b"],
    "empty_segment": [b"", b"b"],
    "dot": [b".", b"b"],
    "long": [b"x" * 1000],
    "override": ["a\u202eb".encode()],
    "control": [b"a\nb"],
    "not_utf8": [b"a\xffb"],
    "reserved": [b"CON"],
    "trailing_dot": [b"name."],
    "deep": [b"d"] * 60,
    "pad": [b".pad", b"5"],
}
for label, path in BAD_PATHS.items():

    def bad_path(torrent: Any, path: list[bytes] = path) -> None:
        rename(torrent[b"info"], b"README.md", path)

    CRIMES[f"path_{label}"] = bad_path


@crime
def name_is_a_path(torrent: Any) -> None:
    torrent[b"info"][b"name"] = b".."


@crime
def name_is_no_commit(torrent: Any) -> None:
    torrent[b"info"][b"name"] = b"C0FFEE00" * 5


@crime
def v1_only(torrent: Any) -> None:
    for key in (b"file tree", b"meta version"):
        del torrent[b"info"][key]
    del torrent[b"piece layers"]


@crime
def v2_only(torrent: Any) -> None:
    for key in (b"files", b"pieces"):
        del torrent[b"info"][key]


@crime
def symlink_in_v1(torrent: Any) -> None:
    torrent[b"info"][b"files"][0].update({b"attr": b"l", b"symlink path": [b"a.txt"]})


@crime
def symlink_in_v2(torrent: Any) -> None:
    leaf = torrent[b"info"][b"file tree"][b"README.md"][b""]
    leaf.update({b"attr": b"l", b"symlink path": [b"a.txt"]})


@crime
def executable(torrent: Any) -> None:
    torrent[b"info"][b"file tree"][b"README.md"][b""][b"attr"] = b"x"


@crime
def pad_is_too_short(torrent: Any) -> None:
    pad = next(file for file in torrent[b"info"][b"files"] if b"attr" in file)
    pad[b"length"] -= 1


@crime
def pad_is_missing(torrent: Any) -> None:
    files = torrent[b"info"][b"files"]
    files.remove(next(file for file in files if b"attr" in file))


@crime
def pad_has_a_name(torrent: Any) -> None:
    pad = next(file for file in torrent[b"info"][b"files"] if b"attr" in file)
    pad[b"path"] = [b"secret"]


@crime
def real_file_marked_as_pad(torrent: Any) -> None:
    torrent[b"info"][b"files"][0][b"attr"] = b"p"


@crime
def v1_size_differs(torrent: Any) -> None:
    torrent[b"info"][b"files"][0][b"length"] += 1


@crime
def v1_name_differs(torrent: Any) -> None:
    torrent[b"info"][b"files"][0][b"path"] = [b"other"]


@crime
def v1_order_differs(torrent: Any) -> None:
    torrent[b"info"][b"files"].reverse()


@crime
def v1_has_one_more(torrent: Any) -> None:
    torrent[b"info"][b"files"].append({b"length": 0, b"path": [b"zzz"]})


@crime
def too_few_pieces(torrent: Any) -> None:
    torrent[b"info"][b"pieces"] = torrent[b"info"][b"pieces"][:-20]


@crime
def half_a_hash(torrent: Any) -> None:
    torrent[b"info"][b"pieces"] += b"x" * 10


@crime
def wrong_piece_length(torrent: Any) -> None:
    torrent[b"info"][b"piece length"] *= 2


@crime
def odd_piece_length(torrent: Any) -> None:
    torrent[b"info"][b"piece length"] = 0


@crime
def private(torrent: Any) -> None:
    torrent[b"info"][b"private"] = 1


@crime
def unknown_key(torrent: Any) -> None:
    torrent[b"info"][b"x"] = b"y"


@crime
def no_layers(torrent: Any) -> None:
    torrent[b"piece layers"] = {}


@crime
def short_layer(torrent: Any) -> None:
    layers = torrent[b"piece layers"]
    for root in layers:
        layers[root] = layers[root][:-32]


@crime
def wrong_layer(torrent: Any) -> None:
    layers = torrent[b"piece layers"]
    for root in layers:
        layers[root] = bytes(len(layers[root]))


@crime
def root_of_an_empty_file(torrent: Any) -> None:
    torrent[b"info"][b"file tree"][b"config.json"][b""][b"pieces root"] = bytes(32)


@crime
def no_root(torrent: Any) -> None:
    del torrent[b"info"][b"file tree"][b"README.md"][b""][b"pieces root"]


@crime
def negative_size(torrent: Any) -> None:
    torrent[b"info"][b"file tree"][b"README.md"][b""][b"length"] = -1


@crime
def b11_sixteen_exbibytes(torrent: Any) -> None:
    torrent[b"info"][b"file tree"][b"README.md"][b""][b"length"] = 2**62


@crime
def b11_a_hundred_thousand_files(torrent: Any) -> None:
    tree = torrent[b"info"][b"file tree"]
    for number in range(20_000):
        tree[b"f%d" % number] = {b"": {b"length": 0}}


@crime
def info_is_a_list(torrent: Any) -> None:
    torrent[b"info"] = []


@crime
def tree_is_a_number(torrent: Any) -> None:
    torrent[b"info"][b"file tree"] = 5


@crime
def file_and_folder(torrent: Any) -> None:
    tree = torrent[b"info"][b"file tree"]
    tree[b"README.md"][b"inner"] = {b"": {b"length": 0}}


@pytest.mark.parametrize("name", CRIMES)
def test_a_crafted_torrent_is_refused(torrent: Torrent, name: str) -> None:
    crafted = decoded(torrent.data)
    CRIMES[name](crafted)
    text = lt.bencode(crafted)
    assert text != torrent.data
    with pytest.raises((ProtocolError, NameRefused)):
        read_torrent(text)


def test_b11_too_many_bytes_are_refused() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        read_torrent(bytes(TORRENT_BYTES_LIMIT + 1))


@pytest.mark.parametrize("data", [b"", b"de", b"le", b"d4:infode", b"d4:infodee", b"\0" * 100])
def test_what_is_no_torrent_is_refused(data: bytes) -> None:
    with pytest.raises(P2PModelsError):
        read_torrent(data)


def test_every_byte_counts(torrent: Torrent) -> None:
    """Whatever is flipped: it is refused, or it is another torrent, never the same one."""
    for at in range(0, len(torrent.data), 7):
        flipped = bytearray(torrent.data)
        flipped[at] ^= 1
        try:
            read = read_torrent(bytes(flipped))
        except (ProtocolError, NameRefused):
            continue
        assert read.infohash != torrent.infohash
