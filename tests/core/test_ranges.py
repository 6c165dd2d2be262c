"""HTTP ranges (reliability A18)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.ranges import (
    ByteRange,
    RangeUnsatisfiable,
    if_range_allows,
    none_match,
    parse_range,
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 100)),
        ("bytes=99-", (99, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=10-1000", (10, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-1000", (0, 100)),
        ("BYTES=1-2", (1, 3)),
        ("bytes= 1-2 ", (1, 3)),
        (f"bytes=0-{10**23}", (0, 100)),
    ],
)
def test_one_range_is_honoured(header: str, expected: tuple[int, int]) -> None:
    assert parse_range(header, 100) == ByteRange(*expected, 100)


@pytest.mark.parametrize(
    "header",
    [
        None, "", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "bytes=1-2,4-5",
        "bytes=" + ",".join(["0-0"] * 1000), "items=0-1", "bytes=0-0x10", "bytes=٣-٤", "bytes=1--2",
        "bytes=+1-2", "bytes 0-1",
    ],
)  # fmt: skip
def test_what_is_not_one_range_is_answered_whole(header: str | None) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=100-200", "bytes=-0", f"bytes={10**23}-", "bytes=1000-1001"]
)
def test_a_range_outside_the_file_is_unsatisfiable(header: str) -> None:
    with pytest.raises(RangeUnsatisfiable) as caught:
        parse_range(header, 100)
    assert caught.value.fields["size"] == 100


def test_every_range_of_an_empty_file_is_unsatisfiable() -> None:
    for header in ("bytes=0-0", "bytes=-1", "bytes=0-"):
        with pytest.raises(RangeUnsatisfiable):
            parse_range(header, 0)


@given(st.text(max_size=40).map("bytes=".__add__), st.integers(0, 1000))
def test_a_range_never_leaves_the_file(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except RangeUnsatisfiable:
        return
    if found is not None:
        assert 0 <= found.start < found.stop <= size


def test_if_range_allows_only_our_strong_validator() -> None:
    etag = '"abc"'
    assert if_range_allows(None, etag)
    assert if_range_allows('"abc"', etag)
    assert not if_range_allows('"other"', etag)
    assert not if_range_allows('W/"abc"', etag)
    assert not if_range_allows("Wed, 21 Oct 2015 07:28:00 GMT", etag)


def test_none_match_compares_weakly() -> None:
    assert none_match('"x", W/"abc"', '"abc"')
    assert none_match("*", '"abc"')
    assert not none_match('"x"', '"abc"')
    assert not none_match(None, '"abc"')
