"""What each part is told of the configuration, once the sockets are bound."""

from __future__ import annotations

import ipaddress
import socket
import ssl

from p2pmodels import __version__
from p2pmodels.config import Config, ListenAddress
from p2pmodels.core.peer import PeerId
from p2pmodels.doors.parts import Identity
from p2pmodels.errors import ConfigError
from p2pmodels.sources.lan.lan import Lan, LanOptions
from p2pmodels.sources.lan.links import LinkOptions
from p2pmodels.sources.origin.options import OriginOptions
from p2pmodels.sources.rtc.rtc import RtcOptions
from p2pmodels.sources.swarm.settings import SwarmOptions
from p2pmodels.store.room import RoomOptions
from p2pmodels.store.store import StoreOptions

BACKLOG = 512  # connections that wait to be accepted: a class that starts together


def bind(address: ListenAddress, what: str) -> socket.socket:
    """A listening socket. Raises ConfigError when the port is taken."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{what} cannot listen on {address}: {error.strerror}",
            advice=f"Another program has the port (`ss -ltnp 'sport = :{address.port}'` names it);"
            " stop it, or choose another port (0 takes a free one).",
        ) from error


def store_options(config: Config) -> StoreOptions:
    """Where the store is and how much it may take."""
    room = RoomOptions(config.store.cache_limit_bytes, config.store.free_floor_bytes)
    return StoreOptions(config.data_dir, room)


def _free_port(host: str) -> int:
    """A TCP port that is free on every address; libtorrent would take another on each of them."""
    with bind(ListenAddress(host, 0), "swarm.port") as free:
        port: int = free.getsockname()[1]
        return port


def has_tracker(config: Config) -> bool:
    """Whether pages may meet our BitTorrent: not where only members of a group get anything."""
    swarm, is_open = config.swarm, config.lan.group_secret_file is None
    return swarm.is_enabled and swarm.is_tracker_enabled and is_open


def page_tracker(config: Config, peer: socket.socket) -> str:
    """The URL of our own tracker for our own libtorrent; "" without one."""
    if not has_tracker(config):
        return ""
    host, port = peer.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"ws://[{host}]:{port}/announce" if ":" in host else f"ws://{host}:{port}/announce"


def swarm_options(config: Config, peer: socket.socket) -> SwarmOptions:
    """How BitTorrent runs; `peer` is the socket of the peer port."""
    host, limit = config.lan.listen.host, config.swarm.upload_limit_bytes_per_s
    return SwarmOptions(
        listen_host=host,
        port=config.swarm.port or _free_port(host),
        is_wan_enabled=config.swarm.is_wan_enabled,
        lan_networks=tuple(map(str, config.lan.networks)),
        upload_limit_bytes_per_s=limit and max(1, limit - lan_upload_limit(config)),
        download_limit_bytes_per_s=config.swarm.download_limit_bytes_per_s,
        trackers=tuple(config.swarm.trackers),
        page_tracker=page_tracker(config, peer),
    )


def origin_options(config: Config) -> list[OriginOptions]:
    """The origins in their order. Raises ConfigError for a token that cannot be read."""
    return [
        OriginOptions(origin.url, origin.read_token(), origin.kind.value)
        for origin in config.origin
    ]


def lan_options(config: Config, identity: Identity, peer: socket.socket) -> LanOptions:
    """How peers are met."""
    return LanOptions(
        id=PeerId(identity.id),
        listen_host=peer.getsockname()[0],
        peer_port=peer.getsockname()[1],
        bt_port=identity.bt_port,
        is_mdns_enabled=config.lan.is_mdns_enabled,
        peers=tuple(config.lan.peers),
        networks=tuple(map(str, config.lan.networks)),
    )


def link_options(config: Config, lan: LanOptions) -> LinkOptions:
    """Who we are on a link. Raises ConfigError when the group's secret cannot be read."""
    return LinkOptions(lan.id, __version__, lan.peer_port, config.lan.read_group_secret())


def rtc_options(config: Config, lan: Lan) -> RtcOptions:
    """How WebRTC runs: on the addresses that the LAN part announces, with home addresses only."""
    return RtcOptions(
        addresses=lan.own_addresses,
        may_contact=lambda address: lan.is_home(str(address)),
        stun=config.rtc.stun,
        memory_limit_bytes=config.rtc.memory_limit_bytes,
    )


def tls_context(config: Config) -> ssl.SSLContext | None:
    """What the TLS listener shows. Raises ConfigError when a file cannot be used."""
    rtc = config.rtc
    if rtc.tls_certificate_file is None or rtc.tls_key_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(rtc.tls_certificate_file, rtc.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"rtc.tls_certificate_file {rtc.tls_certificate_file}: {error}",
            advice="Both files must be PEM, readable by the daemon, and belong together.",
        ) from error
    return context


def lan_upload_limit(config: Config) -> int:
    """Bytes per second that LAN peers may take together; 0 is no limit.

    The operator's limit holds for all transports together (reliability E20): BitTorrent and the
    LAN exchange have half of it each.
    """
    limit = config.swarm.upload_limit_bytes_per_s
    return max(1, limit // 2) if limit and config.swarm.is_enabled else limit
