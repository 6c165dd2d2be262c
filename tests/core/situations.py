"""What the pickers look at, made for tests: a blob of 64 MiB and its members."""

from __future__ import annotations

from p2pmodels.core.digests import Sha256
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import MIB, piece_length
from p2pmodels.core.situation import Member, Situation

BLOB = Sha256("ab" * 32)
SIZE = 64 * MIB
PIECES = SIZE // piece_length(SIZE)


def peer(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def member(number: int, has: range = range(0), **how: object) -> Member:
    pieces = bytearray(PIECES)
    pieces[has.start : has.stop] = b"\1" * len(has)
    return Member(peer(number), pieces, **how)  # type: ignore[arg-type]


def situation(members: list[Member], **how: object) -> Situation:
    values: dict[str, object] = {
        "now": 100.0,
        "own": peer(0),
        "blob": BLOB,
        "size": SIZE,
        "ours": bytearray(PIECES),
        "members": {one.id: one for one in members},
        "holders": [sum(column) for column in zip(*(one.has for one in members), strict=True)],
        "leases": [],
        "pulls": [],
        "readers": [0],
        "began": 100.0,
    }
    return Situation(**{**values, **how})  # type: ignore[arg-type]
