"""Kept hashes stay within their bound."""

from __future__ import annotations

from p2pmodels.core.digests import Sha256
from p2pmodels.core.merkle import SHA1_BYTES, SHA256_BYTES, FileHashes, V1Pieces
from p2pmodels.store.kept_hashes import ENTRY_BYTES, KeptHashes

PIECES = 10
COST = ENTRY_BYTES + PIECES * (SHA1_BYTES + SHA256_BYTES)
NAMES = [Sha256(f"{number:064x}") for number in range(5)]


def hashes(pieces: int = PIECES) -> FileHashes:
    v1 = V1Pieces(bytes(SHA1_BYTES * pieces), bytes(SHA1_BYTES))
    return FileHashes(pieces, 1, bytes(SHA256_BYTES * pieces), {1: v1})


def held(kept: KeptHashes) -> list[Sha256]:
    return [name for name in NAMES if kept.find(name) is not None]


def test_what_was_used_longest_ago_goes_first() -> None:
    kept = KeptHashes(3 * COST)
    for name in NAMES[:3]:
        kept.put(name, hashes())
    kept.find(NAMES[0])
    kept.put(NAMES[3], hashes())
    assert held(kept) == [NAMES[0], NAMES[2], NAMES[3]]


def test_dropping_and_replacing_make_room() -> None:
    kept = KeptHashes(2 * COST)
    kept.put(NAMES[0], hashes())
    kept.put(NAMES[0], hashes())
    kept.put(NAMES[1], hashes())
    kept.drop(NAMES[1])
    kept.drop(NAMES[1])
    kept.put(NAMES[2], hashes())
    assert held(kept) == [NAMES[0], NAMES[2]]


def test_what_alone_is_too_much_is_not_kept() -> None:
    kept = KeptHashes(2 * COST)
    kept.put(NAMES[0], hashes(1000))
    assert held(kept) == []
    kept.put(NAMES[1], None)
    assert held(kept) == []
