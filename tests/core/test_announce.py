"""What clients of a tracker say: real messages are read, nothing else gets through as a value."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pmodels.core.announce import (
    ANNOUNCE_BYTES_LIMIT,
    OFFERS_LIMIT,
    PARAMETERS_LIMIT,
    QUERY_BYTES_LIMIT,
    SCRAPES_LIMIT,
    WANTED_LIMIT,
    Announced,
    Answered,
    Event,
    Offer,
    Scraped,
    format_answer,
    format_offer,
    format_refused,
    format_scraped,
    format_told,
    parse_message,
    parse_query,
)
from p2pmodels.core.sdp import SDP_BYTES_LIMIT
from p2pmodels.errors import ProtocolError

HASH, PEER, OFFER, OTHER = (bytes(range(at, at + 20)) for at in (0, 120, 200, 236))
SDP = "v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"

ids = st.binary(min_size=20, max_size=20)


def text(value: bytes) -> str:
    return value.decode("latin-1")


def announce(**more: Any) -> dict[str, Any]:
    """As webtorrent 3.0.21 writes it."""
    return {
        "action": "announce",
        "info_hash": text(HASH),
        "peer_id": text(PEER),
        "numwant": 5,
        "uploaded": 0,
        "downloaded": 0,
        "left": 40_000_000,
        **more,
    }


def offer(id: bytes = OFFER, sdp: object = SDP) -> dict[str, Any]:
    return {"offer_id": text(id), "offer": {"type": "offer", "sdp": sdp}}


def answer(**more: Any) -> dict[str, Any]:
    described = {"type": "answer", "sdp": SDP}
    said = {"to_peer_id": text(OTHER), "offer_id": text(OFFER), "answer": described}
    return announce(**(said | more))


@given(ids, ids, st.lists(ids, max_size=OFFERS_LIMIT), st.sampled_from(Event))
def test_announce_of_any_ids_is_read(
    infohash: bytes, peer_id: bytes, offers: list[bytes], event: Event
) -> None:
    said = announce(
        info_hash=text(infohash),
        peer_id=text(peer_id),
        event=event.value,
        offers=[offer(one) for one in offers],
    )
    for escapes in (True, False):
        assert parse_message(json.dumps(said, ensure_ascii=escapes)) == Announced(
            infohash, peer_id, event, False, 5, 0, tuple(Offer(one, SDP) for one in offers)
        )


@given(ids, ids, ids)
def test_what_is_told_is_read_as_it_was_meant(infohash: bytes, peer: bytes, id: bytes) -> None:
    told = json.loads(format_offer(infohash, peer, Offer(id, SDP)))
    assert told["offer"] == {"type": "offer", "sdp": SDP}
    assert [told[name].encode("latin-1") for name in ("info_hash", "peer_id", "offer_id")] == [
        infohash, peer, id,
    ]  # fmt: skip
    told = json.loads(format_answer(infohash, peer, Offer(id, SDP)))
    heard = parse_message(json.dumps(told | {"to_peer_id": text(OTHER)}))
    assert heard == Answered(infohash, peer, OTHER, Offer(id, SDP))


def test_figures_and_refusals_are_as_webtorrent_expects_them() -> None:
    named = {"action": "announce", "info_hash": text(HASH)}
    assert json.loads(format_told(HASH, 30, 2, 1)) == {
        **named, "interval": 30, "complete": 2, "incomplete": 1,
    }  # fmt: skip
    assert json.loads(format_refused(HASH, "no")) == {**named, "failure reason": "no"}
    assert json.loads(format_refused(None, "no")) == {"action": "announce", "failure reason": "no"}
    files = {text(HASH): {"complete": 2, "incomplete": 1, "downloaded": 7}}
    assert json.loads(format_scraped({HASH: (2, 1, 7)})) == {"action": "scrape", "files": files}


@pytest.mark.parametrize(("left", "is_complete"), [
    (0, True), (0.0, True), (1, False), (-1, False), (0.5, False), (None, False), (1 << 70, False),
])  # fmt: skip
def test_only_nothing_left_is_complete(left: object, is_complete: bool) -> None:
    heard = parse_message(json.dumps(announce(left=left)))
    assert isinstance(heard, Announced) and heard.is_complete is is_complete


@pytest.mark.parametrize("event", ["paused", "", None, 7, ["started"], "STOPPED"])
def test_an_unknown_event_is_an_update(event: object) -> None:
    heard = parse_message(json.dumps(announce(event=event)))
    assert isinstance(heard, Announced) and heard.event is Event.UPDATE


@pytest.mark.parametrize(("numwant", "wanted"), [
    (0, 0), (7, 7), (-1, WANTED_LIMIT), (10**9, WANTED_LIMIT), (None, WANTED_LIMIT),
])  # fmt: skip
def test_wanted_peers_are_bounded(numwant: object, wanted: int) -> None:
    heard = parse_message(json.dumps(announce(numwant=numwant)))
    assert isinstance(heard, Announced) and heard.wanted == wanted


def test_scrape_names_its_swarms() -> None:
    one = {"action": "scrape", "info_hash": text(HASH)}
    assert parse_message(json.dumps(one)) == Scraped((HASH,))
    two = {"action": "scrape", "info_hash": [text(HASH), text(OTHER)]}
    assert parse_message(json.dumps(two)) == Scraped((HASH, OTHER))


@pytest.mark.parametrize("said", [
    "", "nonsense", "[]", "7", "null", '"announce"', "[" * 60_000, '{"a":' * 10_000, "{}",
    '{"action":"announce","left":NaN}', '{"action":"announce","left":' + "9" * 5000 + "}",
    json.dumps({"action": "scrape"}), json.dumps({"action": "scrape", "info_hash": []}),
    json.dumps({"action": "scrape", "info_hash": [text(HASH)] * (SCRAPES_LIMIT + 1)}),
    json.dumps({"action": "scrape", "info_hash": {"a": 1}}),
    json.dumps(announce(action="offer")), json.dumps(announce(action=None)),
    json.dumps(announce(info_hash="x" * 19)), json.dumps(announce(info_hash="x" * 21)),
    json.dumps(announce(info_hash="\u0100" * 20)), json.dumps(announce(info_hash=None)),
    json.dumps(announce(info_hash="\ud800" * 20)), json.dumps(announce(peer_id=[1] * 20)),
    json.dumps(announce(left="0")), json.dumps(announce(left=True)),
    json.dumps(announce(numwant={})),
    json.dumps(announce(offers={})), json.dumps(announce(offers=[7])),
    json.dumps(announce(offers=[{}])),
    json.dumps(announce(offers=[offer()] * (OFFERS_LIMIT + 1))),
    json.dumps(announce(offers=[offer(sdp=None)])), json.dumps(announce(offers=[offer(sdp="x=0")])),
    json.dumps(announce(offers=[offer(sdp=SDP + "\u00fc")])),
    json.dumps(announce(offers=[offer(sdp=SDP + "a" * SDP_BYTES_LIMIT)])),
    json.dumps(announce(offers=[{**offer(), "offer": {"type": "answer", "sdp": SDP}}])),
    json.dumps(answer(to_peer_id="x")), json.dumps(answer(offer_id=7)),
    json.dumps(answer(peer_id="")),
    json.dumps({**answer(), "answer": {"type": "offer", "sdp": SDP}}),
    json.dumps({**answer(), "answer": SDP}),
    json.dumps(announce(padding="x" * ANNOUNCE_BYTES_LIMIT)),
])  # fmt: skip
def test_anything_else_is_refused(said: str) -> None:
    with pytest.raises(ProtocolError):
        parse_message(said)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=25)
keys = st.text(max_size=8)
values = st.recursive(
    scalars | ids.map(text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([
    "action", "info_hash", "peer_id", "to_peer_id", "offer_id", "offers", "answer", "left",
    "event", "numwant",
])  # fmt: skip


# The first text of a run loads Hypothesis' tables of Unicode, which takes a busy machine a second.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(names, values), st.sampled_from([announce(), answer(), {"action": "scrape"}])
)
def test_odd_values_give_a_message_or_a_protocol_error(
    odd: dict[str, Any], base: dict[str, Any]
) -> None:
    try:
        heard = parse_message(json.dumps({**base, **odd}))
    except ProtocolError:
        return
    assert isinstance(heard, Announced | Answered | Scraped)


# ---- HTTP


def query(**more: object) -> str:
    """As libtorrent writes it."""
    said: dict[str, object] = {"info_hash": HASH, "peer_id": PEER, "port": 6881, "left": 0, **more}
    return "&".join(
        f"{name}={quote(value) if isinstance(value, bytes) else value}"
        for name, value in said.items()
    )


@given(ids, ids, st.integers(1024, 65535), st.sampled_from(Event))
def test_query_of_any_ids_is_read(infohash: bytes, peer: bytes, port: int, event: Event) -> None:
    said = query(
        info_hash=infohash, peer_id=peer, port=port, left=3, numwant=7, compact=1, event=event.value
    )
    assert parse_query(said) == Announced(infohash, peer, event, False, 7, port)


def test_an_address_in_the_query_is_not_looked_at() -> None:
    said = query(ip="8.8.8.8", ipv4="8.8.8.8:80", ipv6="[2001:db8::1]:80")
    assert parse_query(said) == parse_query(query())


@pytest.mark.parametrize("said", [
    "", "?", "info_hash", query(info_hash=HASH[1:]), query(peer_id=b""), query(port=80),
    query(port=0),
    query(port=65536), query(port=-1), query(port="6881x"), query(port="9" * 30), query(port=""),
    query(left="x"), query(left="-1"), query(numwant="1e3"), query() + "&port=7000",
    query() + "&info_hash=" + quote(OTHER), query(x="y" * QUERY_BYTES_LIMIT),
    query() + "&" + "&".join(f"x{at}=" for at in range(PARAMETERS_LIMIT)),
])  # fmt: skip
def test_a_malformed_query_is_refused(said: str) -> None:
    with pytest.raises(ProtocolError):
        parse_query(said)


@given(st.text(max_size=300))
def test_any_query_gives_a_message_or_a_protocol_error(said: str) -> None:
    for one in (said, query() + "&" + said, query(port=said)):
        try:
            assert 1024 <= parse_query(one).port <= 65535
        except ProtocolError:
            continue
