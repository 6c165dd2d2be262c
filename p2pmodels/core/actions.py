"""What a board wants done."""

from __future__ import annotations

from dataclasses import dataclass

from p2pmodels.core.peer import PeerId
from p2pmodels.core.situation import Pull
from p2pmodels.core.wire import Frame


@dataclass(frozen=True, slots=True)
class Say:
    """Send a frame to one peer."""

    peer: PeerId
    frame: Frame


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a pull; report by its number."""

    pull: Pull


@dataclass(frozen=True, slots=True)
class Stop:
    """End a pull: it is of no use any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Reject:
    """Pieces that landed are wrong or may be: drop them."""

    pieces: frozenset[int]


@dataclass(frozen=True, slots=True)
class Ban:
    """This peer lied: no word and no byte from it while this daemon runs."""

    peer: PeerId
    reason: str


Action = Say | Start | Stop | Reject | Ban
