"""The session's settings: nothing goes out that was not asked for."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodels import __version__
from p2pmodels.errors import ConfigError, SwarmFailed
from p2pmodels.sources.swarm.session import Session
from p2pmodels.sources.swarm.settings import SwarmOptions, filter_rules, session_settings
from p2pmodels.workers import Lane
from tests.sources.swarm.places import LOOPBACK

SILENT: dict[str, object] = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "webtorrent_stun_server": "",
    "listen_system_port_fallback": False,
    "no_connect_privileged_ports": True,
    "ssrf_mitigation": True,
    "validate_https_trackers": True,
    "allow_idna": False,
}
WIDE: dict[str, object] = {
    "allow_multiple_connections_per_ip": True,
    "active_downloads": -1,
    "active_seeds": -1,
    "active_limit": -1,
    "seed_time_limit": 2**31 - 1,
    "share_ratio_limit": 2**31 - 1,
    "max_metadata_size": 8 * 1024 * 1024,
    "max_piece_count": 262_144,
    "user_agent": f"p2pmodels/{__version__}",
}


@pytest.mark.asyncio
async def test_the_session_really_has_our_settings() -> None:
    async with Lane("test", 2) as lane:
        session = Session(LOOPBACK, lane)
        await session.open()
        try:
            found = await session.settings()
        finally:
            await session.close()
    wanted = SILENT | WIDE | session_settings(LOOPBACK)
    assert {name: found[name] for name in wanted} == wanted
    assert isinstance(found["alert_queue_size"], int)
    assert found["alert_queue_size"] >= 50_000


@pytest.mark.asyncio
async def test_limits_hold_for_lan_peers_too() -> None:
    options = SwarmOptions(
        listen_host="127.0.0.1",
        port=0,
        upload_limit_bytes_per_s=123_000,
        download_limit_bytes_per_s=456_000,
        connections_limit=33,
    )
    found = session_settings(options)
    assert found["upload_rate_limit"] == 123_000
    assert found["download_rate_limit"] == 456_000
    assert found["connections_limit"] == 33


HOME = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.9", "169.254.7.7", "::1", "fe80::1"]
AWAY = ["8.8.8.8", "172.32.0.1", "100.64.0.1", "2001:db8::1", "224.0.0.1", "255.255.255.255"]


@pytest.mark.asyncio
async def test_with_the_wan_off_only_home_networks_may_be_peers() -> None:
    options = SwarmOptions(
        listen_host="127.0.0.1",
        port=0,
        lan_networks=("198.51.100.0/24",),
        configured_hosts=("203.0.113.7",),
    )
    async with Lane("test", 2) as lane:
        session = Session(options, lane)
        await session.open()
        try:
            for host in [*HOME, "fd00::1", "198.51.100.200", "203.0.113.7"]:
                assert not await session.is_blocked(host), host
            for host in [*AWAY, "198.51.101.1", "203.0.113.8", "169.254.169.254"]:
                assert await session.is_blocked(host), host
            await session.allow("203.0.113.8")
            assert not await session.is_blocked("203.0.113.8")
            assert await session.is_blocked("203.0.113.9")
            with pytest.raises(ConfigError):
                await session.allow("peer.example")
        finally:
            await session.close()


def test_with_the_wan_on_only_the_metadata_service_is_blocked() -> None:
    rules = filter_rules(SwarmOptions(is_wan_enabled=True), ())
    assert rules == [("169.254.169.254", "169.254.169.254", True)]


def test_a_network_that_is_none_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="lan_networks"):
        filter_rules(SwarmOptions(lan_networks=("10.0.0.0/99",)), ())


@pytest.mark.asyncio
async def test_a_port_in_use_is_an_error_and_not_another_port() -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with server, Lane("test", 2) as lane:
        port = server.sockets[0].getsockname()[1]
        session = Session(SwarmOptions(listen_host="127.0.0.1", port=port), lane)
        with pytest.raises(SwarmFailed, match="cannot listen"):
            await session.open()
        assert not session.is_open


@pytest.mark.asyncio
async def test_it_listens_on_the_given_interface_only() -> None:
    async with Lane("test", 2) as lane:
        session = Session(LOOPBACK, lane)
        await session.open()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", session.port)
            writer.close()
            await writer.wait_closed()
            with pytest.raises(OSError, match="111"):
                await asyncio.open_connection("127.0.0.2", session.port)
        finally:
            await session.close()
