"""Where a suggestion may lead (reliability D9), and what is announced."""

from __future__ import annotations

import ipaddress

import pytest

from p2pmodels.core.torrent import PeerAddress
from p2pmodels.errors import ConfigError
from p2pmodels.sources.lan.addresses import AddressRule, parse_addresses, parse_networks
from p2pmodels.sources.lan.interfaces import Scope, read_interfaces, scope_of

ANY = "0.0.0.0"  # noqa: S104  the very address that must not be contacted
LAN = (ipaddress.ip_interface("192.168.7.5/24"), ipaddress.ip_interface("203.0.113.9/28"))
RULE = AddressRule(LAN)


@pytest.mark.parametrize("host", ["192.168.7.6", "10.1.2.3", "172.20.0.1", "169.254.3.4", "fd00::7",
                                  "203.0.113.10", "::ffff:10.1.2.3"])  # fmt: skip
def test_addresses_of_home_networks_and_our_own_links_may_be_found(host: str) -> None:
    assert RULE.allows_found(PeerAddress(host, 7879))


@pytest.mark.parametrize("host", [
    "127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254",
    "fd00:ec2::254", "255.255.255.255", "192.168.7.255", "203.0.113.15", "224.0.0.251", "ff02::fb",
    ANY, "::", "0.1.2.3", "240.0.0.1", "8.8.8.8", "2001:4860:4860::8888", "203.0.113.16",
])  # fmt: skip
def test_no_other_address_may_be_found(host: str) -> None:
    assert not RULE.allows_found(PeerAddress(host, 7879))


@pytest.mark.parametrize("port", [0, 22, 80, 1023, 65536])
def test_no_port_below_1024_is_ever_an_address(port: int) -> None:
    assert parse_addresses(["10.0.0.1"], port) == []


def test_malformed_addresses_do_not_hide_the_good_ones() -> None:
    assert parse_addresses(["evil.example", "10.0.0.1", "10.0.0"], 7879) == [
        PeerAddress("10.0.0.1", 7879)
    ]


def test_loopback_counts_when_we_are_there_ourselves() -> None:
    assert AddressRule(is_loopback=True).allows_found(PeerAddress("127.0.0.1", 7879))


def test_configured_network_counts_as_home() -> None:
    rule = AddressRule(networks=parse_networks(["198.51.100.0/24"]))
    assert rule.allows_found(PeerAddress("198.51.100.4", 7879))
    with pytest.raises(ConfigError):
        parse_networks(["198.51.100.1/24"])


def test_configured_address_may_be_anywhere_but_at_a_metadata_service() -> None:
    for host in ("127.0.0.1", "8.8.8.8", "::1"):
        assert RULE.allows_configured(PeerAddress(host, 7879))
    for host in ("169.254.169.254", "255.255.255.255", "224.0.0.1", ANY):
        assert not RULE.allows_configured(PeerAddress(host, 7879))


LOOPBACK = (ipaddress.ip_interface("127.0.0.1/8"), ipaddress.ip_interface("::1/128"))


def test_daemon_bound_to_all_announces_its_lan_addresses_and_speaks_on_loopback_too() -> None:
    assert scope_of(ANY, (*LAN, *LOOPBACK)) == Scope(
        ("192.168.7.5", "203.0.113.9"), ("127.0.0.1", "192.168.7.5", "203.0.113.9"), False, False
    )


def test_daemon_without_a_network_announces_loopback() -> None:
    assert scope_of(ANY, LOOPBACK) == Scope(("127.0.0.1",), ("127.0.0.1",), False, True)


def test_daemon_bound_to_one_address_announces_only_that() -> None:
    interfaces = (*LAN, *LOOPBACK)
    assert scope_of("127.0.0.1", interfaces) == Scope(("127.0.0.1",), ("127.0.0.1",), False, True)
    assert scope_of("192.168.7.5", interfaces).announced == ("192.168.7.5",)


def test_daemon_bound_to_ipv6_announces_no_address_that_needs_an_interface_number() -> None:
    six = (ipaddress.ip_interface("fe80::1/64"), ipaddress.ip_interface("fd00::2/64"))
    assert scope_of("::", (*six, *LAN, *LOOPBACK)) == Scope(("fd00::2",), ("fd00::2",), True, False)


def test_this_machine_has_loopback() -> None:
    assert ipaddress.ip_interface("127.0.0.1/8") in read_interfaces()
