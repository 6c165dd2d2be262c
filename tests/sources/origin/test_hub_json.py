"""The hub's JSON becomes a Manifest or ManifestFailed (reliability B1, B15)."""

from __future__ import annotations

import json
import tracemalloc
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.core.names import FilePath, RepoId, Revision
from p2pmodels.errors import ManifestFailed
from p2pmodels.sources.origin.hub_json import (
    CONTAINERS_LIMIT,
    JSON_BYTES_LIMIT,
    VALUES_LIMIT,
    parse_manifest,
    parse_object,
)

REPO = RepoId("acme/tiny")
MAIN = Revision("main")
INFO: dict[str, Any] = {
    "_id": "1",
    "id": "acme/tiny",
    "author": "acme",
    "sha": "c0ffee00" * 5,
    "lastModified": "2026-01-01T00:00:00.000Z",
    "private": False,
    "gated": False,
    "disabled": False,
    "downloads": 7,
    "likes": 1,
    "tags": ["a", "b"],
    "pipeline_tag": "text-generation",
    "library_name": None,
    "cardData": {"license": "mit"},
    "config": {"x": 1.5},
    "siblings": [
        {"rfilename": "config.json", "size": 10, "blobId": "1" * 40},
        {
            "rfilename": "model.safetensors",
            "size": 1000,
            "blobId": "2" * 40,
            "xetHash": "3" * 64,
            "lfs": {"sha256": "a" * 64, "size": 1000, "pointerSize": 130, "xetHash": "4" * 64},
        },
    ],
}


def changed(path: str, value: object) -> bytes:
    """INFO with one value changed; `...` takes it out."""
    info = deepcopy(INFO)
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    place: Any = info
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(info).encode()


def test_manifest_is_read() -> None:
    manifest = parse_manifest(REPO, MAIN, json.dumps(INFO).encode())
    config, model = manifest.files
    assert (config.path, config.size, config.digest) == (
        FilePath("config.json"), 10, GitId("1" * 40),
    )  # fmt: skip
    assert (model.size, model.digest, model.git_id) == (1000, Sha256("a" * 64), GitId("2" * 40))
    assert not manifest.is_restricted
    assert manifest.card["tags"] == ["a", "b"]
    assert manifest.card["downloads"] == 7


def test_nothing_but_descriptive_fields_is_kept() -> None:
    manifest = parse_manifest(REPO, MAIN, json.dumps(INFO).encode())
    kept = json.dumps(manifest.as_json())
    assert "xet" not in kept
    assert "cardData" not in manifest.card
    assert "config" not in manifest.card


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gated", "auto"),
        ("gated", "manual"),
        ("gated", True),
        ("private", True),
        ("disabled", True),
    ],
)
def test_restricted_repo_is_marked(path: str, value: object) -> None:
    assert parse_manifest(REPO, MAIN, changed(path, value)).is_restricted


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sha", ...), ("sha", "main"), ("sha", "C0FFEE00" * 5), ("sha", 7), ("sha", None),
        ("siblings", ...), ("siblings", None), ("siblings", {}), ("siblings.0", []),
        ("siblings.0.rfilename", ...), ("siblings.0.rfilename", "../../etc/passwd"),
        ("siblings.0.rfilename", "/etc/passwd"), ("siblings.0.rfilename", "C:\\x"),
        ("siblings.0.rfilename", ""), ("siblings.0.rfilename", "a//b"),
        ("siblings.0.rfilename", "a\0b"), ("siblings.0.rfilename", "\ud800"),
        ("siblings.0.rfilename", "MODEL.safetensors"),
        ("siblings.0.rfilename", "model.safetensors/x"),
        ("siblings.0.size", ...), ("siblings.0.size", -1), ("siblings.0.size", 10.0),
        ("siblings.0.size", "10"), ("siblings.0.size", True), ("siblings.0.size", None),
        ("siblings.0.size", 1 << 60), ("siblings.0.size", 10**30),
        ("siblings.0.blobId", ...), ("siblings.0.blobId", "1" * 39), ("siblings.0.blobId", "../x"),
        ("siblings.1.lfs.sha256", ...), ("siblings.1.lfs.sha256", "A" * 64),
        ("siblings.1.lfs.sha256", "sha256:" + "a" * 64), ("siblings.1.lfs.sha256", "a" * 63),
        ("siblings.1.lfs.size", ...), ("siblings.1.lfs.size", 999), ("siblings.1.lfs.size", 1e3),
        ("siblings.1.lfs", []), ("private", "no"), ("gated", 1), ("gated", "x" * 300),
        ("disabled", None), ("private", None),
    ],
)  # fmt: skip
def test_wrong_value_refuses_the_whole_manifest(path: str, value: object) -> None:
    with pytest.raises(ManifestFailed):
        parse_manifest(REPO, MAIN, changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [("downloads", -1), ("downloads", 1.5), ("likes", "7"), ("tags", "a"), ("author", "x" * 10_000),
     ("author", "\ud800"), ("pipeline_tag", ["a"]), ("id", None)],
)  # fmt: skip
def test_descriptive_field_of_a_wrong_type_is_left_out(path: str, value: object) -> None:
    assert path not in parse_manifest(REPO, MAIN, changed(path, value)).card


def test_tags_are_bounded() -> None:
    tags = ["x" * 10_000, 7, *(str(n) for n in range(10_000))]
    kept = parse_manifest(REPO, MAIN, changed("tags", tags)).card["tags"]
    assert isinstance(kept, list)
    assert 0 < len(kept) <= 256


def test_manifest_of_another_commit_than_asked_is_refused() -> None:
    with pytest.raises(ManifestFailed):
        parse_manifest(REPO, Revision("d" * 40), json.dumps(INFO).encode())


TEXT = json.dumps(INFO)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"7", b"<html>sign in to Wi-Fi</html>", b"\xff\xfe", b"\xef\xbb\xbf{}",
        TEXT.encode("utf-16"), TEXT[:-1].encode(), TEXT.encode() + b"x",
        TEXT.replace('"size": 10,', '"size": NaN,').encode(),
        TEXT.replace('"size": 10,', '"size": Infinity,').encode(),
        TEXT.replace('"size": 10,', '"size": 1e999,').encode(),
        TEXT.replace('"size": 10,', '"size": 10, "size": 11,').encode(),
        TEXT.replace('"likes": 1', '"likes": ' + "9" * 5000).encode(),
        TEXT.replace('"likes": 1', '"likes": 0.' + "9" * 5000).encode(),
        TEXT.replace('"likes": 1', '"likes": ' + "[" * 20_000 + "]" * 20_000).encode(),
        b"[" * 100_000, b'{"a":' * 60_000, b"{" * (CONTAINERS_LIMIT + 1),
        b"[" + b"1," * (VALUES_LIMIT + 1) + b"1]", b'"' + b"x" * JSON_BYTES_LIMIT + b'"',
    ],
    ids=range(22),
)  # fmt: skip
def test_broken_json_is_refused(body: bytes) -> None:
    with pytest.raises(ManifestFailed):
        parse_manifest(REPO, MAIN, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"[]," * 65_000 + b"[]]}",
        b'{"a":[' + b'{"a":1},' * 65_000 + b"1]}",
        b'{"a":[' + b'"abcdefghijklmnopqrstu",' * 262_000 + b"1]}",
        b'{"a":"' + b"\\u00e4" * (JSON_BYTES_LIMIT // 6 - 10) + b'"}',
    ],
    ids=["lists", "objects", "texts", "escapes"],
)
def test_costly_json_stays_within_its_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ManifestFailed):
            parse_manifest(REPO, MAIN, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(["a" * 64, "1" * 40, "config.json", "../x", "main"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*INFO, "rfilename", "size", "blobId", "lfs", "sha256"]) | st.text(),
            inner,
        )
    ),
    max_leaves=20,
)


def places(value: object, path: str = "") -> list[str]:
    """Every path inside INFO."""
    found = []
    pairs: list[tuple[object, object]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    for key, inner in pairs:
        found += [f"{path}{key}", *places(inner, f"{path}{key}.")]
    return found


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places(INFO)), JSON)
def test_any_value_anywhere_gives_a_manifest_or_manifest_failed(path: str, value: object) -> None:
    try:
        manifest = parse_manifest(REPO, MAIN, changed(path, value))
    except ManifestFailed:
        return
    assert json.dumps(manifest.as_json()).encode()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, len(TEXT)), st.integers(0, 50))
def test_any_bytes_give_a_manifest_or_manifest_failed(noise: bytes, at: int, cut: int) -> None:
    raw = TEXT.encode()
    for body in (noise, raw[:at] + noise + raw[at + cut :]):
        try:
            parse_manifest(REPO, MAIN, body)
        except ManifestFailed:
            continue


def test_largest_honest_answer_is_read() -> None:
    files = [
        {
            "rfilename": f"folder-{n % 100}/shard-{n:05}.safetensors",
            "size": n,
            "blobId": f"{n:040x}",
            "lfs": {"sha256": f"{n:064x}", "size": n, "pointerSize": 130},
        }
        for n in range(10_000)
    ]
    assert len(parse_object(changed("siblings", files))) > 0
    assert len(parse_manifest(REPO, MAIN, changed("siblings", files)).files) == 10_000
