"""The small value types: what they refuse, and how they print."""

from __future__ import annotations

import pytest

from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.core.manifest import FileEntry, Manifest
from p2pmodels.core.names import Commit, FilePath, RepoId
from p2pmodels.core.pieces import RangeSet
from p2pmodels.core.ranges import ByteRange
from p2pmodels.core.secret import TOKEN_LIMIT, Secret
from p2pmodels.core.torrent import PeerAddress, Torrent, TorrentFile
from p2pmodels.errors import NameRefused

NAME = Sha256("a" * 64)
FILES = (TorrentFile(FilePath(NAME.value), 5),)


@pytest.mark.parametrize(
    "text", ["", "two words", "line\nbreak", "tök", "x" * (TOKEN_LIMIT + 1), "\x00"]
)
def test_a_token_that_could_break_a_header_is_refused(text: str) -> None:
    with pytest.raises(NameRefused) as caught:
        Secret(text)
    assert text not in str(caught.value) or not text


def test_a_token_is_never_printed_and_compares_by_value() -> None:
    secret = Secret("hf_secret")
    assert "hf_secret" not in f"{secret} {secret!r} {[secret]} {secret.fingerprint}"
    assert secret == Secret("hf_secret") != Secret("hf_other")
    assert len({secret, Secret("hf_secret")}) == 1
    assert secret != "hf_secret"  # noqa: S105  made up, to be compared
    assert secret.reveal() == "hf_secret"


@pytest.mark.parametrize(
    ("infohash", "infohash_v2"),
    [("a" * 39, "b" * 64), ("a" * 40, ""), ("A" * 40, "b" * 64), ("a" * 40, "g" * 64)],
)
def test_a_torrent_without_both_infohashes_is_refused(infohash: str, infohash_v2: str) -> None:
    with pytest.raises(NameRefused):
        Torrent(NAME, b"", infohash, infohash_v2, FILES)


def test_a_magnet_link_names_both_swarms() -> None:
    torrent = Torrent(NAME, b"", "1" * 40, "2" * 64, FILES)
    assert torrent.magnet == (
        f"magnet:?xt=urn:btih:{'1' * 40}&xt=urn:btmh:1220{'2' * 64}&dn={'a' * 64}"
    )


@pytest.mark.parametrize(
    ("host", "port"), [("10.0.0.1", 1023), ("10.0.0.1", 65536), ("name.local", 7880), ("", 7880)]
)
def test_a_peer_address_aims_at_no_system_service(host: str, port: int) -> None:
    with pytest.raises(NameRefused):
        PeerAddress(host, port)


def test_values_print_as_people_write_them() -> None:
    assert str(PeerAddress("10.0.0.1", 7880)) == "10.0.0.1:7880"
    assert str(PeerAddress("fd00::1", 7880)) == "[fd00::1]:7880"
    assert str(GitId("c" * 40)) == "c" * 40
    assert repr(RangeSet([(0, 5)])) == "RangeSet([(0, 5)])"
    span = ByteRange(2, 5, 10)
    assert (span.length, span.is_whole, span.content_range) == (3, False, "bytes 2-4/10")
    assert ByteRange(0, 10, 10).is_whole


def test_a_manifest_hands_out_wants() -> None:
    lfs = FileEntry(FilePath("b.bin"), 7, NAME)
    small = FileEntry(FilePath("a.json"), 3, GitId("d" * 40))
    manifest = Manifest(RepoId("org/name"), Commit("e" * 40), (lfs, small))
    assert [want.entry for want in manifest.wants] == [small, lfs]
    assert manifest.want(FilePath("b.bin")).entry is lfs
    assert str(manifest.want(FilePath("b.bin"))) == "org/name@eeeeeeee/b.bin"
    assert manifest.size == 10
    assert (lfs.is_lfs, small.is_lfs) == (True, False)


def test_a_path_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(NameRefused):
        FilePath("/".join(["a" * 200] * 6))
