"""The LAN as a source: who is nearby, what they have, and their torrents.

1. mDNS and the configuration suggest addresses; a hello at an address makes a peer ready.
2. `locate` costs at most its time-out in total, and nothing when nobody is there; a peer that stays
   silent is left out until its next hello.
3. What peers say is checked for form here and for truth by the caller.
4. mDNS may fail; configured peers work without it, and `state` says so.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Self
from urllib.parse import urlsplit

from p2pmodels.clock import Clock
from p2pmodels.core.peer import PEER_PORT, HasAnswer, HasQuery, Hello, PeerId
from p2pmodels.core.torrent import PeerAddress, TorrentName
from p2pmodels.errors import ConfigError, PeerMisbehaved, SourceFailed
from p2pmodels.sources.lan.addresses import AddressRule, Interface, parse_addresses, parse_networks
from p2pmodels.sources.lan.client import HAS_TIMEOUT_S, PeerClient, PeerSilent
from p2pmodels.sources.lan.discovery import Discovery
from p2pmodels.sources.lan.interfaces import read_interfaces, scope_of
from p2pmodels.sources.lan.peers import Contact, PeerBook, PeerView
from p2pmodels.supervision import Tasks, supervise

log = logging.getLogger(__name__)

TICK_S = 0.25  # seconds between looks for hellos that are due
LOOK_S = 15.0  # seconds between looks at our own addresses when discovery does not look
GREETINGS_LIMIT = 16  # hellos under way at once; keeps a flood of suggestions (F12) cheap
RESOLVE_TIMEOUT_S = 2.0  # seconds for the name of a configured peer
ASKED_LIMIT = 64  # peers asked by one `locate`: more answers than that do not fit into its time


@dataclass(frozen=True, slots=True)
class LanOptions:
    """How this daemon meets its peers."""

    id: PeerId
    """Who we are."""
    listen_host: str
    """The address the peer port is bound to."""
    peer_port: int
    """The peer port as it was bound."""
    bt_port: int
    """The BitTorrent port as it was bound; 0 when there is none."""
    is_mdns_enabled: bool = True
    """Whether to announce ourselves and look for others by multicast."""
    peers: tuple[str, ...] = ()
    """Peers named by the operator, `http://host[:port]`."""
    networks: tuple[str, ...] = ()
    """Further networks that count as home, in CIDR form."""
    locate_timeout_s: float = HAS_TIMEOUT_S
    """How long `locate` may take in all."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A peer that has some of what was asked about."""

    peer: PeerView
    answer: HasAnswer


@dataclass(frozen=True, slots=True)
class PeerUrl:
    """A configured peer: an address or a host name, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> PeerUrl:
        """Read `http://host[:port]`. Raises ConfigError."""
        try:
            url = urlsplit(text)
            host, port = url.hostname, url.port or PEER_PORT
        except ValueError as error:
            raise ConfigError(f"peer {text[:80]!r}: {error}") from error
        if url.scheme != "http" or not host or url.path not in ("", "/"):
            raise ConfigError(f"peer {text[:80]!r} is not of the form http://host:port")
        if url.query or url.fragment or "@" in url.netloc:
            raise ConfigError(f"peer {text[:80]!r} is more than a host and a port")
        if port < 1024:
            raise ConfigError(f"peer {text[:80]!r}: ports below 1024 are never contacted")
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _ignore(_peer: PeerView) -> None: ...


def _ignore_state(_name: str, _state: str) -> None: ...


class Lan:
    """Entered: can ask and be asked about peers. `run` finds and greets them."""

    def __init__(
        self,
        options: LanOptions,
        clock: Clock,
        *,
        on_peer_ready: Callable[[PeerView], None] = _ignore,
        on_peer_gone: Callable[[PeerView], None] = _ignore,
        on_state: Callable[[str, str], None] = _ignore_state,
        read: Callable[[], Sequence[Interface]] = read_interfaces,
    ) -> None:
        try:
            ipaddress.ip_address(options.listen_host)
        except ValueError as error:
            raise ConfigError(f"listen address {options.listen_host[:80]!r}") from error
        self.options = options
        self.on_peer_ready = on_peer_ready
        self.ticket: Callable[[PeerAddress], str | None] = lambda _peer: None
        self.last_word: Callable[[PeerView], float] = lambda _peer: float("-inf")
        self.state = "not running" if options.is_mdns_enabled else "off: not enabled"
        self._clock = clock
        self._on_state, self._read = on_state, read
        self._own_addresses: tuple[str, ...] = ()
        self._networks = parse_networks(options.networks)
        self._urls = {str(url): url for url in map(PeerUrl.parse, options.peers)}
        self._client = PeerClient(lambda peer: self.ticket(peer))
        self._due = asyncio.Event()
        self._news = asyncio.Event()
        self._random = random.Random()  # noqa: S311  jitter and choice of whom to ask, no secret
        self._book = PeerBook(options.id, clock, self._random.random)
        self._book.last_word = lambda peer: self.last_word(peer)
        self._book.on_found = lambda _peer: self._due.set()
        self._book.on_ready = self._ready
        self._book.on_gone = on_peer_gone
        self._discovery = Discovery(
            options.id,
            options.listen_host,
            options.peer_port,
            options.bt_port,
            clock,
            on_found=self._book.found,
            on_left=self._book.left,
            on_interfaces=self._set_rule,
            read=read,
        )
        self._set_rule(())
        for key in self._urls:
            self._book.configure(key)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        if not self.options.is_mdns_enabled:
            self._set_rule(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__()

    async def run(self) -> None:
        """Announce ourselves, find peers and greet them until cancelled."""
        async with Tasks() as tasks:
            if self.options.is_mdns_enabled:
                run = self._discovery.run
                tasks.start(supervise("mdns", run, self._clock, self._set_state), "mdns")
            tasks.start(self._tick(), "tick")
            greeting: set[Contact] = set()
            while True:
                for contact in self._book.due(GREETINGS_LIMIT - len(greeting)):
                    greeting.add(contact)
                    task = tasks.start(self._greet(contact), "greet a peer")
                    task.add_done_callback(partial(self._greeted, contact, greeting))
                await self._due.wait()
                self._due.clear()

    # what the others ask

    async def locate(
        self, query: HasQuery, is_asked: Callable[[PeerId], bool] = lambda _peer: True
    ) -> list[Holder]:
        """Who has any of it, the helpful ones first. Never raises for a peer's fault."""
        peers = [peer for peer in self._asked() if is_asked(PeerId(peer.id))]
        holders: list[Holder] = []
        silent = {peer.id for peer in peers}

        async def ask(peer: PeerView) -> None:
            try:
                answer = await self._client.has(peer.endpoint, query, self.options.locate_timeout_s)
            except PeerMisbehaved as error:
                silent.discard(peer.id)
                self._blame(peer, error)
            except SourceFailed:
                return  # as good as silent: a hello decides
            else:
                silent.discard(peer.id)
                self._book.heard(peer.id, helped=not answer.is_empty)
                if not answer.is_empty:
                    holders.append(Holder(peer, answer))

        if not peers or query.is_empty:
            return []
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(self.options.locate_timeout_s),
                asyncio.TaskGroup() as group,
            ):
                for peer in peers:
                    group.create_task(ask(peer))
        for id in silent:
            self._book.unheard(id)
        return holders

    async def torrent(self, peer: PeerView, name: TorrentName) -> bytes:
        """A peer's torrent of that name, unchecked. Raises LanFailed, PeerMisbehaved."""
        try:
            data = await self._client.torrent(peer.endpoint, name)
        except PeerMisbehaved as error:
            self._blame(peer, error)
            raise
        except PeerSilent:
            self._book.unheard(peer.id)
            raise
        self._book.heard(peer.id, helped=True, received=len(data))
        return data

    def peers(self) -> list[PeerView]:
        """Everybody known, ready or not."""
        return self._book.all()

    def is_home(self, host: str) -> bool:
        """Whether the machine at this address may link with us and pull from us."""
        return self._book.may_come(host)

    def own_addresses(self) -> tuple[str, ...]:
        """The addresses at which others on the LAN reach this machine."""
        if not self._own_addresses:  # nothing has looked yet
            self._set_rule(self._read())
        return self._own_addresses

    async def changed(self, timeout_s: float) -> None:
        """Wait until a peer becomes ready, at most that long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()

    # inside

    def _asked(self) -> list[PeerView]:
        """Whom to ask: all, or in a crowd those who helped before and a random rest."""
        peers = self._book.ready()
        if len(peers) <= ASKED_LIMIT:
            return peers
        first, rest = peers[: ASKED_LIMIT // 2], peers[ASKED_LIMIT // 2 :]
        return first + self._random.sample(rest, ASKED_LIMIT - len(first))

    def _blame(self, peer: PeerView, error: PeerMisbehaved) -> None:
        log.warning("%s", error)
        self._book.misbehaved(peer.id)

    async def _tick(self) -> None:
        looked_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(TICK_S)
            self._due.set()
            now = self._clock.monotonic()
            if not self.options.is_mdns_enabled and now - looked_at >= LOOK_S:
                looked_at = now
                self._set_rule(self._read())  # discovery would, if it ran

    async def _greet(self, contact: Contact) -> None:
        """Say hello at all its addresses at once; the first credible answer counts."""
        url = self._urls.get(contact.key)
        if url is not None:
            self._book.resolved(contact, await self._resolve(url))
        answers: asyncio.Queue[tuple[PeerAddress, Hello | None]] = asyncio.Queue()

        async def ask(address: PeerAddress) -> None:
            try:
                hello = await self._client.hello(address)
            except SourceFailed as error:
                log.debug("no hello: %s", error)
                answers.put_nowait((address, None))
            else:
                answers.put_nowait((address, hello))

        addresses = contact.addresses
        async with Tasks() as tasks:
            for address in addresses:
                tasks.start(ask(address), "say hello")
            for _ in addresses:
                address, hello = await answers.get()
                if hello is not None and self._book.is_credible(contact, hello):
                    self._book.answered(contact, address, hello)
                    return

    def _greeted(self, contact: Contact, greeting: set[Contact], _task: object) -> None:
        greeting.discard(contact)
        if contact.is_busy:  # nobody answered
            self._book.failed(contact)

    async def _resolve(self, url: PeerUrl) -> list[PeerAddress]:
        """The addresses of a configured peer; none when its name is unknown now."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            log.debug("peer %s: %s", url, error)
            return []
        return parse_addresses((str(entry[4][0]) for entry in found), url.port)

    def _ready(self, peer: PeerView) -> None:
        log.info("peer %s is ready at %s (%s)", peer.id, peer.address, peer.found_by)
        self._news.set()
        self._news = asyncio.Event()
        self.on_peer_ready(peer)

    def _set_state(self, name: str, state: str) -> None:
        self.state = state
        self._on_state(name, state)

    def _set_rule(self, interfaces: Sequence[Interface]) -> None:
        scope = scope_of(self.options.listen_host, interfaces)
        self._own_addresses = scope.announced
        own = tuple(item for item in interfaces if not item.ip.is_loopback)
        self._book.rule = AddressRule(own, self._networks, scope.is_loopback)
