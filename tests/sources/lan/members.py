"""Who is in a room, what they say, and what both sides of a link agree on."""

from __future__ import annotations

import pytest

from p2pmodels.core.digests import Sha256
from p2pmodels.core.peer import PeerId
from p2pmodels.core.wire import Want
from tests.link_fakes import Member

A, B, C = PeerId("a" * 32), PeerId("b" * 32), PeerId("c" * 32)
BLOB = Sha256("0" * 64)
WANT = Want(BLOB, 5)


def numbered(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What we logged; asyncio's own remarks on slow machines do not count."""
    ours = [record for record in caplog.records if record.name.startswith("p2pmodels")]
    return [record.message for record in ours if record.levelno >= level]


def is_link(a: Member, b: Member) -> bool:
    """Whether both sides agree that there is exactly one link, and by whom it was dialled."""
    [of_a], [of_b] = a.links.links(), b.links.links()
    assert (of_a.id, of_b.id) == (b.id, a.id)
    assert of_a.is_dialler != of_b.is_dialler
    assert of_a.is_dialler or of_b.is_dialler
    return a.links.is_linked(b.id) and b.links.is_linked(a.id)
