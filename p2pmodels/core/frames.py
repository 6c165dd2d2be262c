"""Pieces and leases as frames."""

from __future__ import annotations

from collections.abc import Mapping

from p2pmodels.core.digests import Digest
from p2pmodels.core.situation import Lease
from p2pmodels.core.wire import Have, LeaseState, Run
from p2pmodels.core.wire import Lease as LeaseFrame

HAVE_PIECES = 512  # pieces of one `have`: 16 KiB of roots


def have_frames(
    blob: Digest,
    size: int,
    roots: Mapping[int, bytes],
    vouched: bytes | bytearray,
    *,
    is_wanting: bool = True,
) -> list[Have]:
    """The pieces of `roots` in frames; `vouched` is 1 for those the origin itself gave us."""
    here = sorted(roots)
    frames = []
    for at in range(0, len(here), HAVE_PIECES):
        part = here[at : at + HAVE_PIECES]
        listed: list[Run] = []
        for piece in part:
            is_vouched = bool(vouched[piece])
            last = listed[-1] if listed else None
            if last is not None and (last.stop, last.is_vouched) == (piece, is_vouched):
                listed[-1] = Run(last.start, piece + 1, is_vouched)
            else:
                listed.append(Run(piece, piece + 1, is_vouched))
        shown = tuple(roots[piece] for piece in part)
        frames.append(Have(blob, size, is_wanting, tuple(listed), shown))
    return frames


def lease_frame(blob: Digest, lease: Lease) -> LeaseFrame:
    """A lease that we hold, as others are told of it."""
    state = LeaseState.TAKEN if lease.is_takeover else LeaseState.HELD
    return LeaseFrame(blob, lease.start, lease.stop, state)
