"""The book of links: with whom there is one, who dials whom, who is refused.

1. One link for each pair of daemons. At a double the one that the smaller id dialled stays; both
   sides decide alike. Dialled twice by the same side from the same address, the later one stays:
   its peer has started anew.
2. The smaller id dials at once, the larger a moment later: perhaps it alone can reach the other.
3. A ticket counts while there is a link with the peer it was given to.
4. Whoever breaks the rules is banned for the session, as that id at that address: anybody may claim
   an id where no group secret is set, and must not get its owner banned.
5. Guests (pages) stand apart: whatever id they claim, they take nobody's place.
6. `send`, `ban` and the questions only decide; links end in their own tasks, so `on_gone` is never
   called from inside them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from p2pmodels.clock import Clock
from p2pmodels.core.exchange import LINK_PROTOCOL, ByeReason, Conversation
from p2pmodels.core.peer import PeerId
from p2pmodels.core.secret import Secret
from p2pmodels.core.torrent import PeerAddress
from p2pmodels.core.wire import NONCE_BYTES, TICKET_BYTES, Frame, Greeting
from p2pmodels.errors import LanFailed, PeerMisbehaved
from p2pmodels.sources.lan.carrier import CLOSE_LIMIT_S, Carrier, Channel, WebSockets, plain_host
from p2pmodels.sources.lan.link import ByteCarrier, Link, Linked
from p2pmodels.sources.lan.peers import PeerState, PeerView
from p2pmodels.supervision import Tasks

log = logging.getLogger(__name__)

LINKS_LIMIT = 256  # links, those that shake hands included; as many as the peers known
LINKS_PER_ADDRESS_LIMIT = 8  # reliability D8: one machine must not be the whole room
GUESTS_LIMIT = 64  # pages; as many as WebRTC sessions
LINKS_ON_LOOPBACK_LIMIT = 64  # links with this machine itself: a room of daemons for a test
BANS_LIMIT = 1024  # bans remembered, the latest ones; ids cost nothing, memory does
DIALS_LIMIT = 16  # links being dialled at once; a room that wakes up comes in waves
LOOK_S = 0.25  # seconds between looks for peers to dial
LARGER_WAITS_S = 1.0  # seconds for which the larger id leaves the dialling to the smaller
RETRY_FIRST_S = 1.0  # seconds, doubled at each failure
RETRY_CEILING_S = 30.0  # seconds; a peer of another group is asked no more often than this


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Who we are on a link."""

    id: PeerId
    version: str
    peer_port: int
    """Where our own peer port listens."""
    secret: Secret | None = None
    """The group's secret; only daemons with the same one link."""


@dataclass(slots=True, eq=False)
class Attempt:
    """The dialling of one peer."""

    not_before: float
    failures: int = 0
    is_under_way: bool = False


class Links:
    """Entered: can dial and be dialled. `run` keeps links with everybody who is ready."""

    def __init__(
        self,
        options: LinkOptions,
        clock: Clock,
        on_ready: Callable[[Linked], None],
        on_frame: Callable[[Linked, Frame], None],
        on_gone: Callable[[Linked], None],
        *,
        carrier: Carrier | None = None,
    ) -> None:
        self._options, self._clock = options, clock
        self._on_ready, self._on_frame, self._on_gone = on_ready, on_frame, on_gone
        self._carrier = carrier or WebSockets()
        self._open: set[Link] = set()
        self._by_id: dict[PeerId, Link] = {}
        self._guests: dict[PeerId, Link] = {}
        self._tickets: dict[str, Link] = {}
        self._bans: OrderedDict[tuple[PeerId, str], None] = OrderedDict()
        self._attempts: dict[PeerId, Attempt] = {}
        self._random = random.Random()  # noqa: S311  jitter, not a secret
        self._is_leaving = False
        self._left = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._carrier.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_leaving = True
        for link in self._open:
            link.end(ByeReason.LEAVING)
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * CLOSE_LIMIT_S):
                while self._open:
                    self._left.clear()
                    await self._left.wait()
        await self._carrier.__aexit__()

    # opening

    async def run(
        self,
        peers: Callable[[], list[PeerView]],
        changed: Callable[[float], Awaitable[None]],
    ) -> None:
        """Dial the ready ones of `peers` until cancelled; `changed(s)` waits at most that long."""
        async with Tasks() as tasks:
            while True:
                for peer, attempt in self._due(peers()):
                    tasks.start(self._dial(peer, attempt), "link with a peer")
                await changed(LOOK_S)

    async def keep(self, peer: PeerView) -> None:
        """Dial a ready peer and serve that link until it ends. A failure is only logged."""
        id = PeerId(peer.id)
        try:
            channel = await self._carrier.dial(peer.endpoint)
        except LanFailed as error:
            log.debug("no link: %s", error)
            return
        host, local_host = plain_host(channel.remote_host), plain_host(channel.local_host)
        await self._serve(channel, host, local_host, expected=id)

    async def serve(self, channel: Channel, remote_host: str, local_host: str) -> None:
        """Serve a link that a peer has dialled, until it ends."""
        await self._serve(channel, plain_host(remote_host), plain_host(local_host), expected=None)

    async def adopt(self, carrier: ByteCarrier, expected: PeerId | None) -> None:
        """Serve a link over a channel that carries bytes, too; `expected` is whom we dialled."""
        host = plain_host(carrier.remote_address)
        await self._serve(carrier, host, "", expected=expected, carrier=carrier)

    # what the others ask

    def links(self) -> list[Linked]:
        """Everybody with whom there is a link."""
        return [link.linked for link in self._by_id.values() if link.is_ready and link.linked]

    def carried(self) -> list[Linked]:
        """The daemons and pages whose bytes come and go by a channel, not over TCP."""
        links = (*self._by_id.values(), *self._guests.values())
        return [link.linked for link in links if link.is_ready and link.linked and link.carrier]

    def ticket_for(self, peer: PeerAddress) -> str | None:
        """What the peer at this address gave us to show, as 32 hexadecimal digits."""
        for linked in self.links():
            if (linked.host, linked.port) == (peer.host, peer.port):
                return linked.their_ticket.hex()
        return None

    def last_word(self, peer: PeerView) -> float:
        """When the last frame of this peer came over TCP, monotonic; -inf without such a link."""
        link = self._by_id.get(PeerId(peer.id))
        linked = link.linked if link is not None and link.is_ready else None
        if linked is None or linked.carrier is not None:
            return float("-inf")  # who is reached by WebRTC may have no open port
        is_there = (linked.host, linked.port) == (peer.host, peer.port)
        return linked.last_heard if is_there else float("-inf")

    def is_linked(self, id: PeerId) -> bool:
        """Whether there is a link with this peer."""
        link = self._by_id.get(id)
        return link is not None and link.is_ready

    def send(self, id: PeerId, frame: Frame) -> bool:
        """Queue a frame; False when there is no link, or the peer is too slow and loses it now."""
        link = self._by_id.get(id) or self._guests.get(id)
        return link is not None and link.is_ready and link.send(frame)

    def admits(self, ticket_hex: str) -> PeerId | None:
        """The linked peer that was given this ticket."""
        link = self._tickets.get(ticket_hex)
        return link.linked.id if link is not None and link.is_ready and link.linked else None

    def ban(self, id: PeerId, why: str = "it gave bad bytes") -> None:
        """No more links with this peer for the session, as the address it has now."""
        link = self._by_id.get(id)
        self._ban(id, link.host if link is not None else "", why)
        if link is not None:
            link.end(ByeReason.RULES)

    # inside: one link

    async def _serve(
        self,
        channel: Channel,
        host: str,
        local_host: str,
        *,
        expected: PeerId | None,
        carrier: ByteCarrier | None = None,
    ) -> None:
        is_dialler = carrier.is_dialler if carrier else expected is not None
        ends = (carrier.local_host, carrier.remote_host) if carrier else (local_host, host)
        ticket = secrets.token_bytes(TICKET_BYTES)
        conversation = Conversation(
            Greeting(
                LINK_PROTOCOL,
                self._options.id,
                self._options.version,
                self._options.peer_port,
                secrets.token_bytes(NONCE_BYTES),
            ),
            is_dialler=is_dialler,
            binding=ends,
            ticket=ticket,
            secret=self._options.secret,
            now=self._clock.monotonic(),
        )

        def ready(link: Link, linked: Linked) -> None:
            if expected is not None and linked.id != expected:
                link.end(ByeReason.UNEXPECTED)
            elif self._takes(link, linked):
                self._tickets[ticket.hex()] = link
                if carrier is not None:
                    carrier.allow(is_guest=linked.is_guest)
                self._on_ready(linked)

        link = Link(
            channel,
            conversation,
            host,
            self._clock,
            is_dialler=is_dialler,
            carrier=carrier,
            on_ready=ready,
            on_frame=self._on_frame,
            on_misbehaved=self._misbehaved,
        )
        if self._is_leaving:
            link.end(ByeReason.LEAVING)
        elif not self._has_room(host):
            link.end(ByeReason.FULL)
        self._open.add(link)
        try:
            await link.run()
        finally:
            self._log_end(link, expected)
            self._open.discard(link)
            self._tickets.pop(ticket.hex(), None)
            self._forget(link)
            self._left.set()

    def _log_end(self, link: Link, expected: PeerId | None) -> None:
        """Say once why a peer cannot be linked with; all else is for the curious."""
        attempt = self._attempts.get(expected) if expected is not None else None
        is_mine = link.farewell in (ByeReason.GROUP, ByeReason.PROTOCOL)  # the operator's to mend
        is_news = is_mine and attempt is not None and attempt.failures == 1
        reason = link.farewell or "the connection was lost"
        log.log(logging.INFO if is_news else logging.DEBUG, "link with %s: %s", link.host, reason)

    def _takes(self, link: Link, linked: Linked) -> bool:
        """Enter a link that has become ready into the book, unless it must go."""
        if self._is_banned(linked.id, linked.host):
            link.end(ByeReason.RULES)
            return False
        if linked.is_guest:
            return self._takes_guest(link, linked)
        other = self._by_id.get(linked.id)
        if other is not None:
            if other.is_ready and self._outranks(other, link, linked.id):
                link.end(ByeReason.DOUBLE)
                return False
            other.end(ByeReason.DOUBLE)
            self._forget(other)
        self._by_id[linked.id] = link
        if linked.id in self._attempts:
            self._attempts[linked.id].failures = 0
        return True

    def _takes_guest(self, link: Link, linked: Linked) -> bool:
        is_full = len(self._guests) >= GUESTS_LIMIT
        if is_full or linked.id in self._guests:
            link.end(ByeReason.FULL if is_full else ByeReason.DOUBLE)
            return False
        self._guests[linked.id] = link
        return True

    def _outranks(self, old: Link, new: Link, id: PeerId) -> bool:
        """Which of a double stays: True for the old one."""
        if (old.carrier is None) is not (new.carrier is None):
            return old.carrier is None  # TCP is many times as fast as anything else
        if old.is_dialler == new.is_dialler:
            # From elsewhere it may be another that only claims the id; a link whose peer has
            # really moved ends by itself in three seconds.
            return old.host != new.host
        return old.is_dialler == (self._options.id < id)

    def _forget(self, link: Link) -> None:
        for book in (self._by_id, self._guests):
            if link.linked is not None and book.get(link.linked.id) is link:
                del book[link.linked.id]
                self._on_gone(link.linked)

    def _has_room(self, host: str) -> bool:
        limit = LINKS_ON_LOOPBACK_LIMIT if _is_loopback(host) else LINKS_PER_ADDRESS_LIMIT
        same = sum(1 for link in self._open if link.host == host)
        return same < limit and len(self._open) < LINKS_LIMIT

    # inside: bans

    def _misbehaved(self, link: Link, why: str) -> None:
        if link.peer is not None:
            self._ban(link.peer.id, link.host, why)
        else:
            log.debug("%s", PeerMisbehaved(f"{link.host}: {why}"))

    def _ban(self, id: PeerId, host: str, why: str) -> None:
        # A warning for each address, not for each of the ids that it may invent (reliability F14).
        is_news = not any(known == host for _, known in self._bans)
        log.log(
            logging.WARNING if is_news else logging.DEBUG,
            "%s",
            PeerMisbehaved(f"{id} {host}: {why}"),
        )
        self._bans[id, host] = None
        if len(self._bans) > BANS_LIMIT:
            self._bans.popitem(last=False)

    def _is_banned(self, id: PeerId, host: str) -> bool:
        return (id, host) in self._bans or (id, "") in self._bans

    # inside: dialling

    def _is_linked_well(self, id: PeerId) -> bool:
        """Whether no better link can be had by dialling."""
        return self.is_linked(id) and self._by_id[id].carrier is None

    def _due(self, peers: Iterable[PeerView]) -> list[tuple[PeerView, Attempt]]:
        """Whom to dial now; their attempts are under way from here on."""
        now = self._clock.monotonic()
        ready = {PeerId(peer.id): peer for peer in peers if peer.state is PeerState.READY}
        self._attempts = {
            id: attempt
            for id, attempt in self._attempts.items()
            if attempt.is_under_way or (id in ready and not self._is_linked_well(id))
        }
        dialling = [id for id, a in self._attempts.items() if a.is_under_way]
        free = DIALS_LIMIT - sum(1 for id in dialling if not self.is_linked(id))
        due: list[tuple[PeerView, Attempt]] = []
        for id, peer in ready.items():
            is_refused = id == self._options.id or self._is_banned(id, plain_host(peer.host))
            if is_refused or self._is_linked_well(id):
                continue
            wait = 0.0 if self._options.id < id else LARGER_WAITS_S
            attempt = self._attempts.setdefault(id, Attempt(now + wait))
            if attempt.not_before <= now and not attempt.is_under_way and len(due) < free:
                attempt.is_under_way = True
                due.append((peer, attempt))
        return due

    async def _dial(self, peer: PeerView, attempt: Attempt) -> None:
        attempt.failures += 1  # until the link is ready
        try:
            await self.keep(peer)
        finally:
            doublings = min(max(0, attempt.failures - 1), 10)
            pause = min(RETRY_FIRST_S * 2**doublings, RETRY_CEILING_S)
            # Jitter, so that thirty peers of one that starts anew do not come all at once.
            attempt.not_before = self._clock.monotonic() + pause * self._random.uniform(0.5, 1.0)
            attempt.is_under_way = False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
