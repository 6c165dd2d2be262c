"""What may be shared, as a pure rule (promise P3).

A snapshot is shared only while an anonymous request to the origin proves it public.
"""

from __future__ import annotations

from enum import StrEnum

from p2pmodels.core.manifest import Manifest

PROOF_LASTS_S = 7 * 24 * 3600.0  # seconds; then an anonymous request must succeed again
COMPLETE_FROM = 0.9  # share of a snapshot's bytes at which the daemon fetches the rest by itself
COMPLETE_REST_BYTES = 64 * 1024 * 1024  # bytes; but never more than this unasked


class ShareState(StrEnum):
    """Why a snapshot is shared or not, in the words of the dashboard."""

    SHARED = "shared"
    INCOMPLETE = "incomplete"
    UNPROVEN = "unproven"
    RESTRICTED = "restricted"
    OFF = "off"


def may_share(
    manifest: Manifest, proved_at: float | None, now: float, *, is_enabled: bool
) -> ShareState:
    """SHARED, or why not; `proved_at` and `now` are wall-clock seconds.

    A proof from the future (the clock was set back) counts as fresh: nothing expires by accident.
    """
    if not is_enabled:
        return ShareState.OFF
    if manifest.is_restricted:
        return ShareState.RESTRICTED
    if proved_at is None:
        return ShareState.UNPROVEN
    return ShareState.SHARED if now - proved_at < PROOF_LASTS_S else ShareState.UNPROVEN


def should_complete(total: int, cached: int) -> bool:
    """Whether so much of a snapshot is here that the rest is worth fetching unasked; in bytes."""
    rest = total - cached
    return 0 < rest <= COMPLETE_REST_BYTES and cached >= COMPLETE_FROM * total
