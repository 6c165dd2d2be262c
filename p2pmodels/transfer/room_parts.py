"""What a room of the exchange is given: what all rooms share, and who asks the origins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from p2pmodels.clock import Clock
from p2pmodels.core.peer import PeerId
from p2pmodels.core.traffic import Traffic
from p2pmodels.sources.lan.links import Links
from p2pmodels.sources.lan.ranges import RangeClient
from p2pmodels.sources.origin.claims import Claims
from p2pmodels.transfer.fetch import Fetch
from p2pmodels.transfer.flows import Flows


class FillFromOrigin(Protocol):
    """Fills a fetch's partial from the origins, within claims."""

    def __call__(self, fetch: Fetch, claims: Claims) -> Awaitable[None]: ...


@dataclass(slots=True)
class Progress:
    """What comes from peers, whatever file it belongs to: slots of a holder are taken in turns."""

    at: float
    """When the last piece did; monotonic seconds."""


@dataclass(frozen=True, slots=True)
class RoomParts:
    """What all rooms of a daemon share."""

    own: PeerId
    links: Links
    pulls: RangeClient
    flows: Flows
    clock: Clock
    traffic: Traffic
    progress: Progress
    is_public: Callable[[Fetch], bool]
    ban: Callable[[PeerId, str], None]
