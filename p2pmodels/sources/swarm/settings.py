"""What the libtorrent session may and may not do on the network.

1. Nothing is sent that was not asked for: no DHT, LSD, UPnP, NAT-PMP, STUN, PEX, port mapping.
2. It listens on the given interface only, and never on another port than told.
3. With the WAN off, addresses outside this machine's own networks are neither contacted nor
   answered, unless they were configured.
4. No queueing: a torrent that was added runs; the daemon decides what is added.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from p2pmodels import __version__
from p2pmodels.errors import ConfigError

UNLIMITED = -1  # libtorrent's word for "no limit" of counts
ALERT_QUEUE = 100_000  # alerts; a piece is one, so a burst of 25 GiB in small pieces fits
LISTEN_QUEUE = 64  # connections waiting for accept; a classroom arrives at once
METADATA_LIMIT = 8 * 1024 * 1024  # bytes; the limit of `read_torrent`, for what peers ask and give
PIECES_LIMIT = 262_144  # pieces; the same
PEERS_KNOWN_LIMIT = 1_000  # addresses kept for one torrent
OPEN_FILES = 500  # files; libtorrent's 40 would open and close them all the time with 115 shards
SEND_BUFFER = 4 * 1024 * 1024  # bytes; keeps a fast line busy between two looks at the disk
REQUEST_QUEUE = 500  # blocks of 16 KiB asked of one peer ahead of time; 8 MiB, 70 ms at 1 Gbit/s
DISK_THREADS = 4  # threads; libtorrent's ten only wait for each other on small machines
DISK_QUEUE = 64 * 1024 * 1024  # bytes waiting to be written; then peers are read more slowly
PEER_CONNECT_S = 3  # seconds; on a LAN a connection takes milliseconds
TICK_MS = 100  # milliseconds between looks for peers to connect; the default adds half a second
RECONNECT_S = 2  # seconds before a peer that failed is tried again
PAGE_OFFERS = 10  # pages that may be connecting to one torrent at once, and offers made to them
PAGE_CONNECT_S = 30  # seconds for a page to connect; an offer nobody takes holds a socket so long
PAGE_ANNOUNCE_S = 5  # seconds between announces for pages at least; the tracker says how many

HOME_NETWORKS = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1/128",
    "fe80::/10",
    "fc00::/7",
)  # loopback, private (RFC 1918), link-local (RFC 3927, 4291), unique local (RFC 4193)
METADATA_SERVICE = "169.254.169.254"  # of cloud machines; never a peer

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class SwarmOptions:
    """How the swarm meets the network. Rates are in bytes per second, 0 means no limit."""

    listen_host: str = "0.0.0.0"  # noqa: S104  the LAN is the point; the filter guards it
    """The address of the interface to listen on."""
    port: int = 7880
    """The TCP port to listen on; 0 takes a free one."""
    is_wan_enabled: bool = False
    """Whether addresses outside the home networks may be peers."""
    lan_networks: tuple[str, ...] = ()
    """Further networks that count as home, such as the public range of a campus."""
    configured_hosts: tuple[str, ...] = ()
    """Addresses the operator named as peers; allowed wherever they are."""
    upload_limit_bytes_per_s: int = 0
    """Most bytes sent in a second, to all peers together."""
    download_limit_bytes_per_s: int = 0
    """Most bytes received in a second, from all peers together."""
    connections_limit: int = 200
    """Most connections of all torrents together."""
    dht: bool = False
    """Whether to take part in the public DHT."""
    utp: bool = False
    """Whether to use uTP; 30 times slower than TCP here, but passes some WAN routers."""
    trackers: tuple[str, ...] = ()
    """Tracker URLs that every torrent is announced to; those inside torrents are never used."""
    page_tracker: str = ""
    """The WebSocket URL of the daemon's own tracker, where web pages are met; "" for none."""


def session_settings(options: SwarmOptions) -> dict[str, int | bool | str]:
    """The settings of the session; all others keep libtorrent's defaults."""
    is_bare_ipv6 = ":" in options.listen_host and not options.listen_host.startswith("[")
    host = f"[{options.listen_host}]" if is_bare_ipv6 else options.listen_host
    return {
        **_network(options, host),
        **_LIMITS,
        **_SPEED,
        "connections_limit": options.connections_limit,
        "upload_rate_limit": options.upload_limit_bytes_per_s,
        "download_rate_limit": options.download_limit_bytes_per_s,
        "user_agent": f"p2pmodels/{__version__}",
    }


def _network(options: SwarmOptions, host: str) -> dict[str, int | bool | str]:
    return {
        "listen_interfaces": f"{host}:{options.port}",
        "listen_system_port_fallback": False,
        "max_retry_port_bind": 0,
        "enable_dht": options.dht,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_ip_notifier": False,
        "enable_incoming_utp": options.utp,
        "enable_outgoing_utp": options.utp,
        "webtorrent_stun_server": "",
        "no_connect_privileged_ports": True,
        "validate_https_trackers": True,
        "ssrf_mitigation": True,
        "allow_idna": False,
        "apply_ip_filter_to_trackers": False,  # only configured trackers are ever used
        "allow_multiple_connections_per_ip": True,  # a NATed classroom is one address
        "announce_to_all_trackers": True,
        "announce_to_all_tiers": True,
    }


_LIMITS: dict[str, int | bool | str] = {
    "alert_queue_size": ALERT_QUEUE,
    "listen_queue_size": LISTEN_QUEUE,
    "max_metadata_size": METADATA_LIMIT,
    "max_piece_count": PIECES_LIMIT,
    "max_peerlist_size": PEERS_KNOWN_LIMIT,
    "active_downloads": UNLIMITED,
    "active_seeds": UNLIMITED,
    "active_checking": 1,
    "active_limit": UNLIMITED,
    "active_dht_limit": UNLIMITED,
    "active_tracker_limit": UNLIMITED,
    "active_lsd_limit": 0,
    "seed_time_limit": 2**31 - 1,
    "share_ratio_limit": 2**31 - 1,
    "seed_time_ratio_limit": 2**31 - 1,
    "unchoke_slots_limit": UNLIMITED,
}

_SPEED: dict[str, int | bool | str] = {
    "file_pool_size": OPEN_FILES,
    "send_buffer_watermark": SEND_BUFFER,
    "send_buffer_low_watermark": SEND_BUFFER // 8,
    "max_out_request_queue": REQUEST_QUEUE,
    "max_allowed_in_request_queue": REQUEST_QUEUE,
    "aio_threads": DISK_THREADS,
    "max_queued_disk_bytes": DISK_QUEUE,
    "peer_connect_timeout": PEER_CONNECT_S,
    "min_reconnect_time": RECONNECT_S,
    "request_timeout": 8,
    # A peer is asked for the neighbours of a piece too, as many as it gives in this many seconds;
    # the default of 20 put up to 8 MiB that nobody waits for in front of a reader.
    "whole_pieces_threshold": 1,
    "piece_timeout": 8,
    "max_webtorrent_offers": PAGE_OFFERS,
    "webtorrent_connection_timeout": PAGE_CONNECT_S,
    "min_websocket_announce_interval": PAGE_ANNOUNCE_S,
    "tick_interval": TICK_MS,
    # The next file of a model is wanted in a moment; reconnecting for each would cost a second.
    "close_redundant_connections": False,
}


def home_networks(options: SwarmOptions) -> list[Network]:
    """The networks whose addresses may be peers with the WAN off. Raises ConfigError."""
    try:
        return [ipaddress.ip_network(text) for text in (*HOME_NETWORKS, *options.lan_networks)]
    except ValueError as error:
        raise ConfigError(f"lan_networks: {error}") from error


def filter_rules(options: SwarmOptions, hosts: Iterable[str]) -> list[tuple[str, str, bool]]:
    """Ranges of addresses, first to last, and whether they are blocked; later ones win."""
    rules: list[tuple[str, str, bool]] = []
    if not options.is_wan_enabled:
        rules = [("0.0.0.0", "255.255.255.255", True), ("::", "ff" * 2 + ":ffff" * 7, True)]  # noqa: S104
        for network in home_networks(options):
            rules.append((str(network[0]), str(network[-1]), False))
    rules.append((METADATA_SERVICE, METADATA_SERVICE, True))
    try:
        allowed = [str(ipaddress.ip_address(host)) for host in hosts]
    except ValueError as error:
        raise ConfigError(f"peer address: {error}") from error
    return rules + [(host, host, False) for host in allowed]
