"""The map between files and pieces."""

from __future__ import annotations

from pathlib import Path

from p2pmodels.core.names import FilePath
from p2pmodels.core.pieces import RangeSet
from p2pmodels.sources.swarm.layout import Layout
from tests.sources.swarm.places import MIB, shelve, torrent_of

PIECE = 256 * 1024
A, B, EMPTY, Z = FilePath("a"), FilePath("b"), FilePath("empty"), FilePath("z")


def layout(tmp_path: Path) -> Layout:
    sizes = {"a": PIECE + 1, "b": 3 * PIECE, "empty": 0, "z": 5}
    return Layout(torrent_of(shelve(tmp_path, {name: bytes(n) for name, n in sizes.items()})))


def test_every_file_starts_on_a_piece(tmp_path: Path) -> None:
    found = layout(tmp_path)
    assert found.pieces_of(A) == range(0, 2)
    assert found.pieces_of(B) == range(2, 5)
    assert found.pieces_of(EMPTY) == range(0)
    assert found.pieces_of(Z) == range(5, 6)
    assert found.pieces == 6


def test_pieces_lead_back_to_their_file_and_bytes(tmp_path: Path) -> None:
    found = layout(tmp_path)
    assert [found.file_of(piece) for piece in range(6)] == [A, A, B, B, B, Z]
    assert found.range_of(1) == (PIECE, PIECE + 1)
    assert found.range_of(2) == (0, PIECE)
    assert found.range_of(5) == (0, 5)


def test_bytes_lead_to_the_pieces_that_hold_them(tmp_path: Path) -> None:
    found = layout(tmp_path)
    assert found.pieces_in(B, 0, 1) == range(2, 3)
    assert found.pieces_in(B, PIECE - 1, PIECE + 1) == range(2, 4)
    assert found.pieces_in(B, PIECE, 100 * PIECE) == range(3, 5)
    assert list(found.pieces_in(B, 100 * PIECE, 101 * PIECE)) == []


def test_pieces_with_landed_bytes_are_told_apart(tmp_path: Path) -> None:
    found = layout(tmp_path)
    landed = RangeSet([(0, PIECE), (PIECE * 2, PIECE * 2 + 1)])
    assert found.missing(B, landed) == ({3}, {4})
    assert found.missing(B, RangeSet()) == ({2, 3, 4}, set())
    assert found.missing(B, RangeSet([(0, 3 * PIECE)])) == (set(), set())


def test_what_is_near_a_reader_comes_first(tmp_path: Path) -> None:
    big = Layout(torrent_of(shelve(tmp_path, {"big": bytes(48 * MIB)})))
    path = FilePath("big")
    found = big.priorities(path, [4 * MIB])
    assert found[16] == found[23] == 7
    assert found[24] == found[47] == 6
    assert found[48] == found[143] == 5
    assert min(found) == 16
    assert max(found) == 143
    assert big.priorities(path, [48 * MIB]) == {}
    assert big.priorities(path, [47 * MIB, 0])[0] == 7
