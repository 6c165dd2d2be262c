"""The parts of a daemon, made and introduced to each other; `daemon.py` enters and runs them."""

from __future__ import annotations

from p2pmodels.clock import Clock
from p2pmodels.config import Config
from p2pmodels.core.manifest import Manifest
from p2pmodels.core.peer import PeerId
from p2pmodels.doors.parts import Identity, Parts
from p2pmodels.doors.work import SnapshotFetch
from p2pmodels.options import lan_upload_limit, link_options, rtc_options
from p2pmodels.shipped import shipped_torrents
from p2pmodels.sources.lan.lan import Lan
from p2pmodels.sources.origin.origins import Origins
from p2pmodels.sources.rtc.channel import ShardChannel
from p2pmodels.sources.rtc.rendezvous import Rendezvous, RendezvousOptions, parse_rendezvous
from p2pmodels.sources.rtc.rtc import Rtc
from p2pmodels.sources.swarm.swarm import Swarm
from p2pmodels.sources.swarm.torrents import read_torrent
from p2pmodels.store.store import Store
from p2pmodels.transfer.exchange import Exchange
from p2pmodels.transfer.fetcher import Fetcher
from p2pmodels.transfer.flows import SELF, Flows
from p2pmodels.transfer.giving import STALLED_S
from p2pmodels.transfer.lobby import Lobby
from p2pmodels.transfer.meeting import Meeting
from p2pmodels.transfer.nearby import Nearby
from p2pmodels.transfer.resolve import Resolver
from p2pmodels.transfer.sharing import Sharing, SharingOptions
from p2pmodels.transfer.uploads import RateLimit, Uploads
from p2pmodels.workers import Lane


async def compose(
    config: Config,
    identity: Identity,
    store: Store,
    swarm: Swarm,
    origins: Origins,
    lan: Lan,
    lane: Lane,
    clock: Clock,
) -> Parts:
    """All parts of a daemon; none of those made here is entered yet. Raises ConfigError."""

    async def complete(manifest: Manifest) -> None:
        async for _ in SnapshotFetch(parts, manifest, manifest.wants).events():
            pass

    sharing = Sharing(
        SharingOptions(config.share.is_enabled), store, swarm, origins, complete, lane, clock
    )
    sharing.ship([read_torrent(data) for data in await lane.run(shipped_torrents)])
    flows = Flows(clock)

    def on_sent(peer: PeerId, amount: int) -> None:
        flows.count(SELF, str(peer), amount)
        parts.exchange.gives(peer)

    nearby = Nearby(lan, swarm, store.snapshots, sharing, flows, lane)
    limit = RateLimit(clock, lan_upload_limit(config))
    uploads = Uploads(clock, limit, on_sent)
    channel_uploads = Uploads(clock, limit, on_sent, STALLED_S)
    exchange = Exchange(
        link_options(config, lan.options),
        sharing,
        store.blobs,
        uploads,
        flows,
        clock,
        told_wait_s=lambda: origins.told_wait_s,
        on_peers_wait=origins.defer,
        channel_uploads=channel_uploads,
    )
    nearby.is_linked = exchange.links.is_linked
    lan.last_word = exchange.links.last_word
    if exchange.needs_secret:
        lan.ticket = exchange.links.ticket_for
        nearby.is_member = exchange.links.is_linked
    fetcher = Fetcher(store.blobs, store.figures, origins, nearby, exchange, flows, clock, sharing)
    sharing.is_fetching = fetcher.is_fetching
    sharing.on_proof = exchange.say_owed
    lobby = Lobby(PeerId(identity.id), sharing.find, clock)
    rtc = Rtc(rtc_options(config, lan), clock, lambda channel: meeting.opened(channel))
    meeting = _meeting(config, identity, rtc, exchange, lobby, clock)
    parts = Parts(
        identity,
        store,
        Resolver(store.snapshots, origins, clock, config.fetch.branch_ttl_s),
        fetcher,
        sharing,
        nearby,
        swarm,
        lan,
        origins,
        exchange,
        uploads,
        channel_uploads,
        rtc,
        meeting,
        lobby,
        flows,
        lane,
        clock,
    )
    return parts


def _meeting(
    config: Config,
    identity: Identity,
    rtc: Rtc,
    exchange: Exchange,
    lobby: Lobby,
    clock: Clock,
) -> Meeting[ShardChannel]:
    """Whom we meet by WebRTC, at our own rendezvous and at those of the configuration."""
    own = PeerId(identity.id)
    far = [
        Rendezvous(RendezvousOptions(parse_rendezvous(url), config.rtc.room, own), clock)
        for url in config.rtc.rendezvous
    ]
    secret = config.lan.read_group_secret()
    return Meeting(own, secret, rtc, exchange, [lobby, *far], clock)
