"""Reading the hub's URLs (reliability A16; clients 1.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.names import FilePath, RepoId, Revision
from p2pmodels.doors.routes import HubRoute, Verb, parse_hub_path
from p2pmodels.errors import NameRefused, NotFound

COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            "/org/name/resolve/main/config.json",
            (Verb.RESOLVE, "org/name", "main", "config.json"),
        ),
        ("/gpt2/resolve/main/a/b.bin", (Verb.RESOLVE, "gpt2", "main", "a/b.bin")),
        (
            "/datasets/org/name/resolve/refs%2Fpr%2F1/x",
            (Verb.RESOLVE, "datasets/org/name", "refs/pr/1", "x"),
        ),
        ("/datasets/squad/resolve/main/x", (Verb.RESOLVE, "datasets/squad", "main", "x")),
        (
            "/org/name/resolve/main/sub%20dir/notes%20%231.txt",
            (Verb.RESOLVE, "org/name", "main", "sub dir/notes #1.txt"),
        ),
        (f"/org/name/raw/{COMMIT}/x", (Verb.RAW, "org/name", COMMIT, "x")),
        ("/org/resolve/resolve/main/x", (Verb.RESOLVE, "org/resolve", "main", "x")),
        ("/api/models/org/name", (Verb.INFO, "org/name", "main", None)),
        ("/api/models/gpt2", (Verb.INFO, "gpt2", "main", None)),
        ("/api/datasets/org/name/revision/v1", (Verb.INFO, "datasets/org/name", "v1", None)),
        ("/api/models/org/name/tree/main", (Verb.TREE, "org/name", "main", None)),
        ("/api/models/org/name/tree/main/", (Verb.TREE, "org/name", "main", None)),
        ("/api/models/org/name/tree/main/a%2Fb", (Verb.TREE, "org/name", "main", "a/b")),
        ("/api/models/org/name/tree/main/a/b", (Verb.TREE, "org/name", "main", "a/b")),
        ("/api/models/gpt2/tree/main", (Verb.TREE, "gpt2", "main", None)),
        ("/api/models/org/name/paths-info/main", (Verb.PATHS_INFO, "org/name", "main", None)),
        ("/api/models/org/name/refs", (Verb.REFS, "org/name", "main", None)),
        ("/api/models/org/name/commits/main", (Verb.COMMITS, "org/name", "main", None)),
    ],
)
def test_a_hub_url_is_read(raw: str, expected: tuple[Verb, str, str, str | None]) -> None:
    verb, repo, revision, path = expected
    assert parse_hub_path(raw) == HubRoute(
        verb, RepoId.parse(repo), Revision(revision), FilePath(path) if path else None
    )


@pytest.mark.parametrize(
    "path",
    [
        "..", "%2e%2e", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc", "..%5c..", "..\\..", "%00",
        "a%00b", "a//b", "C:%5cx", "%c0%ae%c0%ae/x", "%ff", "x" * 300, "a.", "a%20", "CON", "a/./b",
        "a/%2e/b", "x%0d%0aSet-Cookie", "%e2%80%ae", "a%2f%2fb",
    ],
)  # fmt: skip
def test_traversal_and_odd_names_are_refused(path: str) -> None:
    for raw in (f"/org/name/resolve/main/{path}", f"/api/models/org/name/tree/main/{path}"):
        with pytest.raises((NameRefused, NotFound)):
            parse_hub_path(raw)


@pytest.mark.parametrize(
    "raw",
    ["/", "", "/x", "/a/b/c", "/api", "/api/models", "/api/models/", "/api/kernels/x/y",
     "/favicon.ico", "/org/name/resolve/main", "/org/name/resolve", "/a/b/c/resolve/main/x", "/v2/",
     "/org/name/blob/main/x", "/api/models/org/name/refs/x/y"],
)  # fmt: skip
def test_other_paths_are_not_found(raw: str) -> None:
    with pytest.raises((NotFound, NameRefused)):
        parse_hub_path(raw)


def test_a_double_encoded_name_is_decoded_once() -> None:
    route = parse_hub_path("/org/name/resolve/main/%252e%252e")
    assert route.path == FilePath("%2e%2e")


@given(st.text(alphabet="/%.25eEfFaA0:\\-_ résolveapimodels", max_size=60))
def test_any_path_is_a_route_or_a_declared_error(text: str) -> None:
    try:
        route = parse_hub_path("/" + text)
    except (NotFound, NameRefused):
        return
    assert route.repo.name
