"""What the doors are given: the parts of a running daemon, and who it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodels.clock import Clock
from p2pmodels.sources.lan.lan import Lan
from p2pmodels.sources.origin.origins import Origins
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.rtc.rtc import Rtc
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.store.store import Store
from p2pmodels.transfer.exchange import Exchange
from p2pmodels.transfer.fetcher import Fetcher
from p2pmodels.transfer.flows import Flows
from p2pmodels.transfer.lobby import Lobby
from p2pmodels.transfer.meeting import Meeting
from p2pmodels.transfer.nearby import Nearby
from p2pmodels.transfer.resolve import Resolver
from p2pmodels.transfer.sharing import Sharing
from p2pmodels.transfer.uploads import Uploads
from p2pmodels.workers import Lane


@dataclass
class Identity:
    """Where this daemon is; the addresses are known once its sockets are bound."""

    id: str
    profile: str
    data_dir: Path
    url: str = ""
    peer_url: str = ""
    bt_port: int = 0
    started_at: float = 0.0
    states: dict[str, str] = field(default_factory=dict)
    settings: Sequence[Mapping[str, object]] = ()


@dataclass(frozen=True)
class Parts:
    """Everything a door may ask."""

    identity: Identity
    store: Store
    resolver: Resolver
    fetcher: Fetcher
    sharing: Sharing
    nearby: Nearby
    swarm: Swarm
    lan: Lan
    origins: Origins
    exchange: Exchange
    uploads: Uploads
    channel_uploads: Uploads
    rtc: Rtc
    meeting: Meeting[ShardChannel]
    lobby: Lobby
    flows: Flows
    lane: Lane
    clock: Clock
