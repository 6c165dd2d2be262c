"""Piece hashes: the same trees and SHA-1 whichever way they are come by (BEP 3, BEP 52)."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmodels.core.merkle import (
    BLOCK,
    FileHashes,
    PieceHasher,
    V1Hasher,
    V1Pieces,
    layer_root,
)
from p2pmodels.core.pieces import KIB

LENGTH = 64 * KIB  # bytes; four blocks, so that small files have many pieces


def naive_tree(data: bytes, width: int) -> bytes:
    """BEP 52 by the letter, over `width` blocks."""
    if width == 1:
        return hashlib.sha256(data).digest() if data else bytes(32)
    half = width // 2 * BLOCK
    left, right = (naive_tree(part, width // 2) for part in (data[:half], data[half:]))
    return hashlib.sha256(left + right).digest()


def natural_width(size: int) -> int:
    """The least power of two of blocks that holds so many bytes."""
    blocks = -(-size // BLOCK)
    return 1 << (blocks - 1).bit_length()


def hashes_of(data: bytes, length: int, v1: dict[int, V1Pieces] | None = None) -> FileHashes:
    found = []
    for start in range(0, len(data), length):
        hasher = PieceHasher(len(data), length)
        hasher.update(memoryview(data)[start : start + length])
        found.append(hasher.result())
    own = V1Pieces(b"".join(piece.sha1 for piece in found), found[-1].padded)
    return FileHashes(
        len(data), length, b"".join(piece.root for piece in found), {**(v1 or {}), length: own}
    )


SIZES = st.one_of(
    st.integers(1, 20 * LENGTH),
    st.builds(lambda k, d: max(1, k * BLOCK + d), st.integers(1, 80), st.integers(-1, 1)),
)


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(0, 3))
def test_roots_of_any_piece_length_are_those_of_the_bep(size: int, doublings: int) -> None:
    data = random.Random(size).randbytes(size)
    kept, wide = hashes_of(data, LENGTH), LENGTH << doublings
    assert kept.root == naive_tree(data, natural_width(size))
    if size <= wide:
        assert kept.layer(wide) == ()
    else:
        pieces = [data[at : at + wide] for at in range(0, size, wide)]
        assert kept.layer(wide) == tuple(naive_tree(piece, wide // BLOCK) for piece in pieces)
        assert layer_root(kept.layer(wide), wide) == kept.root


@settings(deadline=None, max_examples=60)
@given(SIZES, st.lists(st.integers(1000, 3 * LENGTH), min_size=1, max_size=8))
def test_sha1_of_pieces_do_not_depend_on_how_the_bytes_come(size: int, steps: list[int]) -> None:
    data = random.Random(size).randbytes(size)
    hasher, at, turn = V1Hasher(LENGTH), 0, 0
    while at < size:
        step = steps[turn % len(steps)]
        hasher.update(memoryview(data)[at : at + step])
        at, turn = at + step, turn + 1
    pieces = [data[start : start + LENGTH] for start in range(0, size, LENGTH)]
    plain = [hashlib.sha1(piece, usedforsecurity=False).digest() for piece in pieces]
    padded = hashlib.sha1(pieces[-1].ljust(LENGTH, b"\0"), usedforsecurity=False).digest()
    assert hasher.result().text(is_padded=False) == b"".join(plain)
    assert hasher.result().text(is_padded=True) == b"".join([*plain[:-1], padded])
    assert hashes_of(data, LENGTH).v1[LENGTH] == hasher.result()


@pytest.mark.parametrize("steps", [[BLOCK], [2 * BLOCK, BLOCK], [3 * BLOCK]])
def test_a_piece_may_be_fed_in_blocks(steps: list[int]) -> None:
    data = memoryview(random.Random(1).randbytes(3 * BLOCK + 5))
    whole, parts, at = PieceHasher(10**9, LENGTH), PieceHasher(10**9, LENGTH), 0
    whole.update(data)
    for step in [*steps, len(data)]:
        parts.update(data[at : at + step])
        at += step
    assert parts.result() == whole.result()
