"""Torrents of strangers: nothing but our own form is read, whatever was crafted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libtorrent as lt
import pytest

from p2pmodels.core.torrent import TORRENT_BYTES_LIMIT, Torrent
from p2pmodels.errors import NameRefused, P2PModelsError, ProtocolError
from p2pmodels.sources.swarm.torrents import read_torrent
from tests.sources.swarm.torrent_files import decoded


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
