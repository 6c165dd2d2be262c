"""The sharing rule (promise P3)."""

from __future__ import annotations

import pytest

from p2pmodels.core.manifest import Manifest
from p2pmodels.core.names import Commit, RepoId
from p2pmodels.core.policy import PROOF_LASTS_S, ShareState, may_share, should_complete

PUBLIC = Manifest(RepoId("org/name"), Commit("a" * 40), ())
GATED = Manifest(RepoId("org/name"), Commit("a" * 40), (), is_restricted=True)


@pytest.mark.parametrize(
    ("manifest", "proved_at", "is_enabled", "expected"),
    [
        (PUBLIC, 1000.0, True, ShareState.SHARED),
        (PUBLIC, None, True, ShareState.UNPROVEN),
        (PUBLIC, 1000.0 - PROOF_LASTS_S, True, ShareState.UNPROVEN),
        (PUBLIC, 1000.0 - PROOF_LASTS_S + 1, True, ShareState.SHARED),
        (PUBLIC, 9000.0, True, ShareState.SHARED),  # the clock was set back: not an expiry
        (GATED, 1000.0, True, ShareState.RESTRICTED),
        (PUBLIC, 1000.0, False, ShareState.OFF),
    ],
)
def test_sharing_needs_a_fresh_public_proof(
    manifest: Manifest, proved_at: float | None, is_enabled: bool, expected: ShareState
) -> None:
    assert may_share(manifest, proved_at, 1000.0, is_enabled=is_enabled) is expected


def test_only_a_nearly_complete_snapshot_is_completed_unasked() -> None:
    mib = 1 << 20
    assert should_complete(1000 * mib, 950 * mib)
    assert not should_complete(1000 * mib, 1000 * mib)
    assert not should_complete(1000 * mib, 899 * mib)
    assert not should_complete(10_000 * mib, 9_900 * mib)
    assert not should_complete(10 * mib, 5 * mib)
