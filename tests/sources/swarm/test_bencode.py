"""Bencoding: one text for each value, one value for each text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.torrent import TORRENT_BYTES_LIMIT
from p2pmodels.errors import ProtocolError
from p2pmodels.sources.swarm.bencode import DEPTH_LIMIT, Bencoded, decode, encode

integers = st.integers(min_value=-(2**62), max_value=2**62)
values: st.SearchStrategy[Bencoded] = st.recursive(
    integers | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=8), inner),
    max_leaves=20,
)


@given(values)
def test_every_value_survives_the_round_trip(value: Bencoded) -> None:
    assert decode(encode(value)) == value


@given(st.binary(max_size=60))
def test_whatever_is_accepted_is_canonical(text: bytes) -> None:
    try:
        value = decode(text)
    except ProtocolError:
        return
    assert encode(value) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"i",
        b"ie",
        b"i-0e",
        b"i01e",
        b"i 1e",
        b"i+1e",
        b"i1_0e",
        b"i" + b"9" * 30 + b"e",
        b"-1:a",
        b"5:abc",
        b"01:a",
        b"l",
        b"d",
        b"di1ei2ee",
        b"d1:b0:1:a0:e",
        b"d1:a0:1:a0:e",
        b"i1ei1e",
        b"l" * 5000 + b"e" * 5000,
        b"l" * (DEPTH_LIMIT + 2) + b"e" * (DEPTH_LIMIT + 2),
        b"99999999999999999999:a",
        b"x",
    ],
)
def test_bad_text_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(text)


def test_a_text_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        decode(b"x" * (TORRENT_BYTES_LIMIT + 1))


def test_a_bomb_of_small_values_is_refused() -> None:
    with pytest.raises(ProtocolError, match="too many"):
        decode(b"l" + b"le" * 2_000_000 + b"e")
