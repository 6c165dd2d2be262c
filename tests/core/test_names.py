"""Names: a bad one cannot exist (reliability B1 to B5, A16)."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.digests import GitId, Sha256, digest_from_key, git_id, lfs_pointer
from p2pmodels.core.names import Commit, FilePath, RepoId, RepoKind, Revision
from p2pmodels.errors import NameRefused

BAD_PATHS = [
    "",
    ".",
    "..",
    "../../.ssh/authorized_keys",
    "/etc/passwd",
    "C:\\x",
    "C:x",
    "\\\\host\\share",
    "a/./b",
    "a/../b",
    "a//b",
    "a/",
    "/",
    "a\0b",
    "a\nb",
    "x" * 256,
    "é" * 128,
    "/".join(["a"] * 5_000),
    "/".join(["a"] * 33),
    "a/" * 600 + "b",
    "con",
    "CON.txt",
    "dir/aux",
    "COM1",
    "trailing.",
    "trailing ",
    " leading",
    "a\u202eb",
    "a\u200bb",
    "\ud800",
    "a?b",
    "a*b",
    'a"b',
    "a|b",
]

GOOD_PATHS = [
    "config.json",
    "1_Pooling/config.json",
    ".gitattributes",
    "sub dir/notes #1.txt",
    "modèle/größe.bin",
    "onnx/model_q4f16.onnx",
    "model-00001-of-00003.safetensors",
    "a" * 255,
    "%2e%2e",
    "..a/b..c",
    "[x]/(y)+z=1@2,3;4'5!~$&.json",
]


@pytest.mark.parametrize("text", BAD_PATHS)
def test_file_path_refuses(text: str) -> None:
    with pytest.raises(NameRefused):
        FilePath(text)


@pytest.mark.parametrize("text", GOOD_PATHS)
def test_file_path_accepts(text: str) -> None:
    assert FilePath(text).value == text


@given(st.text(max_size=80))
def test_file_path_never_climbs_out(text: str) -> None:
    try:
        path = FilePath(text)
    except NameRefused:
        return
    segments = path.segments
    assert "/".join(segments) == text
    assert not text.startswith("/")
    assert all(segment not in ("", ".", "..") for segment in segments)
    assert not set(text) & set("\\\0:\n")


@pytest.mark.parametrize(
    "text",
    [
        "", "a--b", "..", "a/../b", "a/b.git", "a/b/c", "/a", "a/", "x" * 97, "a/b--c",
        "org/٣٤", "org/na me", "org/.hidden", "org/name.", "-a/b", "a/b\n", "org/..name",
    ],
)  # fmt: skip
def test_repo_id_refuses(text: str) -> None:
    with pytest.raises(NameRefused):
        RepoId(text)


def test_repo_id_reads_kinds() -> None:
    assert RepoId.parse("org/name") == RepoId("org/name", RepoKind.MODEL)
    assert RepoId.parse("gpt2") == RepoId("gpt2")
    assert RepoId.parse("datasets/org/name") == RepoId("org/name", RepoKind.DATASET)
    assert RepoId.parse("datasets/squad") == RepoId("squad", RepoKind.DATASET)
    assert str(RepoId.parse("spaces/org/name")) == "spaces/org/name"


@pytest.mark.parametrize(
    "text", ["", "a..b", "a//b", "/a", "a/", "a.lock", "a b", "a@{1}", "a~1", "x" * 256, ".a", "-a"]
)
def test_revision_refuses(text: str) -> None:
    with pytest.raises(NameRefused):
        Revision(text)


def test_revision_knows_whether_it_can_move() -> None:
    assert Revision("refs/pr/1").commit is None
    assert Revision("main").commit is None
    assert Revision("a" * 40).commit == Commit("a" * 40)


@pytest.mark.parametrize("text", ["", "A" * 40, "a" * 39, "a" * 41, "g" * 40, "a" * 40 + "\n"])
def test_commit_refuses(text: str) -> None:
    with pytest.raises(NameRefused):
        Commit(text)


@pytest.mark.parametrize(
    "text", ["", "sha256:../../x", "A" * 64, "a" * 63, "a" * 65, "../" * 21 + "a", "a" * 64 + "\n"]
)
def test_sha256_refuses_what_could_be_a_path(text: str) -> None:
    with pytest.raises(NameRefused):
        Sha256(text)


@given(st.text(alphabet=string.hexdigits.lower(), min_size=64, max_size=64))
def test_digest_keys_round_trip(text: str) -> None:
    assert digest_from_key(Sha256(text).key) == Sha256(text)
    assert digest_from_key(GitId(text[:40]).key) == GitId(text[:40])


def test_git_id_is_what_git_says() -> None:
    # `echo hello | git hash-object --stdin`
    assert git_id(b"hello\n").value == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_lfs_pointer_is_the_published_form() -> None:
    pointer = lfs_pointer(Sha256("5" * 64), 12345)
    assert pointer.startswith(b"version https://git-lfs.github.com/spec/v1\n")
    assert pointer.endswith(b"\nsize 12345\n")
