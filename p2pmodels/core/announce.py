"""What clients of the tracker say and hear: BEP 3, 7 and 23 over HTTP, WebTorrent's JSON.

1. A message becomes one of the types below or ProtocolError; what we do not use is not looked at.
2. In JSON the 20 bytes of an id are 20 characters U+0000 … U+00FF, as WebTorrent writes them.
3. A client says nothing of where it can be reached but its port: `ip` and its kin are ignored.
4. Session descriptions are bounded texts here; the tracker decides what of them is passed on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import unquote_to_bytes

from p2pmodels.core.pieces import KIB
from p2pmodels.core.sdp import SDP_BYTES_LIMIT
from p2pmodels.errors import ProtocolError

ID_BYTES = 20  # of an infohash, a peer id and an offer id
OFFERS_LIMIT = 10  # offers of one announce; libtorrent sends that many at most, webtorrent five
ANNOUNCE_BYTES_LIMIT = 64 * KIB  # of one message; ten offers of 3 KiB, and as much again
QUERY_BYTES_LIMIT = 2 * KIB  # of an HTTP announce; real ones have 400
PARAMETERS_LIMIT = 32  # parameters of an HTTP announce; real ones have 15
SCRAPES_LIMIT = 16  # infohashes of one scrape
WANTED_LIMIT = 50  # peers in one answer, as BEP 3 has it

Json = dict[str, Any]


class Event(Enum):
    """Why a client announces; any word that is not known is an update."""

    UPDATE = ""
    STARTED = "started"
    COMPLETED = "completed"
    STOPPED = "stopped"


_EVENTS = {event.value: event for event in Event}


@dataclass(frozen=True, slots=True)
class Offer:
    """A description by which another peer may connect, once."""

    id: bytes
    sdp: str


@dataclass(frozen=True, slots=True)
class Announced:
    """A peer is, or goes on being, in a swarm; it listens on `port`, or nowhere: 0."""

    infohash: bytes
    peer_id: bytes
    event: Event
    is_complete: bool
    wanted: int
    port: int = 0
    offers: tuple[Offer, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """A peer accepts an offer that it was given."""

    infohash: bytes
    peer_id: bytes
    to_peer_id: bytes
    offer: Offer


@dataclass(frozen=True, slots=True)
class Scraped:
    """Somebody asks how many peers some swarms have."""

    infohashes: tuple[bytes, ...]


def parse_message(text: str) -> Announced | Answered | Scraped:
    """Read one WebSocket message. Raises ProtocolError."""
    if len(text) > ANNOUNCE_BYTES_LIMIT:
        raise ProtocolError(f"a message of {len(text)} characters")
    try:
        message = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message that is not JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("a message that is no object")
    action = message.get("action")
    if action == "scrape":
        return _scraped(message)
    if action != "announce":
        raise ProtocolError("an unknown action")
    infohash, peer_id = _id(message, "info_hash"), _id(message, "peer_id")
    if message.get("answer") is not None:
        offer = Offer(_id(message, "offer_id"), _sdp(message["answer"], "answer"))
        return Answered(infohash, peer_id, _id(message, "to_peer_id"), offer)
    return Announced(
        infohash,
        peer_id,
        _event(message.get("event")),
        is_complete=_number(message.get("left"), none=1) == 0,
        wanted=_wanted(_number(message.get("numwant"), none=WANTED_LIMIT)),
        offers=_offers(message.get("offers")),
    )


def parse_query(query: str) -> Announced:
    """Read the query of an HTTP announce, still percent-encoded. Raises ProtocolError."""
    if len(query) > QUERY_BYTES_LIMIT:
        raise ProtocolError(f"a query of {len(query)} characters")
    found: dict[str, bytes] = {}
    pairs = query.split("&")
    if len(pairs) > PARAMETERS_LIMIT:
        raise ProtocolError(f"{len(pairs)} parameters")
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name in found:
            raise ProtocolError(f"{name[:20]} twice")
        found[name] = unquote_to_bytes(value)
    port = _digits(found.get("port"), 0)
    if not 1024 <= port <= 65535:  # a list of peers must not aim anybody at a system service
        raise ProtocolError("a port that no peer may have")
    return Announced(
        _bytes_id(found.get("info_hash"), "info_hash"),
        _bytes_id(found.get("peer_id"), "peer_id"),
        _event(found.get("event", b"").decode("latin-1")),
        is_complete=_digits(found.get("left"), 1) == 0,
        wanted=_wanted(_digits(found.get("numwant"), WANTED_LIMIT)),
        port=port,
    )


# ---- what the tracker says


def format_told(infohash: bytes, interval_s: int, complete: int, incomplete: int) -> str:
    """The answer to an announce."""
    figures = {"interval": interval_s, "complete": complete, "incomplete": incomplete}
    return json.dumps({"action": "announce", "info_hash": _text(infohash), **figures})


def format_offer(infohash: bytes, peer_id: bytes, offer: Offer) -> str:
    """An offer of that peer, for another one."""
    return _described(infohash, peer_id, offer, "offer")


def format_answer(infohash: bytes, peer_id: bytes, offer: Offer) -> str:
    """That peer's answer, for the one whose offer it was."""
    return _described(infohash, peer_id, offer, "answer")


def format_scraped(figures: dict[bytes, tuple[int, int, int]]) -> str:
    """Complete, incomplete and downloaded of each swarm."""
    names = ("complete", "incomplete", "downloaded")
    files = {
        _text(infohash): dict(zip(names, counted, strict=True))
        for infohash, counted in figures.items()
    }
    return json.dumps({"action": "scrape", "files": files})


def format_refused(infohash: bytes | None, reason: str) -> str:
    """A refusal, of one infohash or of the message."""
    refused: Json = {"action": "announce", "failure reason": reason}
    return json.dumps(refused if infohash is None else refused | {"info_hash": _text(infohash)})


def _described(infohash: bytes, peer_id: bytes, offer: Offer, kind: str) -> str:
    return json.dumps(
        {
            "action": "announce",
            "info_hash": _text(infohash),
            "peer_id": _text(peer_id),
            "offer_id": _text(offer.id),
            kind: {"type": kind, "sdp": offer.sdp},
        }
    )


# ---- fields


def _scraped(message: Json) -> Scraped:
    named = message.get("info_hash")
    names = named if isinstance(named, list) else [named]
    if not 0 < len(names) <= SCRAPES_LIMIT:  # nobody is told everything we have
        raise ProtocolError(f"a scrape of {len(names)} swarms")
    return Scraped(tuple(_id({"info_hash": name}, "info_hash") for name in names))


def _offers(value: object) -> tuple[Offer, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > OFFERS_LIMIT:
        raise ProtocolError("offers that are no list, or too many")
    return tuple(_offer(item) for item in value)


def _offer(value: object) -> Offer:
    if not isinstance(value, dict):
        raise ProtocolError("an offer that is no object")
    return Offer(_id(value, "offer_id"), _sdp(value.get("offer"), "offer"))


def _sdp(value: object, kind: str) -> str:
    sdp = value.get("sdp") if isinstance(value, dict) and value.get("type") == kind else None
    if not isinstance(sdp, str) or not sdp.startswith("v=0") or not sdp.isascii():
        raise ProtocolError(f"an {kind} without a description")
    if len(sdp) > SDP_BYTES_LIMIT:
        raise ProtocolError(f"a description of {len(sdp)} bytes")
    return sdp


def _id(message: Json, name: str) -> bytes:
    value = message.get(name)
    try:
        return _bytes_id(value.encode("latin-1") if isinstance(value, str) else None, name)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"{name} with characters above U+00FF") from error


def _bytes_id(value: bytes | None, name: str) -> bytes:
    if value is None or len(value) != ID_BYTES:
        raise ProtocolError(f"{name} is missing or not of {ID_BYTES} bytes")
    return value


def _event(value: object) -> Event:
    return _EVENTS.get(value, Event.UPDATE) if isinstance(value, str) else Event.UPDATE


def _number(value: object, *, none: int) -> int:
    """A number; a page whose torrent has no metadata yet sends null for what is left."""
    if value is None:
        return none
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ProtocolError("a number that is none")
    return 1 if isinstance(value, float) and not value.is_integer() else int(value)


def _digits(value: bytes | None, none: int) -> int:
    if value is None:
        return none
    if not value.isdigit() or len(value) > 19:  # 64 bits hold no more
        raise ProtocolError("a number that is none")
    return int(value)


def _wanted(number: int) -> int:
    return number if 0 <= number <= WANTED_LIMIT else WANTED_LIMIT


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
