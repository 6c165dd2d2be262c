"""What is believed of a peer's SDP (reliability E16, F10)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.sdp import (
    CANDIDATES_LIMIT,
    SDP_BYTES_LIMIT,
    Candidate,
    Description,
    IpAddress,
    fingerprint,
)
from p2pmodels.errors import ProtocolError

PRINT = ":".join(["AB"] * 32)
CHROME = f"""v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
a=extmap-allow-mixed
a=msid-semantic: WMS
m=application 54321 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 192.168.1.2
a=candidate:1 1 udp 2113937151 5e3a-uuid.local 54321 typ host generation 0 network-cost 999
a=candidate:2 1 udp 2113937151 192.168.1.2 54321 typ host generation 0 network-cost 999
a=candidate:3 1 tcp 1518280447 192.168.1.2 9 typ host tcptype active generation 0
a=candidate:4 1 udp 1677729535 203.0.113.9 40000 typ srflx raddr 0.0.0.0 rport 0
a=ice-ufrag:qX+1
a=ice-pwd:jEXpZ+ZB0W1m/bq6pbnSD2zM
a=ice-options:trickle
a=fingerprint:sha-256 {PRINT}
a=setup:actpass
a=mid:0
a=sctp-port:5000
a=max-message-size:262144
"""


def is_home(address: IpAddress) -> bool:
    return address in ipaddress.ip_network("192.168.0.0/16")


def test_an_offer_of_a_browser_is_read_without_what_we_must_not_contact() -> None:
    description = Description.parse(CHROME, is_home)
    assert description.candidates == (Candidate("2", 2113937151, "192.168.1.2", 54321),)
    assert description.fingerprint == fingerprint(CHROME) == f"sha-256 {PRINT.lower()}"
    assert (description.setup, description.mid, description.sctp_port) == ("actpass", "0", 5000)
    assert description.message_size == 262144


def test_our_own_text_is_read_as_the_same_value() -> None:
    description = Description.parse(CHROME)
    assert len(description.candidates) == 2
    assert Description.parse(str(description)) == description


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a=setup:actpass", ""),
        ("a=setup:actpass", "a=setup:holdconn"),
        (f"a=fingerprint:sha-256 {PRINT}\n", ""),
        ("sha-256 AB", "sha-1 AB"),
        ("AB:AB\n", "AB:A\n"),
        ("a=mid:0", "a=mid:0\na=fingerprint:sha-256 " + PRINT.replace("A", "C")),
        ("m=application", "m=audio"),
        ("a=mid:0", "a=mid:0\nm=audio 9 UDP/TLS/RTP/SAVPF 111"),
        ("a=mid:0", "a=mid:0\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel"),
        ("m=application 54321 UDP/DTLS/SCTP webrtc-datachannel\n", ""),
        ("a=ice-ufrag:qX+1", "a=ice-ufrag:q"),
        ("a=ice-pwd:jEXpZ+ZB0W1m/bq6pbnSD2zM", "a=ice-pwd:short"),
        ("a=mid:0", "a=mid:" + "0" * 33),
        ("a=sctp-port:5000", "a=sctp-port:0"),
        ("a=sctp-port:5000", "a=sctp-port:99999"),
        ("a=max-message-size:262144", "a=max-message-size:-1"),
        ("192.168.1.2 54321 typ", "192.168.1.2 54321 type"),
        ("udp 2113937151 192", "udp 99999999999 192"),
        ("udp 2113937151 192", "udp x 192"),
        ("s=-", "not a line"),
        ("s=-", "x" * SDP_BYTES_LIMIT),
        ("s=-", "s=" + "ä" * (SDP_BYTES_LIMIT // 2)),
    ],
)
def test_an_sdp_against_the_rules_is_refused(old: str, new: str) -> None:
    assert old in CHROME
    with pytest.raises(ProtocolError):
        Description.parse(CHROME.replace(old, new, 1))


@pytest.mark.parametrize(
    "host",
    ["x.local", "example.org", "224.0.0.1", "0.0.0.0", "::", "ff02::1", "10.0.0.999"],  # noqa: S104
)
def test_candidates_that_are_no_address_of_a_machine_are_left_out(host: str) -> None:
    text = CHROME.replace("192.168.1.2 54321", f"{host} 54321")
    assert [one.host for one in Description.parse(text).candidates] == ["203.0.113.9"]


def test_candidates_at_system_ports_are_left_out() -> None:
    text = CHROME.replace("192.168.1.2 54321", "192.168.1.2 22")
    assert Description.parse(text, is_home).candidates == ()


def test_more_candidates_than_a_machine_has_are_refused() -> None:
    line = "a=candidate:9 1 udp 1 x.local 5000 typ host\n"
    few = CHROME.replace("a=mid:0\n", "a=mid:0\n" + line * (CANDIDATES_LIMIT - 4))
    assert Description.parse(few)
    with pytest.raises(ProtocolError):
        Description.parse(few + line)


@given(st.text(alphabet="amvsco=:\n\r 019./abtudpyhlx-", max_size=400))
def test_any_text_is_a_description_or_a_protocol_error(text: str) -> None:
    for whole in (text, CHROME + text):
        try:
            description = Description.parse(whole)
        except ProtocolError:
            continue
        assert Description.parse(str(description)) == description
