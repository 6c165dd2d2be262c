"""The tracker: who is in which swarm, and who is given whose offer. No sockets, no clock.

1. Only swarms of public infohashes exist; what is not public looks like what does not exist, and
   its swarm is forgotten at the next word about it.
2. A peer that listens is known by the address its announce came from; a peer on a WebSocket (a
   `Line`) by that socket. Nobody can speak for another.
3. An answer is passed on only to the line whose offer it answers, only by the line that was given
   that offer, and once.
4. What is not renewed in time is forgotten. Everything is counted and bounded.
5. A page is given to somebody complete first, so that nobody is left with peers that have nothing.
6. Our own BitTorrent is called when a page wants a torrent, and not before: its offers cost twenty
   sockets a torrent.
7. Descriptions from and for programs are written anew from what was understood of them, with the
   candidates that the one may say and the other may hear. Those between pages pass as they are:
   browsers know how to defend themselves, and only they can look up each other's hidden names.

`now` is in seconds of a monotonic clock. Called by the announce door, on one thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import TypeVar

from p2pmodels.core.announce import (
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
)
from p2pmodels.core.chance import Chance
from p2pmodels.core.sdp import Description, IpAddress
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.errors import AccessRefused, Overloaded, ProtocolError

PAGE_INTERVAL_S = 30  # seconds between announces of a page; a connection that failed is tried again
PROGRAM_INTERVAL_S = 600  # seconds, of a program on a WebSocket; it is given the pages' offers
LISTENER_INTERVAL_S = 300  # seconds between announces by HTTP
PATIENCE = 2.5  # intervals until a peer that said nothing is forgotten
CALL_EVERY_S = 5.0  # seconds between calls for our own BitTorrent; it comes in a tenth of one
OFFER_LASTS_S = 60.0  # seconds in which an offer can be answered; webtorrent drops it after 50
OPEN_OFFERS_LIMIT = 64  # offers that one line was given and has not answered; the oldest go
SWARMS_LIMIT = 4096  # swarms; more public torrents than one daemon seeds
PAGE_SWARMS_LIMIT = 64  # swarms that one page is in; a torrent is a whole model
SWARM_PEERS_LIMIT = 1000  # of one swarm, on lines and listening each; a school
LISTENERS_LIMIT = 20_000  # peers that listen, in all swarms; 5 MiB
ADDRESS_LISTENERS_LIMIT = 256  # of one address, in all swarms; so nobody fills a swarm alone

K = TypeVar("K")
V = TypeVar("V", bound="_Expiring")


class NotTracked(AccessRefused):
    """This torrent is not tracked here."""

    code, status = "not_tracked", 404
    advice = "Only torrents that this daemon shares as public are tracked."


@dataclass(slots=True)
class _Expiring:
    is_complete: bool
    until: float


@dataclass(slots=True)
class _Member(_Expiring):
    """A line in a swarm."""

    peer_id: bytes


@dataclass(eq=False, slots=True)
class Line:
    """One WebSocket. `may_say` and `may_hear` judge the addresses of candidates, as texts."""

    is_page: bool
    may_say: Callable[[str], bool] = lambda _address: True
    may_hear: Callable[[str], bool] = lambda _address: True
    swarms: set[bytes] = field(default_factory=set)
    given: dict[tuple[bytes, bytes, bytes], tuple[Line, float]] = field(default_factory=dict)
    is_open: bool = True

    @property
    def interval_s(self) -> int:
        """Seconds in which it is to announce again."""
        return PAGE_INTERVAL_S if self.is_page else PROGRAM_INTERVAL_S


@dataclass(slots=True)
class _Swarm:
    """The peers of one torrent."""

    lines: dict[Line, _Member] = field(default_factory=dict)
    listeners: dict[PeerAddress, _Expiring] = field(default_factory=dict)
    downloaded: int = 0
    called_at: float = float("-inf")

    def figures(self) -> tuple[int, int, int]:
        """How many are complete, incomplete, and became complete."""
        peers = [*self.lines.values(), *self.listeners.values()]
        complete = sum(peer.is_complete for peer in peers)
        return complete, len(peers) - complete, self.downloaded


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for a line."""

    line: Line
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """The answer to a peer that listens."""

    complete: int
    incomplete: int
    peers: tuple[PeerAddress, ...]


class Tracker:
    """All swarms. Infohashes are given out in hexadecimal.

    `is_public` is asked at every message; `call` is told of a torrent that a page wants while no
    program is in its swarm: our own BitTorrent should come.
    """

    def __init__(
        self,
        is_public: Callable[[str], bool],
        chance: Chance,
        call: Callable[[str], None] = lambda _infohash: None,
    ) -> None:
        self._is_public, self._chance, self._call = is_public, chance, call
        self._swarms: dict[bytes, _Swarm] = {}
        self._of_address: Counter[str] = Counter()
        self._listeners = 0

    # ---- WebSocket

    def hear(
        self, line: Line, message: Announced | Answered | Scraped, now: float
    ) -> list[Delivery]:
        """Take in a message of a line; returns what is to be sent, to whom."""
        try:
            if isinstance(message, Scraped):
                return [Delivery(line, format_scraped(self._figures(message, now)))]
            swarm = self._swarm(message.infohash, now)
            if isinstance(message, Answered):
                return self._answered(line, message, now)
            return self._announced(line, swarm, message, now)
        except (NotTracked, Overloaded) as error:
            named = None if isinstance(message, Scraped) else message.infohash
            return [Delivery(line, format_refused(named, error.message))]

    def leave(self, line: Line) -> None:
        """The socket has gone."""
        line.is_open = False
        line.given.clear()
        for infohash in list(line.swarms):
            self._part(line, infohash)

    def _announced(
        self, line: Line, swarm: _Swarm, message: Announced, now: float
    ) -> list[Delivery]:
        infohash = message.infohash
        if message.event is Event.STOPPED:
            self._part(line, infohash)
        else:
            self._join(line, swarm, message, now)
        complete, incomplete, _ = swarm.figures()
        told = format_told(infohash, line.interval_s, complete, incomplete)
        offers = message.offers[: message.wanted] if line in swarm.lines else ()
        deliveries = [Delivery(line, told)]
        others = self._others(line, swarm, len(offers))
        for other, offer in zip(others, offers, strict=False):
            deliveries += self._pass_offer(line, other, message, offer, now)
        return deliveries

    def _others(self, line: Line, swarm: _Swarm, wanted: int) -> list[Line]:
        """Who is given offers: one that is complete, then whom chance chooses."""
        complete = [at for at, peer in swarm.lines.items() if peer.is_complete and at is not line]
        first = self._some(complete, min(wanted, 1))
        rest = [other for other in swarm.lines if other is not line and other not in first]
        return first + self._some(rest, wanted - len(first))

    def _join(self, line: Line, swarm: _Swarm, message: Announced, now: float) -> None:
        before = swarm.lines.pop(line, None)
        if before is None:
            if len(swarm.lines) >= SWARM_PEERS_LIMIT:
                raise Overloaded("the swarm is full")
            if line.is_page and len(line.swarms) >= PAGE_SWARMS_LIMIT:
                raise Overloaded("in too many swarms")
        until = now + PATIENCE * line.interval_s
        swarm.lines[line] = _Member(message.is_complete, until, message.peer_id)
        swarm.downloaded += _has_completed(message, before)
        line.swarms.add(message.infohash)
        self._swarms[message.infohash] = swarm
        is_due = now >= swarm.called_at + CALL_EVERY_S
        if line.is_page and is_due and all(other.is_page for other in swarm.lines):
            swarm.called_at = now
            self._call(message.infohash.hex())

    def _part(self, line: Line, infohash: bytes) -> None:
        line.swarms.discard(infohash)
        swarm = self._swarms.get(infohash)
        if swarm is not None:
            swarm.lines.pop(line, None)
            self._drop_if_empty(infohash, swarm)

    def _pass_offer(
        self, line: Line, other: Line, message: Announced, offer: Offer, now: float
    ) -> list[Delivery]:
        passed = _between(line, other, offer)
        key = (message.infohash, message.peer_id, offer.id)
        known, until = other.given.get(key, (line, 0.0))
        if passed is None or (known is not line and until > now):
            return []  # nobody takes over an offer by its name
        other.given.pop(key, None)
        other.given[key] = (line, now + OFFER_LASTS_S)
        while len(other.given) > OPEN_OFFERS_LIMIT:
            del other.given[next(iter(other.given))]
        return [Delivery(other, format_offer(message.infohash, message.peer_id, passed))]

    def _answered(self, line: Line, message: Answered, now: float) -> list[Delivery]:
        key = (message.infohash, message.to_peer_id, message.offer.id)
        to, until = line.given.pop(key, (None, 0.0))
        if to is None or until <= now or not to.is_open:
            return []  # too late, or made up
        passed = _between(line, to, message.offer)
        if passed is None:
            return []
        return [Delivery(to, format_answer(message.infohash, message.peer_id, passed))]

    def _figures(self, message: Scraped, now: float) -> dict[bytes, tuple[int, int, int]]:
        return {infohash: self._swarm(infohash, now).figures() for infohash in message.infohashes}

    # ---- HTTP

    def announce(self, host: str, message: Announced, now: float) -> Told:
        """A peer at that address listens on the port it says. Raises NotTracked, Overloaded."""
        swarm = self._swarm(message.infohash, now)
        address = PeerAddress(host, message.port)
        if message.event is Event.STOPPED:
            if swarm.listeners.pop(address, None) is not None:
                self._uncount(address)
            self._drop_if_empty(message.infohash, swarm)
        else:
            self._listen(address, swarm, message, now)
        others = [other for other in swarm.listeners if _may_know(address, other)]
        complete, incomplete, _ = swarm.figures()
        return Told(complete, incomplete, tuple(self._some(others, message.wanted)))

    def _listen(self, address: PeerAddress, swarm: _Swarm, message: Announced, now: float) -> None:
        before = swarm.listeners.pop(address, None)
        if before is None:
            if len(swarm.listeners) >= SWARM_PEERS_LIMIT:
                raise Overloaded("the swarm is full")
            if self._listeners >= LISTENERS_LIMIT:
                raise Overloaded("too many peers")
            if self._of_address[address.host] >= ADDRESS_LISTENERS_LIMIT:
                raise Overloaded("too many peers of this address")
            self._of_address[address.host] += 1
            self._listeners += 1
        until = now + PATIENCE * LISTENER_INTERVAL_S
        swarm.listeners[address] = _Expiring(message.is_complete, until)
        swarm.downloaded += _has_completed(message, before)
        self._swarms[message.infohash] = swarm

    def _uncount(self, address: PeerAddress) -> None:
        self._listeners -= 1
        self._of_address[address.host] -= 1
        if not self._of_address[address.host]:
            del self._of_address[address.host]

    # ---- swarms

    def sweep(self, now: float) -> None:
        """Forget who has not renewed, and swarms that are no longer public."""
        for infohash in list(self._swarms):
            if self._is_public(infohash.hex()):
                self._expire(infohash, self._swarms[infohash], now)
            else:
                self._forget(infohash)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many swarms there are, memberships of lines, and peers that listen."""
        lines = sum(len(swarm.lines) for swarm in self._swarms.values())
        return len(self._swarms), lines, self._listeners

    def _swarm(self, infohash: bytes, now: float) -> _Swarm:
        """The swarm, a new one until somebody joins. Raises NotTracked, Overloaded."""
        if not self._is_public(infohash.hex()):
            self._forget(infohash)
            raise NotTracked
        swarm = self._swarms.get(infohash)
        if swarm is not None:
            self._expire(infohash, swarm, now)
            return swarm
        if len(self._swarms) >= SWARMS_LIMIT:
            raise Overloaded("too many swarms")
        return _Swarm()

    def _expire(self, infohash: bytes, swarm: _Swarm, now: float) -> None:
        for line in _expired(swarm.lines, now):
            line.swarms.discard(infohash)
        for address in _expired(swarm.listeners, now):
            self._uncount(address)
        self._drop_if_empty(infohash, swarm)

    def _forget(self, infohash: bytes) -> None:
        swarm = self._swarms.pop(infohash, _Swarm())
        for line in swarm.lines:
            line.swarms.discard(infohash)
        for address in swarm.listeners:
            self._uncount(address)

    def _drop_if_empty(self, infohash: bytes, swarm: _Swarm) -> None:
        if not swarm.lines and not swarm.listeners:
            self._swarms.pop(infohash, None)

    def _some(self, peers: list[K], wanted: int) -> list[K]:
        """So many of them, by chance."""
        places = self._chance.sample(range(len(peers)), min(wanted, len(peers)))
        return [peers[place] for place in places]


def _expired(peers: MutableMapping[K, V], now: float) -> list[K]:
    """Take out those whose time has passed."""
    gone = [peer for peer, known in peers.items() if known.until <= now]
    for peer in gone:
        del peers[peer]
    return gone


def _has_completed(message: Announced, before: _Expiring | None) -> bool:
    """Whether this is the first word of a peer's being complete."""
    was_complete = before is not None and before.is_complete
    return message.event is Event.COMPLETED and not was_complete


def _between(line: Line, other: Line, offer: Offer) -> Offer | None:
    """The offer, or answer, as the other line is told it; None when it makes no sense."""
    if line.is_page and other.is_page:
        return offer

    def is_allowed(address: IpAddress) -> bool:
        return line.may_say(str(address)) and other.may_hear(str(address))

    try:
        return Offer(offer.id, str(Description.parse(offer.sdp, is_allowed)))
    except ProtocolError:
        return None


def _may_know(asker: PeerAddress, other: PeerAddress) -> bool:
    """Whether that peer is of use to the one who asks: a loopback address is this machine's."""
    return other != asker and (_is_here(asker) or not _is_here(other))


def _is_here(address: PeerAddress) -> bool:
    return address.host == "::1" or address.host.startswith("127.")
